"""Pure plotting functions: numbers in, a figure (or escaped HTML) out. One style, safe for colour blindness."""

import html
from base64 import b64encode
from io import BytesIO

import matplotlib as mpl
import numpy as np
import seaborn as sns
from matplotlib.colors import Normalize, TwoSlopeNorm, to_hex
from matplotlib.figure import Figure

# Okabe & Ito's palette, named for what it marks here.
COLORS = {
    "likelihood": "#0072B2",  # blue: A, log p
    "certainty": "#E69F00",  # orange: B, the drop in self-certainty
    "gauge": "#999999",  # grey: C, the part no probability knows
    "spilled": "#000000",
    "right": "#009E73",
    "wrong": "#D55E00",
    "one": "#0072B2",
    "two": "#E69F00",
    "three": "#009E73",
    "four": "#CC79A7",
    "five": "#56B4E9",
}
DIVERGING, SEQUENTIAL = "PuOr", "cividis"
STYLE = {
    "figure.dpi": 110,
    "savefig.dpi": 110,
    "figure.constrained_layout.use": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 11,
    "axes.labelsize": 10,
    "xtick.labelsize": 9,
    "ytick.labelsize": 9,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "axes.prop_cycle": mpl.cycler(color=[COLORS[c] for c in ("one", "two", "three", "four", "wrong", "five")]),
}


def figure(width: float = 7.0, height: float = 3.2, rows: int = 1, columns: int = 1, **options):
    """A figure in the course's look, outside pyplot's own list of figures; returns (figure, axes)."""
    mpl.rcParams.update({**sns.axes_style("ticks"), **STYLE})
    fig = Figure(figsize=(width, height), layout="constrained")
    return fig, fig.subplots(rows, columns, **options)


def show(fig: Figure, alt: str) -> None:
    """Display a figure in a notebook, with a text for those who cannot see it."""
    from IPython.display import display

    buffer = BytesIO()
    fig.savefig(buffer, format="png")
    png = b64encode(buffer.getvalue()).decode()
    display({"image/png": png, "text/plain": alt}, raw=True, metadata={"image/png": {"alt": alt}})


def visible(token: str) -> str:
    """A token as a reader can see it: line breaks and empty pieces get a sign of their own."""
    return token.replace("\n", "⏎").replace("\t", "⇥") or "·"


def token_colors(values, center: float | None = None, limits: tuple[float, float] | None = None):
    """Hex colours and black-or-white text colours for `values`; NaN is light grey.

    With `center`, a diverging map around it (spills around 0); without, a sequential one.
    """
    values = np.asarray(values, float)
    finite = values[np.isfinite(values)]
    low, high = limits or ((finite.min(), finite.max()) if finite.size else (0.0, 1.0))
    if center is None:
        norm, cmap = Normalize(low, max(high, low + 1e-9)), mpl.colormaps[SEQUENTIAL]
    else:
        reach = max(abs(low - center), abs(high - center), 1e-9)
        norm, cmap = TwoSlopeNorm(center, center - reach, center + reach), mpl.colormaps[DIVERGING]
    fills, inks = [], []
    for value in values:
        rgb = np.array(cmap(float(norm(value)))[:3]) if np.isfinite(value) else np.full(3, 0.92)
        fills.append(to_hex(rgb))
        inks.append("#000000" if rgb @ (0.299, 0.587, 0.114) > 0.55 else "#ffffff")
    return fills, inks


def token_html(tokens, values, label: str = "spilled energy s (nats)", center=0.0, limits=None) -> str:
    """One text as escaped HTML: each token on its colour, its value as a tool tip and to screen readers."""
    fills, inks = token_colors(values, center, limits)
    spans = []
    for token, value, fill, ink in zip(tokens, values, fills, inks, strict=True):
        said = f"{value:+.2f} nats" if np.isfinite(value) else "undefined"
        spans.append(
            f'<span title="{html.escape(visible(token), quote=True)}: {said}" '
            f'style="background:{fill};color:{ink};padding:2px 1px;border-radius:3px;white-space:pre-wrap">'
            f"{html.escape(visible(token))}</span>"
        )
    return (
        f'<div role="img" aria-label="tokens coloured by {html.escape(label, quote=True)}" '
        f'style="font-family:monospace;line-height:2">{"".join(spans)}</div>'
    )


def heat_map(rows, label: str = "spilled energy s (nats)", center: float | None = 0.0, title: str = "") -> Figure:
    """Token heat map. `rows` maps a name to (tokens, values); all rows share one colour scale.

    Cells show the token above its value; a token without a value (no Term 1) is grey.
    """
    everything = np.concatenate([np.asarray(values, float) for _, values in rows.values()])
    finite = everything[np.isfinite(everything)]
    limits = (finite.min(), finite.max())
    longest = max(len(tokens) for tokens, _ in rows.values())
    fig, ax = figure(max(6.0, 0.78 * longest + 1.4), 0.85 * len(rows) + 0.9)
    for y, (tokens, values) in enumerate(rows.values()):
        fills, inks = token_colors(values, center, limits)
        for x, (token, value) in enumerate(zip(tokens, values, strict=True)):
            ax.add_patch(mpl.patches.Rectangle((x, y), 1, 1, facecolor=fills[x], edgecolor="white", linewidth=2))
            said = f"{round(float(value), 1) + 0:.1f}" if np.isfinite(value) else "–"
            ax.text(
                x + 0.5, y + 0.36, visible(token).strip() or "␣", ha="center", va="center", color=inks[x], fontsize=9
            )
            ax.text(x + 0.5, y + 0.72, said, ha="center", va="center", color=inks[x], fontsize=8)
    ax.set(xlim=(0, longest), ylim=(len(rows), 0), title=title)
    ax.set_yticks(np.arange(len(rows)) + 0.5, list(rows))
    ax.set_xticks([])
    ax.tick_params(length=0)
    sns.despine(ax=ax, left=True, bottom=True)
    ax.set_xlabel(label)
    return fig


def three_term_bars(tokens, likelihood, certainty_drop, gauge_drop, title: str = "") -> Figure:
    """The spill of each token as a stack: A = log p, B = drop in self-certainty, C = drop in gauge.

    Positive parts stack upwards, negative ones downwards; the black dot is their sum, `s`.
    """
    parts = {
        "A  log p(x|c)": (np.asarray(likelihood, float), COLORS["likelihood"], ""),
        "B  K(c) − K(c,x)": (np.asarray(certainty_drop, float), COLORS["certainty"], "//"),
        "C  m(c) − m(c,x)": (np.asarray(gauge_drop, float), COLORS["gauge"], ".."),
    }
    fig, ax = figure(max(6.0, 0.72 * len(tokens) + 1.8), 3.4)
    x = np.arange(len(tokens))
    above, below = np.zeros(len(x)), np.zeros(len(x))
    for label, (values, color, hatch) in parts.items():
        values = np.nan_to_num(values)
        base = np.where(values >= 0, above, below)
        ax.bar(x, values, bottom=base, width=0.62, color=color, hatch=hatch, edgecolor="white", label=label)
        above, below = above + np.maximum(values, 0), below + np.minimum(values, 0)
    total = sum(values for values, _, _ in parts.values())
    ax.plot(x, total, "o", color=COLORS["spilled"], label="s = A + B + C")
    ax.axhline(0, color="black", linewidth=0.8)
    ax.set_xticks(x, [visible(token).strip() or "␣" for token in tokens])
    ax.set(ylabel="nats", title=title)
    ax.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return fig


def superimposition(models, joint, conditional) -> Figure:
    """Four numbers of each model laid over both decompositions of `p(c, x, y)`, in logarithms.

    `models` maps a name to (V(c), f(x;c), V(c,x), f(y;c,x)); `joint` and `conditional` are the logs of the four
    probabilities beneath them: (p(c), p(c,x), p(c,x), p(c,x,y)) and (1, p(x|c), 1, p(y|c,x)). An arrow leads from
    a probability to the model's number, its label is the constant between the two. The dotted line is `s`.
    """
    at = np.array([0.0, 1.0, 2.5, 3.5])  # two factors, side by side
    names = ["V(c)\n", "f(x; c)\nTerm 1", "V(c, x)\nTerm 2", "f(y; c, x)\n"]
    beneath = {
        "over the joint": (joint, ["p(c)", "p(c, x)", "p(c, x)", "p(c, x, y)"]),
        "over the conditional": (conditional, ["1", "p(x | c)", "1", "p(y | c, x)"]),
    }
    fig, axes = figure(9.6, 2.5 * len(models) + 0.5, rows=len(models), columns=2, squeeze=False)
    everything = np.concatenate([joint, conditional, *models.values()])
    limits = (everything.min() - 0.8, everything.max() + 1.1)
    for row, (model, numbers) in zip(axes, models.items(), strict=True):
        for ax, (where, (below, symbols)) in zip(row, beneath.items(), strict=True):
            constants = np.asarray(numbers, float) - np.asarray(below, float)
            local = abs(constants[1] - constants[2]) > 1e-9
            inks = [COLORS["one"]] * 2 + [COLORS["wrong"] if local else COLORS["one"]] * 2
            for x, low, high, ink, constant in zip(at, below, numbers, inks, np.exp(constants), strict=True):
                ax.annotate("", (x, high), (x, low), arrowprops={"arrowstyle": "-|>", "color": ink, "linewidth": 1.8})
                ax.text(x + 0.12, (low + high) / 2, f"×{constant:.3g}", color=ink, fontsize=9, va="center")
            for left in (-0.45, 2.05):
                ax.axvspan(left, left + 1.95, color="0.95", zorder=0)
            ax.plot(at, below, "s", color="white", markeredgecolor="black", markersize=7, zorder=3)
            ax.plot(at, numbers, "o", color="black", markersize=7, zorder=4)
            ax.plot(at[1:3], numbers[1:3], ":", color="black", linewidth=1.2)
            ax.text(1.75, max(numbers[1:3]) + 0.3, f"s = {numbers[1] - numbers[2]:.2f}", ha="center", fontsize=9)
            verdict = "two constants" if local else "one constant"
            ax.set_title(f"{model}, {where}: {verdict}", color=COLORS["wrong"] if local else COLORS["one"])
            ticks = [f"{name}\n□ {symbol}" for name, symbol in zip(names, symbols, strict=True)]
            ax.set_xticks(at, ticks)
            ax.set(ylim=limits, ylabel="natural log" if ax is row[0] else "")
            ax.tick_params(length=0, axis="x")
    return fig


def potential_scatter(log_p, potential, k, label: str = "V(c)", title: str = "") -> Figure:
    """A potential against the exact log-probability of its context, coloured by branching factor `k`.

    Args: `log_p`, `potential` (nats) and `k`, all [n]. A line is fitted for each `k`, to guide the eye.
    """
    log_p, potential, k = (np.asarray(a, float) for a in (log_p, potential, k))
    fig, ax = figure(6.4, 4.2)
    levels = np.unique(k)
    for level, shade in zip(levels, mpl.colormaps[SEQUENTIAL](np.linspace(0, 0.95, len(levels))), strict=True):
        rows = k == level
        ax.plot(log_p[rows], potential[rows], "o", color=shade, markersize=4, alpha=0.8, label=f"k = {level:.0f}")
        ends = np.array([log_p[rows].min(), log_p[rows].max()])
        ax.plot(ends, np.polyval(np.polyfit(log_p[rows], potential[rows], 1), ends), color=shade)
    ax.set(xlabel="exact log p(c) (nats)", ylabel=f"{label} (nats)", title=title)
    ax.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return fig


def coefficient_paths(panels, ruler=None, xlabel: str = "training step") -> Figure:
    """Coefficients along training, one row a regressor, one column a run.

    `panels[run][regressor]` maps an outcome ("V", "m", "K") to (steps, beta, low, high), each [S];
    `ruler[run][regressor]` is (steps, beta) of the tabular learner, drawn dashed.
    """
    looks = {"V": ("spilled", "-"), "K": ("certainty", "-"), "m": ("gauge", "-")}
    rows = len(next(iter(panels.values())))
    fig, axes = figure(4.1 * len(panels) + 1.2, 2.6 * rows, rows, len(panels), sharex=True, sharey="row", squeeze=False)
    for column, (run, regressors) in enumerate(panels.items()):
        for row, (regressor, outcomes) in enumerate(regressors.items()):
            ax = axes[row][column]
            for outcome, (steps, beta, low, high) in outcomes.items():
                color, line = looks[outcome]
                ax.plot(steps, beta, line, color=COLORS[color], marker="o", markersize=3, label=f"{outcome}(c)")
                ax.fill_between(steps, low, high, color=COLORS[color], alpha=0.2, linewidth=0)
            if ruler:
                ax.plot(*ruler[run][regressor], "--", color=COLORS["likelihood"], label="table, same KL")
            ax.axhline(0, color="black", linewidth=0.8)
            ax.set(ylabel=f"coefficient of {regressor}" if column == 0 else "", title=run if row == 0 else "")
            ax.set_xlabel(xlabel if row == rows - 1 else "")
            ax.set_xscale("symlog", linthresh=10)
    axes[0][-1].legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return fig


def ridges(sets, reference, xlabel: str, colors=None, title: str = "") -> Figure:
    """One row of histogram a set (`sets`: name → values), and the first row's outline behind every row.

    `reference` names the set whose outline is drawn; `colors` maps a name to a colour (default: blue).
    """
    fig, axes = figure(7.2, 0.52 * len(sets) + 1.0, rows=len(sets), columns=1, sharex=True, squeeze=False)
    everything = np.concatenate([np.asarray(v, float) for v in sets.values()])
    edges = np.linspace(*np.quantile(everything, [0.0005, 0.9995]), 70)
    for ax, (name, values) in zip(axes[:, 0], sets.items(), strict=True):
        color = (colors or {}).get(name, COLORS["one"])
        inside = np.clip(values, edges[0], edges[-1])  # the few beyond the edges are counted in the last bins
        ax.hist(inside, edges, density=True, color=color, alpha=0.75)
        ax.hist(np.clip(sets[reference], *edges[[0, -1]]), edges, density=True, histtype="step", color="black", lw=0.9)
        ax.axvline(np.median(values), color=color, linewidth=2)
        ax.set_yticks([])
        ax.set_ylabel(name, rotation=0, ha="right", va="center")
        sns.despine(ax=ax, left=True)
    axes[-1, 0].set_xlabel(xlabel)
    axes[0, 0].set_title(title)
    return fig


def interval_dots(rows, xlabel: str, middle: float | None = 0.5, title: str = "") -> Figure:
    """Estimates with their intervals: `rows` maps a row's name to {series: (value, low, high, …)}."""
    series = list(next(iter(rows.values())))
    markers = dict(zip(series, "osD^v<>P", strict=False))
    fig, ax = figure(7.2, 0.5 * len(rows) + 1.2)
    for y, estimates in enumerate(rows.values()):
        for i, (name, (value, low, high, *_)) in enumerate(estimates.items()):
            place = y + 0.16 * (i - (len(series) - 1) / 2)
            color = COLORS[("one", "two", "three", "four", "wrong", "five")[i]]
            label = name if y == 0 else None
            ax.plot([low, high], [place, place], color=color, linewidth=2)
            ax.plot(value, place, markers[name], color=color, markersize=5, label=label)
    if middle is not None:
        ax.axvline(middle, color="black", linewidth=0.8, linestyle=":")
    ax.set_yticks(range(len(rows)), list(rows))
    ax.set(xlabel=xlabel, ylim=(len(rows) - 0.5, -0.5), title=title)
    ax.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return fig


def along_training(steps, lines, estimates, left_label: str, right_label: str) -> Figure:
    """Left, `lines` (name → one value a step); right, `estimates` (name → one (value, low, high, …) a step)."""
    fig, (left, right) = figure(8.6, 2.9, columns=2, sharex=True)
    palette = (COLORS[c] for c in ("one", "five", "three", "two", "four", "wrong"))
    inks = dict(zip(lines, palette, strict=False))
    for name, values in lines.items():
        left.plot(steps, values, "o-", color=inks[name], label=name)
    for name, row in estimates.items():
        value, low, high = np.array([estimate[:3] for estimate in row]).T
        right.plot(steps, value, "o-", color=inks[name])
        right.fill_between(steps, low, high, color=inks[name], alpha=0.2)
    right.axhline(0.5, color="black", linewidth=0.8, linestyle=":")
    left.set(ylabel=left_label, xlabel="training step", xscale="symlog", xlim=(0, 1.4 * steps[-1]))
    right.set(ylabel=right_label, xlabel="training step")
    fig.legend(loc="outside right center")
    return fig


def contour_panels(panels, x, y, points, labels, depth: float = 40.0) -> Figure:
    """Functions of the plane side by side, as contours below each one's maximum, over a cloud of points.

    `panels` maps a title to values [len(y), len(x)] in nats; `points` [N, 2] with class `labels` [N]. Whatever
    lies more than `depth` nats below the maximum is drawn alike.
    """
    fig, axes = figure(3.2 * len(panels), 3.4, columns=len(panels), squeeze=False, sharex=True, sharey=True)
    for ax, (title, values) in zip(axes[0], panels.items(), strict=True):
        levels = np.linspace(-depth, 0, 11)
        drawn = ax.contourf(x, y, values - values.max(), levels, cmap=SEQUENTIAL, extend="min")
        for label, color in zip(np.unique(labels), (COLORS["one"], COLORS["two"], COLORS["four"]), strict=False):
            mine = points[labels == label]
            ax.plot(*mine.T, ".", color=color, markersize=3, markeredgecolor="white", markeredgewidth=0.3)
        bar = fig.colorbar(drawn, ax=ax, orientation="horizontal", shrink=0.9)
        bar.set_label("nats below the maximum")
        ax.set(title=title, xlabel="first feature", aspect="equal")
    axes[0, 0].set_ylabel("second feature")
    return fig


def image_xray(picture, logits, classes, known, title: str = "") -> Figure:
    """A picture [H, W] or [H, W, 3] beside its logits, its probabilities, and its V among those of known pictures."""
    logits = np.asarray(logits, float)
    top = logits.max()
    v = top + np.log(np.exp(logits - top).sum())
    fig, (left, bars, shares, place) = figure(8.6, 2.4, columns=4, width_ratios=(1, 1.1, 1.1, 1.4))
    left.imshow(picture, cmap="gray", vmin=0, vmax=255)
    left.set(xticks=[], yticks=[], title=title)
    sns.despine(ax=left, left=True, bottom=True)
    for ax, values, label in ((bars, logits, "logit f (nats)"), (shares, np.exp(logits - v), "probability p(y|x)")):
        ax.barh(range(len(logits)), values, color=[COLORS["two" if z == top else "one"] for z in logits])
        ax.set_yticks(range(len(logits)), classes)
        ax.set_xlabel(label)
        ax.invert_yaxis()
    shares.set_xlim(0, 1)
    place.hist(known, 40, color=COLORS["gauge"])
    place.axvline(v, color=COLORS["wrong"], linewidth=2)
    place.set(yticks=[], xlabel="V(x) = −energy (nats)", title=f"V = {v:.1f}")
    sns.despine(ax=place, left=True)
    return fig


def token_dots(tokens, variants, ylabel: str = "spilled energy s (nats)", title: str = "") -> Figure:
    """The same tokens under several recipes: `variants` maps a name to one value per token (NaN: no mark)."""
    fig, ax = figure(max(6.0, 0.5 * len(tokens) + 2.2), 2.9)
    names = ("spilled", "one", "two", "three", "four", "wrong", "five")
    for (label, values), color, marker in zip(variants.items(), names, "osD^v<>", strict=False):
        ax.plot(np.arange(len(tokens)), values, marker, color=COLORS[color], label=label, linestyle="")
    ax.axhline(0, color="black", linewidth=0.8)
    ax.set_xticks(np.arange(len(tokens)), [visible(token).strip() or "␣" for token in tokens])
    ax.set(ylabel=ylabel, title=title)
    ax.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return fig


def banded_lines(panels, x, xlabel: str, ylabel: str = "nats") -> Figure:
    """Means with their intervals: `panels` maps a title to {series: (mean, low, high)}, each [len(x)]."""
    fig, axes = figure(2.3 * len(panels) + 1.2, 2.6, 1, len(panels), squeeze=False)
    for ax, (title, series) in zip(axes[0], panels.items(), strict=True):
        for (label, (mean, low, high)), color, marker in zip(
            series.items(), ("one", "two", "three"), "osD", strict=False
        ):
            ax.plot(x, mean, marker, color=COLORS[color], linestyle="-", label=label)
            ax.fill_between(x, low, high, color=COLORS[color], alpha=0.2, linewidth=0)
        ax.set(title=title, xlabel=xlabel)
        ax.xaxis.get_major_locator().set_params(integer=True)
    axes[0, 0].set_ylabel(ylabel)
    axes[0, -1].legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return fig


def grouped_scatter(groups, xlabel: str, ylabel: str, title: str = "") -> Figure:
    """Clouds of points: `groups` maps a name to (x, y). Later groups lie on top."""
    fig, ax = figure(6.2, 3.4)
    for (label, (x, y)), color, marker in zip(groups.items(), ("one", "two", "three", "four"), "os^D", strict=False):
        ax.plot(x, y, marker, color=COLORS[color], markersize=4, alpha=0.6, linestyle="", label=label)
    ax.set(xlabel=xlabel, ylabel=ylabel, title=title)
    ax.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return fig


def against_log_p(panels, ylabel="V(c) (nats)", xlabel="log p(c) (nats)", floor: float | None = None) -> Figure:
    """Potentials against `log p(c)` (or another clock), a panel for each title, a colour for each series.

    `panels[title]` maps a series to any of `dots`, `line` and `law` (drawn dashed), each an (x, y) in nats.
    `floor` draws a dotted line, at `log |V|`. One name in `ylabel` serves all panels; a list gives each its own.
    """
    own = not isinstance(ylabel, str)
    width = min(6.9, 2.7 * len(panels))
    fig, axes = figure(width + 1.3, 2.7, columns=len(panels), squeeze=False, sharey=not own)
    labels = ylabel if own else [ylabel] + [""] * (len(panels) - 1)
    for ax, label, (title, series) in zip(axes[0], labels, panels.items(), strict=True):
        inks = ("one", "two", "three", "four", "wrong", "five")
        for (name, parts), ink, marker in zip(series.items(), inks, "os^Dv<", strict=False):
            shown = "dots" if "dots" in parts else "line"
            for part, look in (("line", "-"), ("law", "--"), ("dots", marker)):
                if part in parts:
                    ax.plot(*parts[part], look, color=COLORS[ink], label=name if part == shown else None,
                            markersize=4, linewidth=1.4, zorder=3 if part == "dots" else 2)  # fmt: skip
        if floor is not None:
            ax.axhline(floor, color="black", linewidth=0.8, linestyle=":")
        ax.set(title=title, xlabel=xlabel, ylabel=label)
    axes[0, -1].legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return fig


def knob_panels(panels) -> Figure:
    """What a knob moves and what it leaves alone: shares between 0 and 1 against the knob, a panel for each kind.

    `panels[(title, xlabel, ylabel)]` maps the name of each line to (x, y). A dotted line marks one half.
    """
    fig, axes = figure(4.1 * len(panels), 3.6, columns=len(panels), squeeze=False)
    for ax, ((title, xlabel, ylabel), lines) in zip(axes[0], panels.items(), strict=True):
        inks, dashes = ("one", "wrong", "three", "four"), ("-", "--", "-.", (0, (1, 1)))
        for (name, (x, y)), ink, dash in zip(lines.items(), inks, dashes, strict=False):
            color = COLORS.get(name.split()[0], COLORS[ink])  # "right …" and "wrong …" keep their own
            ax.plot(x, y, color=color, linestyle=dash, label=name, linewidth=1.8)
        ax.axhline(0.5, color="0.6", linewidth=0.8, linestyle=":")
        ax.axvline(0, color="0.6", linewidth=0.8, linestyle=":")
        ax.set(title=title, xlabel=xlabel, ylabel=ylabel, ylim=(-0.03, 1.03))
        ax.legend(loc="best")
    return fig


def gauge_scatter(panels, surprise, wrong) -> Figure:
    """Answers by surprise `−log p` (log axis) and total spill; `panels` maps a title to the spills in one gauge.

    From panel to panel points may move up and down, by the gauge. They cannot move sideways.
    """
    wrong, surprise = np.asarray(wrong, bool), np.asarray(surprise, float)
    fig, axes = figure(3.6 * len(panels) + 0.6, 3.4, columns=len(panels), squeeze=False, sharey=True)
    for ax, (title, spills) in zip(axes[0], panels.items(), strict=True):
        for mine, marker, name in ((~wrong, "o", "right"), (wrong, "^", "wrong")):
            ax.scatter(surprise[mine], np.asarray(spills)[mine], s=26 if name == "wrong" else 11, marker=marker,
                       color=COLORS[name], alpha=0.8, edgecolor="white", linewidth=0.3, label=name)  # fmt: skip
        ax.axhline(0, color="black", linewidth=0.8)
        ax.set(title=title, xscale="log", xlabel="surprise −log p(answer) (nats)")
    axes[0, 0].set_ylabel("sum of spills (nats)")
    axes[0, -1].legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return fig


def forest(panels, title: str = "") -> Figure:
    """Forest plots side by side over the same rows: `panels` maps an axis label to (reference, rows).

    `rows` maps a row's name to {series: (value, low, high, …)}; the dotted line is the panel's reference.
    """
    names = list(next(iter(panels.values()))[1])
    one_scale = len({reference for reference, _ in panels.values()}) == 1
    fig, axes = figure(
        4.2 * len(panels) + 1.6,
        0.4 * len(names) + 1.3,
        columns=len(panels),
        squeeze=False,
        sharey=True,
        sharex=one_scale,
    )
    for ax, (xlabel, (reference, rows)) in zip(axes[0], panels.items(), strict=True):
        series = list(dict.fromkeys(s for estimates in rows.values() for s in estimates))
        for i, name in enumerate(series):
            mine = [(y + 0.26 * (i - (len(series) - 1) / 2), *rows[row][name][:3])
                    for y, row in enumerate(names) if name in rows[row]]  # fmt: skip
            place, value, low, high = np.array(mine).T
            ink = COLORS[("one", "two", "three")[i]]
            ax.hlines(place, low, high, color=ink, linewidth=1.8)
            ax.plot(value, place, "osD"[i], color=ink, markersize=5, label=name)
        ax.axvline(reference, color="black", linewidth=0.8, linestyle=":")
        ax.set(xlabel=xlabel)
    axes[0, 0].set_yticks(range(len(names)), names)
    axes[0, 0].set(ylim=(len(names) - 0.5, -0.5), title=title)
    if len(series) > 1:
        axes[0, -1].legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return fig


def cost_curves(table) -> Figure:
    """Recorded costs (`make bench`): time as a ratio to the bare forward pass, and memory beyond the trunk.

    `table` has the columns varied, length, vocabulary, batch, variant, ratio and extra_mb; a column of panels is
    drawn for each of the three that is varied.
    """
    looks = {
        "trunk only": ("gauge", "v"), "bare forward": ("spilled", "s"), "score": ("one", "o"), "naive": ("wrong", "D"),
    }  # fmt: skip
    titles = {"length": "tokens in the text", "vocabulary": "vocabulary size", "batch": "texts in the batch"}
    fig, axes = figure(8.6, 5.2, 2, 3, sharex="col", sharey="row")
    for column, (varied, label) in zip(axes.T, titles.items(), strict=True):
        rows = table[table.varied == varied]
        for variant, (color, marker) in looks.items():
            part = rows[rows.variant == variant]
            column[0].plot(part[varied], part.ratio, marker, color=COLORS[color], linestyle="-", label=variant)
            if variant != "trunk only":
                extra = part.extra_mb.clip(lower=1)
                column[1].plot(part[varied], extra, marker, color=COLORS[color], linestyle="-", label=variant)
        column[0].set_xscale("log", base=2)
        column[1].set(yscale="log", xlabel=label)
    axes[0, 0].set_ylabel("time / bare forward pass")
    axes[1, 0].set_ylabel("memory beyond the trunk (MB)")
    axes[0, -1].legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return fig
