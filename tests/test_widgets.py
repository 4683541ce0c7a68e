"""Widgets without a screen: every control is driven to its ends, and what should change does, and nothing else.

The sentence explorer has a file of its own, `test_explorer.py`.
"""

import re

import ipywidgets as w
import numpy as np
import pandas as pd
import pytest
import torch

from utils import ROOT, energy
from utils.page import plots, widgets


def ends(control) -> list:
    """The values a user can push a control to: both ends of a slider, every option of a list."""
    return [control.min, control.max] if hasattr(control, "min") else list(control.options)


def drive(box, *names):
    """Push each control (or those named) to every end, with the others where they were, and yield
    (name, value, picture, sentence)."""
    for name in names or box.controls:
        control = box.controls[name]
        at_first = control.value
        for value in ends(control):
            control.value = value
            yield name, value, drawn(box), said(box)
        control.value = at_first


def drawn(box) -> str:
    """The pixels of the picture, without its alt text."""
    tag, png = box.picture.value.split('src="data:image/png;base64,')
    assert tag.startswith("<img alt=") and "max-width:100%" in tag and png.startswith("iVBOR")
    return png


def said(box) -> str:
    return re.sub("<[^>]+>", "", box.sentence.value)


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


def fails_beyond_one(error, start=0):
    def draw(a):
        if a > 1:
            raise error
        return plots.figure()[0], "fine"

    return widgets.explorer(draw, a=widgets.knob(0, 2, 1, start))


def test_a_broken_plot_is_not_swallowed():
    box = fails_beyond_one(RuntimeError("broken plot"))
    with pytest.raises(RuntimeError, match="broken plot"):
        box.controls["a"].value = 2


def test_what_cannot_be_drawn_is_said_in_place_of_the_old_picture_until_it_can():
    box = fails_beyond_one(ValueError("<a> is over 1; take less"))
    first = drawn(box)
    box.controls["a"].value = 2
    assert said(box) == "Not this one: &lt;a&gt; is over 1; take less." and box.picture.value == ""
    box.controls["a"].value = 1
    assert said(box) == "fine" and drawn(box) == first


def test_at_the_start_no_error_is_taken_for_the_readers():
    with pytest.raises(ValueError, match="take less"):
        fails_beyond_one(ValueError("take less"), start=2)


def test_controls_are_named_and_wide_enough_to_use_and_a_stored_page_says_what_to_do():
    box = fails_beyond_one(None)
    assert box.controls["a"].description == "a"
    assert (box.controls["a"].layout.width, box.controls["a"].layout.max_width) == ("500px", "100%")
    assert box._repr_mimebundle_()["text/plain"] == widgets.STILL and "still picture is above" in widgets.STILL


@pytest.fixture
def gauge_slider():
    """Of forty answers; wrong ones are surprising, and as trained their spills are higher too."""
    rng = np.random.default_rng(0)
    wrong = np.arange(40) < 10
    surprise = np.exp(rng.normal(size=40) - 4 + 3 * wrong)
    potentials, spilled = {"helps": 3.0 * wrong, "same": np.ones(40)}, rng.normal(size=40) + 0.5 * wrong
    return lambda: widgets.gauge_slider(potentials, surprise, spilled, wrong)


def test_the_gauge_slider_takes_the_auroc_of_spills_to_both_ends_and_never_moves_that_of_log_p(gauge_slider):
    box = gauge_slider()
    (_, low, _, at_low), (_, high, _, at_high) = drive(box, "turn")
    assert low < high and "AUROC of s 0.00" in at_low and "AUROC of s 1.00" in at_high
    assert len({sentence.split("of −log p ")[1] for _, _, _, sentence in drive(box)}) == 1


def test_the_gauge_slider_keeps_its_axis_so_that_the_dots_move_and_not_the_ruler(gauge_slider, monkeypatch):
    figures = []
    draw = plots.gauge_scatter
    monkeypatch.setattr(plots, "gauge_scatter", lambda *a: figures.append(draw(*a)) or figures[-1])
    box = gauge_slider()
    for turn in (-4.0, 1.0, 4.0):
        box.controls["turn"].value = turn
    limits = {figure.axes[0].get_ylim() for figure in figures}
    dots = np.concatenate([line.get_ydata() for figure in figures for line in figure.axes[0].lines])
    assert len(figures) == 4 and len(limits) == 1
    assert min(limits)[0] < dots.min() and dots.max() < min(limits)[1]


def test_a_constant_gauge_moves_dots_but_no_auroc(gauge_slider):
    box = gauge_slider()
    as_trained = said(box).split("AUROC of s ")[1]
    box.controls["h"].value = "same"
    before = drawn(box)
    box.controls["turn"].value = 3.0
    assert said(box).split("AUROC of s ")[1] == as_trained and drawn(box) != before


@pytest.fixture
def tables():
    def table(seed):
        f = torch.randn(5, 7, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 3
        e = energy.token_energies(f, torch.arange(5))
        return pd.DataFrame({name: values[1:].numpy() for name, values in e._asdict().items()} | {"token": [*"abcd"]})

    return {"first": table(1), "second": table(2)}


def test_the_three_term_explorer_moves_c_and_s_and_leaves_a_and_b_and_c_is_gone_where_logits_are_centred(tables):
    def numbers():
        return [float(word) for word in re.findall(r"[+-][\d.]+", said(box))]

    box = widgets.three_term_explorer(tables)
    a, b, c, s = numbers()
    assert s == pytest.approx(tables["first"].spilled.sum(), abs=0.006)
    for turn in (box.controls["turn"].min, -1.0, box.controls["turn"].max):
        box.controls["turn"].value = turn
        a2, b2, c2, s2 = numbers()
        assert (a2, b2) == (a, b) and (c2 == 0.0) == (turn == -1)
        assert c2 == pytest.approx((1 + turn) * c, abs=0.05) and s2 == pytest.approx(a + b + c2, abs=0.02)


def test_another_text_is_another_picture(tables):
    first, second = (picture for _, _, picture, _ in drive(widgets.three_term_explorer(tables), "text"))
    assert first != second


def test_recorded_training_shows_each_step_of_each_potential_of_each_run():
    rng = np.random.default_rng(0)
    log_p, k, rows = rng.uniform(-9, -1, 30), np.repeat([1, 3, 9], 10), np.arange(5, 35)
    one, two = ({"steps": [0, 10, 100]} | {name: rng.normal(size=(3, 40)) for name in "VmK"} for _ in range(2))
    one["V"][0, rows], one["V"][2, rows], two["V"][2, rows] = 0.5 * log_p, 2 * log_p, 3 * log_p
    box = widgets.recorded_training({"one": one, "two": two}, log_p, k, rows)
    assert "one at step 100: V(c) rises by 2.00 nats" in said(box)
    for name in box.controls:
        shown = [*drive(box, name)]
        assert len({picture for _, _, picture, _ in shown}) == len(shown) == (2 if name == "run" else 3)
        assert all(str(value) in sentence for _, value, _, sentence in shown)
    box.controls["step"].value = 0
    assert "one at step 0: V(c) rises by 0.50" in said(box)
    box.controls["run"].value, box.controls["step"].value = "two", 100
    assert "two at step 100: V(c) rises by 3.00" in said(box)


def test_only_widgets_knows_of_ipywidgets():
    paths = (ROOT / "utils").rglob("*.py")
    assert [path.name for path in paths if "import ipywidgets" in path.read_text("utf-8")] == ["widgets.py"]
