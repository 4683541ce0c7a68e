"""What gradient descent does to a table of logits: claims of notebook 06, against plain simulation."""

import time
import warnings

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp

from utils import tabular
from utils.almanac import Almanac
from utils.tabular import (
    closed_form,
    gradient_flow,
    impossible_token_law,
    margin,
    power_law,
    sgd,
    tabular_learner,
)

SIZE = 50  # |V|
VISITS = np.logspace(-2, 0, 12)  # p(c) up to a constant: two decades


def uneven(k, seed=0):
    """k probabilities, none more than three times another."""
    weights = np.random.default_rng(seed).uniform(0.5, 1.5, k)
    return weights / weights.sum()


def descend(q, p, steps, rate):
    """Plain full-batch gradient descent on every logit of the table; returns logits [C, |V|]."""
    q = np.pad(q, (0, SIZE - len(q)))
    f = np.zeros((len(p), SIZE))
    for _ in range(steps):
        e = np.exp(f)
        f += rate * p[:, None] * (q - e / e.sum(-1, keepdims=True))
    return f


def log_partition(f):
    return np.log(np.exp(f).sum(-1))


@pytest.fixture(scope="module")
def measured():
    """V of the simulated table at five supports (and all tokens), and the clocks τ = p(c)·t."""
    return {k: log_partition(descend(uneven(k), VISITS, 25000, 2.0)) for k in (1, 5, 25, 45, SIZE)}, VISITS * 50000


def test_the_closed_form_is_what_gradient_descent_does_to_a_deterministic_context():
    for steps, rate in ((100, 0.005), (2000, 0.005), (20000, 0.005), (20000, 0.1)):  # small steps while it bends
        simulated = log_partition(descend(np.ones(1), VISITS, steps, rate))
        assert np.abs(simulated - closed_form(rate * steps * VISITS, SIZE)).max() < 1e-3


@pytest.mark.parametrize("k", [2, 7, 49])
def test_the_closed_form_and_the_margin_hold_for_any_number_of_equally_likely_tokens(k):
    simulated = descend(np.full(k, 1 / k), VISITS, 5000, 0.02)
    assert np.abs(log_partition(simulated) - closed_form(100 * VISITS, SIZE, k)).max() < 1e-3
    assert np.abs(simulated[:, 0] - simulated[:, -1] - margin(100 * VISITS, SIZE, k)).max() < 1e-3
    assert np.allclose(closed_form(np.logspace(-3, 6, 30), SIZE, SIZE), np.log(SIZE), atol=1e-12)


@pytest.mark.parametrize("size", [50, 1536, 50257])
def test_the_solver_agrees_with_the_closed_form_over_nine_decades(size):
    tau = np.logspace(-3, 6, 19)
    for k in (1, 5, 45):
        f = gradient_flow(np.full((1, k), 1 / k), tau[None], size)[0]
        assert np.abs(f[:, :k].sum(-1) + (size - k) * f[:, -1]).max() < 1e-9 * size  # the centred gauge
        V = np.log(k * np.exp(f[:, 0]) + (size - k) * np.exp(f[:, -1]))
        assert np.abs(V - closed_form(tau, size, k)).max() < 1e-6


def test_the_solver_agrees_with_an_independent_one_where_nothing_is_even():
    q, tau, size = 1 / np.arange(1, 21), np.logspace(-2, 5, 15), 1536
    q /= q.sum()
    count, full = np.append(np.ones(20), size - 20), np.append(q, 0)

    def slope(log_tau, f):
        weights = np.exp(f - f.max())
        return np.exp(log_tau) * (full - weights / (count * weights).sum())

    first, times = tau[0] * (full - 1 / size), np.log(tau)
    truth = solve_ivp(slope, times[[0, -1]], first, "Radau", times, rtol=1e-9, atol=1e-11).y.T
    assert np.abs(gradient_flow(q, tau, size)[0] - truth).max() < 1e-6


def test_the_solver_agrees_with_brute_force_gradient_descent_logit_by_logit():
    for k in (3, 20, SIZE):
        f = gradient_flow(np.tile(uneven(k), (12, 1)), 40 * VISITS[:, None], SIZE)[:, 0]
        simulated = descend(uneven(k), VISITS, 4000, 0.01)
        assert np.abs(f[:, :k] - simulated[:, :k]).max() < 2e-3
        assert k == SIZE or np.abs(f[:, -1] - simulated[:, -1]).max() < 2e-3


@pytest.mark.parametrize("k", [1, 5, 25, 45, SIZE])
def test_the_impossible_token_law_and_its_slope_and_a_full_support_forgets_the_joint(measured, k):
    V, tau = measured[0][k], measured[1]
    assert np.abs(V - impossible_token_law(uneven(k), tau, SIZE)).max() < 0.07
    assert np.polyfit(np.log(tau), V, 1)[0] == pytest.approx(1 - k / SIZE, abs=0.02)


def test_the_law_counts_only_what_is_possible_and_is_worked_out_in_double_precision():
    assert impossible_token_law([0.5, 0.5, 0.0], 1000, SIZE) == impossible_token_law([0.5, 0.5], 1000.0, SIZE)
    assert impossible_token_law(np.float32([0.25, 0.75]), np.float32([1000]), SIZE).dtype == np.float64


def test_the_law_is_only_an_asymptote_and_the_finite_time_table_knows():
    tau, k, size = np.logspace(2, np.log10(2000), 12), 50, 2000
    assert np.polyfit(np.log(tau), closed_form(tau, size, k), 1)[0] > 1 - k / size + 0.1


def test_a_context_has_one_possible_token_unless_you_say_otherwise_and_shapes_come_back():
    tau = np.array([[1.0, 10.0], [100.0, 1000.0]])
    for function in (margin, closed_form):
        np.testing.assert_array_equal(function(tau, SIZE), function(tau, SIZE, 1))
    assert closed_form(tau, SIZE, SIZE).shape == tau.shape and (closed_form(tau, SIZE, SIZE) == np.log(SIZE)).all()
    np.testing.assert_array_equal(power_law(9), power_law(9, 1.0))
    for ours, stated in zip(sgd([uneven(4)], [30], 9), sgd([uneven(4)], [30], 9, rate=1.0, seed=0), strict=True):
        np.testing.assert_array_equal(ours, stated)


def test_contexts_with_one_conditional_share_one_curve_in_visits():
    early, late = descend(uneven(5), np.array([1.0]), 300, 0.1), descend(uneven(5), np.array([0.01]), 30000, 0.1)
    assert np.abs(early - late).max() < 0.01  # the same clock τ = 30, a hundred times further apart in t
    other = descend(uneven(5), np.array([0.01]), 300, 0.1)
    assert np.abs(log_partition(early) - log_partition(other)).max() > 0.5  # the same t is not the same curve


def test_contexts_are_solved_side_by_side_as_alone_zeros_and_all_and_without_a_warning():
    q = np.array([[0.7, 0.3, 0.0], [0.2, 0.3, 0.5], [0.7, 0.3, 0.0]])
    tau = np.array([[1.0, 20.0, 400.0], [3.0, 4.0, 5.0], [2.0, 90.0, 91.0]])
    with warnings.catch_warnings(action="error"):
        f = gradient_flow(q, tau, SIZE)
    for row in range(3):
        np.testing.assert_allclose(f[row], gradient_flow(q[row], tau[row], SIZE)[0], atol=1e-7)
    np.testing.assert_allclose(f[0, :, 2], f[0, :, 3], atol=1e-7)  # a token of probability zero is like any other


def test_a_language_of_mixed_contexts_is_solved_context_by_context():
    rng = np.random.default_rng(1)
    conditionals = [uneven(k, seed=k) for k in (1, 2, 3, 5, 9, 17, SIZE)] + [np.full(4, 0.25), np.full(SIZE, 1 / SIZE)]
    tau = np.cumsum(rng.uniform(1, 30, (len(conditionals), 4)), -1)
    table = tabular_learner(conditionals, tau, SIZE)
    for row, q in enumerate(conditionals):
        f = gradient_flow(q, tau[row], SIZE)[0]
        V = np.log(np.exp(f[:, :-1]).sum(-1) + (SIZE - len(q)) * np.exp(f[:, -1]))
        assert np.abs(table.log_partition[row] - V).max() < 1e-6
        assert np.abs(table.kl[row] - (q * (np.log(q) - f[:, :-1] + V[:, None])).sum(-1)).max() < 1e-6
    assert (np.diff(table.kl[:-1]) < 0).all()  # it learns (the last one has nothing to learn)
    padded = tabular_learner([np.pad(q, (0, SIZE - len(q))) for q in conditionals], tau, SIZE)
    assert np.array_equal(padded.log_partition, table.log_partition)


def test_the_table_of_a_real_finite_language_takes_seconds():
    almanac, rng = Almanac("train"), np.random.default_rng(0)
    mass = almanac.mass
    inner = [node for node, after in enumerate(almanac.children) if after and mass[node] > 0]
    some = rng.choice(inner, 5000, replace=False)
    conditionals = [mass[list(almanac.children[node].values())] / mass[node] for node in some]
    start = time.process_time()
    table = tabular_learner(conditionals, mass[some, None] * np.logspace(2, 8, 13), almanac.vocab_size)
    assert time.process_time() - start < 20
    assert (table.log_partition > np.log(almanac.vocab_size) - 1e-6).all() and (table.kl > -1e-6).all()  # K ≥ 0


def linearised(q, tau, steps=20000):
    """Logits at clock `tau` by another route: `w = e^(−f)` obeys `dw/dτ = 1/Z − q·w`, linear once `Z = Σ_y 1/w_y` is
    held for a short step, and then solved by an exponential. No solver, no stiffness."""
    w, clock = np.ones(len(q)), np.expm1(np.linspace(0, np.log1p(tau), steps))
    for step in np.diff(clock):
        decay, start = np.exp(-q * step), 1 / (1 / w).sum()
        first = decay * w + (1 - decay) / q * start
        w = decay * w + (1 - decay) / q * (start + 1 / (1 / first).sum()) / 2
    return -np.log(w)


@pytest.mark.parametrize("alpha", [1.5, 2.0, 3.0])
def test_in_a_tail_the_slope_is_one_less_one_over_alpha_because_k_is_the_number_met_so_far(alpha):
    size, tau = 1536, np.logspace(2, 4, 21)  # the window that notebook 06 states
    q = power_law(size, alpha)
    V = tabular_learner([q], tau[None], size).log_partition[0]
    assert np.polyfit(np.log(tau), V, 1)[0] == pytest.approx(1 - 1 / alpha, abs=0.06)
    k_tau = (q[:, None] * tau >= 1).sum(0)
    assert np.polyfit(np.log(tau), np.log(k_tau), 1)[0] == pytest.approx(1 / alpha, abs=0.06)
    assert np.polyfit(np.log(tau), V - np.log(tau / k_tau), 1)[0] == pytest.approx(0, abs=0.1)


@pytest.mark.parametrize("alpha", [1.5, 3.0])
def test_a_tail_is_solved_as_by_exponentials_without_a_solver(alpha):
    q = power_law(300, alpha)
    f = linearised(q, 1000.0)
    assert np.abs(gradient_flow(q, [1000.0], 300)[0, 0, :-1] - f).max() < 2e-3
    assert tabular_learner([q], [[1000.0]], 300).log_partition[0, 0] == pytest.approx(log_partition(f), abs=2e-3)


def test_power_laws_are_probabilities_that_fall_with_rank():
    q = power_law(7, 2.0)
    assert q.sum() == pytest.approx(1) and q[1] / q[0] == pytest.approx(1 / 4) and q[6] / q[0] == pytest.approx(1 / 49)


def test_the_course_s_own_descent_is_a_step_on_each_logit_at_the_context_s_rate():
    q, p = uneven(5), np.array([1.0, 0.1])
    assert np.allclose(tabular.descend(np.pad(q, (0, SIZE - 5)), p, time=30, rate=0.1), descend(q, p, 300, 0.1))
    both = np.stack([np.eye(SIZE)[3], np.full(SIZE, 1 / SIZE)])
    f = tabular.descend(both, p, time=9, rate=0.5)
    assert f[0].argmax() == 3 and np.allclose(f[1], 0)  # each context its own truth; nothing to learn, nothing moves


def test_uneven_conditionals_are_uneven_within_a_factor_of_three():
    for k in (2, 5, 45):
        q = tabular.uneven(k)
        assert q.sum() == pytest.approx(1) and 1.01 < q.max() / q.min() < 3 and (q == tabular.uneven(k)).all()


def test_a_slope_is_that_of_the_closed_form_between_the_two_clocks():
    for first, last in ((10, 100), (1e4, 1e6)):
        rise = np.diff(closed_form([first, last], SIZE, 5))[0] / np.log(last / first)
        assert tabular.slope(np.full(5, 0.2), first, last, SIZE) == pytest.approx(rise, abs=0.06)


def test_escape_probability_is_that_of_the_tokens_never_met():
    f = np.log([[50, 30, 20], [0.1, 0.1, 0.8]])  # any constant in a row
    assert tabular.escape_probability(f, [[True, False, False], [True, True, True]]) == pytest.approx([0.5, 0])
    assert tabular.escape_probability(f, [False, False, True]) == pytest.approx([0.8, 0.2])
    assert tabular.escape_probability(f[0], [False, False, True]) == pytest.approx(0.8)  # one row, or rows of rows
    assert tabular.escape_probability([f, f], [False, False, True]) == pytest.approx(np.array([[0.8, 0.2]] * 2))


def one_at_a_time(tokens, size, rate):
    """A row by hand: probabilities first, then the gradient of the loss −log p̂(token) for each logit in turn."""
    f = [0.0] * size
    for token in tokens:
        total = sum(np.exp(value) for value in f)
        f = [value - rate * (np.exp(value) / total - (y == token)) for y, value in enumerate(f)]
    return np.array(f)


def test_sampled_training_is_a_gradient_step_a_visit_in_the_visited_row_alone():
    q, visits = [np.ones(1), uneven(3), uneven(3)], [4, 9, 0]
    table = sgd(q, visits, 6, rate=0.7, seed=5)
    rng = np.random.default_rng(5)
    for row, (conditional, n) in enumerate(zip(q, visits, strict=True)):
        tokens = rng.choice(len(conditional), n, p=conditional)
        assert np.allclose(table.logits[row], one_at_a_time(tokens, 6, 0.7))
        assert np.flatnonzero(table.met[row]).tolist() == sorted({*tokens.tolist()})


@pytest.mark.parametrize("k", [1, 5, 25, 45])
def test_the_mass_left_for_tokens_never_met_is_types_over_visits(k):
    """`(1 − k/|V|)·k/τ` for the flow; the same for drawn tokens, in the mean over rows, with τ = rate × visits."""
    law = (1 - k / SIZE) * k / 1000
    f = gradient_flow(uneven(k), [1000.0], SIZE)[0, 0]
    all_of = np.append(f[:k], np.full(SIZE - k, f[-1]))
    assert np.exp(all_of[k:] - np.log(np.exp(all_of).sum())).sum() == pytest.approx(law, rel=0.05)
    f, met = sgd([uneven(k)] * 60, [1000] * 60, SIZE, rate=1.0, seed=0)
    p = np.exp(f) / np.exp(f).sum(-1, keepdims=True)
    assert (met.sum(-1) == k).all() and (p * ~met).sum(-1).mean() == pytest.approx(law, rel=0.1)
    slow = sgd([uneven(k)] * 5, [4000] * 5, SIZE, rate=0.25, seed=1)  # the same clock, four times the visits
    p = np.exp(slow.logits) / np.exp(slow.logits).sum(-1, keepdims=True)
    assert (p * ~slow.met).sum(-1).mean() == pytest.approx(law, rel=0.1)


def test_a_table_surprises_as_much_as_its_log_partition_says():
    f, met = sgd([np.ones(1), power_law(10), power_law(10)], [1000, 100, 2000], 1536)
    V, escape = log_partition(f), (np.exp(f) * ~met).sum(-1) / np.exp(f).sum(-1)
    assert np.abs(V - np.log(1536) + np.log(escape)).max() < 0.1 and np.ptp(V) > 3


def network(tied):
    """One-hidden-layer predictor of the next of 20 tokens, in float64."""
    torch.manual_seed(0)
    embed, middle = torch.nn.Embedding(20, 16), torch.nn.Linear(16, 16)
    head = torch.nn.Linear(16, 20, bias=False)
    if tied:
        head.weight = embed.weight
    return torch.nn.Sequential(embed, middle, torch.nn.Tanh(), head).double(), head.weight


@pytest.mark.parametrize(
    ("optimizer", "tied", "options", "conserved"),
    [("SGD", False, {}, True), ("SGD", False, {"momentum": 0.9}, True), ("SGD", True, {}, False),
     ("SGD", False, {"weight_decay": 1e-2}, False), ("Adam", False, {}, False), ("AdamW", False, {}, False)],
)  # fmt: skip
def test_the_mean_output_row_is_conserved_by_sgd_with_an_untied_head_alone(optimizer, tied, options, conserved):
    model, head = network(tied)
    before = head.detach().mean(0).clone()
    step = getattr(torch.optim, optimizer)(model.parameters(), lr=0.1 if optimizer == "SGD" else 0.01, **options)
    generator = torch.Generator().manual_seed(1)
    for _ in range(300):
        x = torch.randint(20, (32,), generator=generator)
        loss = torch.nn.functional.cross_entropy(model(x), (3 * x + 1) % 20)
        step.zero_grad()
        loss.backward()
        step.step()
    change = (head.detach().mean(0) - before).abs().max()
    assert change < 1e-12 if conserved else change > 1e-4


@pytest.mark.parametrize(("call", "arguments"), [
    (closed_form, (1.0, 10, 11)), (margin, (1.0, 10, 10)),
    (gradient_flow, ([0.5, 0.4], [1.0], 10)), (gradient_flow, ([1.5, -0.5], [1.0], 10)),
    (gradient_flow, ([0.5, 0.5], [1.0], 1)),
    (gradient_flow, ([0.5, 0.5], [2.0, 1.0], 10)), (gradient_flow, ([0.5, 0.5], [0.0, 1.0], 10)),
    (gradient_flow, ([0.5, 0.5], [1.0, np.nan], 10)),
])  # fmt: skip
def test_what_makes_no_sense_is_refused(call, arguments):
    with pytest.raises(ValueError, match=r"k must|q must|tau must"):
        call(*arguments)
