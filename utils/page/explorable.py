"""Pictures that a reader can move without a kernel: HTML with the recorded numbers, a style and a script inside.

Each explorable is a function from numbers to a string of HTML. The string asks nothing of any other host and holds
no clock and no random number, so that a stored notebook does not change between runs. The moving is done by
`explorable.js`, which repeats the arithmetic of `utils.energy` in the reader's browser; `tests/test_explorable.py`
compares the two. All numbers are in nats, signs and symbols are those of the table in `utils/__init__.py`.
"""

import html
import json
import math
from base64 import b64encode
from collections.abc import Callable, Mapping, Sequence
from hashlib import sha256
from pathlib import Path

import torch
from torch import Tensor

from ..energy import check_ids, chosen, potentials
from .plots import visible

HERE = Path(__file__).parent
DIGITS = 9  # decimals of a recorded number: far below what can be seen, far above what a browser rounds


def show(page: str, alt: str) -> None:
    """Display an explorable in a notebook; where HTML cannot be shown, `alt` says what it would show."""
    from IPython.display import display

    display({"text/html": page, "text/plain": f"{alt} (A picture to move: open this notebook in Jupyter.)"}, raw=True)


def as_script(data) -> str:
    """`data` as JSON that is inert inside a script element, whatever a token holds: `</script>`, `<!--`, an emoji.

    Raises ValueError on NaN and infinite numbers, which JSON cannot hold.
    """
    try:
        text = json.dumps(data, allow_nan=False)  # non-ASCII characters become \\u escapes
    except ValueError as error:
        raise ValueError("an explorable needs finite numbers; drop tokens without a Term 1, and −∞ logits") from error
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def assemble(draw: str, data, still: str) -> str:
    """HTML that calls the function `draw` of `explorable.js` with `data`; `still` is read where no script runs.

    The element is named by a hash of its content: equal calls give equal strings. The script finds its own element,
    so the same explorable may stand on a page twice.
    """
    style, script = ((HERE / f"explorable.{kind}").read_text(encoding="utf-8") for kind in ("css", "js"))
    numbers = as_script(data)
    key = sha256((draw + numbers).encode()).hexdigest()[:12]
    return (
        f'<div class="explorable" data-key="{key}"><style>\n{style}</style>\n'
        f'<p class="still">{html.escape(still)} <em>It moves once this cell has run in Jupyter.</em></p>\n'
        f"<script>\n(() => {{\n{script}\n{draw}(mount({key!r}), {numbers});\n}})();\n</script></div>"
    )


def rounded(values) -> list[float]:
    """A tensor or a sequence of numbers as floats that JSON writes in full."""
    return [round(float(value), DIGITS) for value in values]


# ------------------------------------------------------------------------------------------ gauge slider (00)


def sentence_numbers(logits: Tensor, ids: Tensor, name: Callable[[int], str], top: int = 5) -> dict:
    """What `gauge_slider` needs of one text: a dictionary of plain numbers, which can be stored as JSON.

    Args: `logits` [T, |V|] and `ids` [T] as in `energy.spilled_energy`; `name` maps an id to its piece of text
    (`tokenizer.decode`); `top`, how many of the likeliest tokens are kept for each step. Returns `tokens` and
    `logit` (Term 1) of the T − 1 tokens that have a spill, `log_partition` and `mean_logit` of the T contexts, and
    `candidates`, for each of the T − 1 steps a list of [piece, logit]. ValueError as in `spilled_energy`.
    """
    check_ids(logits, ids)
    if not 1 <= top <= logits.shape[-1]:
        raise ValueError(f"top must lie in 1 … {logits.shape[-1]}, the vocabulary; got {top}")
    after, best = potentials(logits), logits[:-1].topk(top, -1)
    likeliest = zip(best.indices.tolist(), best.values.tolist(), strict=True)
    return {
        "tokens": [name(int(i)) for i in ids[1:]],
        "logit": rounded(chosen(logits, ids)),
        "log_partition": rounded(after.log_partition),
        "mean_logit": rounded(after.mean_logit),
        "candidates": [[[name(i), round(f, DIGITS)] for i, f in zip(*step, strict=True)] for step in likeliest],
    }


NAMED = {  # for each h, a place of the slider that has a name
    "a number drawn at random": (1, "noise"),
    "mean logit m(c)": (-1, "the centred gauge"),
    "log-partition V(c)": (-1, "every spill is log p"),
    "log p(c)": (1, "only V(c) − V(c, x) is left"),
    "log p(c) − V(c)": (1, "no spill is left"),
}


def potentials_to_turn(numbers: Mapping, scale: float = 8.0) -> dict[str, list[float]]:
    """The functions h(c) that the slider can add to all logits of a context, each [T] in nats.

    `scale` is the standard deviation of the one drawn at random (with a fixed seed: the same on every machine).
    """
    V, log_p = numbers["log_partition"], [0.0]
    for logit, before in zip(numbers["logit"], V[:-1], strict=True):
        log_p.append(log_p[-1] + logit - before)  # log p(c), counted from the first context
    noise = scale * torch.randn(len(V), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    joint = [p - v for p, v in zip(log_p, V, strict=True)]
    return dict(zip(NAMED, map(rounded, (noise, numbers["mean_logit"], V, log_p, joint)), strict=True))


def gauge_slider(numbers: Mapping, shown: int = -1) -> str:
    """One text, and a slider that adds g(c) = λ·h(c) to all logits after each context c (`sentence_numbers`).

    The bars of `s = f(x; c) − V(c, x)` move, those of `p(x | c) = exp((f + g) − (V + g))` are computed anew from the
    shifted logits each time, and stay. Beneath them, the likeliest tokens in place of one token, at first of number
    `shown`. ValueError if the lists do not belong to one text, or if it has no such token.
    """
    count = len(numbers["tokens"])
    lengths = {"logit": count, "candidates": count, "log_partition": count + 1, "mean_logit": count + 1}
    for name, length in lengths.items():
        if count == 0 or len(numbers[name]) != length:
            raise ValueError(f"numbers[{name!r}] must have {length} entries for {count} tokens; see sentence_numbers")
    if not -count <= shown < count:
        raise ValueError(f"shown must be one of the {count} tokens, from {-count} to {count - 1}; got {shown}")
    data = {
        "shown": shown % count,
        "tokens": [seen(token) for token in numbers["tokens"]],
        "logit": rounded(numbers["logit"]),
        "V": rounded(numbers["log_partition"]),
        "candidates": [[[seen(token), f] for token, f in step] for step in numbers["candidates"]],
        "h": potentials_to_turn(numbers),
        "named": NAMED,
    }
    still = "A slider adds a constant to all logits after each context of “{}”: the spills move, probabilities stay."
    return assemble("gaugeSlider", data, still.format("".join(numbers["tokens"])))


def seen(token: str) -> str:
    """A piece of text as it stands under a bar: no blanks around it, and a sign where it is nothing but blanks."""
    return visible(token).strip() or "␣"


# --------------------------------------------------------------------------------------- superimposition (01)


def superimposition(stories: Mapping[str, Sequence], x: str = "x") -> str:
    """A book's chain of numbers, as grey boxes to be slid over a decomposition of p(c, x, y), on a log scale.

    `stories` maps a book's name to three quadruples of logarithms, as in `plots.superimposition`: the model's
    (V(c), f(x; c), V(c, x), f(y; c, x)); (p(c), p(c, x), p(c, x), p(c, x, y)) for the joint decomposition; and
    (1, p(x | c), 1, p(y | c, x)) for the conditional one. `x` is the token under suspicion. Over the joint one
    constant moves all four boxes, over the conditional each factor has its own. ValueError on other shapes.
    """
    if not stories:
        raise ValueError("stories is empty; give at least one book's three quadruples of logarithms")
    for name, story in stories.items():
        if [len(part) for part in story] != [4, 4, 4]:
            raise ValueError(f"stories[{name!r}] must be three quadruples: model, joint, conditional")
    books = {name: [rounded(part) for part in story] for name, story in stories.items()}
    still = (
        f"Grey boxes, the numbers in the books of {', '.join(books)}, slide over the joint and over the conditional "
        "decomposition. One constant fits the joint only if Term 1 equals Term 2; two always fit the conditional."
    )
    return assemble("superimposition", {"books": books, "x": seen(x)}, still)


# ------------------------------------------------------------------------------------------ context tree (02)


def grow_tree(
    logits_after: Callable[[tuple], Tensor], name: Callable[[int], str], start: Sequence[int] = (), top: int = 2,
    depth: int = 3,
) -> dict[tuple, dict]:  # fmt: skip
    """The `top` likeliest continuations of `start`, `depth` tokens deep: what `context_tree` needs of each context.

    `logits_after(ids)` gives the logits [|V|] after a tuple of ids, `name` an id's piece of text. Returns a
    dictionary from contexts, tuples of ids after `start`, to {token, logprob, log_partition, mean_logit} in nats;
    the root is the empty tuple and has log-probability 0. The model is asked once for each context.
    """
    nodes, waiting = {}, [((), "", 0.0)]
    while waiting:
        context, token, logprob = waiting.pop(0)
        logits = logits_after((*start, *context))
        here = potentials(logits)
        V, m = here.log_partition.item(), here.mean_logit.item()
        nodes[context] = {"token": token, "logprob": logprob, "log_partition": V, "mean_logit": m}
        if len(context) < depth:
            best = logits.topk(top)
            for i, f in zip(best.indices.tolist(), best.values.tolist(), strict=True):
                waiting.append(((*context, i), name(i), f - V))
    return nodes


def context_tree(nodes: Mapping[tuple, Mapping], start: str = "start") -> str:
    """A tree of contexts: height V(c) + g(c), width of a branch p(x | c), its label the spill s(c, x).

    `nodes` maps a context, a tuple that begins with its parent's, to {token, logprob, log_partition, mean_logit}
    (`grow_tree`); `start` names the root, the one context without a parent. A slider goes through four gauges:
    g = 0 as trained, −m(c) centred, −V(c) conditional, log p(c) − V(c) joint. ValueError if it is not one tree.
    """
    root = min(nodes, key=len, default=())
    order = [root]
    for parent in order:  # it grows: children after their parent, level by level
        order += [context for context in nodes if context[:-1] == parent and context != root]
    if len(order) < 2 or {*order} != {*nodes}:
        raise ValueError("nodes must be one tree of two contexts or more, with the parent of each but the shortest")
    place, rows = {context: i for i, context in enumerate(order)}, []
    for context in order:
        node, parent = nodes[context], -1 if context == root else place[context[:-1]]
        log_p = 0.0 if parent < 0 else rows[parent]["logp"] + node["logprob"]
        V, m = node["log_partition"], node["mean_logit"]
        rows.append({
            "parent": parent, "depth": len(context) - len(root), "token": seen(node["token"]) if parent >= 0 else start,
            "logprob": node["logprob"], "logp": log_p, "V": V, "g": [0.0, -m, -V, log_p - V],
        })  # fmt: skip
    still = f"A tree of {len(rows)} contexts. A gauge lifts its nodes, at heights V, and changes the spill of each "
    return assemble("contextTree", rows, still + "step; the branches keep their widths, which are probabilities.")


# ------------------------------------------------------------------------------------------ training time (06)


def training_time(
    log_tau: Sequence[float], curves: Mapping[str, Sequence[float]], log_p: Sequence[float], decades=(0, 8), start=4
) -> str:
    """`V(c)` of contexts in a table, and a slider for the training time `t = 10^decade`, within `decades`.

    `curves` maps a name to `V` at the clocks `log_tau`, increasing, from next to nothing on: one curve for all
    contexts with one conditional. A dot stands for a context of log-probability `log_p`, at clock `log p(c) + log t`
    of its curve. ValueError if the curves do not reach from the youngest dot to the oldest. All in nats.
    """
    at, ends = rounded(log_tau), [decade * math.log(10) for decade in decades]
    if sorted({*at}) != at or {len(at)} != {*map(len, curves.values())}:
        raise ValueError("log_tau must increase, and each of the curves have one V for each of its entries")
    if at[0] > min(log_p) + ends[0] or at[-1] < max(log_p) + ends[1] or not decades[0] <= start <= decades[1]:
        raise ValueError("log_tau must reach from min(log_p) + log t at the start to max(log_p) + log t at the end")
    drawn = {name: rounded(V) for name, V in curves.items()}
    still = f"A slider for training time lets V of the contexts {', '.join(curves)} grow, each by its own clock."
    data = {"log_tau": at, "curves": drawn, "log_p": rounded(log_p), "decades": [*decades], "start": start}
    return assemble("trainingTime", data, still)


# ------------------------------------------------------------------------------------ a picture dissolving (05)


def as_base64(pixels: Tensor) -> str:
    """Pixels uint8 [3, H, W] as text: red, green, blue of one after the other."""
    return b64encode(pixels.permute(1, 2, 0).contiguous().numpy().tobytes()).decode()


def dissolving(
    pictures: Mapping[str, tuple[Tensor, Tensor]], noise: Tensor, classes: Sequence[str], typical: float
) -> str:
    """Pictures that turn into noise with a slider; beside them the logits, probabilities, `V`, `K` and `m`.

    `pictures` maps a name to pixels, uint8 [3, H, W], and logits [S, classes] in nats, at S equal steps from the
    picture to the `noise`, uint8 [3, H, W]; `typical` is a `V` to compare with. ValueError if shapes do not fit.
    """
    for pixels, logits in pictures.values():
        if pixels.shape != noise.shape or noise.ndim != 3 or {pixels.dtype, noise.dtype} != {torch.uint8}:
            raise ValueError("pictures and noise must all be uint8 [3, H, W]")
        if len(logits) < 2 or logits.shape[1] != len(classes):
            raise ValueError("logits must be [S, classes], with S at least 2: one row a step, one column a class")
    known = {
        name: {"pixels": as_base64(pixels), "logits": [rounded(row) for row in logits]}
        for name, (pixels, logits) in pictures.items()
    }
    data = {"pictures": known, "noise": as_base64(noise), "width": noise.shape[2], "classes": [*classes]}
    still = f"A slider turns {', '.join(pictures)} into noise, and the logits of a classifier follow."
    return assemble("dissolving", data | {"typical": float(typical), "start": 0.2}, still)
