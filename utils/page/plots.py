"""Pure plotting functions: numbers in, a figure (or escaped HTML) out. One style, safe for colour blindness.

Most figures are `curves`: series in panels. A reader's own plots begin with `figure` and end with `show`.
"""

import html
import re
from base64 import b64encode
from io import BytesIO
from itertools import cycle

import matplotlib as mpl
import numpy as np
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize, TwoSlopeNorm, to_hex
from matplotlib.figure import Figure

# Okabe & Ito's palette, named for what it marks here.
COLORS = {
    "likelihood": "#0072B2",  # blue: A, log p
    "certainty": "#E69F00",  # orange: B, the drop in self-certainty
    "gauge": "#999999",  # grey: C, the part no probability knows
    "spilled": "#000000", "right": "#009E73", "wrong": "#D55E00",
    "one": "#0072B2", "two": "#E69F00", "three": "#009E73", "four": "#CC79A7", "five": "#56B4E9",
}  # fmt: skip
SERIES = ("one", "two", "three", "four", "wrong", "five", "spilled")  # the first series is blue, …
DIVERGING, SEQUENTIAL = "PuOr", "cividis"
DPI = 110
BESIDE = {"loc": "upper left", "bbox_to_anchor": (1.0, 1.0)}  # a legend at the right, where it covers no data
THIN = {"color": "black", "linewidth": 0.8}
STYLE = {
    **sns.axes_style("ticks"),
    "axes.prop_cycle": mpl.cycler(color=[COLORS[name] for name in SERIES]), "axes.axisbelow": True,
    "axes.spines.top": False, "axes.spines.right": False, "xtick.labelsize": 9, "ytick.labelsize": 9,
}  # fmt: skip


class Panel(Axes):
    """Axes that keep the course's look in a reader's own plots too: titles at the left, legends without a box."""

    def set_title(self, label, fontdict=None, loc="left", **options):
        return super().set_title(label, fontdict, loc, **{"fontsize": 11, **options})

    def legend(self, *args, **options):
        return super().legend(*args, **{"frameon": False, "fontsize": 9, **options})


def figure(width: float = 7.0, height: float = 3.2, rows: int = 1, columns: int = 1, **options):
    """A figure of `width` × `height` inches in the course's look; returns (figure, axes).

    It stays outside pyplot's list of figures, and matplotlib's settings as they are. `options` go to `subplots`.
    """
    fig = Figure(figsize=(width, height), dpi=DPI, layout="constrained")
    with mpl.rc_context(STYLE):
        return fig, fig.subplots(rows, columns, subplot_kw={"axes_class": Panel}, **options)


def image_html(fig: Figure, alt: str, dpi: float = DPI) -> str:
    """A figure as one HTML image that never outgrows its page; more `dpi` is sharper, not larger."""
    if not alt.strip():
        raise ValueError("alt is empty; say in words what the figure shows, for those who cannot see it")
    buffer = BytesIO()
    fig.savefig(buffer, format="png", dpi=dpi)
    return (
        f'<img alt="{html.escape(alt)}" width="{fig.get_figwidth() * DPI:.0f}" style="max-width:100%;height:auto" '
        f'src="data:image/png;base64,{b64encode(buffer.getvalue()).decode()}">'
    )


def show(fig: Figure, alt: str) -> None:
    """Display a figure in a notebook, with a text for those who cannot see it.

    As HTML: JupyterLab and nbconvert drop the alt text of an `image/png` output, and where both are stored they
    take the HTML, so the picture would be in the file twice for nothing. Where HTML is not shown, the text is.
    """
    from IPython.display import display

    display({"text/html": image_html(fig, alt), "text/plain": alt}, raw=True)


# Tokens

# Control characters, marks that turn the words behind them around, and halves of characters.
UNSHOWN = re.compile("[\x00-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
AS_IS = {"parse_math": False}  # for texts: two dollar signs would be taken for a formula


def visible(token: str) -> str:
    """A token as a reader can see it: line breaks and empty pieces get a sign of their own, control characters "�".

    >>> visible(" Tokyo"), visible(chr(10)), visible("")
    (' Tokyo', '⏎', '·')
    """
    return UNSHOWN.sub("\N{REPLACEMENT CHARACTER}", token.replace("\n", "⏎").replace("\t", "⇥")) or "·"


def tick_tokens(ax: Panel, tokens) -> None:
    """Tokens under the x axis, and a line at 0 nats."""
    ax.set_xticks(np.arange(len(tokens)), [visible(token).strip() or "␣" for token in tokens], **AS_IS)
    ax.axhline(0, **THIN)


def color_scale(values, center: float | None = None, limits: tuple[float, float] | None = None) -> ScalarMappable:
    """Colours for `values` (NaN left aside): a diverging map around `center`, or a sequential one without."""
    finite = np.asarray(values, float)[np.isfinite(values)]
    low, high = limits or ((finite.min(), finite.max()) if finite.size else (0.0, 1.0))
    if center is None:
        return ScalarMappable(Normalize(low, max(high, low + 1e-9)), SEQUENTIAL)
    reach = max(abs(low - center), abs(high - center), 1e-9)
    return ScalarMappable(TwoSlopeNorm(center, center - reach, center + reach), DIVERGING)


def ink_on(fill) -> str:
    """Black or white, whichever can be read on a colour (red, green, blue from 0 to 1)."""
    return "#000000" if np.dot(fill[:3], (0.299, 0.587, 0.114)) > 0.55 else "#ffffff"


def token_colors(values, center: float | None = None, limits: tuple[float, float] | None = None):
    """Hex colours, and black or white for the text on them, of `values`; NaN is light grey.

    >>> token_colors([-1.0, 0.0, float("nan")], center=0.0)
    (['#7f3b08', '#f6f6f7', '#ebebeb'], ['#ffffff', '#000000', '#000000'])
    """
    scale = color_scale(values, center, limits)
    fills = [np.array(scale.to_rgba(v)[:3]) if np.isfinite(v) else np.full(3, 0.92) for v in values]
    return [to_hex(fill) for fill in fills], [ink_on(fill) for fill in fills]


def token_html(tokens, values, label: str = "spilled energy s (nats)", center=0.0, limits=None) -> str:
    """One text as escaped HTML that wraps: each token on its colour, with its value beneath."""
    spans = []
    for token, value, fill, ink in zip(tokens, values, *token_colors(values, center, limits), strict=True):
        said = f"{value:+.2f}" if np.isfinite(value) else "–"
        spans.append(
            f'<span style="display:inline-block;background:{fill};color:{ink};padding:2px 3px;margin:1px;'
            f'border-radius:3px;text-align:center;white-space:pre-wrap;max-width:100%;overflow-wrap:anywhere">'
            f'{html.escape(visible(token))}<small style="display:block;font-size:75%"> {said} </small></span>'
        )
    about = f'role="group" aria-label="tokens coloured by {html.escape(label)}"'
    return f'<div {about} style="font-family:monospace;line-height:1.5">{"".join(spans)}</div>'


def heat_map(rows, label: str = "spilled energy s (nats)", center: float | None = 0.0, title: str = "") -> Figure:
    """Token heat map. `rows` maps a name to (tokens, values); all rows share one colour scale.

    Cells show the token above its value; a token without a value (no Term 1) is grey.
    """
    scale = color_scale(np.concatenate([np.asarray(values, float) for _, values in rows.values()]), center)
    longest = max(len(tokens) for tokens, _ in rows.values())
    fig, ax = figure(max(6.0, 0.78 * longest + 1.4), 0.85 * len(rows) + 1.1)
    for y, (tokens, values) in enumerate(rows.values()):
        colors = token_colors(values, center, scale.get_clim())
        for x, (token, value, fill, ink) in enumerate(zip(tokens, values, *colors, strict=True)):
            ax.add_patch(mpl.patches.Rectangle((x, y), 1, 1, facecolor=fill, edgecolor="white", linewidth=2))
            said = f"{round(float(value), 1) + 0:.1f}" if np.isfinite(value) else "–"
            for down, words, size in ((0.36, visible(token).strip() or "␣", 9), (0.72, said, 8)):
                ax.text(x + 0.5, y + down, words, ha="center", va="center", color=ink, fontsize=size, **AS_IS)
    ax.set(xlim=(0, longest), ylim=(len(rows), 0), title=title, xticks=[])
    ax.set_yticks(np.arange(len(rows)) + 0.5, list(rows), **AS_IS)
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    fig.colorbar(scale, ax=ax, location="bottom", aspect=50, shrink=0.6).set_label(label)
    return fig


def three_term_bars(tokens, likelihood, certainty_drop, gauge_drop, title: str = "") -> Figure:
    """The spill of each token as a stack: A = log p, B = drop in self-certainty, C = drop in gauge, each [T].

    Positive parts stack upwards, negative ones downwards; the black dot is their sum, `s`.
    """
    fig, ax = figure(max(6.0, 0.72 * len(tokens) + 1.8), 3.4)
    terms = np.stack([np.asarray(term, float) for term in (likelihood, certainty_drop, gauge_drop)])  # [3, T]
    parts = np.nan_to_num(terms)
    names = ("A  log p(x|c)", "B  K(c) − K(c,x)", "C  m(c) − m(c,x)")
    for i, (name, ink, hatch) in enumerate(zip(names, COLORS, ("", "//", ".."), strict=False)):
        base = np.where(parts[i] >= 0, parts[:i].clip(min=0).sum(0), parts[:i].clip(max=0).sum(0))
        ax.bar(range(len(tokens)), parts[i], 0.62, base, color=COLORS[ink], hatch=hatch, edgecolor="white", label=name)
    ax.plot(range(len(tokens)), terms.sum(0), "o", color=COLORS["spilled"], label="s = A + B + C")  # no Term 1, no dot
    tick_tokens(ax, tokens)
    ax.set(ylabel="nats", title=title)
    ax.legend(**BESIDE)
    return fig


def token_dots(tokens, variants, ylabel: str = "spilled energy s (nats)", title: str = "") -> Figure:
    """The same tokens under several recipes: `variants` maps a name to one value per token (NaN: no mark)."""
    series = {name: {"dots": (np.arange(len(tokens)), values)} for name, values in variants.items()}
    fig = curves({title: series}, "", ylabel, size=(max(6.0, 0.5 * len(tokens) + 2.2), 2.9), markersize=6)
    tick_tokens(fig.axes[0], tokens)
    return fig


def context_tree(nodes, gauges, start: str = "start") -> Figure:
    """A tree of contexts, a row for each gauge: height `V(c) + g(c)`, width of a branch `p(x | c)`, in bold its `s`.

    `nodes` as from `explorable.grow_tree`; `gauges[title]` maps each context to `g(c)`. All in nats; a nat has one
    length in all rows, so that one sees how far a gauge lifts.
    """
    leaves = [c for c in nodes if not any(c == other[:-1] for other in nodes if other)]
    at = {c: np.mean([i for i, leaf in enumerate(leaves) if leaf[: len(c)] == c]) for c in nodes}
    rows = {title: {c: node["log_partition"] + g[c] for c, node in nodes.items()} for title, g in gauges.items()}
    spans = [np.ptp([*height.values()]) + 4.4 for height in rows.values()]
    fig, axes = figure(7.4, 0.27 * sum(spans), len(rows), squeeze=False, sharex=True, height_ratios=spans)
    label = {"textcoords": "offset points", "ha": "center", "fontsize": 9, "zorder": 4, **AS_IS}
    label["bbox"] = {"facecolor": "white", "alpha": 0.8, "edgecolor": "none", "pad": 0.4}
    for ax, span, (title, height) in zip(axes[:, 0], spans, rows.items(), strict=True):
        for c, node in nodes.items():
            here, words = (at[c], height[c]), "".join(nodes[c[:n]]["token"] for n in range(len(c) + 1))
            ax.plot(*here, "o", color="black", markersize=5, zorder=5)
            ax.annotate(visible(words.strip() or start), here, (0, -16), **label)
            if c:
                up, p = (at[c[:-1]], height[c[:-1]]), np.exp(node["logprob"])
                ax.annotate(f"{node['logprob'] + up[1] - here[1]:+.1f}", here, (0, -28), fontweight="bold", **label)
                bow = f"arc3,rad={0.16 * np.sign(up[0] - here[0])}"  # or all branches would lie on one line at V = 0
                line = {"arrowstyle": "-", "connectionstyle": bow, "shrinkA": 0, "shrinkB": 0, "lw": 1 + 12 * p}
                ax.annotate("", here, up, arrowprops={**line, "color": COLORS["five"]})
        low = min(height.values()) - 3
        ax.set(title=title, ylabel="V(c)", xticks=[], xlim=(-0.4, len(leaves) - 0.6), ylim=(low, low + span))
    return fig


# Series in panels

PARTS = {  # how each part of a series is drawn, whatever its colour
    "path": {"linestyle": "-"}, "dots": {"linestyle": ""}, "curve": {"marker": ""},
    "line": {"linestyle": "-", "marker": ""}, "law": {"linestyle": "--", "marker": ""},
    "trend": {"marker": "", "color": "black", "alpha": 1, "linewidth": 2, "zorder": 4},
}  # fmt: skip


def looks(names) -> dict[str, dict]:
    """Colour, marker and dashes for each series, in order; "right …" and "wrong …" keep their own colour."""
    found = {}
    for name, color, marker, dash in zip(names, cycle(SERIES), cycle("os^Dv<P"), cycle(["-", "--", "-.", ":"])):
        word = name.split()[0]
        color = COLORS[word if word in ("right", "wrong") else color]
        found[name] = {"color": color, "marker": marker, "linestyle": dash}
    return found


def draw(ax: Panel, series, ink, **style) -> None:
    """Draw `series` as `curves` takes them, each in the look that `ink` maps its name to; `style` goes to all."""
    for name, parts in series.items():
        parts = parts if isinstance(parts, dict) else {"path": parts}
        named = "dots" if "dots" in parts else next(iter(parts))
        for part, (x, y, *band) in parts.items():
            look = {"zorder": 3 if part == "dots" else 2, "markersize": 4, "linewidth": 1.5}
            look |= {**ink[name], **PARTS[part], **style}
            ax.plot(x, y, label=name if part == named else None, **look)
            if band:
                ax.fill_between(x, *band, color=look["color"], alpha=0.2, linewidth=0)


def curves(
    panels, xlabel, ylabel, floor: float | None = None, columns=None, size=None, ink=None, xscale="linear", **style
) -> Figure:
    """Series in panels side by side: `panels` maps a title to {name: series}, and a name has one look in all panels.

    A series is (x, y) or, with a band around it, (x, y, low, high), each [n]; or it maps any of "dots", "line", "law"
    (dashed), "curve" (dashes of its own) and "trend" (the same, in black, above all) to one of these. One `xlabel` or
    `ylabel` serves all panels; a list gives each its own, and its own scale. `floor` draws a dotted level, `ink` maps
    names to `looks`, `style` goes to `plot`.
    """
    columns, own = columns or len(panels), not isinstance(ylabel, str)
    rows = len(panels) // columns
    size = size or (min(6.9, 2.7 * columns) + 1.3, 2.7 * rows)
    fig, axes = figure(*size, rows, columns, squeeze=False, sharey=False if own else "row")
    names = [name for series in panels.values() for name in series]
    together = len(panels) == 1 or len({*names}) < len(names)  # one legend, if panels have series in common
    for i, (ax, (title, series)) in enumerate(zip(axes.flat, panels.items(), strict=True)):
        ax.set_xscale(xscale)
        draw(ax, series, ink or looks(dict.fromkeys(names) if together else series), **style)
        ax.set(title=title, ylabel=ylabel[i] if own else ylabel * (i % columns == 0))
        ax.set_xlabel(xlabel[i] if not isinstance(xlabel, str) else xlabel * (i >= len(panels) - columns))
        if floor is not None:
            ax.axhline(floor, linestyle=":", **THIN)
        if not together:
            ax.legend()
    if together:
        named = {name: line for ax in axes.flat for line, name in zip(*ax.get_legend_handles_labels(), strict=True)}
        axes[0, -1].legend(named.values(), named, **BESIDE)
    return fig


def against_log_p(panels, ylabel="V(c) (nats)", xlabel="log p(c) (nats)", floor: float | None = None) -> Figure:
    """Potentials against `log p(c)` (or another clock): `curves`, with `floor` at `log |V|`."""
    return curves(panels, xlabel, ylabel, floor)


def clouds(panels, xlabel, ylabel, **options) -> Figure:
    """Pale clouds with a black "trend" on top, in dashes of its own; else, and in its `options`, as `curves`."""
    names = dict.fromkeys(name for series in panels.values() for name in series)
    ink = {name: {**look, "alpha": 0.4, "markersize": 2.5} for name, look in looks(names).items()}
    fig = curves(panels, xlabel, ylabel, ink=ink, **options)
    for line in next(ax.get_legend() for ax in fig.axes if ax.get_legend()).get_lines():
        line.set(alpha=1, markersize=6)
    return fig


def potential_scatter(log_p, potential, k, label: str = "V(c)", title: str = "") -> Figure:
    """A potential against the exact log-probability of its context, coloured by branching factor `k`.

    Args: `log_p`, `potential` (nats) and `k`, all [n]. A line is fitted for each `k`, to guide the eye.
    """
    log_p, potential, levels = np.asarray(log_p, float), np.asarray(potential, float), np.unique(k)
    shades = mpl.colormaps[SEQUENTIAL](np.linspace(0, 0.95, len(levels)))
    series, ink = {}, {}
    for level, shade in zip(levels, shades, strict=True):
        x, y = log_p[k == level], potential[k == level]
        ends = np.array([x.min(), x.max()])
        series[f"k = {level:.0f}"] = {"dots": (x, y), "line": (ends, np.polyval(np.polyfit(x, y, 1), ends))}
        ink[f"k = {level:.0f}"] = {"color": shade, "marker": "o"}
    return curves({title: series}, "exact log p(c) (nats)", f"{label} (nats)", size=(6.4, 4.2), ink=ink, alpha=0.8)


def gauge_scatter(panels, surprise, wrong) -> Figure:
    """Answers by surprise `−log p` (log axis) and total spill; `panels` maps a title to the spills in one gauge.

    From panel to panel points may move up and down, by the gauge. They cannot move sideways.
    """
    surprise, sides = np.asarray(surprise, float), {"right": ~np.asarray(wrong, bool), "wrong": np.asarray(wrong, bool)}
    clouds = {title: {name: {"dots": (surprise[mine], np.asarray(spills)[mine])} for name, mine in sides.items()}
              for title, spills in panels.items()}  # fmt: skip
    labels, size = ("surprise −log p(answer) (nats)", "sum of spills (nats)"), (3.6 * len(panels) + 0.6, 3.4)
    return curves(clouds, *labels, size=size, floor=0, xscale="log", alpha=0.8, markeredgewidth=0)


def coefficient_paths(panels, ruler=None, xlabel: str = "training step") -> Figure:
    """Coefficients along training, one row a regressor, one column a run.

    `panels[run][regressor]` maps an outcome ("V", "m", "K") to (steps, beta, low, high), each [S];
    `ruler[run][regressor]` is (steps, beta) of the tabular learner, drawn dashed.
    """
    cells = {}
    for regressor in next(iter(panels.values())):
        for run, paths in panels.items():
            cell = {f"{outcome}(c)": path for outcome, path in paths[regressor].items()}
            table = {"table, same KL": {"law": ruler[run][regressor]}} if ruler else {}
            cells[f"{regressor}, {run}"] = {**cell, **table}
    colors = {"V(c)": "spilled", "m(c)": "gauge", "K(c)": "certainty", "table, same KL": "likelihood"}
    ink = {name: {"color": COLORS[c], "marker": m} for (name, c), m in zip(colors.items(), "os^_", strict=True)}
    size = (4.1 * len(panels) + 1.2, 2.6 * len(cells) / len(panels))
    return curves(cells, xlabel, "coefficient", 0, len(panels), size, ink, xscale="symlog", markersize=3)


def cost_curves(table) -> Figure:
    """Recorded costs (`make bench`): time as a ratio to the bare forward pass, and memory beyond the trunk.

    `table` has the columns varied, length, vocabulary, batch, variant, ratio and extra_mb; a column of panels is
    drawn for each of the three that is varied.
    """
    variants = {"trunk only": "gauge", "bare forward": "spilled", "score": "one", "naive": "wrong"}
    ink = {name: {"color": COLORS[c], "marker": m} for (name, c), m in zip(variants.items(), "vsoD", strict=True)}
    units = {"length": "tokens in the text", "vocabulary": "vocabulary size", "batch": "texts in the batch"}
    table, panels = table.assign(extra_mb=table.extra_mb.clip(lower=1)), {}
    for measure, column, left_out in (("time", "ratio", ""), ("memory", "extra_mb", "trunk only")):
        for varied in units:
            rows = table[table.varied == varied]
            shown = {name: rows[rows.variant == name] for name in variants if name != left_out}
            panels[f"{measure} by {varied}"] = {name: (part[varied], part[column]) for name, part in shown.items()}
    fig = curves(panels, [*units.values()] * 2, "", columns=3, size=(8.6, 5.6), ink=ink, markersize=6)
    for ax in fig.axes:
        ax.set_xscale("log", base=2)
    fig.axes[0].set_ylabel("time / bare forward pass")
    fig.axes[3].set(yscale="log", ylabel="memory beyond the trunk (MB)")
    return fig


# Estimates, distributions, pictures


def forest(panels, title: str = "") -> Figure:
    """Estimates with their intervals, over the same rows: `panels` maps an axis label to (reference, rows).

    `rows` maps a row's name to {series: (value, low, high, …)}; the dotted line is the reference, if there is one.
    """
    names = list(next(iter(panels.values()))[1])
    one_scale = len({reference for reference, _ in panels.values()}) == 1
    size = (max(7.2, 3.2 * len(panels) + 2.0), 0.44 * len(names) + 1.2)
    fig, axes = figure(*size, columns=len(panels), squeeze=False, sharey=True, sharex=one_scale)
    for ax, (xlabel, (reference, rows)) in zip(axes[0], panels.items(), strict=True):
        ink = looks(dict.fromkeys(name for estimates in rows.values() for name in estimates))
        for i, (name, look) in enumerate(ink.items()):
            shift = min(0.26, 0.64 / len(ink)) * (i - (len(ink) - 1) / 2)  # the series of a row lie beside each other
            mine = [(y + shift, *rows[row][name][:3]) for y, row in enumerate(names) if name in rows[row]]
            place, value, low, high = np.array(mine).T
            ax.hlines(place, low, high, color=look["color"], linewidth=1.8)
            ax.plot(value, place, look["marker"], color=look["color"], markersize=5, label=name)
        if reference is not None:
            ax.axvline(reference, linestyle=":", **THIN)
        ax.set_xlabel(xlabel)
    axes[0, 0].set_yticks(range(len(names)), names, **AS_IS)
    axes[0, 0].set(ylim=(len(names) - 0.5, -0.5), title=title)
    axes[0, -1].legend(**BESIDE)
    return fig


def ridges(sets, reference, xlabel: str, colors=None, title: str = "") -> Figure:
    """One row of histogram a set (`sets`: name → values), and the outline of the set `reference` behind every row.

    `colors` maps a name to a colour (default: blue). Values beyond the edges are counted in the last bins.
    """
    fig, axes = figure(7.2, 0.52 * len(sets) + 1.0, rows=len(sets), sharex=True, squeeze=False)
    edges = np.linspace(*np.quantile(np.concatenate([*sets.values()]), [0.0005, 0.9995]), 70)
    inside = {name: np.clip(values, edges[0], edges[-1]) for name, values in sets.items()}
    for ax, (name, values) in zip(axes[:, 0], inside.items(), strict=True):
        color = (colors or {}).get(name, COLORS["one"])
        ax.hist(values, edges, density=True, color=color, alpha=0.75)
        ax.hist(inside[reference], edges, density=True, histtype="step", color="black", lw=0.9)
        ax.axvline(np.median(sets[name]), color=color, linewidth=2)
        ax.set_yticks([])
        ax.set_ylabel(name, rotation=0, ha="right", va="center")
        ax.spines["left"].set_visible(False)
    axes[-1, 0].set_xlabel(xlabel)
    axes[0, 0].set_title(title)
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
        for label, color in zip(np.unique(labels), ("one", "two", "four"), strict=False):
            mine = points[labels == label].T
            ax.plot(*mine, ".", color=COLORS[color], markersize=3, markeredgecolor="white", markeredgewidth=0.3)
        fig.colorbar(drawn, ax=ax, orientation="horizontal", shrink=0.9).set_label("nats below the maximum")
        ax.set(title=title, xlabel="first feature", aspect="equal")
    axes[0, 0].set_ylabel("second feature")
    return fig


def image_xray(picture, logits, classes, known, title: str = "") -> Figure:
    """A picture [H, W] or [H, W, 3] beside its logits, its probabilities, and its V among those of known pictures."""
    logits = np.asarray(logits, float)
    v = np.logaddexp.reduce(logits)
    fig, (left, bars, shares, place) = figure(8.6, 2.4, columns=4, width_ratios=(1, 1.1, 1.1, 1.4))
    left.imshow(picture, cmap="gray", vmin=0, vmax=255)
    left.set(xticks=[], yticks=[], title=title)
    left.spines[:].set_visible(False)
    for ax, values, label in ((bars, logits, "logit f (nats)"), (shares, np.exp(logits - v), "probability p(y|x)")):
        ax.barh(classes, values, color=[COLORS["two" if z == logits.max() else "one"] for z in logits])
        ax.set_xlabel(label)
        ax.invert_yaxis()
    shares.set_xlim(0, 1)
    place.hist(known, 40, color=COLORS["gauge"])
    place.axvline(v, color=COLORS["wrong"], linewidth=2)
    place.set(yticks=[], xlabel="V(x) = −energy (nats)", title=f"V = {v:.1f}")
    place.spines["left"].set_visible(False)
    return fig


def pages(books, tokens, token: str) -> Figure:
    """Two pages of each book, and the two numbers on them that the spill of `token` compares: Term 1 and Term 2.

    `books` maps a name to {context: positive numbers, in the order of `tokens`}: two contexts, the second of which
    ends with `token`. Marked are the token's own number, and the total of the page that it leads to.
    """
    fig, axes = figure(9.6, 2.7, columns=len(books), squeeze=False, gridspec_kw={"wspace": 0.12})
    place = [*tokens].index(token)
    for ax, (name, two) in zip(axes[0], books.items(), strict=True):
        first, second = two.values()
        marked = {(0, place): "one", (6, len(tokens)): "wrong"}  # (left edge of the page, line on it): colour
        for left, (context, numbers) in zip((0, 6), two.items(), strict=True):
            ax.add_patch(mpl.patches.Rectangle((left, -1.6), 4, len(tokens) + 2.3, facecolor="0.96", edgecolor="0.5"))
            ax.text(left + 0.3, -0.9, f"page “{' '.join(context)}”", va="center", fontweight="bold", **AS_IS)
            ax.plot([left + 0.3, left + 3.7], [len(tokens) - 0.5] * 2, color="0.5", linewidth=0.8)
            for line, (word, number) in enumerate([*zip(tokens, numbers, strict=True), ("total", sum(numbers))]):
                ink = COLORS.get(marked.get((left, line)), "none")
                ax.text(left + 0.3, line, word, va="center", **AS_IS)
                ax.text(left + 3.5, line, number, ha="right", va="center", color="black" if ink == "none" else "white",
                        bbox={"facecolor": ink, "edgecolor": "none", "boxstyle": "round,pad=0.25"})  # fmt: skip
        ax.annotate("", (8.7, len(tokens)), (3.7, place), arrowprops={"arrowstyle": "-|>", "linewidth": 1.3})
        ax.set(xlim=(-0.1, 10.1), ylim=(len(tokens) + 0.8, -1.7), xticks=[], yticks=[], frame_on=False)
        ratio = f"{first[place]} ÷ {sum(second)}", float(first[place] / sum(second))
        ax.set_title(f"{name}: s = log({ratio[0]}) = {np.log(ratio[1]):.2f}".replace("-", "−"))
    return fig


def superimposition(models, joint, conditional) -> Figure:
    """Four numbers of each model laid over both decompositions of `p(c, x, y)`, in logarithms.

    `models` maps a name to (V(c), f(x;c), V(c,x), f(y;c,x)); `joint` and `conditional` are the logs of the four
    probabilities beneath them: (p(c), p(c,x), p(c,x), p(c,x,y)) and (1, p(x|c), 1, p(y|c,x)). An arrow leads from
    a probability to the model's number, its label is the constant between the two. The dotted line is `s`.
    """
    names = ["V(c)\n", "f(x; c)\nTerm 1", "V(c, x)\nTerm 2", "f(y; c, x)\n"]
    beneath = {
        "over the joint": (joint, ["p(c)", "p(c, x)", "p(c, x)", "p(c, x, y)"]),
        "over the conditional": (conditional, ["1", "p(x | c)", "1", "p(y | c, x)"]),
    }
    fig, axes = figure(9.6, 2.5 * len(models) + 0.5, rows=len(models), columns=2, squeeze=False)
    everything = np.concatenate([joint, conditional, *models.values()])
    for row, (model, numbers) in zip(axes, models.items(), strict=True):
        for ax, (where, (below, symbols)) in zip(row, beneath.items(), strict=True):
            same = lay_over(ax, np.asarray(numbers, float), np.asarray(below, float))
            fits = "one constant fits" if same else "a constant for each factor fits"
            verdict, ink = (fits, "one") if same or below is conditional else ("no single constant fits", "wrong")
            head = f"{where.upper()}\n" if ax in axes[0] else ""
            ax.set_title(f"{head}{model}: {verdict}", color=COLORS[ink])
            ticks = [f"{name}\n□ {symbol}" for name, symbol in zip(names, symbols, strict=True)]
            ax.set_xticks([0.0, 1.0, 2.5, 3.5], ticks)  # two factors, side by side
            ax.set(ylim=(everything.min() - 0.8, everything.max() + 1.1), ylabel="natural log" if ax is row[0] else "")
            ax.tick_params(length=0, axis="x")
    return fig


def lay_over(ax: Panel, numbers, beneath) -> bool:
    """Draw one panel of `superimposition`; returns whether both factors need the same constant."""
    at, constants = np.array([0.0, 1.0, 2.5, 3.5]), numbers - beneath
    same = bool(abs(constants[1] - constants[2]) <= 1e-9)
    inks = [COLORS["one"]] * 2 + [COLORS["one" if same else "wrong"]] * 2
    for left in (-0.45, 2.05):
        ax.axvspan(left, left + 1.95, color="0.95", zorder=0)
    for x, low, high, ink, constant in zip(at, beneath, numbers, inks, np.exp(constants), strict=True):
        ax.annotate("", (x, high), (x, low), arrowprops={"arrowstyle": "-|>", "color": ink, "linewidth": 1.8})
        ax.text(x + 0.12, (low + high) / 2, f"×{constant:.3g}", color=ink, fontsize=9, va="center")
    ax.plot(at, beneath, "s", color="white", markeredgecolor="black", markersize=7, zorder=3)
    ax.plot(at, numbers, "o", color="black", markersize=7, zorder=4)
    ax.plot(at[1:3], numbers[1:3], ":", color="black", linewidth=1.2)
    spill = f"s = {numbers[1] - numbers[2]:.2f}".replace("-", "−")
    ax.text(1.75, max(numbers[1:3]) + 0.3, spill, ha="center", fontsize=9)
    return same


def wall(pictures, captions, columns: int = 6) -> Figure:
    """Pictures [H, W, 3] (values 0 … 255) in rows, each above its caption."""
    rows, lines = -(-len(pictures) // columns), max(caption.count("\n") + 1 for caption in captions)
    fig, axes = figure(1.35 * columns, (1.45 + 0.16 * lines) * rows, rows, columns, squeeze=False)
    for ax in axes.flat:
        ax.set(xticks=[], yticks=[], frame_on=False)
    for ax, picture, caption in zip(axes.flat, pictures, captions, strict=False):
        ax.imshow(picture, interpolation="nearest")
        ax.text(0.5, -0.05, caption, transform=ax.transAxes, fontsize=8.5, ha="center", va="top", **AS_IS)
    return fig
