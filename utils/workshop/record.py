"""What the real Llama answers, and with which energies: `python -m utils.workshop.record` (or `make record`).

It asks the questions of `data/questions.parquet`, labels the answers, scores them token by token, and writes

- `data/recorded/llama-answers.parquet`: one row per answer, the model's own or one put into its mouth;
- `data/recorded/llama-tokens.parquet`: one row per token of an answer and of the full stop behind it.

Parts that lie finished in `build/record` are not made again, so a run that was stopped goes on where it was.
"""

import re
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy.stats import entropy
from tqdm.auto import tqdm

from .. import DATA, ROOT
from ..energy import TokenEnergies
from ..load import LM, load_lm
from ..score import score_continuations
from ..write import generate
from .questions import key, normal
from .whole import whole

SEED = 20261125
NEW_TOKENS = 16
FULL_STOP = re.compile(r"(?<=[a-z0-9]{2})\.(?=\s|$)|(?<=\b[0-9])\.(?=\s|$)|\.$")  # of a sentence, not of "St. Louis"
SAMPLES, SAMPLED, SAMPLE_TOKENS = 10, 300, 8  # answers drawn at temperature 1, of how many questions, how long
KEEP = (0.15, 0.85)  # a relation counts if this share of its development half is answered rightly
EXACT = {"symbol"}  # relations in which upper and lower case differ
BELIEF = "Question: {question} Proposed answer: {answer}. Is the proposed answer true or false? Answer:"
FOLDER = ROOT / "build" / "record"


class Said(NamedTuple):
    """What a completion says: the answer, and the completion up to the end of its first sentence."""

    answer: str
    sentence: str


def read_completion(completion: str) -> Said:
    """The first sentence of a completion's first line; the answer is that sentence without its full stop.

    >>> read_completion(" St. John's.\\nQuestion: What")
    Said(answer="St. John's", sentence=" St. John's.")
    """
    line = completion.split("\n")[0]
    stop = FULL_STOP.search(line)
    return Said(line[: stop.start()].strip(), line[: stop.end()]) if stop else Said(line.strip(), line)


def is_right(answer: str, aliases: str, relation: str, others: set[str]) -> bool:
    """Whether one of `aliases` (joined by "|") stands in the answer as whole words.

    Case, accents and punctuation do not count, except in `EXACT` relations, where the answer must be the alias.
    `others` holds the keys of a relation's other answers: an answer that is one of them is wrong even if a right one
    stands in it (Guinea in Papua New Guinea).
    """
    names = aliases.split("|")
    if relation in EXACT:
        return answer in names
    if key(answer) in others - {key(name) for name in names}:
        return False
    return any(f" {normal(name)} " in f" {normal(answer)} " for name in names)


def label(asked: pd.DataFrame, answers: Sequence[str], everything: pd.DataFrame) -> list[bool]:
    """`is_right` for each answer to the questions `asked`; `everything` holds all questions of these relations."""
    others = everything.groupby("relation").answer.agg(lambda names: set(map(key, names)))
    rows = zip(answers, asked.aliases, asked.relation, strict=True)
    return [is_right(said, names, relation, others[relation]) for said, names, relation in rows]


def few_shot(questions: pd.DataFrame, prefix: str) -> list[str]:
    return [prefix + prompt for prompt in questions.prompt]


def bare(prompt: str) -> str:
    """The question itself, without the words around it."""
    return prompt.removeprefix("Question: ").removesuffix(" Answer:")


def chat(lm: LM, questions: pd.DataFrame, prefix: str) -> list[str]:
    """The same examples and questions as turns of a conversation, in the model's own chat template."""
    shown = []
    for line in prefix.splitlines():
        asked, answered = line.split(" Answer: ")
        shown += [{"role": "user", "content": bare(asked)}, {"role": "assistant", "content": answered}]
    turns = [[*shown, {"role": "user", "content": bare(prompt)}] for prompt in questions.prompt]
    return [lm.tokenizer.apply_chat_template(t, tokenize=False, add_generation_prompt=True) for t in turns]


def score_answers(lm: LM, prompts, said: Sequence[Said], bos: str | bool) -> pd.DataFrame:
    """Token rows of each answer and its full stop: `text` indexes `prompts`, `stop` is True after the answer."""
    table = score_continuations(lm, prompts, [[s.sentence] for s in said], batch_size=64, bos=bos)
    table = table.rename(columns={"prompt": "text"}).drop(columns=["continuation", "position"])
    begins = np.array([len(p) + s.sentence.index(s.answer) for p, s in zip(prompts, said, strict=True)])
    ends = begins + np.array([len(s.answer) for s in said])
    table = table[table.end > begins[table.text]]  # a space may be a token by itself
    begin, end = begins[table.text], ends[table.text]
    return table.assign(stop=table.start >= end, start=table.start - begin, end=table.end - begin)


def own_answers(lm: LM, questions: pd.DataFrame, prefix: str, way: str) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The model's greedy answers to questions that share a few-shot prefix, and their tokens."""
    prompts, bos = (few_shot(questions, prefix), "auto") if way == "few-shot" else (chat(lm, questions, prefix), False)
    completions, written = generate(lm, prompts, max_new_tokens=NEW_TOKENS, stop="\n", bos=bos)
    said = [read_completion(completion) for completion in completions]
    answers = pd.DataFrame(said).assign(question=questions.index, way=way)
    answers["stopped"] = [s.sentence.endswith(".") or "\n" in c for s, c in zip(said, completions, strict=True)]
    spoken = np.flatnonzero(answers.answer != "")
    tokens = score_answers(lm, [prompts[i] for i in spoken], [said[i] for i in spoken], bos)
    tokens["text"] = spoken[tokens.text]
    ids = written.groupby("text").id.agg(list)
    read = tokens.groupby("text").id.agg(list).reindex(range(len(prompts)), fill_value=[])
    answers["same_ids"] = [holds(ids[i], read[i]) for i in range(len(prompts))]
    return answers, tokens


def holds(ids: list[int], run: list[int]) -> bool:
    """Whether `run` stands in `ids` in one piece: was the answer written in the tokens that it is read in?"""
    return any(ids[i : i + len(run)] == run for i in range(len(ids)))


def given_answers(lm: LM, questions: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The answers that the questions bring with them, right and wrong, read after their prompts."""
    said = [Said(answer, " " + answer.removesuffix(".") + ".") for answer in questions.answer]
    said = [s._replace(answer=s.answer.removesuffix(".")) for s in said]
    tokens = score_answers(lm, list(questions.prompt), said, "auto")
    return pd.DataFrame(said).assign(question=questions.index, way="given", stopped=True, same_ids=True), tokens


def agreement(lm: LM, questions: pd.DataFrame, prefix: str, answers: pd.DataFrame) -> pd.DataFrame:
    """Two rivals that ask again: how ten drawn answers agree, and whether the model calls its own answer true.

    Columns, one row per question: `agree`, the share of drawn answers that are the greedy one (by `key`); `semantic_H`,
    the entropy in nats of the drawn answers sorted by key; `belief`, log p("true") − log p("false") about its answer.
    """
    prompts = few_shot(questions, prefix)
    options = {"temperature": 1.0, "max_new_tokens": SAMPLE_TOKENS, "stop": "\n", "seed": SEED}
    drawn = generate(lm, np.repeat(prompts, SAMPLES).tolist(), batch_size=128, **options)[0]
    keys = np.array([key(read_completion(text).answer) for text in drawn]).reshape(-1, SAMPLES)
    greedy = answers.set_index("question").answer.reindex(questions.index)
    spread = [entropy(np.unique(row, return_counts=True)[1]) for row in keys]
    texts = [BELIEF.format(question=bare(p), answer=a) for p, a in zip(questions.prompt, greedy, strict=True)]
    words = score_continuations(lm, texts, [[" true", " false"]] * len(texts))
    logs = words.groupby(["prompt", "continuation"]).logprob.sum().unstack()
    return pd.DataFrame({
        "question": questions.index, "agree": (keys == greedy.map(key).to_numpy()[:, None]).mean(1),
        "semantic_H": spread, "belief": (logs[0] - logs[1]).to_numpy(),
    })  # fmt: skip


def kept_relations(answers: pd.DataFrame, questions: pd.DataFrame) -> list[str]:
    """The relations of facts of whose development half between 15 and 85 % was answered rightly."""
    rows = answers[answers.way == "few-shot"].join(questions[["task", "relation", "split"]], on="question")
    rows = rows[(rows.task == "fact") & (rows.split == "development")]
    share = rows.groupby("relation").right.mean()
    return sorted(share.index[share.between(*KEEP)])


def once(path: Path, make) -> pd.DataFrame:
    """The table at `path`; made and written, whole or not at all, if it is not there."""
    if not path.exists():
        table = make().reset_index(drop=True)
        with whole(path) as file:
            table.to_parquet(file)
    return pd.read_parquet(path)


def together(answers: pd.DataFrame, tokens: pd.DataFrame) -> pd.DataFrame:
    """Answers and their tokens as one table, one row per token (one without a token for an empty answer)."""
    return answers.rename_axis("text").reset_index().merge(tokens, on="text", how="left")


def parts(lm: LM, questions: pd.DataFrame, prefixes: list[dict]) -> dict[str, partial]:
    """Name → how to make it, for everything but the sampling: own answers by relation, chat, given ones."""

    def own(rows, prefix, way):
        answers, tokens = own_answers(lm, rows, prefix, way)
        right = label(rows, answers.answer, questions[questions.task == rows.task.iloc[0]])
        return together(answers.assign(right=right), tokens)

    def given(rows):
        answers, tokens = given_answers(lm, rows)
        return together(answers.assign(right=rows.right.to_numpy()), tokens)

    made = {}
    for shots in prefixes:
        rows = questions[questions.task == shots["task"]]
        rows = rows[rows.relation == shots["relation"]] if shots["relation"] else rows
        name = shots["relation"] or "sums"
        made[f"few-shot {name}"] = partial(own, rows, shots["prefix"], "few-shot")
        if shots["task"] == "fact":
            made[f"chat {name}"] = partial(own, rows[rows.split == "test"], shots["prefix"], "chat")
    for task in ("synthetic", "pair"):
        for relation, rows in questions[questions.task == task].groupby("relation"):
            made[f"given {task} {relation}"] = partial(given, rows)
    return dict(sorted(made.items(), key=lambda item: ("few-shot", "given", "chat").index(item[0].split()[0])))


ANSWERS = ["question", "way", "answer", "sentence", "right", "stopped", "same_ids"]
ASKED = ["task", "relation", "subject", "prompt", "answer", "split", "distance", "lengths", "pair"]  # of the question
TOKENS = ["text", "id", "token", "start", "end", "stop", *TokenEnergies._fields]


def tables(made: Sequence[pd.DataFrame]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """(answers, tokens) from the finished parts; `text` in tokens is the answer's row."""
    offsets = np.cumsum([0] + [part.text.max() + 1 for part in made])
    rows = pd.concat([part.assign(text=part.text + at) for part, at in zip(made, offsets, strict=False)])
    answers = rows.drop_duplicates("text")[ANSWERS].reset_index(drop=True)
    tokens = rows.dropna(subset="id")[TOKENS].reset_index(drop=True)
    whole = dict.fromkeys(["text", "id", "start", "end"], "int32")
    return answers, tokens.astype({**whole, **dict.fromkeys(TokenEnergies._fields, "float32"), "stop": bool})


def record(lm: LM, questions: pd.DataFrame, prefixes: list[dict], folder: Path = FOLDER):
    """(answers, tokens): everything asked, labelled and scored, with finished parts kept in `folder`."""
    todo = parts(lm, questions, prefixes)
    made = [once(folder / f"{name}.parquet", make) for name, make in tqdm(todo.items(), desc="record")]
    answers, tokens = tables(made)
    kept = kept_relations(answers, questions)
    few = answers[(answers.way == "few-shot") & (answers.answer != "")]
    eligible = questions.loc[few.question]
    eligible = eligible[(eligible.task == "fact") & (eligible.split == "test") & eligible.relation.isin(kept)]
    chosen = eligible.sample(min(SAMPLED, len(eligible)), random_state=SEED)
    shots = {shot["relation"]: shot["prefix"] for shot in prefixes}
    again = [
        once(folder / f"sampled {name}.parquet", partial(agreement, lm, rows.sort_index(), shots[name], few))
        for name, rows in tqdm(chosen.groupby("relation"), desc="sample")
    ]
    rivals = pd.concat(again).assign(way="few-shot")
    about = questions[ASKED].rename(columns={"answer": "truth"}).assign(cluster=questions.subject.map(normal))
    return answers.merge(rivals, on=["question", "way"], how="left").join(about, on="question"), tokens


def main() -> None:
    questions = pd.read_parquet(DATA / "questions.parquet")
    prefixes = pd.read_json(DATA / "questions-prefixes.json").to_dict("records")
    answers, tokens = record(load_lm("llama"), questions, prefixes)
    for name, table in (("answers", answers), ("tokens", tokens)):
        with whole(DATA / "recorded" / f"llama-{name}.parquet") as file:
            table.to_parquet(file, index=False, compression="zstd")
    print(answers.groupby("way").right.agg(["size", "mean"]))


if __name__ == "__main__":
    main()
