"""The measured part of the data card: `python -m utils.workshop.card` rewrites the tables of `data/README.md`."""

import argparse
import hashlib
import re

import numpy as np
import pandas as pd
import torch

from .. import DATA
from ..almanac import Almanac
from ..load import LM, load_lm
from .law import entropy_per_token, live_tokens, sample
from .train import RECIPES

MODELS = [
    f"almanac-{architecture}{step}" for architecture in ("gpt2", "llama") for step in ("", "-step1600", "-step400")
]
MADE_BY = {  # file pattern → how it was made; the first that matches counts
    r"almanac\.csv": "written for this course, checked against public tables",
    r"almanac-(tokenizer\.json|documents\.parquet)": "`python -m utils.workshop.documents`",
    r"texts\.csv": "famous passages quoted, the rest written for this course",
    r"models/almanac-": "`python -m utils.workshop.train`",
    r"models/cifar10-|recorded/cifar10-": "`python -m utils.workshop.train_images`",
    r"questions": "`python -m utils.workshop.questions`",
    r"recorded/bench": "`make bench`",
    r"recorded/llama-(answers|tokens)": "`make record`",
    r"recorded/llama-joint": "`python -m utils.workshop.joint`",
    r"recorded/llama-read": "read by hand",
    r"recorded/": "`python -m utils.workshop.train`",
}


def files() -> pd.DataFrame:
    """Every file under `data/` but the card: bytes, SHA-256 (first 16 digits), how it was made, licence."""
    rows = []
    for path in sorted(p for p in DATA.rglob("*") if p.is_file() and p.name != "README.md"):
        name, content = path.relative_to(DATA).as_posix(), path.read_bytes()
        made = next((how for pattern, how in MADE_BY.items() if re.match(pattern, name)), "?")
        licence = "MIT in part, else CC BY 4.0" if name.startswith("questions") else "CC BY 4.0"
        rows.append((f"`{name}`", len(content), f"`{hashlib.sha256(content).hexdigest()[:16]}`", made, licence))
    return pd.DataFrame(rows, columns=["file", "bytes", "SHA-256, first 16", "made by", "licence"])


@torch.no_grad()
def answers_right(lm: LM, documents: pd.DataFrame) -> np.ndarray:
    """Whether greedy decoding of each prompt gives the answer and the full stop: bool, one per document.

    Greedy decoding reproduces a text exactly if each of its tokens is the most likely one after those before
    it, so one forward pass decides, and nothing needs to be generated.
    """
    bos, encode = lm.tokenizer.bos_token_id, lm.tokenizer.backend_tokenizer.encode_batch
    prompts = [len(e.ids) for e in encode(list(documents.prompt))]
    rows = [[bos, *e.ids] for e in encode(list(documents.text))]
    right = np.empty(len(rows), bool)
    for part in np.array_split(np.argsort([len(r) for r in rows]), max(1, len(rows) // 64)):
        ids = torch.nn.utils.rnn.pad_sequence([torch.tensor(rows[i]) for i in part], batch_first=True)
        best = lm.model(ids).logits.argmax(-1)  # right padding cannot reach a causal model's real tokens
        for row, i in enumerate(part):
            answer = slice(prompts[i] + 1, len(rows[i]))
            right[i] = (best[row, answer.start - 1 : answer.stop - 1] == ids[row, answer]).all()
    return right


@torch.no_grad()
def excess_loss(lm: LM, almanac: Almanac, n: int = 4000) -> float:
    """Cross-entropy minus exact entropy on `n` fresh documents, in nats a token."""
    drawn = sample(almanac, n, np.random.default_rng(11))
    nats = tokens = 0.0
    for part in np.array_split(sorted(drawn, key=lambda i: len(almanac.ids[i])), n // 64):
        ids = torch.nn.utils.rnn.pad_sequence([torch.tensor(almanac.ids[i]) for i in part], True, almanac.pad)
        real = ids[:, 1:] != almanac.pad
        logits = lm.model(ids).logits[:, :-1]
        nats += torch.nn.functional.cross_entropy(logits[real], ids[:, 1:][real], reduction="sum").item()
        tokens += real.sum().item()
    exact = -np.log(almanac.documents.p_train.to_numpy()[drawn]).sum()
    return (nats - exact) / tokens


def questions(almanac: Almanac) -> pd.DataFrame:
    """All fact questions and a fixed draw of 1,200 additions, with stratum and frequency band."""
    d = almanac.documents[almanac.documents.question]
    facts = d[d.family == "fact"]
    rank = facts.groupby("relation").p_world.rank(ascending=False, method="first")
    facts = facts.assign(
        band=pd.cut(rank, [0, 10, 50, np.inf], labels=["rank 1–10", "rank 11–50", "rank 51+"]).astype(str)
    )
    sums = d[d.family == "arithmetic"].sample(1200, random_state=0).assign(band="")
    names = {"": "seen", "question": "question form withheld", "relation": "relation withheld",
             "subject": "subject withheld", "sum": "sum withheld"}  # fmt: skip
    both = pd.concat([facts, sums])
    return both.assign(stratum=both.family + ", " + both.withheld.map(names))


def share(right: pd.Series) -> str:
    return f"{100 * right.mean():.0f} % of {len(right)}"


def measured(almanac: Almanac) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """Losses; accuracy by stratum and split; accuracy on seen facts by frequency band."""
    asked, losses, strata, bands = questions(almanac), [], [], []
    for name in MODELS:
        lm = load_lm(name)
        excess = excess_loss(lm, almanac)
        asked["right"] = answers_right(lm, asked)
        size = sum(p.numel() for p in lm.model.parameters())
        losses.append(
            (f"`{name}`", f"{size / 1e6:.2f} M", f"{entropy_per_token(almanac) + excess:.3f}", f"{excess:.3f}")
        )
        by = asked.groupby(["stratum", "split"]).right.apply(share).rename(f"`{name}`")
        strata.append(by)
        seen = asked[asked.stratum == "fact, seen"]
        bands.append(seen.groupby(["band", "split"]).right.apply(share).rename(f"`{name}`"))
    columns = ["model", "parameters", "loss (nats a token)", "excess over exact entropy"]
    return pd.DataFrame(losses, columns=columns), *(pd.concat(t, axis=1).reset_index() for t in (strata, bands))


def markdown(table: pd.DataFrame) -> str:
    lines = [" | ".join(map(str, row)) for row in [table.columns, ["---"] * table.shape[1], *table.to_numpy()]]
    return "\n".join(f"| {line} |" for line in lines)


def replace_block(text: str, name: str, content: str) -> str:
    """Put `content` between the markers `<!-- name -->` and `<!-- end name -->`."""
    begin, end = f"<!-- {name} -->", f"<!-- end {name} -->"
    if begin not in text or end not in text:
        raise ValueError(f"the card has no block {name!r}")
    return text.split(begin)[0] + f"{begin}\n{content}\n{end}" + text.split(end)[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", action="store_true", help="measure nothing, list the files")
    if parser.parse_args().files:
        return list_files()
    almanac, card = Almanac("train"), DATA / "README.md"
    losses, strata, bands = measured(almanac)
    d = almanac.documents
    live = len(live_tokens(almanac))
    facts = (
        f"{len(d):,} documents; exact entropy {entropy_per_token(almanac):.4f} nats a token under the training law. "
        f"Vocabulary {almanac.vocab_size}; {live} live tokens, {almanac.vocab_size - live} dead ones. "
        f"Recorded runs: {', '.join(f'`{name}`' for name in RECIPES)}."
    )
    text = card.read_text(encoding="utf-8")
    blocks = {"language": facts, "losses": markdown(losses), "strata": markdown(strata), "bands": markdown(bands)}
    for name, content in blocks.items():
        text = replace_block(text, name, content)
    card.write_text(text, encoding="utf-8")
    list_files()


def list_files() -> None:
    """Bring the card's table of files up to date, and leave the rest as it is."""
    card = DATA / "README.md"
    text = replace_block(card.read_text(encoding="utf-8"), "files", markdown(files()))
    card.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
