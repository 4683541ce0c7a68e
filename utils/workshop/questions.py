"""The questions of notebook 04: `python -m utils.workshop.questions FOLDER` writes `data/questions.parquet`.

FOLDER is `data/factual` of https://github.com/evandez/relations (MIT licence, Evan Hernandez). The Almanac's facts
come from `data/almanac.csv`. No model is asked here, and none was run to choose relations or rules.

In every row the text to be scored is `prompt + " " + answer`, and `prompt` ends without a space.
"""

import json
import re
import sys
import unicodedata
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from .. import DATA
from ..almanac import read_facts
from .documents import TEMPLATES

SEED = 20260401
EXAMPLES = 4  # few-shot examples a relation
FEW = 15  # a relation with at most so many different answers shows some of them in its examples, and keeps them
PER_ANSWER, PER_RELATION, AT_LEAST = 45, 180, 20  # questions of one answer, of one relation; fewer are not worth asking
PAIRS = 30  # true/false pairs a relation
SUMS = {(1, 1): 40, (2, 1): 90, (2, 2): 90, (3, 1): 90, (3, 2): 90, (3, 3): 90}  # digits of the addends: questions
DISTANCES = {"near": (1, 10), "middle": (10, 100), "far": (100, 1000)}  # |wrong − right|, upper end excluded
LENGTHS = ("as drawn", "matched", "unmatched")  # digits of the wrong answer against those of the right one
ITEMS = 300  # synthetic sums for each distance and length
SYNTHETIC = "Solve the following math expression: {a}+{b}=x.\n Answer: x is"  # Minut et al., released code


class Relation(NamedTuple):
    """How a relation is asked and said.

    `say` is the beginning of a statement, or empty where a second answer may be as true as the stored one (a
    person plays two instruments): no false sentence can be made there.
    """

    sources: tuple[str, ...]  # "almanac/NAME" or "relations/FILE"
    ask: str
    say: str
    turned: bool = False  # asks for the subject, given the object


def almanac(name: str, say: int = 0) -> Relation:
    """A relation of the Almanac in the words that the Almanac itself uses."""
    return Relation((f"almanac/{name}",), TEMPLATES[name][-1], TEMPLATES[name][say])


def turned(name: str, ask: str, say: str) -> Relation:
    return Relation((f"almanac/{name}",), f"Question: {ask} Answer:", say, turned=True)


def given(file: str, ask: str, say: str = "") -> Relation:
    return Relation((f"relations/{file}",), f"Question: {ask} Answer:", say)


RELATIONS = {
    "capital": almanac("capital"),
    "country of capital": turned("capital", "Which country has the capital {s}?", "{s} is the capital of"),
    "continent": almanac("continent"),
    "currency": almanac("currency"),
    "language": almanac("language")._replace(say=""),
    "symbol": almanac("symbol"),
    "element of symbol": turned("symbol", "Which element has the symbol {s}?", "{s} is the symbol of"),
    "number": almanac("number"),
    "element of number": turned(
        "number", "Which element has the atomic number {s}?", "The element with the atomic number {s} is"
    ),
    "constellation": almanac("constellation")._replace(
        sources=("almanac/constellation", "relations/star_constellation")
    ),
    "headquarters": given(
        "company_hq", "In which city is the headquarters of {s}?", "The headquarters of {s} is in the city of"
    ),
    "largest city": given(
        "country_largest_city", "What is the largest city of {s}?", "The largest city of {s} is"
    ),
    "country of food": given("food_from_country", "Which country does the food {s} come from?"),
    "country of landmark": given(
        "landmark_in_country", "In which country is {s}?", "{s} is in the country of"
    ),
    "continent of landmark": given(
        "landmark_on_continent", "On which continent is {s}?", "{s} is on the continent of"
    ),
    "band of singer": given(
        "person_band_lead_singer", "Which band does {s} sing in?", "{s} is the lead singer of"
    ),
    "father": given("person_father", "What is the name of the father of {s}?", "The father of {s} is"),
    "mother": given("person_mother", "What is the name of the mother of {s}?", "The mother of {s} is"),
    "native language": given(
        "person_native_language", "What is the native language of {s}?", "The native language of {s} is"
    ),
    "occupation": given("person_occupation", "What is the occupation of {s}?"),
    "instrument": given("person_plays_instrument", "Which instrument does {s} play?"),
    "position": given(
        "person_plays_position_in_sport", "Which position does {s} play?", "The position that {s} plays is"
    ),
    "sport": given("person_plays_pro_sport", "Which sport does {s} play?", "The sport that {s} plays is"),
    "evolution": given(
        "pokemon_evolutions", "Which Pokémon does {s} evolve into?", "The Pokémon {s} evolves into"
    ),
    "year of birth": given("presidents_birth_year", "In which year was {s} born?", "{s} was born in"),
    "maker of product": given("product_by_company", "Which company made the product {s}?"),
    "secret identity": given("superhero_person", "What is the real name of the superhero {s}?"),
}
LEFT_OUT = {  # files of FOLDER that are not used, and why
    "city_in_country": "the Almanac's capitals, turned round, ask the same",
    "company_ceo": "the answer changes from year to year",
    "country_capital_city": "the Almanac has them",
    "country_currency": "the Almanac has them",
    "country_language": "the Almanac has them",
    "person_university": "several answers are right for most people",
    "presidents_election_year": "several answers are right for most presidents",
    "superhero_archnemesis": "a matter of opinion",
}
SAME = (  # names of one thing
    ("United States", "United States of America", "USA", "US"),
    ("United Kingdom", "UK", "Great Britain", "Britain", "England"),
    ("Russia", "Russian Federation"), ("South Korea", "Republic of Korea"), ("Czechia", "Czech Republic"),
    ("East Timor", "Timor-Leste"), ("Cape Verde", "Cabo Verde"), ("Ivory Coast", "Cote d'Ivoire"),
    ("Myanmar", "Burma"), ("Turkey", "Turkiye"), ("North Macedonia", "Macedonia"), ("China", "PRC"),
    ("New York City", "New York"), ("Washington, D.C.", "Washington"), ("Kyiv", "Kiev"),
    ("Mumbai", "Bombay"), ("Bangalore", "Bengaluru"), ("Chennai", "Madras"), ("Astana", "Nur-Sultan"),
    ("Saint John's", "St John's"), ("Saint George's", "St George's"), ("Ulaanbaatar", "Ulan Bator"),
    ("Persian", "Farsi"), ("Chinese", "Mandarin"), ("Dutch", "Flemish"), ("Slovene", "Slovenian"),
    ("yuan", "renminbi"), ("aluminum", "aluminium"), ("cesium", "caesium"), ("sulfur", "sulphur"),
    ("goalkeeper", "goaltender", "goalie"), ("centre", "center"), ("Scorpius", "Scorpio"),
)  # fmt: skip
OTHER_KIND = {  # answers that are not of the kind asked for: a state where a city is asked, a region for a country
    "headquarters": ("California", "Colorado", "Hawaii", "Minnesota", "Queensland", "Netherlands"),
    "country of food": ("Middle East",),
    "continent of landmark": ("Americas",),
    "instrument": ("singing", "slide"),
    "maker of product": ("Iran",),
}


# Names


PLAIN = str.maketrans({"ł": "l", "ø": "o", "đ": "d", "ð": "d", "ı": "i", "æ": "ae", "œ": "oe", "þ": "th"})


def normal(text: str) -> str:
    """Lower case, no accents, no punctuation, one space between words: how answers are compared."""
    letters = unicodedata.normalize("NFKD", text.casefold().translate(PLAIN))
    letters = "".join(c for c in letters if not unicodedata.combining(c))
    letters = re.sub(r"['’.]", "", letters)  # U.S. is US, Côte d'Ivoire is cote divoire
    return " ".join(re.sub(r"[^a-z0-9]+", " ", letters).split())


GROUP = {normal(name): group for group in SAME for name in group}


def key(answer: str) -> str:
    """One key for all names of one thing: two answers with the same key are the same answer."""
    plain = normal(answer).removeprefix("the ")
    return normal(GROUP[plain][0]) if plain in GROUP else plain


def aliases(answer: str) -> list[str]:
    """The answer and what counts as the same: other names, without its "the", without initials and Jr. or Sr."""
    found = [answer, answer.removeprefix("the ").removeprefix("The "), *GROUP.get(key(answer), ())]
    short = [w for w in answer.split() if not re.fullmatch(r"[A-Z]\.|[JS]r\.?", w)]
    if len(short) >= 2:
        found.append(" ".join(short))
    if answer.isdigit() and len(answer) > 3:
        found.append(f"{int(answer):,}")
    return list(dict.fromkeys(found))


def gives_away(name: str, answer: str) -> bool:
    """One stands in the other as whole words, or two of their words begin alike (Algeria, Algiers; Leonis, Leo)."""
    a, b = normal(name), normal(answer)
    starts = [{word[:3] for word in text.split() if len(word) >= 3} for text in (a, b)]
    return f" {a} " in f" {b} " or f" {b} " in f" {a} " or not starts[0].isdisjoint(starts[1])


def readable(text: str) -> bool:
    """Latin letters, digits and plain punctuation only: no other script, no emoji, no broken escape."""
    return normal(text) != "" and all(
        c in " .,'’\"&-–/()!:+" or (c.isdecimal() and c.isascii()) or unicodedata.name(c, "").startswith("LATIN")
        for c in text
    )


# Facts, and the rules by which rows are dropped


def read_relations(folder: Path) -> pd.DataFrame:
    """All rows of all relations, unfiltered: relation, subject, name (what the question names), answer, source.

    Raises FileNotFoundError if `folder` lacks a relation's file.
    """
    own, rows = read_facts(), []
    for relation, (sources, *_, is_turned) in RELATIONS.items():
        for source in sources:
            place, name = source.split("/")
            if place == "almanac":
                pairs = own[own.relation == name][["subject", "object"]].to_numpy()
            else:
                samples = json.loads((Path(folder) / f"{name}.json").read_text(encoding="utf-8"))["samples"]
                pairs = [(sample["subject"], sample["object"]) for sample in samples]
            for subject, answer in ((s.strip(), o.strip()) for s, o in pairs):
                named, asked = (answer, subject) if is_turned else (subject, answer)
                rows.append((relation, subject, named, asked, source))
    facts = pd.DataFrame(rows, columns=["relation", "subject", "name", "answer", "source"])
    return facts.assign(cluster=facts.subject.map(normal), named=facts.name.map(normal), key=facts.answer.map(key))


def of_another_kind(facts: pd.DataFrame) -> np.ndarray:
    """A country where a city is asked for, and the answers listed in `OTHER_KIND`."""
    own = read_facts()
    countries = {normal(s) for s in own.subject[own.relation == "continent"]}
    listed = {relation: {normal(a) for a in names} for relation, names in OTHER_KIND.items()}
    listed["headquarters"] |= countries
    return np.array([
        normal(a) in listed.get(r, ()) for r, a in zip(facts.relation, facts.answer, strict=True)
    ], bool)  # fmt: skip


def not_a_name(facts: pd.DataFrame) -> np.ndarray:
    """Descriptions in place of names: first word in lower case. (The Almanac's elements are written so.)"""
    return facts.source.str.startswith("relations/") & facts.name.str.split().str[0].fillna("").str.islower()


def by_row(test: Callable[[str, str], bool]) -> Callable[[pd.DataFrame], np.ndarray]:
    """A rule that looks at one row's name and answer only."""
    return lambda facts: np.array([test(n, a) for n, a in zip(facts.name, facts.answer, strict=True)], bool)


RULES = {  # in this order; each sees what the ones before it have left, and says which rows to drop
    "empty": by_row(lambda name, answer: not name or not answer),
    "unusual letters": by_row(lambda name, answer: not (readable(name) and readable(answer))),
    "several things in one answer": by_row(lambda _, answer: bool(re.search(r"[/;()]|, | and | or ", answer))),
    "answer over six words": by_row(lambda _, answer: len(answer.split()) > 6),
    "description, not a name": not_a_name,
    "answer of another kind": of_another_kind,
    "same row again": lambda facts: facts.duplicated(["relation", "named", "key"]),
    "several answers": lambda facts: facts.groupby(["relation", "named"]).key.transform("nunique") > 1,
    "gives its answer away": by_row(gives_away),
    "asked in another relation": lambda facts: facts.duplicated(["named", "key"]),
}


class Dropped:
    """Counts what each rule drops, relation by relation."""

    def __init__(self, facts: pd.DataFrame):
        self.counts = {"read": facts.relation.value_counts()}

    def without(self, facts: pd.DataFrame, drop: np.ndarray, rule: str) -> pd.DataFrame:
        """`facts` without the rows where `drop` (bool, one per row) holds; they are counted under `rule`."""
        drop = np.asarray(drop, bool)
        self.counts[rule] = facts.relation[drop].value_counts()
        return facts[~drop]

    def table(self, kept: pd.DataFrame) -> pd.DataFrame:
        """One row per relation: read, dropped by each rule, kept."""
        columns = {**self.counts, "kept": kept.relation.value_counts()}
        return pd.DataFrame(columns).reindex(RELATIONS).fillna(0).astype(int).rename_axis("relation")


def rng_of(*what) -> np.random.Generator:
    """A generator for each purpose, so that one more relation leaves the draws of the others alone."""
    return np.random.default_rng([SEED, zlib.crc32(repr(what).encode())])


def draw_examples(facts: pd.DataFrame) -> pd.DataFrame:
    """For each relation `EXAMPLES` rows with different answers, of few subjects: none of them is asked anything.

    An answer is drawn first and a subject with it second, so a common answer is not more likely to be shown.
    Subjects that already serve another relation come first; otherwise seven relations on countries would use up
    twenty-eight of them.
    """
    taken, chosen = set(), []
    for relation, rows in facts.groupby("relation", sort=False):
        rng = rng_of("examples", relation)
        rows = rows.assign(new=~rows.cluster.isin(taken), draw=rng.random(len(rows)))
        rows = rows.sort_values(["new", "draw"]).drop_duplicates("key")
        rows = rows.assign(draw=rng.random(len(rows))).sort_values(["new", "draw"])
        chosen.append(rows.head(EXAMPLES).sort_values("draw"))
        taken |= set(chosen[-1].cluster)
    return pd.concat(chosen)[facts.columns]


def at_most(facts: pd.DataFrame, n: int, by: list[str], purpose: str) -> np.ndarray:
    """Which rows go beyond `n` in their group, in a random order of each relation's own."""
    draw = pd.Series(0.0, facts.index)
    for relation, rows in facts.groupby("relation"):
        draw[rows.index] = rng_of(purpose, relation).random(len(rows))
    order = facts.assign(draw=draw).sort_values("draw").groupby(by).cumcount()
    return (order >= n).reindex(facts.index).to_numpy()


def choose_facts(folder: Path) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """(facts to ask, facts shown as examples, what was dropped and why), from `folder` and the Almanac."""
    facts = read_relations(folder)
    dropped = Dropped(facts)
    for rule, test in RULES.items():
        facts = dropped.without(facts, test(facts), rule)
    examples = draw_examples(facts)
    facts = dropped.without(facts, facts.cluster.isin(set(examples.cluster)), "subject of an example")
    shown = pd.MultiIndex.from_frame(facts[["relation", "key"]]).isin(
        pd.MultiIndex.from_frame(examples[["relation", "key"]])
    )
    facts = facts.assign(shown=shown)
    many = facts.groupby("relation").key.transform("nunique") > FEW
    facts = dropped.without(facts, facts.shown & many, "answer of an example")
    facts = dropped.without(facts, at_most(facts, PER_ANSWER, ["relation", "key"], "answer"), "answer too common")
    facts = dropped.without(facts, at_most(facts, PER_RELATION, ["relation"], "relation"), "more than asked for")
    facts = dropped.without(facts, facts.groupby("relation").key.transform("size") < AT_LEAST, "too few questions")
    return facts, examples[examples.relation.isin(set(facts.relation))], dropped.table(facts)


# The four tasks


def ask_facts(facts: pd.DataFrame) -> pd.DataFrame:
    """Task "fact": one question a row."""
    prompts = [RELATIONS[row.relation].ask.format(s=row.name_) for row in renamed(facts)]
    words = ["|".join(aliases(answer)) for answer in facts.answer]
    return facts.assign(task="fact", prompt=prompts, aliases=words, right=True)


def renamed(facts: pd.DataFrame):
    """Rows as tuples; a field `name` would be hidden by pandas."""
    return facts.rename(columns={"name": "name_"}).itertuples()


def draw_sum(rng: np.random.Generator, digits: tuple[int, int]) -> tuple[int, int, str]:
    """Two addends of so many digits in random order, and the key of the unordered pair."""
    a, b = (int(rng.integers(10 ** (n - 1), 10**n)) for n in digits)
    a, b = (a, b) if rng.random() < 0.5 else (b, a)
    return a, b, f"{min(a, b)}+{max(a, b)}"


def make_sums() -> tuple[pd.DataFrame, pd.DataFrame]:
    """Task "sum", and its examples (one of each of the first four kinds): no unordered pair twice."""
    rng, seen, rows = rng_of("sums"), set(), []
    for place, (digits, n) in enumerate(SUMS.items()):
        wanted = len(seen) + n + (place < EXAMPLES)
        while len(seen) < wanted:
            a, b, subject = draw_sum(rng, digits)
            if subject not in seen:
                seen.add(subject)
                kind = f"{digits[0]} + {digits[1]} digits"
                rows.append((kind, subject, TEMPLATES["addition"][-1].format(a=a, b=b), str(a + b)))
    sums = pd.DataFrame(rows, columns=["relation", "subject", "prompt", "answer"])
    sums = sums.assign(task="sum", aliases=["|".join(aliases(a)) for a in sums.answer], source="made", right=True)
    example = ~sums.duplicated("relation") & sums.relation.isin(sums.relation.unique()[:EXAMPLES])
    return sums[~example], sums[example]


def draw_wrong(rng: np.random.Generator, a: int, b: int, distance: str, length: str) -> int | None:
    """A wrong sum at this distance; None if it is not positive, repeats an addend or has not the length wanted."""
    right = a + b
    wrong = right + int(rng.choice([-1, 1])) * int(rng.integers(*DISTANCES[distance]))
    same = len(str(wrong)) == len(str(right))
    fits = {"as drawn": True, "matched": same, "unmatched": not same}[length]
    return wrong if wrong > 0 and wrong not in (a, b) and fits else None


def make_synthetic(avoid: set[str]) -> pd.DataFrame:
    """Task "synthetic": sums of two-digit numbers, each once with the right and once with a wrong answer.

    As in the paper's released code, but with two-digit addends and distances scaled to them, to suit a model of
    135 million parameters; `matched` and `unmatched` say how many digits the wrong answer has beside the right one.
    `avoid` holds the subjects of examples.
    """
    rows = []
    for distance in DISTANCES:
        for length in LENGTHS:
            rng, seen = rng_of("synthetic", distance, length), set(avoid)
            while len(seen) < len(avoid) + ITEMS:
                a, b, subject = draw_sum(rng, (2, 2))
                wrong = draw_wrong(rng, a, b, distance, length)
                if wrong is not None and subject not in seen:
                    seen.add(subject)
                    pair = f"{distance}, {length}, {subject}"
                    for answer in (a + b, wrong):
                        rows.append((f"{distance}, {length}", subject, SYNTHETIC.format(a=a, b=b), str(answer),
                                     str(a + b), answer == a + b, pair, distance, length))  # fmt: skip
    columns = ["relation", "subject", "prompt", "answer", "aliases", "right", "pair", "distance", "lengths"]
    return pd.DataFrame(rows, columns=columns).assign(task="synthetic", source="made")


def draw_false(rng: np.random.Generator, name: str, answer: str, pool: pd.Series) -> str:
    """Another answer of the relation, as often as it occurs there, of the same number of words if there is one.

    It is no other name of the right answer, neither contains the other, and the sentence does not hint at it.
    """

    def differs(other: str) -> bool:
        a, b = f" {normal(answer)} ", f" {normal(other)} "
        return key(other) != key(answer) and a not in b and b not in a and not gives_away(name, other)

    others = [other for other in pool if differs(other)]
    alike = [other for other in others if len(other.split()) == len(answer.split())]
    return str(rng.choice(alike or others))


def make_pairs(facts: pd.DataFrame) -> pd.DataFrame:
    """Task "pair": a sentence with the right answer, and with the answer of another subject of its relation."""
    rows = []
    for relation, group in facts.groupby("relation", sort=False):
        rng, say = rng_of("pairs", relation), RELATIONS[relation].say
        if not say:
            continue
        chosen = group.iloc[rng.permutation(len(group))[:PAIRS]]
        for row in renamed(chosen):
            prompt, pair = say.format(s=row.name_), f"{relation}, {row.subject}"
            for answer in (row.answer, draw_false(rng, row.name_, row.answer, group.answer)):
                rows.append((relation, row.subject, prompt, answer, "|".join(aliases(row.answer)),
                             answer == row.answer, pair, row.source))  # fmt: skip
    columns = ["relation", "subject", "prompt", "answer", "aliases", "right", "pair", "source"]
    return pd.DataFrame(rows, columns=columns).assign(task="pair")


# All of it


def split(table: pd.DataFrame) -> np.ndarray:
    """"development" or "test" for each row: by subject, alternating among subjects with the same relations."""
    what = table.task + "/" + table.relation
    cluster = table.subject.map(normal)
    subjects = what.groupby(cluster).agg(lambda names: "|".join(sorted(set(names))))
    subjects = pd.DataFrame({"what": subjects, "draw": rng_of("split").random(len(subjects))})
    order = subjects.sort_values(["what", "draw"]).index
    half = pd.Series(np.where(np.arange(len(order)) % 2, "test", "development"), order)
    return cluster.map(half).to_numpy()


def prefixes(examples: pd.DataFrame) -> list[dict]:
    """Few-shot prefixes: one per relation of facts and one for all sums. Print `prefix` to see what a model reads."""
    made = []
    groups = examples.assign(group=np.where(examples.task == "sum", "", examples.relation))
    for (task, relation), rows in groups.groupby(["task", "group"], sort=False):
        lines = rows.prompt + " " + rows.answer + ".\n"
        made.append({"task": task, "relation": relation, "subjects": list(rows.subject), "prefix": "".join(lines)})
    return made


COLUMNS = ["task", "relation", "subject", "prompt", "answer", "aliases", "right", "shown", "pair", "distance",
           "lengths", "split", "source"]  # fmt: skip


def make_questions(folder: Path) -> tuple[pd.DataFrame, list[dict], pd.DataFrame]:
    """(questions, few-shot prefixes, what was dropped and why).

    Columns of the questions: `aliases` is what counts as right, joined by "|"; `right` says whether `answer` is
    right; `shown`, whether the answer stands among its relation's examples; `pair` joins a right and a wrong text
    ("" for questions that a model answers itself); `distance` and `lengths` belong to the synthetic sums.
    """
    facts, shown_facts, dropped = choose_facts(folder)
    sums, shown_sums = make_sums()
    synthetic = make_synthetic(avoid=set(shown_sums.subject))
    table = pd.concat([ask_facts(facts), sums, synthetic, make_pairs(facts)], ignore_index=True)
    table["shown"] = table["shown"].eq(True)
    table = table.fillna({"pair": "", "distance": "", "lengths": ""})
    table["split"] = split(table)
    examples = pd.concat([ask_facts(shown_facts), shown_sums], ignore_index=True)
    return table[COLUMNS], prefixes(examples), dropped


def markdown(dropped: pd.DataFrame) -> str:
    """What was dropped and why, for the data card: the rules with their totals, then one row per relation."""
    totals = "\n".join(f"- {rule}: {n:,}" for rule, n in dropped.sum().items())
    lines = [["relation", *dropped], ["---"] * (dropped.shape[1] + 1), *dropped.reset_index().to_numpy()]
    return totals + "\n\n" + "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def main(folder: str) -> None:
    table, shots, dropped = make_questions(Path(folder))
    table.to_parquet(DATA / "questions.parquet", index=False, compression="zstd")
    (DATA / "questions-prefixes.json").write_text(json.dumps(shots, indent=1, ensure_ascii=False) + "\n", "utf-8")
    print(markdown(dropped))
    print(table.groupby(["task", "split"]).size())


if __name__ == "__main__":
    main(sys.argv[1])
