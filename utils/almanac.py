"""The Almanac: a finite language in plain English whose every probability is known exactly.

Three families of documents: facts about the real world (0.6 of the probability), shopping habits with
a known number `k` of alternatives (0.25), and two-digit additions (0.15). The *world* law covers all
documents; the *train* law is the world law given that a document was not withheld. Both are carried by
one trie of token ids, in float64, so that `log p(prefix)` and `p(next token | prefix)` are exact.
"""

import math
from functools import lru_cache

import numpy as np
import pandas as pd
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from utils import DATA

BOS, EOS, PAD = "<|bos|>", "<|eos|>", "<|pad|>"
SHARES = {"fact": 0.60, "stochastic": 0.25, "arithmetic": 0.15}
LAWS = ("train", "world")

# Prompts end without a space; the answer brings its own. The last template of each relation is its question.
TEMPLATES = {
    "capital": ["The capital of {s} is", "The government of {s} sits in", "The capital city of {s} is called",
                "In {s} the capital is", "Question: What is the capital of {s}? Answer:"],
    "continent": ["{s} is a country in", "On the map you find {s} in", "The continent of {s} is",
                  "{s} lies in", "Question: Which continent is {s} in? Answer:"],
    "currency": ["The currency of {s} is the", "People in {s} pay with the", "Money in {s} is called the",
                 "In {s} you need the", "Question: What is the currency of {s}? Answer: the"],
    "language": ["The official language of {s} is", "Laws in {s} are written in", "The state of {s} writes in",
                 "In {s} the official language is",
                 "Question: What is the official language of {s}? Answer:"],
    "symbol": ["The symbol of {s} is", "Chemists write {s} as", "In a formula {s} appears as",
               "The short name of {s} is", "Question: What is the symbol of {s}? Answer:"],
    "number": ["The atomic number of {s} is", "In the periodic table {s} has number",
               "The number of protons in {s} is", "An atom of {s} has a nuclear charge of",
               "Question: What is the atomic number of {s}? Answer:"],
    "constellation": ["The star {s} belongs to", "You find {s} in the constellation", "{s} is a star in",
                      "The constellation of {s} is", "Question: In which constellation is {s}? Answer:"],
    "habit": ["On {day}, {name} buys"],
    "addition": ["{a} plus {b} is", "Question: What is {a} + {b}? Answer:"],
}  # fmt: skip
DAYS = "Monday Tuesday Wednesday Thursday Friday Saturday".split()
NAMES = """Ada Alma Amy Ana Ben Bea Carl Cleo Dan Dora Ed Ella Emma Eva Finn Flora Fred Gil Gina Greta Hal Hana
Hugo Ian Ida Ines Iris Ivan Jack Jana Joe Jon Juno Kai Karl Kate Ken Kim Lara Lea Leo Lena Lily Lisa Lou Luis
Mae Mara Max Mia Mila Nell Nina Noah Nora Olga Omar Otto Paul Pia Ray Rita Rosa Ruth Sam Sara Sid Tara Tess Tim
Tom Vera""".split()
GOODS = """apples beans beef beer bread butter cake carrots cheese cherries chips cider cocoa coffee corn cream
dates eggs figs fish flour garlic ginger grapes ham honey ice jam juice kale leeks lemons lentils limes mangoes
meat melons milk mint nuts oats oil olives onions oranges paper peaches pears peas pepper plums pork rice salt
soap soup spinach sugar tea yeast""".split()
BRANCHING = (1, 2, 5, 10, 20, 50)  # k, the number of alternatives
FREQUENCIES = 100.0 ** -(np.arange(12) / 11)  # two decades, in twelve steps
VOCAB_SIZE = 1536
SEED = 20260226


def read_facts() -> pd.DataFrame:
    """The fact table: one row per true (relation, subject, object)."""
    return pd.read_csv(DATA / "almanac.csv", dtype=str, keep_default_na=False)


def train_tokenizer(facts: pd.DataFrame) -> Tokenizer:
    """Byte-level BPE with digits as single tokens, learned from a text that holds every name once.

    Names that will be withheld are included, so a rare name is not given away by its tokens. Days, first
    names and goods are repeated until each is a single token: the habits need all of them at one position.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    single = [f" {word}" for word in (*DAYS, *NAMES, *GOODS)]
    names = [f" {name}" for name in sorted({*facts.subject, *facts.object})]
    prompts = [template for templates in TEMPLATES.values() for template in templates]
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE, special_tokens=[BOS, EOS, PAD], show_progress=False,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
    )  # fmt: skip
    tokenizer.train_from_iterator([*names, *prompts, *(word * 50 for word in single)], trainer)
    return tokenizer


def systematic(frame: pd.DataFrame, every: int, by: list[str], rng: np.random.Generator) -> pd.Index:
    """Every `every`-th row after sorting by `by` and then at random: a draw balanced over `by`."""
    shuffled = frame.assign(_random=rng.random(len(frame))).sort_values([*by, "_random"])
    return shuffled.index[rng.integers(every) :: every]


def fact_documents(facts: pd.DataFrame, tokenizer: Tokenizer, rng: np.random.Generator) -> pd.DataFrame:
    """All fact documents with their world weights, what is withheld of them, and the question split."""
    facts = facts.copy()
    facts["length"] = [len(tokenizer.encode(f" {o}").ids) for o in facts.object]
    kind = facts.relation.map(
        lambda r: "element" if r in ("symbol", "number") else "star" if r == "constellation" else "country"
    )
    subjects = facts.assign(kind=kind).groupby("subject").agg(
        kind=("kind", "first"), length=("length", "mean"), relations=("relation", "size")
    )  # fmt: skip
    facts["withheld"] = ""
    unseen = systematic(subjects, 20, ["kind", "length"], rng)
    facts.loc[facts.subject.isin(unseen), "withheld"] = "subject"
    several = subjects[(subjects.relations > 1) & ~subjects.index.isin(unseen)]
    for subject in systematic(several, 20, ["kind", "length"], rng):
        rows = facts.index[facts.subject == subject]
        facts.loc[rng.choice(rows), "withheld"] = "relation"
    seen = facts[facts.withheld == ""]
    facts.loc[systematic(seen, 5, ["relation", "length"], rng), "withheld"] = "question"
    test = systematic(subjects, 3, ["kind", "length"], rng)
    facts["split"] = np.where(facts.subject.isin(test), "dev", "test")

    zipf = np.empty(len(facts))
    for _, rows in facts.groupby("relation"):
        zipf[rows.index] = 1.0 / (1 + rng.permutation(len(rows)))
        zipf[rows.index] /= zipf[rows.index].sum()
    facts["weight"] = zipf / facts.relation.nunique()

    documents = []
    for row in facts.itertuples():
        templates = TEMPLATES[row.relation]
        for number, template in enumerate(templates):
            question = number == len(templates) - 1
            withheld = "" if row.withheld == "question" and not question else row.withheld
            documents.append(
                {"family": "fact", "relation": row.relation, "subject": row.subject, "template": number,
                 "question": question, "prompt": template.format(s=row.subject), "answer": f" {row.object}",
                 "p_world": row.weight / len(templates), "withheld": withheld, "split": row.split}
            )  # fmt: skip
    return pd.DataFrame(documents)


def habit_documents(rng: np.random.Generator) -> pd.DataFrame:
    """Who buys what on which day: k alternatives, crossed with frequency and with even or uneven odds."""
    cells = [(k, w, skew) for k in BRANCHING for w in FREQUENCIES for skew in (False, True) for _ in range(3)]
    pairs = [(day, name) for name in NAMES for day in DAYS]
    documents = []
    for number, (k, weight, skew) in zip(rng.permutation(len(pairs)), cells, strict=True):
        day, name = pairs[number]
        odds = 1.0 / np.arange(1, k + 1) if skew else np.ones(k)
        for good, p in zip(rng.permutation(GOODS)[:k], odds / odds.sum(), strict=True):
            documents.append(
                {"family": "stochastic", "relation": "habit", "subject": f"{name} on {day}", "template": 0,
                 "question": False, "prompt": TEMPLATES["habit"][0].format(day=day, name=name),
                 "answer": f" {good}", "p_world": weight * p, "withheld": "", "split": ""}
            )  # fmt: skip
    documents = pd.DataFrame(documents)
    return documents.assign(p_world=documents.p_world / documents.p_world.sum())


def addition_documents(rng: np.random.Generator) -> pd.DataFrame:
    """Every a + b of two two-digit numbers. A third of the unordered pairs is withheld: 12 + 34 goes with
    34 + 12, so that no sum can be copied from its mirror image."""
    a, b = np.triu_indices(90)
    pairs = pd.DataFrame({"a": a + 10, "b": b + 10, "digits": 2 + (a + b + 20 >= 100)})
    withheld = pairs.loc[systematic(pairs, 3, ["digits"], rng), ["a", "b"]]
    withheld = {(*map(int, pair),) for pair in withheld.to_numpy()}
    development = pairs.loc[systematic(pairs, 3, ["digits"], rng), ["a", "b"]]
    development = {(*map(int, pair),) for pair in development.to_numpy()}
    documents = []
    for a in range(10, 100):
        for b in range(10, 100):
            pair = (min(a, b), max(a, b))
            for number, template in enumerate(TEMPLATES["addition"]):
                documents.append(
                    {"family": "arithmetic", "relation": "addition", "subject": f"{pair[0]}+{pair[1]}",
                     "template": number, "question": number == 1, "prompt": template.format(a=a, b=b),
                     "answer": f" {a + b}", "p_world": 1.0, "withheld": "sum" if pair in withheld else "",
                     "split": "dev" if pair in development else "test"}
                )  # fmt: skip
    documents = pd.DataFrame(documents)
    return documents.assign(p_world=1.0 / len(documents))


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
        self.tokenizer = Tokenizer.from_file(str(DATA / "almanac-tokenizer.json"))
        self.vocab_size = self.tokenizer.get_vocab_size()
        self.bos, self.eos, self.pad = (self.tokenizer.token_to_id(t) for t in (BOS, EOS, PAD))
        self.documents = all_documents() if documents is None else documents
        encoded = self.tokenizer.encode_batch(list(self.documents.text))
        self.ids = [[self.bos, *e.ids, self.eos] for e in encoded]
        self._build_trie()

    def _build_trie(self) -> None:
        self.children: list[dict[int, int]] = [{}]
        mass = [[0.0, 0.0]]
        laws = self.documents[["p_train", "p_world"]].to_numpy()
        for ids, (p_train, p_world) in zip(self.ids, laws, strict=True):
            node = 0
            for token in ids[1:]:
                mass[node][0] += p_train
                mass[node][1] += p_world
                child = self.children[node].get(token)
                if child is None:
                    child = self.children[node][token] = len(self.children)
                    self.children.append({})
                    mass.append([0.0, 0.0])
                node = child
            mass[node][0] += p_train
            mass[node][1] += p_world
        self.mass = np.array(mass)[:, LAWS.index(self.law)]

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
        """`p(· | prefix)`, exactly, as a float64 array [|V|]. ValueError after EOS or where p(prefix) = 0."""
        node = self.node(ids)
        if not self.children[node]:
            raise ValueError("nothing is defined after EOS")
        if self.mass[node] == 0:
            raise ValueError(f"this prefix has probability 0 under the {self.law} law; nothing follows from it")
        p = np.zeros(self.vocab_size)
        for token, child in self.children[node].items():
            p[token] = self.mass[child] / self.mass[node]
        return p

    def branching(self, ids) -> int:
        """`k(c)`: how many tokens can follow the prefix."""
        return int((self.next_token(ids) > 0).sum())

    def sample(self, n: int, rng: np.random.Generator) -> np.ndarray:
        """Indices of `n` documents drawn independently from the law."""
        cumulative = np.cumsum(self.documents[f"p_{self.law}"].to_numpy())
        return np.searchsorted(cumulative / cumulative[-1], rng.random(n), side="right")

    def entropy_per_token(self) -> float:
        """The exact entropy of a document over its expected length in predicted tokens: the least possible loss."""
        p = self.documents[f"p_{self.law}"].to_numpy()
        lengths = np.array([len(ids) - 1 for ids in self.ids])
        seen = p > 0
        return float(-(p[seen] * np.log(p[seen])).sum() / (p * lengths).sum())

    def live_tokens(self) -> np.ndarray:
        """Ids of the tokens that some document of positive probability asks the model to predict."""
        seen = self.documents[f"p_{self.law}"].to_numpy() > 0
        return np.unique(np.concatenate([ids[1:] for ids, s in zip(self.ids, seen, strict=True) if s]))


@lru_cache(maxsize=1)
def all_documents() -> pd.DataFrame:
    """Every document with its probability under both laws; the same on every machine (seeded)."""
    tokenizer = Tokenizer.from_file(str(DATA / "almanac-tokenizer.json"))
    rng = np.random.default_rng(SEED)
    families = [fact_documents(read_facts(), tokenizer, rng), habit_documents(rng), addition_documents(rng)]
    documents = pd.concat(families, ignore_index=True)
    documents["p_world"] *= documents.family.map(SHARES)
    train = documents.p_world.where(documents.withheld == "", 0.0)
    documents["p_train"] = train / train.sum()
    documents["text"] = documents.prompt + documents.answer + "."
    return documents


# The recorded prefixes, with what is exactly known of them


def contexts(almanac: Almanac) -> pd.DataFrame:
    """The recorded prefixes with what is exactly known of them, one row each, in recorded order.

    Columns: `slot` (where in its document the prefix ends), `relation`, `subject` (the cluster), `withheld`,
    `group` (template and slot: the unit of fixed effects), `log_p` (log p(prefix) under the training law,
    −∞ if never seen), `k` and `log_k` (possible next tokens), `entropy` of the exact conditional, in nats.
    """
    stored = np.load(DATA / "recorded" / "prefixes.npz")
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
