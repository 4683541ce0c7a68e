"""Figures: they draw, reach a page with their words, fit it, and leave matplotlib as it was."""

import doctest
import html
import re

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
import torch

from utils.page import plots

RNG = np.random.default_rng(0)
TOKENS = ["<s>", " The", "\n", " 🌞", ""]
VALUES = np.array([np.nan, -3.0, 0.0, 2.5, 1.0])
X = np.arange(4)
BAND = (X + 1.0, X + 0.5, X + 1.5)
LEVELS = pd.DataFrame(
    [(varied, 2**i, 2**i, 2**i, variant, 1.0 + i, 10.0 * i) for varied in ("length", "vocabulary", "batch")
     for i in range(3) for variant in ("trunk only", "bare forward", "score", "naive")],
    columns=["varied", "length", "vocabulary", "batch", "variant", "ratio", "extra_mb"],
)  # fmt: skip
ROWS = {"first": {"a": (0.5, 0.4, 0.6), "b": (0.7, 0.6, 0.8)}, "second": {"a": (0.2, 0.1, 0.3)}}

FIGURES = {
    "heat_map": lambda: plots.heat_map({"one": (TOKENS, VALUES), "two": (TOKENS[:2], VALUES[:2])}),
    "three_term_bars": lambda: plots.three_term_bars(TOKENS, VALUES, VALUES, VALUES),
    "token_dots": lambda: plots.token_dots(TOKENS, {"raw": VALUES, "centred": -VALUES}),
    "superimposition": lambda: plots.superimposition({"book": np.log([6, 2, 2, 1])}, *np.log([[0.5] * 4, [1] * 4])),
    "potential_scatter": lambda: plots.potential_scatter(np.tile(X, 2), np.tile(2 * X, 2), [1] * 4 + [3] * 4),
    "gauge_scatter": lambda: plots.gauge_scatter({"g": X, "g'": 2 * X}, X + 1, X > 1),
    "coefficient_paths": lambda: plots.coefficient_paths(
        {run: {x: dict.fromkeys("VmK", (X, *BAND)) for x in ("log p", "log k")} for run in ("gpt2", "llama")},
        {run: {x: (X, X) for x in ("log p", "log k")} for run in ("gpt2", "llama")},
    ),
    "against_log_p": lambda: plots.against_log_p({"t": {"k = 1": {"dots": (X, X), "law": (X, X)}}}, floor=1),
    "cost_curves": lambda: plots.cost_curves(LEVELS),
    "forest": lambda: plots.forest({"AUROC": (0.5, ROWS), "difference": (0, ROWS)}),
    "ridges": lambda: plots.ridges({"a": RNG.normal(size=50), "b": RNG.normal(size=50)}, "a", "V (nats)"),
    "contour_panels": lambda: plots.contour_panels({"t": np.outer(X, X)}, X, X, np.stack([X, X], 1), X % 3),
    "image_xray": lambda: plots.image_xray(np.zeros((8, 8)), X, list("abcd"), RNG.normal(size=50)),
}


@pytest.mark.parametrize("name", FIGURES)
def test_every_figure_draws_names_its_axes_and_leaves_the_settings_alone(name):
    before = dict(mpl.rcParams)
    figure = FIGURES[name]()
    figure.canvas.draw()
    assert any(ax.get_xlabel() or ax.get_ylabel() for ax in figure.axes)
    assert dict(mpl.rcParams) == before


def test_a_name_keeps_its_look_in_every_panel_and_stands_in_the_legend_once():
    panels = {"one": {"a": (X, X), "b": (X, X)}, "two": {"b": {"dots": (X, X), "line": (X, X)}, "c": (X, *BAND)}}
    figure = plots.curves(panels, "x", "y")
    look = [{line.get_label(): line.get_color() for line in ax.lines} for ax in figure.axes]
    assert look[0]["b"] == look[1]["b"] != look[0]["a"]
    assert [text.get_text() for text in figure.axes[-1].get_legend().get_texts()] == ["a", "b", "c"]
    apart = plots.curves({"one": {"a": (X, X)}, "two": {"b": (X, X)}}, "x", ["y", "z"])
    assert [[text.get_text() for text in ax.get_legend().get_texts()] for ax in apart.axes] == [["a"], ["b"]]


def test_three_terms_stack_to_their_sum_as_arrays_and_as_tensors():
    parts = [VALUES, -2 * VALUES, 0.5 * VALUES]
    for terms in (parts, [torch.tensor(part) for part in parts]):
        ax = plots.three_term_bars(TOKENS, *terms).axes[0]
        np.testing.assert_allclose(ax.lines[0].get_ydata(), -0.5 * VALUES)  # no Term 1, no dot
        heights = [[bar.get_height() for bar in bars] for bars in ax.containers]
        np.testing.assert_allclose(heights, np.nan_to_num(parts))


def test_right_and_wrong_have_the_same_colours_everywhere():
    looks = plots.looks(["other", "wrong answers", "right answers"])
    assert [look["color"] for look in looks.values()] == [plots.COLORS[c] for c in ("one", "wrong", "right")]


def test_no_two_of_the_first_seven_series_look_alike_even_without_colour():
    looks = plots.looks([f"series {i}" for i in range(7)]).values()
    assert len({look["marker"] for look in looks}) == len({look["color"] for look in looks}) == 7


def test_a_readers_own_plot_has_the_look_too():
    _, ax = plots.figure()
    ax.plot(X, X, label="mine")
    ax.set(title="At the left")
    assert ax.get_title(loc="left") == "At the left" and not ax.spines["top"].get_visible()
    assert ax.legend().get_frame_on() is False


def test_the_words_arrive_in_the_image_and_the_image_fits_its_page():
    alt = 'Bars for "a" & <b>, V(c) − V(c, x)'
    figure, _ = plots.figure(5, 2)
    page = plots.image_html(figure, alt)
    assert html.unescape(re.search(r'alt="([^"]*)"', page)[1]) == alt and "max-width:100%" in page
    sharp = plots.image_html(figure, alt, dpi=220)
    assert len(sharp) > len(page) and 'width="550"' in page and 'width="550"' in sharp
    with pytest.raises(ValueError, match="alt is empty; say in words"):
        plots.image_html(figure, " ")


def test_tokens_wrap_and_cannot_escape():
    page = plots.token_html(["<script>x</script>", " \n", '"'], [1.0, np.nan, -2.0], label='"&')
    assert "<script" not in page and "&lt;script&gt;" in page and page.count("display:inline-block") == 3
    assert re.sub("<[^>]+>", "|", page).split("|")[3::4] == [" +1.00 ", " – ", " -2.00 "]
    assert 'aria-label="tokens coloured by &quot;&amp;"' in page


def test_examples_in_docstrings_are_true():
    assert doctest.testmod(plots) == (0, 2)
