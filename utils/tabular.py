"""The tabular softmax: a next-token predictor so simple that its training can be solved.

Each context `c` has a logit row of its own, starts at zero, and is visited with probability `p(c)`. Gradient flow on
the cross-entropy is then `df_y/dτ = q_y − p̂_y` for each row alone, with `q = q(· | c)` the truth and `τ = p(c)·t` the
row's clock (under SGD: learning rate × visits). Logits keep `Σ_y f_y = 0`, so `m(c) = 0` and `V(c) = log |V| + K(c)`.
Tokens of probability zero share one logit, so a row with `k` possible tokens is a system of `k + 1` numbers. Nats.
"""

from typing import NamedTuple

import numpy as np
from scipy.integrate import solve_ivp
from scipy.special import logsumexp, softmax, wrightomega


class TabularLearner(NamedTuple):
    """What the table knows at each time; `m(c) = 0`, so `K(c) = V(c) − log |V|`. Both [contexts, times], nats."""

    log_partition: np.ndarray  # V(c)
    kl: np.ndarray  # KL(q ‖ p̂), what is left to learn


class SampledTable(NamedTuple):
    """A table trained on drawn tokens, both [contexts, |V|]."""

    logits: np.ndarray  # in nats
    met: np.ndarray  # whether the token has ever come after the context


def power_law(k: int, alpha: float = 1.0) -> np.ndarray:
    """Probabilities `q_r ∝ r^(−α)` of the tokens of rank r = 1 … k.

    >>> power_law(3).round(3).tolist()
    [0.545, 0.273, 0.182]
    """
    weights = np.arange(1, k + 1.0) ** -alpha
    return weights / weights.sum()


def uneven(k: int) -> np.ndarray:
    """k probabilities, none three times another; the same ones each time. (For claims that hold for any `q`.)"""
    weights = np.random.default_rng(k).uniform(0.5, 1.5, k)
    return weights / weights.sum()


def descend(q, p, time: float, rate: float) -> np.ndarray:
    """Plain gradient descent on `Σ_c p(c)·cross-entropy(c)`, from zero, for `time / rate` steps: logits like `q`.

    `q` [contexts, |V|] or [|V|], one for all; `p` [contexts]. What the formulas here are compared with.
    """
    p = np.asarray(p, float)[:, None]
    f = np.zeros((len(p), np.shape(q)[-1]))
    for _ in range(round(time / rate)):
        f += rate * p * (q - softmax(f, axis=-1))
    return f


def margin(tau, vocab_size: int, k: int = 1) -> np.ndarray:
    """`μ`, the logit of a possible token minus that of an impossible one, when `k` tokens are equally likely.

    It obeys `e^μ + (a/k)·μ = |V|τ/k² + 1` with `a = |V| − k`; Wright's omega, `ω + log ω = z`, solves it.
    `tau` of any shape, ≥ 0; same shape back. ValueError unless `k < |V|`: no impossible token, no margin.
    """
    if not 1 <= k < vocab_size:
        raise ValueError(f"k must lie in 1 … vocab_size − 1 = {vocab_size - 1}; got {k}")
    ratio = (vocab_size - k) / k
    return np.log(ratio) + np.log(wrightomega((vocab_size * np.asarray(tau, float) / k**2 + 1) / ratio - np.log(ratio)))


def closed_form(tau, vocab_size: int, k: int = 1) -> np.ndarray:
    """`V(c)` at clock `tau` when the next token is one of `k` equally likely ones (`k = 1`: deterministic).

    From `margin` and `Σ_y f_y = 0`: possible logits are `μ·(1 − k/|V|)`, impossible ones `−μ·k/|V|`.

    >>> float(closed_form(0.0, vocab_size=50).round(3))  # before any visit: log 50
    3.912
    """
    if k == vocab_size:  # nothing to push down
        return np.full(np.shape(tau), np.log(vocab_size))
    mu = margin(tau, vocab_size, k)
    return mu * (1 - k / vocab_size) + np.log(k + (vocab_size - k) * np.exp(-mu))


def impossible_token_law(q, tau, vocab_size: int) -> np.ndarray:
    """`V(c) = (1 − k/|V|)·log(|V|τ/k) − (1/|V|)·Σ_{y∈S} log q_y`, what `V(c)` tends to as `τ·min q` grows.

    `q`, the probabilities of one context (S is where `q > 0`, k its size); `tau` of any shape. An asymptote: at
    `τ` of the order of `k·log(|V|/k)` or less use `gradient_flow`.
    """
    q = np.asarray(q, float)[np.asarray(q) > 0]
    share = len(q) / vocab_size
    return (1 - share) * np.log(np.asarray(tau, float) / share) - np.log(q).sum() / vocab_size


def gradient_flow(q, tau, vocab_size: int) -> np.ndarray:
    """Logits of the table at the clocks `tau`, from zero: [contexts, times, k+1]; the last column is any other token.

    `q` [contexts, k], probabilities of the first k tokens: rows sum to one, zeros are allowed; `tau` [contexts, times],
    positive, increasing. ValueError for others. Contexts with equal `q` are solved once, over `log(1 + τ)`.
    """
    q, tau = np.atleast_2d(np.asarray(q, float)), np.atleast_2d(np.asarray(tau, float))
    if q.shape[-1] > vocab_size or (q < 0).any() or not np.allclose(q.sum(-1), 1):
        raise ValueError("q must be [contexts, k ≤ vocab_size] with non-negative rows that sum to one")
    if len(tau) != len(q) or not (np.diff(tau, prepend=0.0) > 0).all():  # NaN would be waited for without end
        raise ValueError("tau must be [contexts, times], one row for each row of q, positive and increasing")
    count = np.append(np.ones(q.shape[-1]), vocab_size - q.shape[-1])  # tokens a column

    def slope(u, f, q):
        e = np.exp(f)
        return np.exp(u) * (q - e / (count @ e))

    def diagonal(u, f, q):  # the Jacobian is this and a product of two vectors; Newton's steps do well without that
        e = np.exp(f)
        return -np.exp(u) * e[None] / (count @ e)

    f = np.empty((*tau.shape, len(count)))
    different, which = np.unique(np.pad(q, ((0, 0), (0, 1))), axis=0, return_inverse=True)
    for number, row in enumerate(different):
        mine = which.ravel() == number
        u, place = np.unique(np.log1p(tau[mine]), return_inverse=True)
        stiff = {"method": "LSODA", "jac": diagonal, "lband": 0, "uband": 0}
        steps = solve_ivp(slope, (0, u[-1]), 0 * row, t_eval=u, args=(row,), rtol=1e-10, atol=1e-10, **stiff)
        f[mine] = steps.y.T[place.reshape(tau[mine].shape)]
    return f


def tabular_learner(conditionals, tau, vocab_size: int) -> TabularLearner:
    """The finite-time table of a whole language: `V(c)` and `KL(q ‖ p̂)` for contexts with any number of tokens.

    `conditionals`, one 1-D array of probabilities a context (zeros are dropped); `tau` [contexts, times] as in
    `gradient_flow`, usually `p(c)` times the training times. Contexts with the same probabilities, in whatever
    order and up to rounding, are solved together.
    """
    tau, alike = np.asarray(tau, float), {}
    for row, q in enumerate(conditionals):
        q = np.sort(np.asarray(q, float)[np.asarray(q) > 0])
        alike.setdefault(q.round(12).tobytes(), (q, []))[1].append(row)
    V, kl = np.empty(tau.shape), np.empty(tau.shape)
    for q, rows in alike.values():
        f = gradient_flow(np.tile(q, (len(rows), 1)), tau[rows], vocab_size)
        V[rows] = logsumexp(f, axis=-1, b=np.append(np.ones(len(q)), vocab_size - len(q)))
        kl[rows] = V[rows] - f[..., :-1] @ q + q @ np.log(q)
    return TabularLearner(V, kl)


def slope(q, first: float, last: float, vocab_size: int) -> float:
    """How much V rises for a nat of log τ, and so of log p(c), where `q` comes next: fitted from `first` to `last`."""
    tau = np.geomspace(first, last, 21)
    return float(np.polyfit(np.log(tau), tabular_learner([q], tau[None], vocab_size).log_partition[0], 1)[0])


def escape_probability(logits, met) -> np.ndarray:
    """The probability that rows of `logits` […, |V|] keep for the tokens never `met`, a mask that broadcasts: […]."""
    return (softmax(logits, axis=-1) * ~np.asarray(met)).sum(-1)


def sgd(conditionals, visits, vocab_size: int, rate: float = 1.0, seed: int = 0) -> SampledTable:
    """Train a table on one drawn token at a time: `f += rate·(1_token − p̂)` in the row of its context, from zero.

    `conditionals`, probabilities of the first tokens, one array a context; `visits`, how many tokens to draw after
    each. Between rows nothing is shared, so they take their steps side by side. The clock is `τ = rate × visits`.
    """
    rng, visits = np.random.default_rng(seed), np.asarray(visits)
    drawn = [rng.choice(len(q), n, p=q) for q, n in zip(conditionals, visits, strict=True)]
    f, met = np.zeros((len(drawn), vocab_size)), np.zeros((len(drawn), vocab_size), bool)
    for step in range(visits.max()):
        rows = np.flatnonzero(step < visits)
        tokens = [drawn[c][step] for c in rows]
        f[rows] -= rate * softmax(f[rows], axis=-1)
        f[rows, tokens] += rate
        met[rows, tokens] = True
    return SampledTable(f, met)


def slope_at_equal_kl(table: TabularLearner, log_p, kl: float) -> float:
    """Slope of the table's `V` on `log_p` [contexts], at the time when its mean KL is `kl`; NaN if it never is."""
    x = np.asarray(log_p, float) - np.mean(log_p)
    return float(np.interp(-kl, -table.kl.mean(0), x @ table.log_partition / (x @ x), np.nan, np.nan))
