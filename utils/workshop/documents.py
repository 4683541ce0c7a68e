"""How the Almanac's tokenizer and documents were made: `python -m utils.workshop.documents` (or `make train`).

The result is stored, `data/almanac-tokenizer.json` and `data/almanac-documents.parquet`, so that the language does
not hang on the stream of a random generator. A test compares the stored documents with what this makes.
"""

import argparse

import numpy as np
import pandas as pd
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from .. import DATA
from ..almanac import BOS, DOCUMENTS, EOS, PAD, TOKENIZER, VOCAB_SIZE, read_facts
from .whole import whole

SEED = 20260226
SHARES = {"fact": 0.60, "stochastic": 0.25, "arithmetic": 0.15}

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


def make_documents(facts: pd.DataFrame, tokenizer: Tokenizer) -> pd.DataFrame:
    """Every document with its probability under both laws, one a row, as `almanac.read_documents` reads them."""
    rng = np.random.default_rng(SEED)
    families = [fact_documents(facts, tokenizer, rng), habit_documents(rng), addition_documents(rng)]
    documents = pd.concat(families, ignore_index=True)
    documents["p_world"] *= documents.family.map(SHARES)
    train = documents.p_world.where(documents.withheld == "", 0.0)
    documents["p_train"] = train / train.sum()
    return documents


def main() -> None:
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    facts = read_facts()
    tokenizer = train_tokenizer(facts)
    documents = make_documents(facts, tokenizer)
    with whole(DATA / TOKENIZER) as file:
        file.write(tokenizer.to_str(pretty=True).encode())
    with whole(DATA / DOCUMENTS) as file:
        documents.to_parquet(file, compression="zstd", index=False)


if __name__ == "__main__":
    main()
