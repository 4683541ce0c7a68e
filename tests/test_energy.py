"""What `utils.energy` promises, as claims. Tolerances are `8·eps·max(1, max|f|)`, eps that of what it computes in."""

import math
from itertools import pairwise, product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from utils import energy, gauge
from utils.energy import log_partition, potentials, spilled_energy, three_terms, token_energies

SMALL = torch.tensor([[1.0, 2.0, 0.5], [0.0, -1.0, 3.0], [2.0, 2.0, 2.0], [-4.0, 0.0, 1.0]], dtype=torch.float64)
SMALL_IDS = torch.tensor([2, 0, 1, 1])


DTYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16]


@st.composite
def texts(draw):
    """Random logits [T, |V|], up to ±1e4 and in shapes that hurt sums, and ids [T]; drawn by a seeded generator, for
    a Hypothesis list of 50,000 floats would take forever."""
    vocabulary = draw(st.sampled_from([2, 3, 7, 64, 1_000, 50_000, 262_144]) | st.integers(2, 2_000))
    length, dtype = draw(st.integers(2, 5)), draw(st.sampled_from(DTYPES))
    scale = draw(st.sampled_from([1e-3, 1.0, 30.0, 1e4]) | st.floats(0, 1e4))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    noise = torch.randn(length, vocabulary, generator=generator, dtype=torch.float64)
    shapes = {
        "gauss": lambda: noise,
        "uniform": lambda: 2 * torch.rand(length, vocabulary, generator=generator, dtype=torch.float64) - 1,
        "equal": lambda: noise[:, :1].expand(-1, vocabulary),
        "one high": lambda: noise.mul(1e-3).index_fill(-1, torch.tensor([0]), 1.0),
        "one low": lambda: noise.mul(1e-3).index_fill(-1, torch.tensor([vocabulary - 1]), -1.0),
        "offset": lambda: noise * 1e-3 + 1.0,
    }
    f = (shapes[draw(st.sampled_from([*shapes]))]() * scale).clamp(-1e4, 1e4).to(dtype)
    return f, torch.randint(vocabulary, (length,), generator=generator)


def on_random(*drawn):
    return lambda test: settings(max_examples=60, deadline=None)(given(*drawn)(test))


def tolerance(*logits: torch.Tensor) -> float:
    """`8·eps·max(1, max|f|)`, eps that of float32 at least, and for what float64 itself can hold of an energy of size
    `max|f| + log|V|`."""
    largest = max(float(f.abs().max()) for f in logits)
    held = torch.finfo(torch.float64).eps * (largest + math.log(logits[0].shape[-1]))
    computed_in = torch.promote_types(logits[0].dtype, torch.float32)
    return 8 * torch.finfo(computed_in).eps * max(1.0, largest) + 4 * held


def assert_close(a, b, atol):
    worst = float((torch.as_tensor(a).double() - torch.as_tensor(b).double()).abs().max())
    assert worst <= atol, f"differ by {worst:.3g}, allowed {atol:.3g}"


@on_random(texts())
def test_every_identity_of_the_notation_table_holds(text):
    f, ids = text
    e, p = token_energies(f, ids), potentials(f)
    assert_close(e.spilled[1:], (e.logprob + e.log_partition_before - e.log_partition_after)[1:], tolerance(f))
    assert_close(e.spilled[1:], spilled_energy(f, ids), tolerance(f))
    assert_close(sum(three_terms(f, ids)), spilled_energy(f, ids), tolerance(f))
    assert_close(p.log_partition, p.mean_logit + math.log(f.shape[-1]) + p.self_certainty, tolerance(f))
    assert (p.self_certainty >= 0).all() and (p.entropy >= 0).all() and (p.max_logprob <= 0).all()


@on_random(texts())
def test_spills_telescope_to_the_sequence_log_probability(text):
    f, ids = text
    e, spilled = token_energies(f, ids), spilled_energy(f, ids).sum()
    telescoped = e.logprob[1:].sum() + e.log_partition_after[0] - e.log_partition_after[-1]
    assert_close(spilled, telescoped, tolerance(f) * len(ids))
    exact, v = f.double().log_softmax(-1)[:-1].gather(-1, ids[1:, None]).sum(), f.double().logsumexp(-1)
    assert_close(spilled, exact + v[0] - v[-1], tolerance(f) * len(ids))


@on_random(texts())
def test_every_energy_agrees_with_a_plain_float64_computation(text):
    f, ids = text
    got, exact = token_energies(f, ids), f.double()
    v, logp = exact.logsumexp(-1), exact.log_softmax(-1)
    term_1 = torch.stack([exact[t - 1, ids[t]] for t in range(1, len(ids))])
    expected = {
        "logit": term_1, "logprob": term_1 - v[:-1], "spilled": term_1 - v[1:], "log_partition_before": v[:-1],
        "log_partition_after": v[1:], "mean_logit_after": exact.mean(-1)[1:], "max_logprob_after": logp.amax(-1)[1:],
        "self_certainty_after": (-logp.mean(-1) - math.log(f.shape[-1]))[1:],
        "entropy_after": -(logp.exp() * logp).sum(-1)[1:],
    }  # fmt: skip
    for name, value in expected.items():
        # The reference is itself a float64 sum of |V| terms, good to some tens of roundings.
        assert_close(getattr(got, name)[1:], value, tolerance(f) + 64 * 2.2e-16 * float(value.abs().max()))


@on_random(texts(), st.lists(st.floats(0, 1), max_size=6))
def test_a_vocabulary_in_pieces_is_the_whole_vocabulary(text, cuts):
    f, size = text[0], text[0].shape[-1]
    sizes = [b - a for a, b in pairwise(sorted({0, size, *(int(cut * size) for cut in cuts)}))]
    got = energy.combine([potentials(piece) for piece in f.split(sizes, -1)], sizes)
    for field, expected in zip(got, potentials(f), strict=True):
        assert_close(field, expected, tolerance(f))


@on_random(texts(), st.floats(-1e4, 1e4), st.integers(0, 2**31))
def test_a_gauge_change_moves_spills_by_g_and_nothing_observable(text, reach, seed):
    f, ids = text
    g = (torch.rand(len(f), generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * reach).to(f.dtype)
    moved = gauge.shift(f, g)
    before, after, atol = token_energies(f, ids), token_energies(moved, ids), tolerance(f, moved)
    assert_close(after.spilled[1:], before.spilled[1:] + g[:-1] - g[1:], atol)
    assert_close(after.mean_logit_after, before.mean_logit_after + g, atol)
    for name in ("logprob", "self_certainty_after", "entropy_after", "max_logprob_after"):
        assert_close(getattr(after, name)[1:], getattr(before, name)[1:], atol)
    assert_close(torch.softmax(moved, -1), torch.softmax(f.float() if f.dtype.itemsize < 4 else f, -1), min(1.0, atol))


@on_random(texts())
def test_nothing_spills_in_the_joint_gauge_and_log_probabilities_do_in_the_conditional_gauge(text):
    f, ids = text
    joint, conditional = gauge.to_joint(f, ids), gauge.to_conditional(f)
    assert_close(spilled_energy(joint, ids), torch.zeros(len(ids) - 1), tolerance(f, joint))
    assert_close(log_partition(conditional), torch.zeros(len(f)), tolerance(f, conditional))
    assert_close(spilled_energy(conditional, ids), token_energies(f, ids).logprob[1:], tolerance(f, conditional))


@on_random(texts())
def test_in_the_centred_gauge_the_mean_is_zero_and_the_gauge_term_is_gone(text):
    f, ids = text
    centred = gauge.center(f)
    assert_close(centred.double().mean(-1), torch.zeros(len(f)), tolerance(f))
    expected = three_terms(f, ids)._replace(gauge_drop=torch.zeros(len(ids) - 1))
    for term, value in zip(three_terms(centred, ids), expected, strict=True):
        assert_close(term, value, tolerance(f, centred))


def test_gauges_of_a_batch_are_those_of_its_rows():
    torch.manual_seed(0)
    logits, ids, g = torch.randn(2, 3, 4), torch.tensor([[0, 1, 2], [3, 3, 0]]), torch.randn(2, 3)
    for whole, row in (
        (gauge.center(logits), lambda n: gauge.center(logits[n])),
        (gauge.to_conditional(logits), lambda n: gauge.to_conditional(logits[n])),
        (gauge.to_joint(logits, ids), lambda n: gauge.to_joint(logits[n], ids[n])),
        (gauge.shift(logits, g), lambda n: gauge.shift(logits[n], g[n])),
    ):
        torch.testing.assert_close(whole, torch.stack([row(0), row(1)]))


def test_the_joint_gauge_starts_from_the_probability_of_the_first_token():
    v, log_p = log_partition(gauge.to_joint(SMALL, SMALL_IDS, log_prob_first=-1.5)), torch.log_softmax(SMALL, -1)
    assert_close(v[0], -1.5, 1e-12)
    assert_close(v[2], -1.5 + log_p[0, 0] + log_p[1, 1], 1e-12)


def test_temperature_is_not_a_gauge():
    assert not torch.allclose(torch.softmax(SMALL / 2, -1), torch.softmax(SMALL, -1), atol=1e-3)


def test_term_1_is_read_one_position_before_term_2_and_of_the_last_row_only_the_sum_enters():
    by_hand = [float(SMALL[t - 1][SMALL_IDS[t]]) - math.log(sum(math.exp(v) for v in SMALL[t])) for t in (1, 2, 3)]
    for last in (SMALL[-1:], SMALL[-1:].flip(-1)):  # it chose nothing
        f = torch.cat([SMALL[:-1], last])
        assert spilled_energy(f, SMALL_IDS).tolist() == pytest.approx(by_hand, abs=1e-12)


def test_the_first_token_has_no_term_1_and_fields_before_a_token_are_those_after_the_previous_one():
    e = token_energies(SMALL, SMALL_IDS)
    before = [name for name in e._fields if name.endswith("_before")]
    for name, values in e._asdict().items():
        assert math.isnan(values[0]) == (name in ["logit", "logprob", "spilled", *before]), name
        assert torch.isfinite(values[1:]).all(), name
    for name in before:
        assert torch.equal(getattr(e, name)[1:], getattr(e, name.replace("before", "after"))[:-1]), name


def test_batches_are_rows():
    rows = [(SMALL, SMALL_IDS), (SMALL.flip(0), SMALL_IDS.flip(0))]
    both = spilled_energy(*map(torch.stack, zip(*rows, strict=True)))
    assert torch.equal(both, torch.stack([spilled_energy(*row) for row in rows]))


def test_the_sign_is_the_blog_posts():
    """A confident token (Term 1 = 9) into a limp next step (Term 2 = log 3) spills high."""
    logits = torch.tensor([[9.0, 0.0, 0.0], [0.0, 0.0, 0.0]], dtype=torch.float64)
    assert spilled_energy(logits, torch.tensor([1, 0])).item() == pytest.approx(9 - math.log(3))


def test_a_uniform_distribution_has_no_certainty_and_full_entropy():
    p = potentials(torch.full((2, 8), 5.0))
    for got, expected, atol in ((p.self_certainty, 0, 1e-6), (p.entropy, math.log(8), 1e-6),
                                (p.log_partition, 5 + math.log(8), 1e-5)):  # fmt: skip
        assert_close(got, torch.full((2,), expected, dtype=torch.float64), atol)
    half = potentials(torch.zeros(1))  # a vocabulary of one token: the entropy is that of the choice between two
    assert energy.combine([half, half], [1, 1]).entropy.item() == pytest.approx(math.log(2))


def test_self_certainty_is_the_divergence_from_uniform():
    p = torch.tensor([0.7, 0.2, 0.1], dtype=torch.float64)
    divergence = sum(1 / 3 * math.log((1 / 3) / q) for q in p.tolist())
    assert potentials(p.log() + 4).self_certainty.item() == pytest.approx(divergence, abs=1e-12)


def test_a_large_constant_does_not_disturb_what_no_gauge_touches():
    f = torch.tensor([0.7, 0.2, 0.1]).log()
    near, far = potentials(f), potentials(gauge.shift(f, 4096.0))
    assert_close(far.entropy, near.entropy, 2e-3)
    assert_close(far.self_certainty, near.self_certainty, 2e-3)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(dtype):
    f, ids = torch.randn(4, 5_000, generator=torch.Generator().manual_seed(0)).to(dtype), torch.arange(4)
    for half, single in zip(token_energies(f, ids), token_energies(f.float(), ids), strict=True):
        assert torch.equal(half.nan_to_num(), single.nan_to_num())
    for rewrite in (gauge.center, gauge.to_conditional, lambda f: gauge.shift(f, 1.0)):
        assert torch.equal(rewrite(f), rewrite(f.float()))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_energies_are_float64_so_that_they_add_up_and_gauges_keep_the_precision_of_the_logits(dtype):
    f, ids = SMALL.to(dtype), SMALL_IDS
    energies = (*token_energies(f, ids), spilled_energy(f, ids.int()), log_partition(f))
    assert {field.dtype for field in energies} == {torch.float64}
    if dtype != torch.bfloat16:
        gauges = (gauge.center(f), gauge.to_conditional(f), gauge.to_joint(f, ids), gauge.shift(f, 1.0))
        assert {logits.dtype for logits in gauges} == {dtype}


def test_the_conditional_gauge_is_accurate_at_a_large_vocabulary():
    """An almost flat row: here torch's own float32 log_softmax is off by 2e-5, twenty times the tolerance."""
    f = torch.randn(1, 50_000, generator=torch.Generator().manual_seed(0)) * 1e-6
    f[0, 0] = 1e-3
    assert_close(gauge.to_conditional(f), f.double().log_softmax(-1), 1e-6)


NAN, INFINITE = SMALL.clone(), SMALL.clone()
NAN[0, 0], INFINITE[3, 1] = math.nan, -math.inf
WITH_IDS = (spilled_energy, token_energies, three_terms, gauge.to_joint)
ALONE = (potentials, log_partition, gauge.center, gauge.to_conditional, lambda f: gauge.shift(f, 1.0))
BAD = [
    *product(WITH_IDS, [
        (SMALL, SMALL_IDS[:3], "logits must be"), (SMALL[0], SMALL_IDS, "logits must be"),
        (SMALL[0], SMALL_IDS[0], "logits must be"), (SMALL.tolist(), SMALL_IDS, "logits must be"),
        (SMALL[:1], SMALL_IDS[:1], "two tokens"), (SMALL[:0], SMALL_IDS[:0], "two tokens"),
        (SMALL, torch.tensor([0, 1, 2, 3]), "ids must lie in 0 … 2"), (SMALL, SMALL_IDS > 0, "whole numbers"),
        (SMALL, torch.tensor([0, 1, 2, -1]), "ids must lie in 0 … 2"), (SMALL, SMALL_IDS.double(), "whole numbers"),
        (SMALL, SMALL_IDS.tolist(), "whole numbers"), (NAN, SMALL_IDS, "NaN or infinite"),
        (INFINITE, SMALL_IDS, "NaN or infinite"), (-INFINITE, SMALL_IDS, "NaN or infinite"),
    ]),
    *product(ALONE, [
        (NAN, "NaN or infinite"), (INFINITE, "NaN or infinite"), (-INFINITE, "NaN or infinite"),
        (torch.tensor(1.0), "logits must be"), (torch.zeros(3, 0), "logits must be"), ([1.0, 2.0], "logits must be"),
    ]),
    *product([gauge.shift], [
        *((SMALL, torch.zeros(shape), "g must be a number or have one value") for shape in (3, (4, 3), (4, 1))),
        *((SMALL, g, "g contains NaN or infinite") for g in (math.nan, math.inf, INFINITE[:, 1])),
    ]),
]  # fmt: skip


@pytest.mark.parametrize(("function", "case"), BAD)
def test_bad_input_is_refused_with_a_reason(function, case):
    *arguments, says = case
    with pytest.raises(ValueError, match=says):
        function(*arguments)


def test_inputs_are_left_as_they_were():
    f, ids = SMALL.clone(), SMALL_IDS.clone()
    for call in (*WITH_IDS, *ALONE):
        call(*(f, ids) if call in WITH_IDS else (f,))
    assert torch.equal(f, SMALL) and torch.equal(ids, SMALL_IDS)
