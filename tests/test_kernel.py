"""What networks share: claims of notebook 07, by other routes than the notebook's."""

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from scipy.special import logsumexp, softmax

from utils.kernel import (
    adamw_limit,
    class_kernel,
    early_log_partition,
    kernel_clock,
    kernel_flow,
    max_margin,
    random_kernel,
)  # fmt: skip
from utils.tabular import closed_form, gradient_flow

SIZE = 6  # |V|


@pytest.fixture(scope="module")
def language():
    """Features, p and q of nine contexts: one, two or all tokens possible, unevenly; the last is never visited."""
    rng = np.random.default_rng(0)
    p, q = rng.uniform(0.01, 1, 9), rng.uniform(0.1, 1, (9, SIZE))
    p[-1] = 0
    q[:3, 1:], q[3:6, 2:] = 0, 0
    return rng.normal(size=(9, 5)) / 5**0.5, p / p.sum(), q / q.sum(-1, keepdims=True)


def certain(contexts, seed=0):
    """The ids of the certain tokens, and their q."""
    truth = np.random.default_rng(seed).integers(SIZE, size=contexts)
    return truth, np.eye(SIZE)[truth]


def wrong_mass(f, truth):
    """`1 − p̂(truth)`, without taking it from 1."""
    p_hat = softmax(f, axis=-1)
    p_hat[..., np.arange(len(truth)), truth] = 0
    return p_hat.sum(-1)


@pytest.mark.parametrize("time", [5.0, 60.0])
def test_the_flow_is_what_small_steps_of_gradient_descent_do_to_the_weights(language, time):
    features, p, q = language
    W = torch.zeros(SIZE, 5, dtype=torch.float64, requires_grad=True)
    phi, weight, target = (torch.tensor(x) for x in language)
    for _ in range(round(time / 0.02)):
        f = phi @ W.T
        loss = weight @ torch.nn.functional.cross_entropy(f, target, reduction="none")
        (gradient,) = torch.autograd.grad(loss, W)
        W.data -= 0.02 * gradient
    flow = kernel_flow(features @ features.T, p, q, [time / 2, time])[-1]
    assert np.abs(flow - (phi @ W.T).detach().numpy()).max() < 3e-3 < np.abs(flow).max() / 100
    assert np.abs(flow[-1]).max() > 0.01  # the context that is never visited moves with the others
    assert np.abs(flow.sum(-1)).max() < 1e-9  # the centred gauge


def test_with_nothing_shared_it_is_the_table(language):
    _, p, q = language
    times = np.logspace(-1, 6, 8)
    f = kernel_flow(np.eye(8), p[:8], q[:8], times)
    table = gradient_flow(q[:8], np.outer(p[:8], times), SIZE)
    assert np.abs(f - table.swapaxes(0, 1)[..., :SIZE]).max() < 1e-5


def test_contexts_of_one_class_read_one_clock_and_it_counts_paraphrases():
    classes = np.repeat([0, 1, 2], [1, 4, 7])
    p, times = np.random.default_rng(1).uniform(0.01, 1, 12), np.logspace(-1, 6, 15)
    V = logsumexp(kernel_flow(class_kernel(classes), p, np.eye(SIZE)[classes], times), axis=-1)
    together = np.array([p[classes == c].sum() for c in classes])
    assert np.allclose(kernel_clock(class_kernel(classes), p), together)
    assert np.abs(V - closed_form(np.outer(times, together), SIZE)).max() < 1e-5
    assert np.abs(V - closed_form(np.outer(times, p), SIZE)).max() > 1


def test_the_early_formula_is_right_to_its_order(language):
    features, p, q = language
    kernel, times = features @ features.T, np.array([0.01, 0.02, 0.04])
    rise = logsumexp(kernel_flow(kernel, p, q, times), axis=-1) - np.log(SIZE)
    error = np.abs((early_log_partition(kernel, p, q, times) - np.log(SIZE)) / rise - 1).max(-1)
    assert error[0] < 0.02 and np.allclose(error[1:] / error[:-1], 2, atol=0.1)  # what is left out is of order t³


@pytest.mark.parametrize("share", [0.3, 0.9])
def test_the_margin_is_what_a_solver_of_the_primal_problem_finds(share):
    kernel, (truth, _) = random_kernel(7, share, 4, np.random.default_rng(2)), certain(7)
    features = np.linalg.cholesky(kernel)  # any features with this kernel
    wrong = np.arange(SIZE) != truth[:, None]

    def slack(w):
        f = features @ w.reshape(SIZE, 7).T
        return (f[np.arange(7), truth][:, None] - f)[wrong] - 1

    found = minimize(lambda w: w @ w / 2, np.zeros(SIZE * 7), jac=lambda w: w, method="SLSQP",
                     constraints={"type": "ineq", "fun": slack}, options={"maxiter": 1000, "ftol": 1e-12})  # fmt: skip
    assert found.success
    limit = max_margin(kernel, truth, SIZE)
    assert np.abs(features @ found.x.reshape(SIZE, 7).T - limit.logits).max() < 1e-4
    margins = (limit.logits[np.arange(7), truth][:, None] - limit.logits)[wrong]
    assert margins.min() > 1 - 1e-9 and np.abs(limit.duals[wrong] * (margins - 1)).max() < 1e-9
    assert (limit.duals >= 0).all() and (limit.duals[~wrong] == 0).all()


def test_late_training_follows_the_margin_and_its_duals_whatever_p_is():
    kernel, (truth, q) = random_kernel(10, 0.6, 4, np.random.default_rng(3)), certain(10)
    limit = max_margin(kernel, truth, SIZE)
    for seed in (0, 1):
        p = np.random.default_rng(seed).permutation(np.logspace(-2, 0, 10))
        f = kernel_flow(kernel, p, q, [1e9, 1e10])
        gained = (f[1] - f[0]) / np.log(10)
        assert np.abs(gained - limit.logits).max() < 0.05
        assert np.abs(np.log(p * 1e10 * wrong_mass(f[1], truth) / limit.duals.sum(-1))).max() < 0.1


@pytest.mark.parametrize(("n", "overlap"), [(2, 0.9), (4, 0.7), (8, 0.9)])
def test_paraphrases_that_differ_forget_each_other_at_a_power_of_time(n, overlap):
    p, times = 1 + 0.02 * np.linspace(-1, 1, n), 10.0 ** np.arange(4, 9)
    f = kernel_flow(class_kernel(np.zeros(n), overlap), p, np.eye(SIZE)[np.zeros(n, int)], times)
    own = np.polyfit(np.log(p), logsumexp(f, axis=-1).T, 1)[0]
    power = -np.diff(np.log(1 - own / (1 - 1 / SIZE))) / np.log(10)
    assert np.abs(power - (1 - overlap) / (1 + (n - 1) * overlap)).max() < 2e-3


@pytest.mark.parametrize("decay", [0.4, 0.25])
def test_adamw_on_exact_gradients_ends_where_the_formula_says_whatever_p_is(decay):
    ks, weight = (1, 2, 5), torch.logspace(-3, 0, 4, dtype=torch.float64).repeat(3)
    q = torch.zeros(12, SIZE, dtype=torch.float64)
    for row, k in enumerate(np.repeat(ks, 4)):
        q[row, :k] = 1 / k
    f = torch.zeros(12, SIZE, dtype=torch.float64, requires_grad=True)
    step = torch.optim.AdamW([f], lr=0.01, betas=(0.9, 0.95), eps=1e-16, weight_decay=decay)
    for _ in range(4000):
        f.grad = weight[:, None] * (f.detach().softmax(-1) - q)
        step.step()
    V = f.detach().logsumexp(-1).view(3, 4).numpy()
    assert np.abs(V - np.array([[adamw_limit(SIZE, k, decay)] for k in ks])).max() < 2e-3


def test_random_kernels_have_a_private_part_and_ones_on_the_diagonal():
    kernel = random_kernel(30, 0.9, 5, np.random.default_rng(4))
    assert np.allclose(np.diag(kernel), 1) and np.linalg.eigvalsh(kernel)[0] == pytest.approx(0.1)


@pytest.mark.parametrize(("call", "arguments", "words"), [
    (kernel_flow, (np.eye(3), [1, 1], np.eye(2), [1.0]), "kernel must be"),
    (kernel_flow, (np.eye(2), [1, -1], np.eye(2), [1.0]), "kernel must be"),
    (kernel_flow, (np.eye(2), [1, 1], 2 * np.eye(2), [1.0]), "q must have"),
    (kernel_flow, (np.eye(2), [1, 1], np.eye(2), [2.0, 1.0]), "times must be"),
    (max_margin, (np.ones((2, 2)), [0, 1], 3), "kernel must be positive definite"),
])  # fmt: skip
def test_what_makes_no_sense_is_refused(call, arguments, words):
    with pytest.raises(ValueError, match=words):
        call(*arguments)
