"""Gauges: the same probabilities, written with other logits, of tensors and of tables."""

import pandas as pd
import torch
from torch import Tensor

from .energy import as_finite, check_ids, chosen


def shift(logits: Tensor, g: Tensor) -> Tensor:
    """`f → f + g(c)`: logits [..., |V|], `g` [...] or a number. No probability changes; every spill does."""
    f = as_finite(logits)
    g = torch.as_tensor(g, dtype=f.dtype, device=f.device)
    if not torch.isfinite(g).all():
        raise ValueError("g contains NaN or infinite values; a gauge gives every context a number")
    if g.ndim > 0 and g.shape != f.shape[:-1]:
        raise ValueError(f"g must be a number or have one value a context, {[*f.shape[:-1]]}; got {[*g.shape]}")
    return f + g.unsqueeze(-1)


def center(logits: Tensor) -> Tensor:
    """The centred gauge, `mean_y f(y; c) = 0`, where `V(c) = log |V| + K(c)`.

    >>> center(torch.tensor([3.0, 1.0, 2.0]))
    tensor([ 1., -1.,  0.])
    """
    f = as_finite(logits)
    return f - f.mean(-1, keepdim=True)


def to_conditional(logits: Tensor) -> Tensor:
    """The conditional gauge, `f = log p(· | c)`: `V(c) = 0`, and a spill is a log-probability."""
    f = as_finite(logits)  # torch's float32 log_softmax can be off by 2e-5 at 50,000 tokens
    return f - f.logsumexp(-1, keepdim=True)


def to_joint(logits: Tensor, ids: Tensor, log_prob_first: float = 0.0) -> Tensor:
    """The joint gauge, `f = log p(c, ·)`: `V(c) = log p(c)`, and every spill along `ids` is zero.

    Args: `logits` [..., T, |V|] and `ids` [..., T] as in `spilled_energy`; `log_prob_first` is the log
    probability of the first token, 0 when it is a BOS that every text starts with.
    """
    check_ids(logits, ids)
    conditional = to_conditional(logits)
    log_prob_context = torch.cumsum(chosen(conditional, ids), -1) + log_prob_first
    first = torch.full_like(log_prob_context[..., :1], log_prob_first)
    return shift(conditional, torch.cat([first, log_prob_context], -1))


GAUGES = ("as trained", "centred", "conditional", "joint")


def in_gauge(table: pd.DataFrame, gauge: str) -> pd.DataFrame:
    """The same tokens, their probabilities unchanged, with a constant `g(c)` added to all logits of a context.

    `g = 0` as trained, `−m(c)` centred, `−V(c)` conditional (logits are log-probabilities), `log p(c) − V(c)` joint,
    `log p(c)` counting from each text's first scored token. Then `V → V + g`, `m → m + g` and
    `s → s + g(c) − g(c, x)`; the columns of probabilities stay as they are. ValueError on another gauge.
    """
    if gauge not in GAUGES:
        raise ValueError(f"gauge must be one of {', '.join(GAUGES)}; got {gauge!r}")
    so_far = table["logprob"].fillna(0).groupby(table["text"]).cumsum()  # log p(c, x)

    def g(suffix: str, log_p_context: pd.Series) -> pd.Series | float:
        mean, log_z = table[f"mean_logit_{suffix}"], table[f"log_partition_{suffix}"]
        return dict(zip(GAUGES, (0.0, -mean, -log_z, log_p_context - log_z), strict=True))[gauge]

    after, before = g("after", so_far), g("before", so_far - table["logprob"])
    return table.assign(
        logit=table["logit"] + before,
        log_partition_after=table["log_partition_after"] + after,
        log_partition_before=table["log_partition_before"] + before,
        mean_logit_after=table["mean_logit_after"] + after,
        mean_logit_before=table["mean_logit_before"] + before,
        spilled=table["spilled"] + before - after,
    )
