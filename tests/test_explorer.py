"""The sentence explorer without a screen: every control redraws, and shows what the plain functions show."""

import html
import re

import pytest

from utils.gauge import GAUGES, in_gauge
from utils.load import load_lm
from utils.page.plots import visible
from utils.page.widgets import SENTENCE_COLUMNS, sentence_explorer
from utils.score import score

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
            assert all(f"> {value:+.2f} </small>" in box.picture.value for value in values if value == value)


def test_the_other_sign_turns_spills_around_and_nothing_else(box):
    picture, said = box.picture.value, box.sentence.value
    box.controls["sign"].value = "Δ = V − f"
    assert box.picture.value != picture and box.sentence.value != said
    box.controls["column"].value = "logprob"
    said = box.sentence.value
    box.controls["sign"].value = "s = f − V"
    assert box.sentence.value == said


@pytest.mark.parametrize("sentence", [
    "On Monday, Ada buys <b>tea</b> & rice.", "<script>boom()</script><img src=x onerror=boom()>", "$$ Ada pays $5",
    "עדה קונה תה", "👩‍👧 buys 🏳️‍🌈", "Ada\x00 buys \x1b[31mtea", "Ada \u202esyub\u202c tea",
], ids=ascii)  # fmt: skip
def test_another_sentence_is_scored_and_escaped(lm, box, sentence):
    first = box.sentence.value
    box.controls["sentence"].value = sentence
    shown = box.sentence.value + box.picture.value
    assert box.sentence.value != first and "nats" in box.sentence.value and "Not this one" not in box.sentence.value
    assert {*re.findall(r"<(\w+)", shown)} == {"div", "span", "small"}
    assert not {*"\x00\x1b\u202e"} & {*shown} and shown.encode()
    tokens = [html.unescape(token) for token in re.findall(r"anywhere\">(.*?)<small", box.picture.value)]
    assert tokens == [visible(token) for token in score(lm, [sentence]).token]


@pytest.mark.parametrize(
    ("sentence", "wrong", "remedy"),
    [("   ", "the text is empty", "at least one word"), ("tea and rice " * 60, "model&#x27;s window is", "shorten it"),
     ("tea 🙂 " * 20_000, "model&#x27;s window is", "shorten it"), ("tea \ud800", "half a character", "remove it")],
    ids=["blank", "long", "very long", "half a character"],
)
def test_a_sentence_that_cannot_be_read_is_answered_with_a_remedy_and_clears_the_picture(box, sentence, wrong, remedy):
    first = box.picture.value
    box.controls["sentence"].value = sentence
    assert wrong in box.sentence.value and remedy in box.sentence.value and box.picture.value == ""
    assert len(box.sentence.value) < 300 and box.sentence.value.encode()
    box.controls["sentence"].value = TEXT
    assert box.picture.value == first
