"""The kernel clock: what becomes of the clock of `tabular` when contexts share parameters.

Logits are linear in features, `f(c) = W φ(c)`, from `W = 0` by gradient flow on `Σ_c p(c)·cross-entropy(c)`. Then
`df(c)/dt = Σ_c' k(c, c')·p(c')·(q − p̂)(c')` with the kernel `k(c, c') = ⟨φ(c), φ(c')⟩`: what is learned in one context
is learned in all that resemble it. Still `Σ_y f_y(c) = 0`, so `m(c) = 0` and `V(c) = log |V| + K(c)`; with the identity
as kernel this is the table. Kernels are [contexts, contexts], `p` [contexts], `q` [contexts, |V|]. Nats.
"""

from typing import NamedTuple

import numpy as np
from scipy.integrate import solve_ivp
from scipy.optimize import nnls
from scipy.special import softmax


class MaxMargin(NamedTuple):
    """Where training goes when one token is certain everywhere; both [contexts, |V|]."""

    logits: np.ndarray  # f̂, what f gains per nat of log t: all margins f̂(truth) − f̂(y) ≥ 1, at the least norm of W
    duals: np.ndarray  # α ≥ 0 of each wrong token, the limit of p(c)·t·p̂; above 0 only where the margin is exactly 1


def class_kernel(classes, overlap: float = 1.0) -> np.ndarray:
    """Contexts of one class share `overlap` of their features, others nothing; ones on the diagonal.

    >>> class_kernel(["a", "a", "b"], overlap=0.5).tolist()
    [[1.0, 0.5, 0.0], [0.5, 1.0, 0.0], [0.0, 0.0, 1.0]]
    """
    classes = np.asarray(classes)
    return (1 - overlap) * np.eye(len(classes)) + overlap * (classes[:, None] == classes)


def random_kernel(contexts: int, share: float, dimensions: int, rng) -> np.ndarray:
    """`(1 − σ)·I + σ·ΦΦᵀ`, a private part and a `share` σ of directions drawn at random from the unit sphere."""
    features = rng.normal(size=(contexts, dimensions))
    features /= np.linalg.norm(features, axis=-1, keepdims=True)
    return (1 - share) * np.eye(contexts) + share * features @ features.T


def kernel_clock(kernel, p) -> np.ndarray:
    """`Σ_c' k(c, c')·p(c')`: how often a context is visited, visits to its likes included. [contexts]."""
    return np.asarray(kernel, float) @ np.asarray(p, float)


def kernel_flow(kernel, p, q, times) -> np.ndarray:
    """Logits under gradient flow from zero, at the training times `times` (positive, increasing): [times, C, |V|].

    A context with `p = 0` is never trained on, and moves with its likes. Solved over `log(1 + t)` for what each
    context has pushed, `∫ p·(q − p̂) dt`. ValueError if shapes do not fit, `q` is no probability, or times go back.
    """
    kernel, p, q, times = (np.asarray(x, float) for x in (kernel, p, q, times))
    if q.ndim != 2 or p.shape != q.shape[:1] or kernel.shape != 2 * p.shape or (p < 0).any():
        raise ValueError("kernel must be [C, C], p [C] without negative entries, q [C, |V|]")
    if (q < 0).any() or not np.allclose(q.sum(-1), 1):
        raise ValueError("q must have non-negative rows that sum to one")
    if times.ndim != 1 or (np.diff(times, prepend=0.0) <= 0).any():
        raise ValueError("times must be positive and increasing")

    def slope(u, pushed):
        return np.exp(u) * (p[:, None] * (q - softmax(kernel @ pushed.reshape(q.shape), axis=-1))).ravel()

    def jacobian(u, pushed):  # it is stiff where several tokens are possible
        p_hat = softmax(kernel @ pushed.reshape(q.shape), axis=-1)
        within = p_hat[:, :, None] * p_hat[:, None] - np.eye(q.shape[1]) * p_hat[:, :, None]  # −∂p̂/∂f: [C, |V|, |V|]
        return np.einsum("c,cyz,cd->cydz", np.exp(u) * p, within, kernel).reshape(q.size, q.size)

    u = np.log1p(times)
    steps = solve_ivp(slope, (0, u[-1]), np.zeros(q.size), "LSODA", u, jac=jacobian, rtol=1e-8, atol=1e-9)
    return kernel @ steps.y.T.reshape(len(times), *q.shape)


def early_log_partition(kernel, p, q, times) -> np.ndarray:
    """`V ≈ log|V| + t²/(2|V|)·Σ_y (Σ_c' k·p·(q_y − 1/|V|))²`, while logits are far below 1: [times, C]."""
    size = np.shape(q)[-1]
    push = np.asarray(kernel, float) @ (np.asarray(p, float)[:, None] * (np.asarray(q, float) - 1 / size))
    return np.log(size) + np.asarray(times, float)[:, None] ** 2 / (2 * size) * (push**2).sum(-1)


def max_margin(kernel, truth, vocab_size: int) -> MaxMargin:
    """The limit of `kernel_flow` when token `truth[c]` is certain after `c`, `f(c) ≈ f̂(c)·log t`. No `p` is in it.

    The multiclass support vector problem without a bias, in its dual, `min ½αᵀGα − Σα` over `α ≥ 0`, by
    `scipy.optimize.nnls`. ValueError unless `kernel` is positive definite: that makes the data separable, and α unique.
    """
    kernel, truth = np.asarray(kernel, float), np.asarray(truth)
    if np.linalg.eigvalsh(kernel)[0] < 1e-9:
        raise ValueError("kernel must be positive definite; give each context a private part (a share below 1)")
    context, token = np.nonzero(np.arange(vocab_size) != truth[:, None])  # all wrong tokens
    arrows = np.eye(vocab_size)[truth[context]] - np.eye(vocab_size)[token]
    root = np.linalg.cholesky(kernel[context][:, context] * (arrows @ arrows.T))  # of G
    alpha, _ = nnls(root.T, np.linalg.solve(root, np.ones(len(context))))  # |rootᵀα − root⁻¹1|² = αᵀGα − 2Σα + const
    duals, pushes = np.zeros((2, len(truth), vocab_size))
    duals[context, token] = alpha
    np.add.at(pushes, context, alpha[:, None] * arrows)
    return MaxMargin(kernel @ pushes, duals)


def adamw_limit(vocab_size: int, k: int, decay: float) -> float:
    """`V` of a table where AdamW on exact gradients comes to rest, `k` tokens equally likely. There is no `p` in it.

    Possible logits end at `1/λ`, impossible ones at `−1/λ` (Xie & Li 2404.04454). It takes a small learning rate, and
    an `eps` of Adam's that is small beside the last gradients, `p(c)·p̂`.
    """
    return 1 / decay + float(np.log(k + (vocab_size - k) * np.exp(-2 / decay)))
