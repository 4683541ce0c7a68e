"""Widgets without a screen: every control is driven to its ends, and what should change does, and nothing else.

The sentence explorer has a file of its own, `test_explorer.py`.
"""

import math
import re

import ipywidgets as w
import numpy as np
import pandas as pd
import pytest
import torch

from utils import energy
from utils.almanac import Almanac, contexts
from utils.page import plots, widgets
from utils.records import recorded

TOKENS = ("sun", "rain", "snow")


def ends(control) -> list:
    """The values a user can push a control to: both ends of a slider, every option of a list."""
    if isinstance(control, w.FloatSlider | w.IntSlider):
        return [control.min, control.max]
    options = control.options
    return [value for _, value in options] if isinstance(options[0], tuple) else list(options)


def drive(box):
    """Push every control to every end, with the others where they were, and yield (name, value, picture, sentence)."""
    for name, control in box.controls.items():
        at_first = control.value
        for value in ends(control):
            control.value = value
            yield name, value, drawn(box), box.sentence.value
        control.value = at_first


def drawn(box) -> str:
    """The pixels of the picture, without its alt text."""
    tag, png = box.picture.value.split('src="data:image/png;base64,')
    assert tag.startswith("<img alt=") and "max-width:100%" in tag and png.startswith("iVBOR")
    return png


def said(box) -> str:
    return re.sub("<[^>]+>", "", box.sentence.value)


# ------------------------------------------------------------------------------------------------ the explorer


def test_an_explorer_redraws_with_the_values_of_its_controls():
    seen = []

    def draw(a, b):
        seen.append((a, b))
        fig, ax = plots.figure()
        ax.plot([0, a], [0, b])
        return fig, f"a is {a} & b is {b}"

    box = widgets.explorer(draw, a=widgets.knob(0, 2, 1, 1), b=w.Dropdown(options=[3, 4]))
    assert said(box) == "a is 1.0 &amp; b is 3"  # escaped: sentences may hold a reader's own text
    assert 'alt="a is 1.0 &amp; b is 3"' in box.picture.value
    assert [*box.children] == [*box.controls.values(), box.sentence, box.picture]  # the words come first
    first = drawn(box)
    box.controls["a"].value = 2
    box.controls["b"].value = 4
    assert seen == [(1, 3), (2, 3), (2, 4)]
    assert drawn(box) != first and said(box).startswith("a is 2.0")


def fails_beyond_one(error):
    def draw(a):
        if a > 1:
            raise error
        return plots.figure()[0], "fine"

    return draw


def test_a_broken_plot_is_not_swallowed():
    box = widgets.explorer(fails_beyond_one(RuntimeError("broken plot")), a=widgets.knob(0, 2, 1, 0))
    with pytest.raises(RuntimeError, match="broken plot"):
        box.controls["a"].value = 2


def test_what_cannot_be_drawn_is_said_in_place_of_the_old_picture_until_it_can():
    box = widgets.explorer(fails_beyond_one(ValueError("<a> is over 1; take less")), a=widgets.knob(0, 2, 1, 0))
    first = drawn(box)
    box.controls["a"].value = 2
    assert said(box) == "Not this one: &lt;a&gt; is over 1; take less." and box.picture.value == ""
    box.controls["a"].value = 1
    assert said(box) == "fine" and drawn(box) == first


def test_at_the_start_no_error_is_taken_for_the_readers():
    with pytest.raises(ValueError, match="take less"):
        widgets.explorer(fails_beyond_one(ValueError("take less")), a=widgets.knob(0, 2, 1, 2))


def test_controls_are_named_and_wide_enough_to_use():
    box = widgets.explorer(lambda a: (plots.figure()[0], "fine"), a=widgets.knob(0, 1, 1))
    assert box.controls["a"].description == "a"
    assert (box.controls["a"].layout.width, box.controls["a"].layout.max_width) == ("500px", "100%")


def test_where_nothing_runs_a_page_says_what_to_do():
    """What a stored output shows: never `VBox(children=…`, and short enough to come whole."""
    box = widgets.explorer(lambda a: (plots.figure()[0], "fine"), a=widgets.knob(0, 1, 1))
    assert box._repr_mimebundle_()["text/plain"] == widgets.STILL and "still picture is above" in widgets.STILL


# ------------------------------------------------------------------------------------------ superimposition (01)

JOINT = {(c, x): 1 / 9 for c in TOKENS for x in TOKENS}
BOOKS = {"global": lambda c, x: 5.0, "local": lambda c, x: 5.0 + 3 * TOKENS.index(x)}


def lay_out(book, c, x, y):
    """Uniform tokens; the constant of the second factor is the book's business."""
    joint = np.log([1 / 3, 1 / 9, 1 / 9, 1 / 27])
    conditional = np.log([1, 1 / 3, 1, 1 / 3])
    first, second = math.log(5.0), math.log(book(c, x))
    return np.add(joint, [first, first, second, second]), joint, conditional


def test_every_book_and_token_can_be_laid_over_both_decompositions():
    box = widgets.superimposition_toggle(BOOKS, TOKENS, lay_out)
    drawn(box)
    pictures = {}
    for name, _, picture, sentence in drive(box):
        assert "nats" in sentence
        pictures.setdefault(name, []).append(picture)
    assert len(set(pictures["book"])) == len(BOOKS)  # the toggle changes the figure


def test_the_sentence_gives_both_constants_and_the_spill_between_them():
    box = widgets.superimposition_toggle(BOOKS, TOKENS, lay_out)
    box.controls["book"].value = "global"
    assert "5 before snow and 5 after" in box.sentence.value and "+0.00 nats" in box.sentence.value
    box.controls["book"].value = "local"
    assert "5 before snow and 11 after" in box.sentence.value
    assert f"{math.log(5 / 11):+.2f} nats" in box.sentence.value
    box.controls["x"].value = "sun"
    assert "5 before sun and 5 after" in box.sentence.value


# ------------------------------------------------------------------------------------------- gauge slider (02)


@pytest.fixture
def answers():
    """Forty answers; wrong ones are surprising, and as trained their spills are higher too."""
    rng = np.random.default_rng(0)
    wrong = np.arange(40) < 10
    surprise = np.exp(rng.normal(size=40) - 4 + 3 * wrong)
    return {"h": {"helps": 3.0 * wrong, "same": np.ones(40)}, "surprise": surprise, "wrong": wrong,
            "spilled": rng.normal(size=40) + 0.5 * wrong}  # fmt: skip


def gauge_slider(a):
    return widgets.gauge_slider(a["h"], a["surprise"], a["spilled"], a["wrong"])


def test_the_gauge_slider_reaches_both_ends_of_the_auroc(answers):
    box = gauge_slider(answers)
    box.controls["turn"].value = box.controls["turn"].max
    assert "AUROC of s 1.00" in box.sentence.value
    box.controls["turn"].value = box.controls["turn"].min
    assert "AUROC of s 0.00" in box.sentence.value


def test_the_gauge_slider_never_moves_the_auroc_of_log_probability(answers):
    box = gauge_slider(answers)
    assert len({sentence.split("of −log p ")[1] for _, _, _, sentence in drive(box)}) == 1


def test_the_gauge_slider_keeps_its_axis(answers, monkeypatch):
    """A turn must be seen as a move of the dots, not of the ruler."""
    figures = []
    draw = plots.gauge_scatter
    monkeypatch.setattr(plots, "gauge_scatter", lambda *a: figures.append(draw(*a)) or figures[-1])
    box = gauge_slider(answers)
    for turn in (-4.0, 1.0, 4.0):
        box.controls["turn"].value = turn
    limits = {figure.axes[0].get_ylim() for figure in figures}
    dots = np.concatenate([line.get_ydata() for figure in figures for line in figure.axes[0].lines])
    assert len(figures) == 4 and len(limits) == 1
    assert min(limits)[0] < dots.min() and dots.max() < min(limits)[1]


def test_a_constant_gauge_moves_dots_but_no_auroc(answers):
    box = gauge_slider(answers)
    as_trained = box.sentence.value.split("AUROC of s ")[1]
    box.controls["h"].value = "same"
    before = drawn(box)
    box.controls["turn"].value = 3.0
    assert box.sentence.value.split("AUROC of s ")[1] == as_trained and drawn(box) != before


# ------------------------------------------------------------------------------------- three-term explorer (02)


@pytest.fixture
def tables():
    def table(seed):
        f = torch.randn(5, 7, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 3
        e = energy.token_energies(f, torch.arange(5))
        return pd.DataFrame({name: values[1:].numpy() for name, values in e._asdict().items()}).assign(
            token=list("abcd")
        )

    return {"first": table(1), "second": table(2)}


def numbers(box) -> list[float]:
    return [float(word) for word in re.findall(r"[+-][\d.]+", said(box))]


def test_the_three_term_explorer_moves_c_and_s_and_leaves_a_and_b(tables):
    box = widgets.three_term_explorer(tables)
    box.controls["text"].value = "first"
    table = tables["first"]
    a, b, c, s = numbers(box)
    assert s == pytest.approx(table.spilled.sum(), abs=0.006)
    for turn in (box.controls["turn"].min, -1.0, box.controls["turn"].max):
        box.controls["turn"].value = turn
        a2, b2, c2, s2 = numbers(box)
        assert (a2, b2) == (a, b)
        assert c2 == pytest.approx((1 + turn) * c, abs=0.05) and s2 == pytest.approx(a + b + c2, abs=0.02)


def test_at_minus_one_the_logits_are_centred_and_c_is_gone(tables):
    box = widgets.three_term_explorer(tables)
    box.controls["turn"].value = -1.0
    assert numbers(box)[2] == 0.0


def test_another_text_is_another_picture(tables):
    box = widgets.three_term_explorer(tables)
    first = drawn(box)
    box.controls["text"].value = "second"
    assert drawn(box) != first


# ------------------------------------------------------------------------------------- recorded training (07)


def test_recorded_training_shows_each_step_of_each_potential_on_one_axis_per_choice():
    rng = np.random.default_rng(0)
    log_p, k, rows = rng.uniform(-9, -1, 30), np.repeat([1, 3, 9], 10), np.arange(5, 35)
    potentials = {name: rng.normal(size=(3, 40)) for name in "VmK"}
    potentials["V"][0, rows], potentials["V"][2, rows] = 0.5 * log_p, 2 * log_p
    box = widgets.recorded_training({"one": {"steps": [0, 10, 100], **potentials}}, log_p, k, rows)
    assert "one at step 100: V(c) rises by 2.00 nats" in box.sentence.value
    pictures = [picture for name, _, picture, _ in drive(box) if name == "potential"]
    box.controls["step"].value = 0
    assert len({*pictures, drawn(box)}) == 4 and "at step 0: V(c) rises by 0.50" in box.sentence.value


# -------------------------------------------------------------------------------------------------- all of them


def test_only_widgets_knows_of_ipywidgets():
    from utils import ROOT

    users = [
        path.name for path in (ROOT / "utils").rglob("*.py") if "import ipywidgets" in path.read_text(encoding="utf-8")
    ]
    assert users == ["widgets.py"]


def test_the_training_slider_shows_every_step_run_and_potential():
    frame = contexts(Almanac("train"))
    habit = (frame.slot == "habit").to_numpy()
    runs = {name: recorded(name) for name in ("almanac-gpt2", "almanac-llama")}
    box = widgets.recorded_training(runs, frame.log_p[habit], frame.k[habit], habit)
    last = box.picture.value
    box.controls["step"].value = box.controls["step"].options[0]
    assert "step 0" in box.sentence.value and box.picture.value != last
    for name, control in box.controls.items():
        for option in control.options:
            control.value = option
            assert str(option) in box.sentence.value, name
