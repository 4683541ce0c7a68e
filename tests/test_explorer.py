"""The sentence explorer without a screen: every control redraws, and shows what the plain functions show."""

import pytest

from utils.gauge import GAUGES, in_gauge
from utils.load import load_lm
from utils.score import score
from utils.widgets import SENTENCE_COLUMNS, sentence_explorer

TEXT = "The capital of Japan is Tokyo."


@pytest.fixture(scope="module")
def lm():
    return load_lm("almanac-gpt2")


@pytest.fixture
def box(lm):
    return sentence_explorer(lambda text, gauge: in_gauge(score(lm, [text]), gauge), TEXT, GAUGES)


def test_every_column_can_be_shown_in_every_gauge(lm, box):
    for gauge in GAUGES:
        box.controls["gauge"].value = gauge
        for column in SENTENCE_COLUMNS:
            box.controls["column"].value = column
            values = in_gauge(score(lm, [TEXT]), gauge)[column]
            assert f"sum {values.sum():+.2f} nats" in box.sentence.value
            assert bytes(box.picture.value).startswith(b"\x89PNG")


def test_the_other_sign_turns_spills_around_and_nothing_else(box):
    pictures = [box.picture.value]
    before = box.sentence.value
    box.controls["sign"].value = "Δ = V − f"
    pictures.append(box.picture.value)
    assert pictures[0] != pictures[1] and box.sentence.value != before
    box.controls["column"].value = "logprob"
    said = box.sentence.value
    box.controls["sign"].value = "s = f − V"
    assert box.sentence.value == said


def test_another_sentence_is_scored_and_a_blank_one_is_not_an_error(box):
    first = box.sentence.value
    box.controls["sentence"].value = "On Monday, Ada buys <b>tea</b> & rice."
    assert box.sentence.value != first and "<b>" not in box.sentence.value
    box.controls["sentence"].value = "   "
    assert box.sentence.value == first
