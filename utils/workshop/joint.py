"""The real Llama on its own contexts: `python -m utils.workshop.joint` writes `data/recorded/llama-joint.parquet`.

One row per context `c_t` (a text's first t tokens, t = 0 the BOS alone) with the model's own log p̂(c_t) and the
potentials there, for texts of two lengths: sentences of fact and famous passages, each true, newly written, shuffled.
"""

import numpy as np
import pandas as pd

from .. import DATA
from ..load import LM, load_lm
from ..score import score_tokens
from .whole import whole

SEED = 20261125
MEASURED = {  # at c_t, from which token t + 1 is chosen
    "V": "log_partition_before", "m": "mean_logit_before", "K": "self_certainty_before", "H": "entropy_before",
    "max_log_p": "max_logprob_before",
}  # fmt: skip


def texts() -> pd.DataFrame:
    """Columns source ("sentence" or "passage"), kind ("true" or "new") and text.

    True sentences and the same with another subject's answer are the pairs of `questions.parquet`; passages are the
    famous ones of `texts.csv`, and those written for this course to the same pattern.
    """
    questions, passages = pd.read_parquet(DATA / "questions.parquet"), pd.read_csv(DATA / "texts.csv")
    pairs = questions[questions.task == "pair"]
    sentences = pd.DataFrame(
        {"kind": np.where(pairs.right, "true", "new"), "text": pairs.prompt + " " + pairs.answer + "."}
    )
    passages = passages[passages.kind.isin(["famous", "new"])][["kind", "text"]].replace({"kind": {"famous": "true"}})
    return pd.concat([sentences.assign(source="sentence"), passages.assign(source="passage")], ignore_index=True)


def shuffled(rows: list[list[int]]) -> list[list[int]]:
    """Each row's tokens in a random order, the last one (the full stop) in its place."""
    rng = np.random.default_rng(SEED)
    return [[*rng.permutation(row[:-1]).tolist(), row[-1]] for row in rows]


def joint(lm: LM, texts: pd.DataFrame) -> pd.DataFrame:
    """Columns source, kind, text (the number of its true text within a source), t, log_p, V, m, K, H, max_log_p."""
    ids = lm.tokenizer(list(texts.text), add_special_tokens=False).input_ids
    true = np.flatnonzero(texts.kind == "true")
    mixed = texts.iloc[true].assign(kind="shuffled")
    about = pd.concat([texts, mixed], ignore_index=True)
    about["text_number"] = about.groupby(["source", "kind"]).cumcount()
    table = score_tokens(lm, [*ids, *shuffled([ids[i] for i in true])])
    behind = table.groupby("text").logprob.cumsum() - table.logprob
    found = table[[*MEASURED.values()]].set_axis(MEASURED, axis=1).assign(log_p=behind, t=table.position)
    found = found.astype("float32").astype({"t": "int16"})
    names = about.loc[table.text, ["source", "kind", "text_number"]].reset_index(drop=True)
    return pd.concat([names.rename(columns={"text_number": "text"}), found], axis=1)


if __name__ == "__main__":
    table = joint(load_lm("llama"), texts())
    with whole(DATA / "recorded" / "llama-joint.parquet") as file:
        table.to_parquet(file, index=False, compression="zstd")
    print(
        table.groupby(["source", "kind"]).agg({"text": "nunique", "t": "size", "V": "mean", "m": "mean", "K": "mean"})
    )
