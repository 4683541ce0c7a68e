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
BOOK = {
    "counter": {("sun",): [3, 2], ("sun", "snow"): [1, 7]},
    "rater": {("sun",): [0.6, 0.4], ("sun", "snow"): [0.5, 0.5]},
}
ROWS = {"first": {"a": (0.5, 0.4, 0.6), "b": (0.7, 0.6, 0.8)}, "second": {"a": (0.2, 0.1, 0.3)}}

STEPS = {(): 0.0, (1,): -0.5, (2,): -1.5, (1, 3): -0.1}  # log p of the last token of each context
TREE = {c: {"token": f" t{c[-1]}" if c else "", "logprob": p, "log_partition": 20 + len(c)} for c, p in STEPS.items()}
LIFTS = {"as trained": dict.fromkeys(TREE, 0.0), "lifted": dict(zip(TREE, (3.0, -4.0, 1.0, 7.0), strict=True))}

FIGURES = {
    "heat_map": lambda: plots.heat_map({"one": (TOKENS, VALUES), "two": (TOKENS[:2], VALUES[:2])}),
    "three_term_bars": lambda: plots.three_term_bars(TOKENS, VALUES, VALUES, VALUES),
    "three_term_bars, of tensors": lambda: plots.three_term_bars(TOKENS, *torch.ones(3, 5).double()),
    "token_dots": lambda: plots.token_dots(TOKENS, {"raw": VALUES, "centred": -VALUES}),
    "context_tree": lambda: plots.context_tree(TREE, LIFTS),
    "superimposition": lambda: plots.superimposition({"book": np.log([6, 2, 2, 1])}, *np.log([[0.5] * 4, [1] * 4])),
    "pages": lambda: plots.pages(BOOK, ("sun", "snow"), "snow"),
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
    "wall": lambda: plots.wall([np.zeros((8, 8, 3), np.uint8)] * 3, "abc", columns=2),
    "image_xray": lambda: plots.image_xray(np.zeros((8, 8)), X, list("abcd"), RNG.normal(size=50)),
}


@pytest.mark.parametrize("name", FIGURES)
def test_every_figure_draws_names_its_axes_and_leaves_the_settings_alone(name):
    before = dict(mpl.rcParams)
    figure = FIGURES[name]()
    figure.canvas.draw()
    assert any(ax.get_xlabel() or ax.get_ylabel() or not len(ax.get_xticks()) for ax in figure.axes)
    assert dict(mpl.rcParams) == before


def test_open_pages_mark_the_number_of_the_token_and_the_total_of_the_page_it_leads_to():
    for ax, two in zip(plots.pages(BOOK, ("sun", "snow"), "snow").axes, BOOK.values(), strict=True):
        first, second = two.values()
        marked = [text.get_text() for text in ax.texts if text.get_color() == "white"]
        assert marked == [str(first[1]), str(sum(second))]
        assert ax.get_title(loc="left").endswith(f"= {np.log(first[1] / sum(second)):.2f}".replace("-", "−"))


def test_over_the_joint_only_a_book_without_spill_fits_and_over_the_conditional_every_book():
    books = {"counter": np.log([6, 2, 2, 1]), "doodler": np.log([6, 2, 4, 2])}
    figure = plots.superimposition(books, np.log([1, 1 / 3, 1 / 3, 1 / 6]), np.log([1, 1 / 3, 1, 1 / 2]))
    heads = [ax.get_title(loc="left").split("\n") for ax in figure.axes]
    assert [head[0] for head in heads[:2]] == ["OVER THE JOINT", "OVER THE CONDITIONAL"]
    fits, each = "one constant fits", "a constant for each factor fits"
    expected = [fits, each, "no single constant fits", each]
    assert [head[-1].split(": ")[1] for head in heads] == expected


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


HOSTILE = ["$$", "$x_$", r"$\frac{$", "\\$", "<script>", "شاي", "תֵּה", "👩‍👧", "e\u0301", "a\x00\x1b[31m", "\u202eyub",
           "\ud800"]  # fmt: skip
ONE = np.ones(1)
WITH_WORDS = {
    "heat_map": lambda word: plots.heat_map({plots.visible(word): ([word], ONE)}),
    "three_term_bars": lambda word: plots.three_term_bars([word], ONE, ONE, ONE),
    "token_dots": lambda word: plots.token_dots([word], {"raw": ONE}),
    "context_tree": lambda word: plots.context_tree({c: n | {"token": word} for c, n in TREE.items()}, LIFTS, word),
    "pages": lambda word: plots.pages({"b": {("a",): [1, 2], ("a", word): [3, 4]}}, ("a", word), word),
    "wall": lambda word: plots.wall([np.zeros((4, 4, 3), np.uint8)], [word], 1),
    "forest": lambda word: plots.forest({"AUROC": (0, {word: {"s": (1, 0, 2)}})}),
}


@pytest.mark.filterwarnings("ignore:Glyph")  # an emoji that the font lacks is drawn as a box
@pytest.mark.parametrize("word", HOSTILE, ids=ascii)
@pytest.mark.parametrize("name", WITH_WORDS)
def test_words_stand_in_figures_as_they_are_whatever_they_hold(name, word):
    """Between two dollar signs matplotlib would read a formula; control characters have a sign of their own."""
    shown = plots.visible(word)
    figure = WITH_WORDS[name](shown if name in ("pages", "wall", "forest") else word)
    assert plots.image_html(figure, "words").startswith("<img")
    texts = [text for text in figure.findobj(mpl.text.Text) if shown in text.get_text()]
    assert texts and not any(text.get_parse_math() for text in texts)


def test_what_has_no_sign_or_turns_its_neighbours_around_is_shown_by_a_sign():
    for word in ("\x00", "\x1b", "\r", "\x85", "\u202e", "\u2067", "\ud83d"):
        assert plots.visible(f"a{word}b") == "a�b"
    for word in ("e\u0301", "👩‍👧", "שָׁ", "ـ", "\u2028"):
        assert plots.visible(word) == word
    page = plots.token_html(HOSTILE, np.arange(len(HOSTILE)))
    assert page.encode() and "\x1b" not in page and "\u202e" not in page and "<script" not in page


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


def test_a_gauge_moves_the_spills_of_the_tree_and_leaves_the_widths_of_its_branches():
    rows = plots.context_tree(TREE, LIFTS).axes
    widths, spills = [], []
    for ax in rows:
        widths.append([a.arrow_patch.get_linewidth() for a in ax.texts if a.arrow_patch])
        spills.append([float(a.get_text()) for a in ax.texts if a.get_fontweight() == "bold"])
    assert widths[0] == widths[1] and np.allclose(widths[0], [1 + 12 * np.exp(STEPS[c]) for c in list(TREE)[1:]])
    for g, shown in zip(LIFTS.values(), spills, strict=True):
        V = {c: node["log_partition"] + g[c] for c, node in TREE.items()}
        assert np.allclose(shown, [STEPS[c] + V[c[:-1]] - V[c] for c in list(TREE)[1:]], atol=0.051)
