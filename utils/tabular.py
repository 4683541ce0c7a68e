"""The tabular softmax: a next-token predictor so simple that its training can be solved.

Each context `c` has a logit row of its own, starts at zero, and is visited with probability `p(c)`. Gradient
flow on the cross-entropy is then `df_y/dτ = q_y − p̂_y` for each row alone, where `q = q(· | c)` is the truth and
`τ = p(c)·t` the row's clock (under SGD: learning rate × number of visits). Logits keep `Σ_y f_y = 0`, so
`m(c) = 0` and `V(c) = log |V| + K(c)` at all times.

Everything is in nats and float64. All tokens of probability zero share one logit, so a context whose next token
has `k` possible values is a system of `k + 1` numbers, whatever the size of the vocabulary.
"""

from typing import NamedTuple

import numpy as np
from scipy.special import logsumexp, wrightomega

STEP = 0.03  # of log(1 + τ), for each step of the solver; the tests measure what it costs in accuracy
GAMMA = 0.4358665215084590  # Alexander (1977): three implicit stages, third order, L-stable
STAGES = np.array(
    [[0, 0], [(1 - GAMMA) / 2, 0], [-(6 * GAMMA**2 - 16 * GAMMA + 1) / 4, (6 * GAMMA**2 - 20 * GAMMA + 5) / 4]]
)


class TabularLearner(NamedTuple):
    """What the table knows at each time; `m(c) = 0`, so `K(c) = V(c) − log |V|`. Both [contexts, times], nats."""

    log_partition: np.ndarray  # V(c)
    kl: np.ndarray  # KL(q ‖ p̂), what is left to learn


def margin(tau, vocab_size: int, k: int = 1) -> np.ndarray:
    """`μ`, the logit of a possible token minus that of an impossible one, when `k` tokens are equally likely.

    It obeys `e^μ + (a/k)·μ = |V|τ/k² + 1` with `a = |V| − k`; Wright's omega, `ω + log ω = z`, solves it.
    `tau` of any shape, ≥ 0; same shape back. Needs `k < |V|`: without impossible tokens there is no margin.
    """
    if not 1 <= k < vocab_size:
        raise ValueError(f"k must lie in 1 … vocab_size − 1 = {vocab_size - 1}; got {k}")
    ratio = (vocab_size - k) / k
    z = (vocab_size * np.asarray(tau, float) / k**2 + 1) / ratio - np.log(ratio)
    return np.log(ratio) + np.log(wrightomega(z))


def closed_form(tau, vocab_size: int, k: int = 1) -> np.ndarray:
    """`V(c)` at clock `tau` when the next token is one of `k` equally likely ones (`k = 1`: deterministic).

    From `margin` and `Σ_y f_y = 0`: possible logits are `μ·(1 − k/|V|)`, impossible ones `−μ·k/|V|`.
    """
    if k == vocab_size:  # nothing to push down
        return np.full(np.shape(tau), np.log(vocab_size))
    mu = margin(tau, vocab_size, k)
    return mu * (1 - k / vocab_size) + np.log(k + (vocab_size - k) * np.exp(-mu))


def impossible_token_law(q, tau, vocab_size: int) -> np.ndarray:
    """`V(c) = (1 − k/|V|)·log(|V|τ/k) − (1/|V|)·Σ_{y∈S} log q_y`, what `V(c)` tends to as `τ·min q` grows.

    Args: `q`, the probabilities of one context (zeros are left out: S is where `q > 0`, k its size); `tau` of
    any shape. An asymptote: at `τ` of the order of `k·log(|V|/k)` or less use `gradient_flow`.
    """
    q = np.asarray(q, float)
    q = q[q > 0]
    share = len(q) / vocab_size
    return (1 - share) * np.log(np.asarray(tau, float) / share) - np.log(q).sum() / vocab_size


def implicit_step(start, q, h, count, V):
    """Solve `f = start + h·(q − softmax f)` for f; returns f and its log-partition.

    Given V, each logit solves `f + h·e^(f − V) = start + h·q`, which is Wright's omega again: `h·p̂ = ω(…)`. What
    is left is one number a context: V such that probabilities sum to one, a convex decreasing function of V,
    so Newton's method cannot fail. Shapes: `start`, `q` [C, k+1]; `h`, `V` [C, 1]; `count` [k+1] tokens a column.
    """
    target = start + h * q
    for _ in range(60):
        mass = wrightomega(target + np.log(h) - V)  # h·p̂
        excess = (count * mass).sum(-1, keepdims=True) - h
        move = excess / (count * mass / (1 + mass)).sum(-1, keepdims=True)
        V = V + move
        if np.abs(move).max() < 1e-10:
            break
    return target - mass, V


def gradient_flow(q, tau, vocab_size: int) -> np.ndarray:
    """Logits of the table at the clocks `tau`, from zero: [contexts, times, k+1]; the last column is any other token.

    Args: `q` [contexts, k], rows that sum to one, the probabilities of the first k tokens (zeros are allowed, all
    other tokens have probability zero); `tau` [contexts, times], positive, increasing in time. An implicit
    Runge-Kutta method with equal steps in log(1 + τ), so that six decades cost little more than one.
    """
    q, tau = np.atleast_2d(np.asarray(q, float)), np.atleast_2d(np.asarray(tau, float))
    if q.shape[-1] > vocab_size or (q < 0).any() or not np.allclose(q.sum(-1), 1):
        raise ValueError("q must be [contexts, k ≤ vocab_size] with non-negative rows that sum to one")
    if len(tau) != len(q) or (np.diff(tau, prepend=0.0) <= 0).any():
        raise ValueError("tau must be [contexts, times], one row for each row of q, positive and increasing")
    count = np.append(np.ones(q.shape[-1]), vocab_size - q.shape[-1])
    q = np.pad(q, ((0, 0), (0, 1)))
    f, V = np.zeros_like(q), np.full((len(q), 1), np.log(vocab_size))
    clock, result = np.log1p(np.pad(tau, ((0, 0), (1, 0)))), []
    for left, right in zip(clock.T[:-1, :, None], clock.T[1:, :, None], strict=True):
        pieces = int(np.ceil((right - left).max() / STEP))
        edges = np.expm1(left + (right - left) * np.linspace(0, 1, pieces + 1))  # [C, pieces + 1]
        for h in np.diff(edges).T[:, :, None]:
            slopes = np.zeros((2, *f.shape))
            for number, weights in enumerate(STAGES):
                start = f + h * np.tensordot(weights, slopes, 1)
                stage, V = implicit_step(start, q, GAMMA * h, count, V)
                if number < 2:
                    slopes[number] = (stage - start) / (GAMMA * h)
            f = stage
        result.append(f)
    return np.stack(result, 1)


def tabular_learner(conditionals, tau, vocab_size: int) -> TabularLearner:
    """The finite-time table of a whole language: `V(c)` and `KL(q ‖ p̂)` for contexts with any number of tokens.

    Args: `conditionals`, one 1-D array of probabilities a context (zeros are dropped); `tau` [contexts, times] as
    in `gradient_flow`, usually `p(c)` times the training times. Even conditionals have a closed form; the others
    are solved together with those of similar k, filled up with zeros: one more impossible token changes nothing.
    """
    conditionals = [np.asarray(q, float)[np.asarray(q) > 0] for q in conditionals]
    tau = np.asarray(tau, float)
    k = np.array([len(q) for q in conditionals])
    even = np.array([np.ptp(q) < 1e-12 for q in conditionals]) & (k < vocab_size)
    V, kl = np.empty(tau.shape), np.empty(tau.shape)
    for size in np.unique(k[even]):  # solved by hand
        rows = even & (k == size)
        V[rows] = closed_form(tau[rows], vocab_size, size)
        kl[rows] = np.log1p((vocab_size - size) / size * np.exp(-margin(tau[rows], vocab_size, size)))
    width = np.minimum(2 ** np.ceil(np.log2(k)).astype(int), vocab_size)
    for size in np.unique(width[~even]):  # solved by steps
        rows = np.flatnonzero(~even & (width == size))
        q = np.stack([np.pad(conditionals[row], (0, size - k[row])) for row in rows])
        f = gradient_flow(q, tau[rows], vocab_size)
        entropy = -(q * np.log(np.where(q > 0, q, 1))).sum(-1, keepdims=True)
        V[rows] = logsumexp(f, axis=-1, b=np.append(np.ones(size), vocab_size - size))
        kl[rows] = V[rows] - (q[:, None] * f[..., :-1]).sum(-1) - entropy
    return TabularLearner(V, kl)
