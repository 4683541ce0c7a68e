"""Energies of a next-token predictor, from its logits alone.

Tensors in, tensors out, everything in nats. Sums over the vocabulary run in the logits' own precision
(float32 at least); energies, one number a token, are float64, so that they add up.

The notation is the table in `utils/__init__.py`: `f(x; c)` is a raw logit, `V(c) = log Σ_y exp f(y; c)`
the log-partition function, and `s(c, x) = f(x; c) − V(c, x)` the spilled energy in the sign of the blog
post. The paper's released code uses `Δ = −s`. Sources: Minut, Dewidar & Masi (arXiv 2602.18671) and
https://vaishnavh.github.io/blog/joint-or-conditional.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class Potentials(NamedTuple):
    """What one next-token distribution says before any token is chosen; each of shape [...]."""

    log_partition: Tensor  # V(c)
    mean_logit: Tensor  # m(c), the gauge coordinate
    self_certainty: Tensor  # K(c) = KL(U ‖ p(·|c))
    entropy: Tensor  # H(p(·|c))
    max_logprob: Tensor  # max_y log p(y|c)


class TokenEnergies(NamedTuple):
    """Energies of each token `x` in its context `c`; every field has the shape of `ids`, in nats.

    Fields of a distribution say which one: `_before`, the one `x` was chosen from, or `_after`, the one after
    `x` was read. So `spilled = logit − log_partition_after = logprob + log_partition_before −
    log_partition_after`, and on either side `log_partition = mean_logit + log |V| + self_certainty`.
    """

    logit: Tensor  # f(x; c), Term 1
    logprob: Tensor  # log p(x | c)
    spilled: Tensor  # s(c, x) = logit − log_partition_after
    log_partition_before: Tensor  # V(c)
    mean_logit_before: Tensor  # m(c)
    self_certainty_before: Tensor  # K(c)
    entropy_before: Tensor
    max_logprob_before: Tensor
    log_partition_after: Tensor  # V(c, x), Term 2
    mean_logit_after: Tensor
    self_certainty_after: Tensor
    entropy_after: Tensor
    max_logprob_after: Tensor


class ThreeTerms(NamedTuple):
    """The parts of `s`: A + B + C = s. A and B are properties of the probabilities, C of the gauge."""

    likelihood: Tensor  # A = log p(x | c)
    certainty_drop: Tensor  # B = K(c) − K(c, x)
    gauge_drop: Tensor  # C = m(c) − m(c, x)


def as_real(logits: Tensor) -> Tensor:
    """Logits in float32 or better. Raises ValueError if there is no vocabulary axis to sum over."""
    if not isinstance(logits, Tensor) or logits.ndim == 0 or logits.shape[-1] == 0:
        raise ValueError("logits must be a tensor of shape [..., |V|] with a non-empty last axis")
    return logits if logits.dtype in (torch.float32, torch.float64) else logits.float()


def as_finite(logits: Tensor) -> Tensor:
    """`as_real`, after a look at every logit. Raises ValueError on NaN or infinite values."""
    f = as_real(logits)
    if not torch.isfinite(f).all():
        raise ValueError("logits contain NaN or infinite values; mask or replace them first")
    return f


def potentials(logits: Tensor) -> Potentials:
    """`V`, `m`, `K`, entropy and largest log-probability of each distribution in `logits` [..., |V|].

    Everything is computed from `f − max f`, so that adding a constant to all logits cannot disturb
    the gauge-invariant parts. Raises ValueError on NaN or infinite logits.
    Self-certainty: Kang et al. (arXiv 2502.18581).
    """
    f = as_real(logits)
    top = f.amax(-1)
    below = f - top.unsqueeze(-1)  # ≤ 0
    top, mean_below = top.double(), below.mean(-1).double()
    if not torch.isfinite(top + mean_below).all():
        raise ValueError("logits contain NaN or infinite values; mask or replace them first")
    weights = below.exp()
    z = weights.sum(-1).double()
    log_z = z.log()
    expected_below = below.mul_(weights).sum(-1) / z
    return Potentials(
        log_partition=top + log_z,
        mean_logit=top + mean_below,
        self_certainty=(log_z - mean_below - math.log(f.shape[-1])).clamp_min(0),
        entropy=(log_z - expected_below).clamp_min(0),
        max_logprob=-log_z,
    )


def combine(pieces: Sequence[Potentials], sizes: Sequence[int]) -> Potentials:
    """Potentials of a whole vocabulary from those of its pieces: `V = log Σ_b exp V_b`.

    To draw a token is to draw a piece `b`, with probability `w_b = exp(V_b − V)`, and then a token in it. So
    `m` is the mean of the `m_b`, weighted by the pieces' sizes, and `H = Σ_b w_b (H_b − log w_b)`.
    Args: `pieces`, each with fields [...] from `potentials` of its own logits [..., size]; their `sizes`.
    """
    part = Potentials(*map(torch.stack, zip(*pieces, strict=True)))  # fields [pieces, ...]
    log_z = part.log_partition.logsumexp(0)
    log_w = part.log_partition - log_z
    share = torch.tensor(sizes, dtype=torch.float64, device=log_z.device) / sum(sizes)
    mean = torch.tensordot(share, part.mean_logit, 1)
    return Potentials(
        log_partition=log_z,
        mean_logit=mean,
        self_certainty=(log_z - mean - math.log(sum(sizes))).clamp_min(0),
        entropy=(log_w.exp() * (part.entropy - log_w)).sum(0),
        max_logprob=(part.max_logprob + log_w).amax(0),
    )


def log_partition(logits: Tensor) -> Tensor:
    """`V(c) = log Σ_y exp f(y; c)` of logits [..., |V|], shape [...]. ValueError on NaN or ±∞.

    >>> log_partition(torch.zeros(4)).exp().round(decimals=6)
    tensor(4., dtype=torch.float64)
    """
    f = as_finite(logits)
    top = f.amax(-1, keepdim=True)
    return (f - top).exp().sum(-1).double().log() + top.squeeze(-1)


def check_ids(logits: Tensor, ids: Tensor) -> None:
    """Raise ValueError unless `ids` [..., T] fits `logits` [..., T, |V|] with T ≥ 2."""
    if not isinstance(logits, Tensor):
        raise ValueError("logits must be a tensor of shape [..., T, |V|]")
    if not isinstance(ids, Tensor) or ids.is_floating_point() or ids.is_complex() or ids.dtype == torch.bool:
        raise ValueError("ids must be a tensor of whole numbers")
    if logits.ndim < 2 or logits.shape[:-1] != ids.shape:
        raise ValueError(f"logits must be [..., T, |V|] and ids [..., T]; got {[*logits.shape]} and {[*ids.shape]}")
    if ids.shape[-1] < 2:
        raise ValueError("a spill needs two tokens: one to be suspected, one to condition on; ids has fewer")
    if ids.numel() and (ids.min() < 0 or ids.max() >= logits.shape[-1]):
        raise ValueError(f"ids must lie in 0 … {logits.shape[-1] - 1}, the vocabulary of these logits")


def chosen(logits: Tensor, ids: Tensor) -> Tensor:
    """Term 1: the logit each token got one position earlier, `f(ids[t+1]; ids[:t+1])`, [..., T−1]."""
    return as_real(logits)[..., :-1, :].gather(-1, ids[..., 1:, None].long()).squeeze(-1).double()


def spilled_energy(logits: Tensor, ids: Tensor) -> Tensor:
    """`s = f(x; c) − V(c, x)` for every token but the first, in the blog post's sign.

    Args: `logits` [..., T, |V|], where `logits[..., t, :]` is the output after reading `ids[..., t]`;
    `ids` [..., T]. Returns [..., T−1] in nats: entry t belongs to token t + 1, whose Term 1 is read at
    position t and whose Term 2 at position t + 1. Negate it for the sign of the paper's released code.
    Raises ValueError on mismatched shapes, ids out of range, T < 2, NaN or infinite logits.

    >>> spilled_energy(torch.tensor([[2.0, 1.0, 0.0], [0.0, 0.0, 0.0]]), torch.tensor([1, 0])).round(decimals=3)
    tensor([0.9010], dtype=torch.float64)
    """
    check_ids(logits, ids)
    return chosen(logits, ids) - log_partition(logits)[..., 1:]


def align(after: Potentials, logit: Tensor) -> TokenEnergies:
    """Put Term 1 (read one position early) and Term 2 of each token into the same row.

    Args: `after`, the potentials after each of T tokens, [..., T]; `logit` [..., T−1], Term 1 of tokens
    1 … T−1. The first token has no Term 1 of its own: everything that needs one is NaN there.
    """

    def shifted(values: Tensor) -> Tensor:
        return torch.cat([torch.full_like(values[..., :1], math.nan), values], -1)

    before = Potentials(*(shifted(field[..., :-1]) for field in after))
    logit = shifted(logit)
    return TokenEnergies(
        logit=logit,
        logprob=logit - before.log_partition,
        spilled=logit - after.log_partition,
        **{f"{name}_before": field for name, field in before._asdict().items()},
        **{f"{name}_after": field for name, field in after._asdict().items()},
    )


def token_energies(logits: Tensor, ids: Tensor) -> TokenEnergies:
    """All energies of all tokens: `logits` [..., T, |V|], `ids` [..., T] → fields of shape [..., T].

    Same alignment and errors as `spilled_energy`; `energies.spilled[..., 1:]` is its result.
    """
    check_ids(logits, ids)
    return align(potentials(logits), chosen(logits, ids))


def three_terms(logits: Tensor, ids: Tensor) -> ThreeTerms:
    """Split `s` exactly: `s = log p(x|c) + [K(c) − K(c,x)] + [m(c) − m(c,x)]`; each [..., T−1]."""
    return ThreeTerms(*(term[..., 1:] for term in terms_of(token_energies(logits, ids))))


def terms_of(energies) -> ThreeTerms:
    """The same split from energies already computed: a `TokenEnergies` or a table from `lm.score`."""
    return ThreeTerms(
        likelihood=energies.logprob,
        certainty_drop=energies.self_certainty_before - energies.self_certainty_after,
        gauge_drop=energies.mean_logit_before - energies.mean_logit_after,
    )
