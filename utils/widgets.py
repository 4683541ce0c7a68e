"""Interactive twins of the course's figures. The only module that knows of ipywidgets.

The pattern is always the same: a widget hands named controls and a `draw` function to `explorer`. `draw`
takes the controls' values and returns a figure from `utils.plots` and one sentence that says what it shows
(the sentence is also what a screen reader finds). So whatever a widget shows, a plain call shows too.
"""

import html
import io
import math
from collections.abc import Callable, Mapping

import ipywidgets as w
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from sklearn.metrics import roc_auc_score

from utils import plots, tabular
from utils.energy import terms_of


def explorer(draw: Callable[..., tuple[Figure, str]], **controls: w.ValueWidget) -> w.VBox:
    """Controls above a picture and a sentence, both redrawn whenever a control changes.

    `draw(**values)` is called with the value of each control, under the control's name. The box carries
    `controls`, `picture` and `sentence`, for tests. Errors in `draw` are raised, not swallowed.
    """
    picture, sentence = w.Image(format="png"), w.HTML()

    def redraw(_change=None) -> None:
        figure, said = draw(**{name: control.value for name, control in controls.items()})
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png")
        picture.value, sentence.value = buffer.getvalue(), html.escape(said)

    for name, control in controls.items():
        control.description = control.description or name
        control.observe(redraw, names="value")
    redraw()
    box = w.VBox([*controls.values(), picture, sentence])
    box.controls, box.picture, box.sentence = controls, picture, sentence
    return box


def knob(low: float, high: float, step: float, value: float = 0.0, description: str = "") -> w.FloatSlider:
    """A slider that redraws when it is let go, not all the way along."""
    return w.FloatSlider(value=value, min=low, max=high, step=step, description=description, continuous_update=False)


def superimposition_toggle(books: Mapping[str, object], tokens, lay_out: Callable) -> w.VBox:
    """Choose a model and three tokens; see its numbers over both decompositions (`plots.superimposition`).

    `lay_out(book, c, x, y)` returns the three quadruples that the plot takes: model, joint, conditional.
    """

    def draw(book: str, c, x, y):
        numbers, joint, conditional = lay_out(books[book], (c,), x, y)
        first, second = (math.exp(numbers[i] - joint[i]) for i in (0, 2))
        said = (
            f"{book}: over the joint the constants are {first:.3g} before {x} and {second:.3g} after it; "
            f"the spill of {x} is the log of their ratio, {numbers[1] - numbers[2]:+.2f} nats."
        )
        return plots.superimposition({book: numbers}, joint, conditional), said

    return explorer(
        draw,
        book=w.ToggleButtons(options=list(books)),
        c=w.Dropdown(options=list(tokens)),
        x=w.Dropdown(options=list(tokens), index=len(tokens) - 1),
        y=w.Dropdown(options=list(tokens), index=1),
    )


def gauge_slider(potentials: Mapping[str, object], surprise, spilled, wrong) -> w.VBox:
    """Turn `g = λ·h(c)` and watch the answers' spills move, and their probabilities stay (`plots.gauge_scatter`).

    `potentials` maps a name to `h(first context) − h(last context)` of each answer; `surprise` is `−log p` and
    `spilled` the sum of spills as trained, in nats; `wrong` holds the labels. All are arrays [n].
    """
    wrong, surprise, spilled = (np.asarray(values) for values in (wrong, surprise, spilled))

    def draw(h: str, turn: float):
        spills = spilled + turn * np.asarray(potentials[h])
        spills = spills.round(9)  # in the joint gauge all are equal, up to rounding
        said = (
            f"g(c) = {turn:+.1f} × {h}: AUROC of s {roc_auc_score(wrong, spills):.2f}, "
            f"of −log p {roc_auc_score(wrong, surprise):.2f}; no probability has moved."
        )
        return plots.gauge_scatter({f"g(c) = {turn:+.1f} × {h}": spills}, surprise, wrong), said

    return explorer(draw, h=w.Dropdown(options=list(potentials)), turn=knob(-4, 4, 0.1, 0, "λ"))


def three_term_explorer(tables: Mapping[str, pd.DataFrame]) -> w.VBox:
    """Choose a text and a gauge `g = λ·m(c)`; see A, B and C of each token (`plots.three_term_bars`).

    `tables` maps a name to rows of `lm.score`, each with a Term 1. At λ = −1 the logits are centred and C is 0.
    """

    def draw(text: str, turn: float):
        likelihood, certainty, gauge = terms_of(tables[text])
        gauge = (1 + turn) * gauge
        sums = [float(values.sum()) for values in (likelihood, certainty, gauge)]
        said = "Sums over the text: A {:+.2f}, B {:+.2f}, C {:+.2f}, s {:+.2f} nats.".format(*sums, sum(sums))
        title = f"g(c) = {turn:+.1f} × m(c)"
        return plots.three_term_bars(tables[text].token, likelihood, certainty, gauge, title), said

    return explorer(draw, text=w.Dropdown(options=list(tables)), turn=knob(-4, 4, 0.1, 0, "λ"))


def recorded_training(runs: Mapping[str, Mapping], log_p, k, rows) -> w.VBox:
    """Potentials of recorded contexts against exact log p at any recorded step (`plots.potential_scatter`).

    `runs[name]` has `steps` [S] and `V`, `m`, `K` [S, contexts]; `rows` picks the contexts that `log_p` and `k`
    belong to.
    """
    steps = next(iter(runs.values()))["steps"]

    def draw(run: str, potential: str, step: int):
        values = runs[run][potential][list(steps).index(step), rows]
        slope = np.polyfit(log_p, values, 1)[0]
        said = f"{run} at step {step}: {potential}(c) rises by {slope:.2f} nats for each nat of log p(c)."
        return plots.potential_scatter(log_p, values, k, f"{potential}(c)", f"{run}, step {step}"), said

    return explorer(
        draw,
        run=w.ToggleButtons(options=list(runs)),
        potential=w.ToggleButtons(options=["V", "m", "K"]),
        step=w.SelectionSlider(options=[int(s) for s in steps], value=int(steps[-1]), continuous_update=False),
    )


def image_corrupter(images, classify: Callable, corrupt: Callable, kinds, known) -> w.VBox:
    """Pick a picture, spoil it with a slider; watch logits, probabilities and energy (`plots.image_xray`).

    `classify(pixels)` gives logits [1, classes] of one picture [1, C, H, W], `corrupt(pixels, kind, amount)`
    the spoilt picture, from `amount` 0 (as it was) to 1; `known` are the `V` of known pictures.
    """

    def draw(picture: int, kind: str, amount: float):
        spoilt = corrupt(images.pixels[picture : picture + 1], kind, amount)
        logits = classify(spoilt)[0].double()
        best, v = int(logits.argmax()), float(logits.logsumexp(0))
        share = float((known > v).mean())
        said = (
            f"Picture {picture}, a {images.classes[int(images.labels[picture])]}, {amount:.0%} {kind}: called "
            f"{images.classes[best]} with probability {math.exp(logits[best] - v):.2f}. V = {v:.1f} nats; "
            f"{share:.0%} of the known pictures have more."
        )
        shown = spoilt[0].permute(1, 2, 0).squeeze(-1).numpy()
        return plots.image_xray(shown, logits, images.classes, known, f"{amount:.0%} {kind}"), said

    return explorer(
        draw,
        picture=w.IntSlider(min=0, max=len(images.labels) - 1, continuous_update=False),
        kind=w.Dropdown(options=list(kinds)),
        amount=knob(0, 1, 0.1),
    )


SENTENCE_COLUMNS = {  # what a token can be coloured by, and where its colour scale is centred
    "spilled": ("spilled energy (nats)", 0.0),
    "log_partition_after": ("V(c, x), Term 2 (nats)", None),
    "logit": ("f(x; c), Term 1 (nats)", None),
    "logprob": ("log p(x|c) (nats)", None),
    "self_certainty_after": ("K(c, x) (nats)", None),
    "mean_logit_after": ("m(c, x) (nats)", None),
    "entropy_after": ("entropy after the token (nats)", None),
}


def sentence_explorer(read: Callable, text: str, gauges) -> w.VBox:
    """Type a sentence; colour its tokens by any column, in any gauge and either sign (`plots.heat_map`).

    `read(text, gauge)` gives the sentence's table of tokens in a gauge. The sign matters to spills only:
    `s = f − V` is the blog post's, `Δ = V − f` that of the paper's code. A blank text shows the first one again.
    """

    def draw(sentence: str, column: str, gauge: str, sign: str):
        table = read(sentence.strip() or text, gauge)
        label, center = SENTENCE_COLUMNS[column]
        flip = -1 if column == "spilled" and sign.startswith("Δ") else 1
        values = flip * table[column]
        high, low = table.token[values.idxmax()], table.token[values.idxmin()]
        said = (
            f"{label}, {gauge}{', ' + sign if column == 'spilled' else ''}: from {values.min():+.2f} at "
            f"“{plots.visible(low)}” to {values.max():+.2f} at “{plots.visible(high)}”; sum {values.sum():+.2f} nats."
        )
        return plots.heat_map({gauge: (table.token, values)}, label, center), said

    return explorer(
        draw,
        sentence=w.Text(value=text, continuous_update=False),
        column=w.Dropdown(options=list(SENTENCE_COLUMNS)),
        gauge=w.ToggleButtons(options=list(gauges)),
        sign=w.ToggleButtons(options=["s = f − V", "Δ = V − f"]),
    )


def training_time(vocab_size: int = 50, supports=(1, 5, 25, 45)) -> w.VBox:
    """Slide the training time of a table; watch `V` against `log p(c)` for even conditionals with `k` tokens.

    Wraps `plots.against_log_p` and the exact `tabular.closed_form`, with the impossible-token law dashed.
    """
    log_p = np.linspace(-14, 0, 141)

    def draw(decade: float):
        tau = 10**decade * np.exp(log_p)
        series = {}
        for k in supports:
            law, learned = tabular.impossible_token_law(np.full(k, 1 / k), tau, vocab_size), tau > 3 * k
            series[f"k = {k}"] = {
                "line": (log_p, tabular.closed_form(tau, vocab_size, k)),
                "law": (log_p[learned], law[learned]),
            }
        rise = {name: parts["line"][1][-1] - math.log(vocab_size) for name, parts in series.items()}
        said = f"t = 10^{decade:.3g}: the most frequent context stands above log |V| by " + ", ".join(
            f"{value:.1f} nats ({name})" for name, value in rise.items()
        )
        return plots.against_log_p({f"t = 10^{decade:.2g}": series}, floor=math.log(vocab_size)), said

    return explorer(draw, decade=knob(0, 8, 0.25, 4, "log10 t"))
