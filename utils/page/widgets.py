"""Interactive twins of the course's figures. The only module that knows of ipywidgets.

Each hands named controls and a function `draw` to `explorer`. `draw` takes the controls' values and returns a figure
from `plots` (or HTML) and a sentence that says what it shows. So whatever a widget shows, a plain call shows too.
Without ipywidgets each is a sentence that says so, and the rest of a notebook runs.
"""

import html
import io
import math
from collections.abc import Callable, Mapping
from functools import wraps

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from sklearn.metrics import roc_auc_score

from ..energy import terms_of
from . import plots

try:
    import ipywidgets as w
except ImportError:
    w = None

STILL = "Run this notebook to move this; the still picture is above."
MISSING = "This does not move, as ipywidgets is not installed: run `pip install ipywidgets`, then restart the kernel."
WIDE = {"width": "500px", "max_width": "100%"}


class Explorer(w.VBox if w else object):
    """A box that reads as the line `STILL` where nothing runs, and as `MISSING` without ipywidgets."""

    def __repr__(self) -> str:
        return STILL if w else MISSING


def moving(build: Callable[..., Explorer]) -> Callable[..., Explorer]:
    """Let a function that builds an explorer give an empty one where ipywidgets is missing."""

    @wraps(build)
    def built(*args, **kwargs) -> Explorer:
        return build(*args, **kwargs) if w else Explorer()

    return built


@moving
def explorer(draw: Callable[..., tuple[Figure | str, str]], **controls: "w.ValueWidget") -> Explorer:
    """Controls above a sentence and a picture, both redrawn whenever a control changes.

    `draw(**values)` gets the value of each control under the control's name. A ValueError, as from a reader's text
    over the window, becomes the sentence, without a picture; other errors, and all at the start, are raised. The box
    carries `controls`, `sentence` and `picture`.
    """
    sentence, picture = w.HTML(), w.HTML()

    def redraw(change=None) -> None:
        try:
            shown, said = draw(**{name: control.value for name, control in controls.items()})
        except ValueError as error:
            if change is None:
                raise
            shown, said = "", f"Not this one: {error}.".replace("texts[0]", "the text")
        picture.value = plots.image_html(shown, said, dpi=2 * plots.DPI) if isinstance(shown, Figure) else shown
        sentence.value = f'<div role="status" style="line-height:1.4">{html.escape(said)}</div>'

    for name, control in controls.items():
        control.description = control.description or name
        control.layout = w.Layout(**WIDE)
        control.observe(redraw, names="value")
    redraw()
    box = Explorer([*controls.values(), sentence, picture])
    box.controls, box.sentence, box.picture = controls, sentence, picture
    return box


def knob(low: float, high: float, step: float, value: float = 0.0, description: str = "") -> "w.FloatSlider":
    """A slider that redraws when it is let go, not all the way along."""
    return w.FloatSlider(value=value, min=low, max=high, step=step, description=description, continuous_update=False)


def hold(figure: Figure, values) -> Figure:
    """The figure with a y axis that has room for all `values`, so that it stays while a slider moves."""
    low, high = np.min(values), np.max(values)
    figure.axes[0].set_ylim(low - 0.05 * (high - low) - 1e-3, high + 0.05 * (high - low) + 1e-3)
    return figure


@moving
def gauge_slider(potentials: Mapping[str, object], surprise, spilled, wrong) -> Explorer:
    """Turn `g = λ·h(c)` and watch the answers' spills move, and their probabilities stay (`plots.gauge_scatter`).

    `potentials` maps a name to `h(first context) − h(last context)` of each answer; `surprise` is `−log p` and
    `spilled` the sum of spills as trained, in nats; `wrong` holds the labels. All are arrays [n].
    """
    wrong, surprise, spilled = (np.asarray(values) for values in (wrong, surprise, spilled))
    turn = knob(-4, 4, 0.1, 0, "λ")

    def draw(h: str, turn: float, ends=(turn.min, turn.max)):
        spills = (spilled + turn * np.asarray(potentials[h])).round(9)  # in the joint gauge all are equal, but for this
        title, of_s, of_p = f"g(c) = {turn:+.1f} × {h}", *(roc_auc_score(wrong, v) for v in (spills, surprise))
        said = f"{title}: AUROC of s {of_s:.2f}, of −log p {of_p:.2f}; no probability has moved."
        figure = plots.gauge_scatter({title: spills}, surprise, wrong)
        return hold(figure, [spilled + end * np.asarray(potentials[h]) for end in ends]), said

    return explorer(draw, h=w.Dropdown(options=list(potentials)), turn=turn)


@moving
def three_term_explorer(tables: Mapping[str, pd.DataFrame]) -> Explorer:
    """Choose a text and a gauge `g = λ·m(c)`; see A, B and C of each token (`plots.three_term_bars`).

    `tables` maps a name to rows of `score`, each with a Term 1. At λ = −1 the logits are centred and C is 0.
    """

    def draw(text: str, turn: float):
        likelihood, certainty, gauge = terms_of(tables[text])
        gauge = (1 + turn) * gauge
        sums = [float(values.sum()) for values in (likelihood, certainty, gauge)]
        said = "Sums over the text: A {:+.2f}, B {:+.2f}, C {:+.2f}, s {:+.2f} nats.".format(*sums, sum(sums))
        bars = likelihood, certainty, gauge, f"g(c) = {turn:+.1f} × m(c)"
        return plots.three_term_bars(tables[text].token, *bars), said

    return explorer(draw, text=w.Dropdown(options=list(tables)), turn=knob(-4, 4, 0.1, 0, "λ"))


@moving
def recorded_training(runs: Mapping[str, Mapping], log_p, k, rows) -> Explorer:
    """Potentials of recorded contexts against exact log p at any recorded step (`plots.potential_scatter`).

    `runs[name]` has `steps` [S] and `V`, `m`, `K` [S, contexts]; `rows` picks the contexts of `log_p` and `k`.
    """
    steps = [int(step) for step in next(iter(runs.values()))["steps"]]

    def draw(run: str, potential: str, step: int):
        everything = np.asarray(runs[run][potential])[:, rows]
        values = everything[steps.index(step)]
        slope = np.polyfit(log_p, values, 1)[0]
        said = f"{run} at step {step}: {potential}(c) rises by {slope:.2f} nats for each nat of log p(c)."
        figure = plots.potential_scatter(log_p, values, k, f"{potential}(c)", f"{run}, step {step}")
        return hold(figure, everything), said

    run, potential = w.ToggleButtons(options=list(runs)), w.ToggleButtons(options=["V", "m", "K"])
    step = w.SelectionSlider(options=steps, value=steps[-1], continuous_update=False)
    return explorer(draw, run=run, potential=potential, step=step)


def verdict(logits, classes, known) -> str:
    """What a classifier makes of one picture, in words: from its logits [classes], and the `V` of known pictures."""
    best, v = int(logits.argmax()), float(logits.logsumexp(0))
    return (f"called {classes[best]} with probability {math.exp(logits[best] - v):.2f}. V = {v:.1f} nats; "
            f"{float((known > v).mean()):.0%} of the known pictures have more.")  # fmt: skip


@moving
def image_corrupter(images, classify: Callable, corrupt: Callable, kinds, known) -> Explorer:
    """Pick a picture, spoil it with a slider; watch logits, probabilities and energy (`plots.image_xray`).

    `classify(pixels)` gives logits [1, classes] of one picture [1, C, H, W], `corrupt(pixels, kind, amount)`
    the spoilt picture, from `amount` 0 (as it was) to 1; `known` are the `V` of known pictures.
    """

    def draw(picture: int, kind: str, amount: float):
        spoilt = corrupt(images.pixels[picture : picture + 1], kind, amount)
        logits = classify(spoilt)[0].double()
        name = f"Picture {picture}, a {images.classes[int(images.labels[picture])]}, {amount:.0%} {kind}"
        said = f"{name}: {verdict(logits, images.classes, known)}"
        shown = spoilt[0].permute(1, 2, 0).squeeze(-1).numpy()
        return plots.image_xray(shown, logits, images.classes, known, f"{amount:.0%} {kind}"), said

    picture = w.IntSlider(min=0, max=len(images.labels) - 1, continuous_update=False)
    return explorer(draw, picture=picture, kind=w.Dropdown(options=list(kinds)), amount=knob(0, 1, 0.1))


@moving
def own_picture(first, read: Callable, classify: Callable, classes, known) -> Explorer:
    """Upload a picture file; see it as the classifier does, with logits, probabilities and V (`plots.image_xray`).

    `read(file)` gives the pixels [3, H, W] of an open file, `classify(pixels)` the logits [1, classes] of one picture
    [1, 3, H, W]; `known` are the `V` of known pictures. `first` is the picture [3, H, W] shown before there is a file.
    """

    def draw(file):
        pixels = read(io.BytesIO(file[0]["content"])) if file else first
        logits = classify(pixels[None])[0].double()
        said = f"{file[0]['name'] if file else 'no file yet'}: {verdict(logits, classes, known)}"
        return plots.image_xray(pixels.permute(1, 2, 0).numpy(), logits, classes, known, "as the network sees it"), said

    return explorer(draw, file=w.FileUpload(accept="image/*", description="your picture"))


SENTENCE_COLUMNS = {  # what a token can be coloured by, and where its colour scale is centred
    "spilled": ("spilled energy (nats)", 0.0),
    "log_partition_after": ("V(c, x), Term 2 (nats)", None),
    "logit": ("f(x; c), Term 1 (nats)", None),
    "logprob": ("log p(x|c) (nats)", None),
    "self_certainty_after": ("K(c, x) (nats)", None),
    "mean_logit_after": ("m(c, x) (nats)", None),
    "entropy_after": ("entropy after the token (nats)", None),
}


@moving
def sentence_explorer(read: Callable, text: str, gauges) -> Explorer:
    """Type a sentence; colour its tokens by any column, in any gauge and either sign (`plots.token_html`).

    `read(text, gauge)` gives the sentence's table of tokens in a gauge. The sign matters to spills only:
    `s = f − V` is the blog post's, `Δ = V − f` that of the paper's code.
    """

    def draw(sentence: str, column: str, gauge: str, sign: str):
        table = read(sentence.strip(), gauge)
        label, center = SENTENCE_COLUMNS[column]
        spills = column == "spilled"
        values = (-1 if spills and sign.startswith("Δ") else 1) * table[column]
        low, high = (plots.visible(table.token[i]) for i in (values.idxmin(), values.idxmax()))
        said = (f"{label}, {gauge}{', ' + sign if spills else ''}: from {values.min():+.2f} at “{low}” "
                f"to {values.max():+.2f} at “{high}”; sum {values.sum():+.2f} nats.")  # fmt: skip
        return plots.token_html(table.token, values, label, center), said

    sentence, column = w.Text(value=text, continuous_update=False), w.Dropdown(options=list(SENTENCE_COLUMNS))
    signs = w.ToggleButtons(options=["s = f − V", "Δ = V − f"])
    return explorer(draw, sentence=sentence, column=column, gauge=w.ToggleButtons(options=list(gauges)), sign=signs)
