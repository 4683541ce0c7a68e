"""The questions of notebook 04: what is stored obeys its rules, and the rules drop what they say."""

import json
import re

import pandas as pd
import pytest

from utils import DATA
from utils.almanac import read_facts
from utils.workshop import questions
from utils.workshop.questions import RELATIONS, key, make_questions, normal

TABLE = pd.read_parquet(DATA / "questions.parquet")
PREFIXES = json.loads((DATA / "questions-prefixes.json").read_text(encoding="utf-8"))
FACTS, SUMS, SYNTHETIC, PAIRS = (TABLE[TABLE.task == task] for task in ("fact", "sum", "synthetic", "pair"))


def contains(text: str, words: str) -> bool:
    return f" {normal(words)} " in f" {normal(text)} "


# What is stored: sizes and halves


def test_there_are_as_many_questions_as_planned():
    assert len(FACTS) >= 2500 and FACTS.relation.nunique() >= 24
    sizes = FACTS.relation.value_counts()
    assert sizes.max() <= questions.PER_RELATION and sizes.min() >= questions.AT_LEAST
    assert FACTS.groupby(["relation", FACTS.answer.map(key)]).size().max() <= questions.PER_ANSWER
    assert len(SUMS) >= 400 and PAIRS.pair.nunique() >= 400
    cells = SYNTHETIC.groupby(["distance", "lengths"]).pair.nunique()
    assert len(cells) == 9 and cells.eq(questions.ITEMS).all()


def test_no_subject_stands_in_both_halves():
    assert TABLE.groupby(TABLE.subject.map(normal)).split.nunique().eq(1).all()
    assert set(TABLE.split) == {"development", "test"}


def test_the_halves_are_halves_of_every_relation():
    share = (TABLE.split == "test").groupby([TABLE.task, TABLE.relation]).mean()
    assert share[["fact", "sum"]].between(0.45, 0.55).all()
    assert share.between(0.4, 0.6).all()


def test_no_question_is_asked_twice():
    assert not FACTS.duplicated(["prompt"]).any() and not SUMS.duplicated(["subject"]).any()
    assert not SYNTHETIC.duplicated(["pair", "right"]).any() and not PAIRS.duplicated(["pair", "right"]).any()


# Examples


def test_subjects_of_examples_are_asked_nowhere():
    shown = {normal(subject) for prefix in PREFIXES for subject in prefix["subjects"]}
    assert len(shown) >= 60 and shown.isdisjoint(TABLE.subject.map(normal))


def test_every_relation_has_four_examples_in_the_words_of_its_questions():
    asked = {(p["task"], p["relation"]): p["prefix"] for p in PREFIXES}
    assert set(asked) == {("sum", "")} | {("fact", relation) for relation in FACTS.relation}
    for (task, relation), prefix in asked.items():
        lines = prefix.splitlines()
        assert len(lines) == 4 and prefix.endswith(".\n")
        ask = RELATIONS[relation].ask if task == "fact" else "Question: What is {s} Answer:"
        start, end = (re.escape(part) for part in ask.split("{s}"))
        assert all(re.fullmatch(rf"{start}.+{end} .+\.", line) for line in lines)


def test_no_answer_stands_among_the_examples_unless_the_relation_has_few_answers():
    examples = {p["relation"]: p["prefix"] for p in PREFIXES if p["task"] == "fact"}
    for relation, rows in FACTS.groupby("relation"):
        answers = [key(re.search(r"Answer: (?:the )?(.+)\.$", line)[1]) for line in examples[relation].splitlines()]
        assert len(set(answers)) == 4
        assert (rows.answer.map(key).isin(answers) == rows.shown).all()
        assert not rows.shown.any() or rows.answer.map(key).nunique() <= questions.FEW


# Prompts, answers, aliases


def test_a_prompt_does_not_contain_its_answer_and_ends_without_a_space():
    assert not [p for p, a in zip(TABLE.prompt, TABLE.answer, strict=True) if contains(p, a)]
    assert not TABLE.prompt.str.endswith(" ").any() and TABLE.answer.eq(TABLE.answer.str.strip()).all()


def test_aliases_contain_the_right_answer_and_never_the_wrong_one():
    for row in TABLE.itertuples():
        names = {normal(name) for name in row.aliases.split("|")}
        assert (normal(row.answer) in names) == row.right
        assert row.right or not any(contains(name, row.answer) or contains(row.answer, name) for name in names)


def test_questions_asked_are_stored_with_their_right_answer_only():
    assert FACTS.right.all() and SUMS.right.all()
    assert TABLE[TABLE.task.isin(["fact", "sum"])].pair.eq("").all()


def test_facts_of_the_almanac_are_the_almanacs():
    own = set(read_facts().itertuples(index=False, name=None))
    rows = FACTS[FACTS.source.str.startswith("almanac/")]
    assert len(rows) > 900
    for row in rows.itertuples():
        relation = RELATIONS[row.relation]
        start, end = relation.ask.split("{s}")
        name = row.prompt.removeprefix(start).removesuffix(end)
        pair = (row.answer, name) if relation.turned else (name, row.answer)
        assert pair[0] == row.subject and (row.source.split("/")[1], *pair) in own


# Sums


def addends(prompt: str) -> tuple[int, int]:
    a, b = re.search(r"(\d+) ?\+ ?(\d+)", prompt).groups()
    return int(a), int(b)


def test_right_sums_are_right_and_of_the_digits_they_are_filed_under():
    for row in pd.concat([SUMS, SYNTHETIC]).itertuples():
        a, b = addends(row.prompt)
        assert (int(row.answer) == a + b) == row.right and str(a + b) in row.aliases.split("|")
        assert row.subject == f"{min(a, b)}+{max(a, b)}"
        if row.task == "sum":
            assert sorted(len(str(n)) for n in (a, b)) == sorted(int(n) for n in re.findall(r"\d", row.relation))


def test_wrong_sums_have_the_distance_and_the_length_they_are_filed_under():
    wrong = SYNTHETIC[~SYNTHETIC.right]
    right = SYNTHETIC[SYNTHETIC.right].set_index("pair").answer[wrong.pair]
    distance = abs(wrong.answer.astype(int).to_numpy() - right.astype(int).to_numpy())
    low, high = (wrong.distance.map(lambda d, i=i: questions.DISTANCES[d][i]).to_numpy() for i in (0, 1))
    assert ((low <= distance) & (distance < high)).all()
    same = wrong.answer.str.len().to_numpy() == right.str.len().to_numpy()
    assert same[wrong.lengths == "matched"].all() and not same[wrong.lengths == "unmatched"].any()


def test_sums_are_the_ones_the_recipe_draws():
    sums, examples = questions.make_sums()
    for stored, made in [(SUMS, sums), (SYNTHETIC, questions.make_synthetic(avoid=set(examples.subject)))]:
        columns = ["relation", "subject", "prompt", "answer", "right"]
        pd.testing.assert_frame_equal(
            stored[columns].reset_index(drop=True), made[columns].reset_index(drop=True), check_dtype=False
        )


# True and false sentences


def test_a_pair_is_one_sentence_with_a_right_and_a_wrong_answer_of_its_relation():
    assert PAIRS.groupby("pair").right.agg(["size", "sum"]).eq([2, 1]).all(axis=None)
    assert PAIRS.groupby("pair")[["prompt", "subject", "relation"]].nunique().eq(1).all(axis=None)
    answers = FACTS.groupby("relation").answer.agg(set)
    assert all(row.answer in answers[row.relation] for row in PAIRS.itertuples())
    assert all(RELATIONS[relation].say for relation in PAIRS.relation)


# The data card


def test_the_data_card_tells_what_was_dropped_and_its_rows_add_up():
    card = (DATA / "README.md").read_text(encoding="utf-8")
    lines = [[cell.strip() for cell in line.strip("| ").split("|")] for line in card.splitlines()]
    header = next(line for line in lines if line[:2] == ["relation", "read"])
    rows = [line for line in lines if len(line) == len(header) and line[0] in RELATIONS]
    assert header[2 : 2 + len(questions.RULES)] == list(questions.RULES) and len(rows) == len(RELATIONS)
    for relation, read, *dropped, kept in rows:
        assert int(kept) == (FACTS.relation == relation).sum()
        assert int(read) == sum(map(int, dropped)) + int(kept)


# The rules, on relations made up here: subjects are spelled with a to h, answers with i to z

COMPANIES = [f"{a}{b}{c} Bad" for a in "ABCDEFGH" for b in "aei" for c in "bcdfgh"]  # 144
CITIES = [f"{a}{b}{c}" for a in "KLMNPR" for b in "iou" for c in "klmn"]  # 72
PLAYERS = [f"Bebe {company.split()[0]}" for company in COMPANIES]
TOOLS = ["piano", "lute", "organ", "kazoo", "marimba"]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder of two relations, and a maker that knows these two only."""
    monkeypatch.setattr(questions, "RELATIONS", {r: RELATIONS[r] for r in ("headquarters", "instrument")})
    write(tmp_path, "company_hq", [(s, CITIES[i % len(CITIES)]) for i, s in enumerate(COMPANIES)])
    write(tmp_path, "person_plays_instrument", [(s, TOOLS[i % len(TOOLS)]) for i, s in enumerate(PLAYERS)])
    return tmp_path


def write(folder, file, rows):
    samples = [{"subject": subject, "object": answer} for subject, answer in rows]
    (folder / f"{file}.json").write_text(json.dumps({"samples": samples}), encoding="utf-8")


def add(folder, rows):
    path = folder / "company_hq.json"
    old = [tuple(sample.values()) for sample in json.loads(path.read_text(encoding="utf-8"))["samples"]]
    write(folder, "company_hq", [*old, *rows])


def test_the_same_folder_gives_the_same_questions(folder):
    first, second = make_questions(folder), make_questions(folder)
    pd.testing.assert_frame_equal(first[0], second[0])
    assert first[1] == second[1] and first[2].equals(second[2])
    asked = first[0][first[0].task == "fact"]
    assert set(asked.relation) == {"headquarters", "instrument"} and len(asked) > 200


BAD = [
    ("empty", [("Cedec Bad", " ")], 1),
    ("unusual letters", [("Cedec Bad", "Москва"), ("Cedeg \\u00ed", "Kyoto")], 2),
    ("several things in one answer", [("Cedec Bad", "Lyon, Nice"), ("Cedeg Bad", "Lyon and Nice")], 2),
    ("answer over six words", [("Cedec Bad", "Lu Mo Ni Ou Po Ro Su")], 1),
    ("description, not a name", [("bad beef called Cedec", "Lyon")], 1),
    ("answer of another kind", [("Cedec Bad", "Norway"), ("Cedeg Bad", "California")], 2),
    ("same row again", [("Cedec Bad", "Lyon"), ("Cedec bad", "lyon"), ("Cedeg", "Kiev"), ("Cedeg", "Kyiv")], 2),
    ("several answers", [("Cedec Bad", "Lyon"), ("Cedec Bad", "Nice")], 2),
    ("gives its answer away", [("Lyon Bad", "Lyon"), ("Cedec", "Cedec City"), ("Lyonese Bad", "Lyon")], 3),
]


@pytest.mark.parametrize(("rule", "rows", "n"), BAD, ids=[rule for rule, *_ in BAD])
def test_each_rule_drops_the_rows_it_names(folder, rule, rows, n):
    assert make_questions(folder)[2].loc["headquarters", rule] == 0
    add(folder, rows)
    assert make_questions(folder)[2].loc["headquarters", rule] == n


def test_a_question_that_another_relation_asks_is_dropped(folder):
    add(folder, [("Cedec Bad", "organ")])
    write(folder, "person_plays_instrument", [("Cedec Bad", "organ"), *zip(PLAYERS, TOOLS * 40, strict=False)])
    assert make_questions(folder)[2]["asked in another relation"].to_dict() == {"headquarters": 0, "instrument": 1}


def test_subjects_and_answers_of_examples_are_dropped_and_counted(folder):
    table, prefixes, dropped = make_questions(folder)
    shown = next(p for p in prefixes if p["relation"] == "headquarters")
    assert dropped.loc["headquarters", "subject of an example"] == len(shown["subjects"]) == 4
    assert dropped.loc["headquarters", "answer of an example"] == 4  # each city has two companies
    assert dropped.loc["instrument", "answer of an example"] == 0  # five answers only: they stay, and are marked
    assert table[table.relation == "instrument"].shown.mean() == pytest.approx(4 / 5, abs=0.05)


def test_common_answers_large_relations_and_small_ones_are_cut(folder, monkeypatch):
    for name, n in [("PER_ANSWER", 10), ("PER_RELATION", 48), ("AT_LEAST", 49)]:
        monkeypatch.setattr(questions, name, n)
    dropped = make_questions(folder)[2]
    instrument = dropped.loc["instrument"]
    assert instrument["answer too common"] == 140 - 50 and instrument["more than asked for"] == 2
    assert instrument["too few questions"] == 48 and (dropped.kept == 0).all()


def test_what_is_read_is_dropped_or_kept(folder):
    add(folder, [row for _, rows, _ in BAD for row in rows])
    dropped = make_questions(folder)[2]
    assert (dropped["read"] == dropped.drop(columns=["read", "kept"]).sum(axis=1) + dropped["kept"]).all()
    assert dropped.loc["headquarters", "read"] > len(COMPANIES)


def test_a_missing_file_is_named(folder):
    (folder / "company_hq.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"company_hq\.json"):
        make_questions(folder)


# Names


@pytest.mark.parametrize(
    ("answer", "names"),
    [
        ("Kyiv", {"Kyiv", "Kiev"}),
        ("the Bahamas", {"the Bahamas", "Bahamas"}),
        ("Joseph P. Kennedy Sr.", {"Joseph P. Kennedy Sr.", "Joseph Kennedy"}),
        ("1998", {"1998", "1,998"}),
        ("B. B. King", {"B. B. King"}),
    ],
)
def test_aliases_follow_the_listed_rules(answer, names):
    assert set(questions.aliases(answer)) == names


def test_names_are_compared_without_case_accents_and_points():
    assert normal("São Tomé, U.S.") == "sao tome us" and normal("Łódź Ærø") == "lodz aero"
    assert key("The United States of America") == key("U.S.A.") == key("United States") != key("United Kingdom")


def test_every_pair_of_names_for_one_thing_is_listed_once():
    names = [normal(name) for group in questions.SAME for name in group]
    assert len(names) == len(set(names))
