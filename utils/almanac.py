"""The Almanac: a finite language in plain English whose every probability is known exactly.

Three families of documents: facts about the real world (0.6 of the probability), shopping habits with
a known number `k` of alternatives (0.25), and two-digit additions (0.15). The *world* law covers all
documents; the *train* law is the world law given that a document was not withheld. The documents and both laws
are stored as data (`utils.workshop.documents` made them) and carried by one trie of token ids, in float64, so that
`log p(c)` and the true conditional `q(y | c)` are exact.
"""

import math

import numpy as np
import pandas as pd
from tokenizers import Tokenizer

from . import data_file

BOS, EOS, PAD = "<|bos|>", "<|eos|>", "<|pad|>"
VOCAB_SIZE = 1536
LAWS = ("train", "world")
DOCUMENTS, TOKENIZER = "almanac-documents.parquet", "almanac-tokenizer.json"


def read_facts() -> pd.DataFrame:
    """The fact table: one row per true (relation, subject, object)."""
    return pd.read_csv(data_file("almanac.csv"), dtype=str, keep_default_na=False)


def read_documents() -> pd.DataFrame:
    """Every document with its probability under both laws, one a row, as `Almanac.documents` describes them."""
    documents = pd.read_parquet(data_file(DOCUMENTS))
    return documents.assign(text=documents.prompt + documents.answer + ".")


class Almanac:
    """The language: its documents, its two laws, and their exact probabilities.

    `documents` has one row per document: family, relation, subject, template, question, prompt, answer,
    text, p_world, p_train, withheld ("", "subject", "relation", "question", "sum") and split ("dev",
    "test", ""). Sequences of ids start with BOS; a whole document ends with EOS.
    """

    def __init__(self, law: str = "train", documents: pd.DataFrame | None = None):
        if law not in LAWS:
            raise ValueError(f"law must be one of {LAWS}; got {law!r}")
        self.law = law
        self.tokenizer = Tokenizer.from_file(str(data_file(TOKENIZER)))
        self.vocab_size = self.tokenizer.get_vocab_size()
        self.bos, self.eos, self.pad = (self.tokenizer.token_to_id(t) for t in (BOS, EOS, PAD))
        self.documents = read_documents() if documents is None else documents
        encoded = self.tokenizer.encode_batch(list(self.documents.text))
        self.ids = [[self.bos, *e.ids, self.eos] for e in encoded]
        self.children: list[dict[int, int]] = [{}]
        mass = [0.0]
        for ids, p in zip(self.ids, self.documents[f"p_{self.law}"], strict=True):
            node = 0
            mass[0] += p
            for token in ids[1:]:
                node = self.children[node].setdefault(token, len(self.children))
                if node == len(self.children):  # a new one
                    self.children.append({})
                    mass.append(0.0)
                mass[node] += p
        self.mass = np.array(mass)

    def encode(self, text: str, whole: bool = False) -> list[int]:
        """Token ids of `text` behind a BOS, and before an EOS if it is a `whole` document."""
        return [self.bos, *self.tokenizer.encode(text).ids, *([self.eos] if whole else [])]

    def node(self, ids) -> int:
        """The trie node of a prefix. ValueError if it does not start with BOS or leaves the language."""
        ids = [int(i) for i in ids]
        if not ids or ids[0] != self.bos:
            raise ValueError("ids must start with the BOS token; use Almanac.encode(text)")
        node = 0
        for position, token in enumerate(ids[1:], start=1):
            if token not in self.children[node]:
                text = self.tokenizer.decode(ids[: position + 1])
                raise ValueError(f"{text!r} is no prefix of any Almanac document (token {position} leaves the trie)")
            node = self.children[node][token]
        return node

    def logprob(self, ids) -> float:
        """`log p(prefix)` in nats, exactly: the log probability that a document starts with `ids`.

        −∞ for what the world holds but the training law withholds; ValueError outside the language.
        """
        mass = self.mass[self.node(ids)]
        return math.log(mass) if mass > 0 else -math.inf

    def next_token(self, ids) -> np.ndarray:
        """`q(· | prefix)`, exactly, as a float64 array [|V|]. ValueError after EOS or where p(prefix) = 0."""
        node = self.node(ids)
        if not self.children[node]:
            raise ValueError("nothing is defined after EOS")
        if self.mass[node] == 0:
            raise ValueError(f"this prefix has probability 0 under the {self.law} law; nothing follows from it")
        q = np.zeros(self.vocab_size)
        for token, child in self.children[node].items():
            q[token] = self.mass[child] / self.mass[node]
        return q


def contexts(almanac: Almanac) -> pd.DataFrame:
    """The recorded prefixes with what is exactly known of them, one row each, in recorded order.

    Columns: `slot` (where in its document the prefix ends), `relation`, `subject` (the cluster), `withheld`,
    `group` (template and slot: the unit of fixed effects), `log_p` (log p(prefix) under the training law,
    −∞ if never seen), `k` and `log_k` (possible next tokens), `entropy` of the exact conditional, in nats.
    """
    stored = np.load(data_file("recorded/prefixes.npz"))
    frame = pd.DataFrame({key: stored[key] for key in ("document", "length", "slot")})
    documents = almanac.documents.iloc[frame.document].reset_index(drop=True)
    frame[["relation", "subject", "withheld"]] = documents[["relation", "subject", "withheld"]]
    prompts = [1 + len(e.ids) for e in almanac.tokenizer.encode_batch(list(documents.prompt))]
    part = np.where(frame.length < prompts, "in the prompt", "in the answer")
    template = frame.relation + " " + documents.template.astype(str)
    frame["group"] = np.where(frame.slot == "other", template + " " + part, frame.relation + " " + frame.slot)
    exact = [exact_values(almanac, almanac.ids[i][:n]) for i, n in zip(frame.document, frame.length, strict=True)]
    frame[["log_p", "k", "entropy"]] = exact
    frame["log_k"] = np.log(frame.k)
    return frame


def exact_values(almanac: Almanac, ids) -> tuple[float, float, float]:
    """(log p(prefix), k, entropy of the exact conditional in nats); the last two NaN where p = 0."""
    log_p = almanac.logprob(ids)
    if log_p == -np.inf:
        return log_p, np.nan, np.nan
    q = almanac.next_token(ids)
    q = q[q > 0]
    return log_p, float(len(q)), float(-(q * np.log(q)).sum()) + 0.0


def questions(almanac: Almanac, frame: pd.DataFrame) -> pd.DataFrame:
    """The rows of `contexts` that end a question whose fact training tells, with their index, and four columns more.

    `asked` (False: told as a statement alone, so that the question has p(c) = 0), and log-probabilities in nats: of
    the fact in all its wordings (`log_fact`), of its relation's facts with the same answer (`log_answer`), of the
    subject's facts in other relations (`log_elsewhere`, NaN if there are none).
    """
    rows = frame[(frame.slot == "question") & frame.withheld.isin(["", "question"])]
    answer = almanac.documents.answer.iloc[rows.document].to_numpy()
    rows = rows.assign(asked=rows.withheld == "", answer=answer)
    facts = almanac.documents[almanac.documents.family == "fact"]
    keys = {"fact": ["relation", "subject"], "answer": ["relation", "answer"], "subject": ["subject"]}
    told = {name: facts.groupby(key)[f"p_{almanac.law}"].sum().rename(name) for name, key in keys.items()}
    p = {name: rows[keys[name]].join(told[name], on=keys[name], rsuffix=" told").iloc[:, -1] for name in keys}
    elsewhere = (p["subject"] - p["fact"]).where(lambda left: left > 1e-12)  # less is rounding
    return rows.assign(log_fact=np.log(p["fact"]), log_answer=np.log(p["answer"]), log_elsewhere=np.log(elsewhere))
