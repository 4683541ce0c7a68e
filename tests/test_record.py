"""What the real Llama answered is on record as it was said, labelled by rule, and asking again says the same."""

import contextlib

import numpy as np
import pandas as pd
import pytest
from conftest import full_disk, killed

from utils import DATA
from utils.energy import TokenEnergies
from utils.load import load_lm
from utils.records import recorded
from utils.workshop import record as workshop
from utils.workshop.record import is_right, kept_relations, label, own_answers, read_completion, record

QUESTIONS = pd.read_parquet(DATA / "questions.parquet")
PREFIXES = pd.read_json(DATA / "questions-prefixes.json").to_dict("records")


@pytest.mark.parametrize(
    ("completion", "answer", "sentence"),
    [
        (" Kabul.\nQuestion: What is", "Kabul", " Kabul."),
        (" St. Louis.\n", "St. Louis", " St. Louis."),
        (" J. R. R. Tolkien. He wrote", "J. R. R. Tolkien", " J. R. R. Tolkien."),
        (" 17. It", "17", " 17."),
        (" 3.5 million", "3.5 million", " 3.5 million"),
        (" New York\n", "New York", " New York"),
        ("\nQuestion", "", ""),
    ],
)
def test_an_answer_is_the_first_sentence_of_the_first_line(completion, answer, sentence):
    assert read_completion(completion) == (answer, sentence)


@pytest.mark.parametrize(
    ("answer", "aliases", "relation", "right"),
    [
        ("the city of Kabul", "Kabul", "capital", True),
        ("Yaoundé", "Yaounde", "capital", True),
        ("Nigeria", "Niger", "country of capital", False),  # whole words only
        ("Papua New Guinea", "Guinea", "country of capital", False),  # another answer of the relation
        ("Guinea", "Guinea", "country of capital", True),
        ("1,287", "1287|1,287", "sum", True),
        ("12", "121", "sum", False),
        ("in", "In", "symbol", False),  # case counts where it differs
        ("In", "In", "symbol", True),
    ],
)
def test_an_answer_is_right_if_it_says_a_name_of_the_truth_and_is_no_other_answer(answer, aliases, relation, right):
    others = {"papua new guinea", "niger", "nigeria", "guinea", "kabul"}
    assert is_right(answer, aliases, relation, others) == right


def test_labels_know_the_other_answers_of_their_own_relation_only():
    everything = pd.DataFrame({"relation": ["a", "a", "b"], "answer": ["Guinea", "New Guinea", "Guinea"]})
    asked = everything.iloc[[0, 2]].assign(aliases="Guinea")
    assert label(asked, ["New Guinea", "New Guinea"], everything) == [False, True]


def test_a_relation_is_kept_by_its_development_half_alone():
    rows = [("easy", "test", 1)] * 5 + [("easy", "development", 1)] * 20
    rows += [("fair", "development", i < 10) for i in range(20)] + [("fair", "test", 0)] * 20
    rows += [("hard", "development", i < 2) for i in range(20)] + [("hard", "test", 1)] * 20
    questions = pd.DataFrame(rows, columns=["relation", "split", "right"]).assign(task="fact")
    answers = questions[["right"]].assign(way="few-shot", question=questions.index)
    assert kept_relations(answers, questions) == ["fair"]


def small(patch=setattr):
    """A small set of questions for a small model: two relations, with sums and given answers."""
    patch(workshop, "KEEP", (0, 1))
    patch(workshop, "chat", lambda lm, rows, prefix: list(rows.prompt))
    lm = load_lm("almanac-llama")
    lm.tokenizer.chat_template = "{% for turn in messages %}{{ turn.content }} {% endfor %}"
    shots = [s for s in PREFIXES if s["relation"] in ("capital", "symbol", "")]
    facts = QUESTIONS[(QUESTIONS.task == "fact") & QUESTIONS.relation.isin(["capital", "symbol"])]
    rest = [QUESTIONS[QUESTIONS.task == task].iloc[:4] for task in ("sum", "synthetic", "pair")]
    return (
        lm,
        pd.concat([facts.groupby(["relation", "split"]).head(3), *rest]),
        [dict(s, prefix=s["prefix"][:60]) for s in shots],
    )


KILLED = """import sys, pathlib, conftest, test_record
conftest.hang_in_file(6)
test_record.record(*test_record.small(), pathlib.Path(sys.argv[1]))"""


@pytest.mark.parametrize("stop", ["interrupt", "full disk", "kill"])
def test_a_recording_that_was_stopped_goes_on_where_it_was(stop, tmp_path, monkeypatch):
    few = small(monkeypatch.setattr)
    whole = record(*few, tmp_path / "whole")
    calls, own, disk = [], workshop.given_answers, contextlib.ExitStack()

    def stopped(*args):
        calls.append(len(args[1]))
        if len(calls) == 2 and stop == "interrupt":
            raise KeyboardInterrupt
        if len(calls) == 2:
            disk.enter_context(full_disk(6000))
        return own(*args)

    if stop == "kill":
        killed(KILLED, tmp_path / "again")
        assert [path.read_bytes() for path in (tmp_path / "again").glob("*.part")] == [b"half of a file"]
    else:
        expected, said = (KeyboardInterrupt, None) if stop == "interrupt" else (OSError, "could not be written .* make")
        monkeypatch.setattr(workshop, "given_answers", stopped)
        with disk, pytest.raises(expected, match=said):
            record(*few, tmp_path / "again")
        assert len(calls) == 2
    done = {path: path.stat().st_mtime_ns for path in (tmp_path / "again").glob("*.parquet")}
    assert 0 < len(done) < len(list((tmp_path / "whole").glob("*.parquet")))
    resumed = record(*few, tmp_path / "again")
    assert {path: path.stat().st_mtime_ns for path in done} == done
    for one, other in zip(whole, resumed, strict=True):
        pd.testing.assert_frame_equal(one, other)


@pytest.fixture(scope="module")
def llama():
    return load_lm("llama", "bundled")


@pytest.mark.parametrize("relation", ["capital", "occupation", "country of landmark"])
def test_asking_the_llama_again_gives_the_recorded_answers_and_energies(llama, relation):
    answers, tokens = recorded("llama-answers"), recorded("llama-tokens")
    here = answers[(answers.way == "few-shot") & (QUESTIONS.relation[answers.question] == relation).to_numpy()]
    here = here.sample(6, random_state=7)
    asked = QUESTIONS.loc[here.question]
    prefix = next(s["prefix"] for s in PREFIXES if s["relation"] == relation)
    said, found = own_answers(llama, asked, prefix, "few-shot")
    assert said.sentence.tolist() == here.sentence.tolist()
    assert label(asked, said.answer, QUESTIONS[QUESTIONS.task == "fact"]) == here.right.tolist()
    old = tokens.set_index("text").loc[here.index[here.answer != ""]]
    assert found.id.tolist() == old.id.tolist() and found.stop.tolist() == old.stop.tolist()
    np.testing.assert_allclose(found[[*TokenEnergies._fields]], old[[*TokenEnergies._fields]], atol=2e-3)


def test_given_answers_are_scored_as_whole_texts(llama):
    answers, tokens = recorded("llama-answers"), recorded("llama-tokens")
    here = answers[answers.way == "given"].sample(8, random_state=7)
    asked = QUESTIONS.loc[here.question]
    assert here.answer.tolist() == [a.removesuffix(".") for a in asked.answer]
    assert (here.right.to_numpy() == asked.right.to_numpy()).all()
    from utils.score import score

    table = score(llama, list(asked.prompt + here.sentence.to_numpy()), batch_size=1)
    for row, (text, prompt) in enumerate(zip(here.index, asked.prompt, strict=True)):
        old, own = tokens[tokens.text == text], table[(table.text == row) & (table.end > len(prompt) + 1)]
        assert old.id.tolist() == own.id.tolist()
        np.testing.assert_allclose(old[[*TokenEnergies._fields]], own[[*TokenEnergies._fields]], atol=2e-3)


def test_the_record_is_whole():
    answers, tokens = recorded("llama-answers"), recorded("llama-tokens")
    few = answers[answers.way == "few-shot"]
    wanted = QUESTIONS.index[QUESTIONS.task.isin(["fact", "sum"])]
    assert sorted(few.question) == sorted(wanted) and len(answers[answers.way == "given"]) == 5400 + 1070
    assert set(tokens.text) == set(answers.index[answers.answer != ""])
    np.testing.assert_allclose(tokens.spilled, tokens.logit - tokens.log_partition_after, atol=1e-4)
    joined = tokens[~tokens.stop].groupby("text").token.agg("".join).str.strip()
    said = answers.answer.loc[joined.index]
    assert (joined == said).mean() > 0.999  # a token may reach over an answer's end
    sampled = answers.agree.notna()
    assert sampled.sum() >= 300 and answers.agree[sampled].between(0, 1).all()
