"""What `utils.energy` promises, as claims. Tolerances are `8·eps·max(1, max|f|)`, eps that of the logits."""

import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from utils import energy, gauge

RANDOM = settings(max_examples=60, deadline=None)
SMALL = torch.tensor([[1.0, 2.0, 0.5], [0.0, -1.0, 3.0], [2.0, 2.0, 2.0], [-4.0, 0.0, 1.0]], dtype=torch.float64)
SMALL_IDS = torch.tensor([2, 0, 1, 1])


@st.composite
def texts(draw, largest_vocabulary=50_000):
    """Random logits [T, |V|] and ids [T]: float32 or float64, |V| from 2 to 50,000, values to ±1e4.

    Values are filled by a seeded generator (a Hypothesis list of 50,000 floats would take forever), in
    shapes that hurt sums: Gaussian, uniform, all equal, one token far above the rest, one far below.
    """
    vocabulary = draw(st.sampled_from([2, 3, 7, 64, 1_000, largest_vocabulary]) | st.integers(2, 2_000))
    length = draw(st.integers(2, 5))
    dtype = draw(st.sampled_from([torch.float32, torch.float64]))
    scale = draw(st.sampled_from([1e-3, 1.0, 30.0, 1e4]) | st.floats(0, 1e4))
    kind = draw(st.sampled_from(["gauss", "uniform", "equal", "one high", "one low", "offset"]))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    f = torch.randn(length, vocabulary, generator=generator, dtype=torch.float64)
    if kind == "uniform":
        f = 2 * torch.rand(length, vocabulary, generator=generator, dtype=torch.float64) - 1
    elif kind == "equal":
        f = f[:, :1].expand(-1, vocabulary).clone()
    elif kind == "one high":
        f = f.mul(1e-3).index_fill(-1, torch.tensor([0]), 1.0)
    elif kind == "one low":
        f = f.mul(1e-3).index_fill(-1, torch.tensor([vocabulary - 1]), -1.0)
    elif kind == "offset":
        f = f * 1e-3 + 1.0
    f = (f * scale).clamp(-1e4, 1e4).to(dtype)
    ids = torch.randint(vocabulary, (length,), generator=generator)
    return f, ids


def tolerance(*logits: torch.Tensor) -> float:
    """`8·eps·max(1, max|f|)`, and for what float64 itself can hold of an energy of size `max|f| + log|V|`."""
    largest = max(float(f.abs().max()) for f in logits)
    held = torch.finfo(torch.float64).eps * (largest + math.log(logits[0].shape[-1]))
    return 8 * torch.finfo(logits[0].dtype).eps * max(1.0, largest) + 4 * held


def assert_close(a, b, atol):
    worst = float((torch.as_tensor(a).double() - torch.as_tensor(b).double()).abs().max())
    assert worst <= atol, f"differ by {worst:.3g}, allowed {atol:.3g}"


# --------------------------------------------------------------------------------- the identities, on random logits


@RANDOM
@given(texts())
def test_a_spill_is_log_probability_plus_a_potential_difference(text):
    f, ids = text
    e = energy.token_energies(f, ids)
    identity = e.logprob + e.log_partition_before - e.log_partition_after
    assert_close(e.spilled[1:], identity[1:], tolerance(f))
    assert_close(e.spilled[1:], energy.spilled_energy(f, ids), tolerance(f))


@RANDOM
@given(texts())
def test_spills_telescope_to_the_sequence_log_probability(text):
    f, ids = text
    e = energy.token_energies(f, ids)
    telescoped = e.logprob[1:].sum() + e.log_partition_after[0] - e.log_partition_after[-1]
    assert_close(energy.spilled_energy(f, ids).sum(), telescoped, tolerance(f) * len(ids))
    exact = f.double().log_softmax(-1)[:-1].gather(-1, ids[1:, None]).sum()
    v = f.double().logsumexp(-1)
    assert_close(energy.spilled_energy(f, ids).sum(), exact + v[0] - v[-1], tolerance(f) * len(ids))


@RANDOM
@given(texts())
def test_every_energy_agrees_with_a_plain_float64_computation(text):
    f, ids = text
    got, exact = energy.token_energies(f, ids), f.double()
    v, logp = exact.logsumexp(-1), exact.log_softmax(-1)
    term_1 = torch.stack([exact[t - 1, ids[t]] for t in range(1, len(ids))])
    expected = {
        "logit": term_1,
        "log_partition_after": v[1:],
        "logprob": term_1 - v[:-1],
        "spilled": term_1 - v[1:],
        "mean_logit_after": exact.mean(-1)[1:],
        "self_certainty_after": (-logp.mean(-1) - math.log(f.shape[-1]))[1:],
        "entropy_after": -(logp.exp() * logp).sum(-1)[1:],
        "max_logprob_after": logp.amax(-1)[1:],
        "log_partition_before": v[:-1],
    }
    for name, value in expected.items():
        # The reference is itself a float64 sum of |V| terms, good to some tens of roundings.
        assert_close(getattr(got, name)[1:], value, tolerance(f) + 64 * 2.2e-16 * float(value.abs().max()))


@RANDOM
@given(texts())
def test_the_three_terms_sum_to_the_spill(text):
    f, ids = text
    terms = energy.three_terms(f, ids)
    assert_close(sum(terms), energy.spilled_energy(f, ids), tolerance(f))


@RANDOM
@given(texts())
def test_the_log_partition_is_mean_plus_log_vocabulary_plus_self_certainty(text):
    f, _ = text
    p = energy.potentials(f)
    assert_close(p.log_partition, p.mean_logit + math.log(f.shape[-1]) + p.self_certainty, tolerance(f))
    assert (p.self_certainty >= 0).all() and (p.entropy >= 0).all() and (p.max_logprob <= 0).all()


@RANDOM
@given(texts(), st.floats(-1e4, 1e4), st.integers(0, 2**31))
def test_a_gauge_change_moves_spills_by_g_and_nothing_observable(text, reach, seed):
    f, ids = text
    g = (torch.rand(len(f), generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * reach).to(f.dtype)
    moved = gauge.shift(f, g)
    before, after = energy.token_energies(f, ids), energy.token_energies(moved, ids)
    atol = tolerance(f, moved)
    assert_close(after.spilled[1:], before.spilled[1:] + g[:-1] - g[1:], atol)
    assert_close(after.mean_logit_after, before.mean_logit_after + g, atol)
    for name in ("logprob", "self_certainty_after", "entropy_after", "max_logprob_after"):
        assert_close(getattr(after, name)[1:], getattr(before, name)[1:], atol)
    assert_close(torch.softmax(moved, -1), torch.softmax(f, -1), min(1.0, atol))


# ------------------------------------------------------------------------------------------------------- gauges


@RANDOM
@given(texts())
def test_in_the_joint_gauge_nothing_spills(text):
    f, ids = text
    joint = gauge.to_joint(f, ids)
    assert_close(energy.spilled_energy(joint, ids), torch.zeros(len(ids) - 1), tolerance(f, joint))


@RANDOM
@given(texts())
def test_in_the_conditional_gauge_a_spill_is_a_log_probability(text):
    f, ids = text
    conditional = gauge.to_conditional(f)
    assert_close(energy.log_partition(conditional), torch.zeros(len(f)), tolerance(f, conditional))
    logprob = energy.token_energies(f, ids).logprob[1:]
    assert_close(energy.spilled_energy(conditional, ids), logprob, tolerance(f, conditional))


@RANDOM
@given(texts())
def test_in_the_centred_gauge_the_mean_is_zero_and_the_gauge_term_is_gone(text):
    f, ids = text
    centred = gauge.center(f)
    assert_close(centred.double().mean(-1), torch.zeros(len(f)), tolerance(f))
    terms, terms_centred = energy.three_terms(f, ids), energy.three_terms(centred, ids)
    assert_close(terms_centred.gauge_drop, torch.zeros(len(ids) - 1), tolerance(f, centred))
    assert_close(terms_centred.likelihood, terms.likelihood, tolerance(f, centred))
    assert_close(terms_centred.certainty_drop, terms.certainty_drop, tolerance(f, centred))


def test_the_joint_gauge_starts_from_the_probability_of_the_first_token():
    joint = gauge.to_joint(SMALL, SMALL_IDS, log_prob_first=-1.5)
    assert_close(energy.log_partition(joint)[0], -1.5, 1e-12)
    log_p = torch.log_softmax(SMALL, -1)
    assert_close(energy.log_partition(joint)[2], -1.5 + log_p[0, 0] + log_p[1, 1], 1e-12)


def test_temperature_is_not_a_gauge():
    assert not torch.allclose(torch.softmax(SMALL / 2, -1), torch.softmax(SMALL, -1), atol=1e-3)


# ---------------------------------------------------------------------------------------------------- alignment


def test_term_1_is_read_one_position_before_term_2():
    by_hand = []
    for t in range(1, 4):
        term_1 = SMALL[t - 1][SMALL_IDS[t]]
        term_2 = math.log(sum(math.exp(v) for v in SMALL[t]))
        by_hand.append(float(term_1) - term_2)
    assert energy.spilled_energy(SMALL, SMALL_IDS).tolist() == pytest.approx(by_hand, abs=1e-12)


def test_the_first_token_has_a_term_2_but_no_term_1():
    e = energy.token_energies(SMALL, SMALL_IDS)
    needs_term_1 = ["logit", "logprob", "spilled", *(name for name in e._fields if name.endswith("_before"))]
    for name, values in e._asdict().items():
        assert math.isnan(values[0]) == (name in needs_term_1), name
        assert torch.isfinite(values[1:]).all(), name


def test_fields_before_a_token_are_the_fields_after_the_previous_one():
    e = energy.token_energies(SMALL, SMALL_IDS)
    for name in energy.Potentials._fields:
        assert torch.equal(getattr(e, f"{name}_before")[1:], getattr(e, f"{name}_after")[:-1]), name


def test_the_last_token_does_not_need_a_logit_it_was_never_given():
    """Only the sum of the last row enters: shuffling it changes nothing."""
    shuffled = SMALL.clone()
    shuffled[-1] = shuffled[-1].flip(-1)
    assert_close(energy.spilled_energy(shuffled, SMALL_IDS), energy.spilled_energy(SMALL, SMALL_IDS), 1e-12)


def test_batches_are_rows():
    logits, ids = torch.stack([SMALL, SMALL.flip(0)]), torch.stack([SMALL_IDS, SMALL_IDS.flip(0)])
    both = energy.spilled_energy(logits, ids)
    assert torch.equal(both[0], energy.spilled_energy(SMALL, SMALL_IDS))
    assert torch.equal(both[1], energy.spilled_energy(SMALL.flip(0), SMALL_IDS.flip(0)))


def test_the_sign_is_the_blog_posts():
    """A confident token (Term 1 = 9) into a limp next step (Term 2 = log 3) spills high."""
    logits = torch.tensor([[9.0, 0.0, 0.0], [0.0, 0.0, 0.0]], dtype=torch.float64)
    assert energy.spilled_energy(logits, torch.tensor([1, 0])).item() == pytest.approx(9 - math.log(3))


# ------------------------------------------------------------------------------------------- known distributions


def test_a_uniform_distribution_has_no_certainty_and_full_entropy():
    p = energy.potentials(torch.full((2, 8), 5.0))
    assert p.self_certainty.tolist() == pytest.approx([0, 0], abs=1e-6)
    assert p.entropy.tolist() == pytest.approx([math.log(8)] * 2, abs=1e-6)
    assert p.log_partition.tolist() == pytest.approx([5 + math.log(8)] * 2, abs=1e-5)


def test_self_certainty_is_the_divergence_from_uniform():
    p = torch.tensor([0.7, 0.2, 0.1], dtype=torch.float64)
    divergence = sum(1 / 3 * math.log((1 / 3) / q) for q in p.tolist())
    assert energy.potentials(p.log() + 4).self_certainty.item() == pytest.approx(divergence, abs=1e-12)


@RANDOM
@given(texts(), st.lists(st.floats(0, 1), max_size=6))
def test_a_vocabulary_in_pieces_is_the_whole_vocabulary(text, cuts):
    f, _ = text
    size = f.shape[-1]
    edges = sorted({0, size, *(int(cut * size) for cut in cuts)})
    sizes = [b - a for a, b in pairwise(edges)]
    got = energy.combine([energy.potentials(piece) for piece in f.split(sizes, -1)], sizes)
    for field, expected in zip(got, energy.potentials(f), strict=True):
        assert_close(field, expected, tolerance(f))


def test_the_entropy_of_two_pieces_holds_the_entropy_of_the_choice_between_them():
    half = energy.potentials(torch.zeros(1))  # a vocabulary of one token: no entropy in it
    assert energy.combine([half, half], [1, 1]).entropy.item() == pytest.approx(math.log(2))


def test_a_large_constant_does_not_disturb_what_no_gauge_touches():
    f = torch.tensor([0.7, 0.2, 0.1]).log()
    near, far = energy.potentials(f), energy.potentials(gauge.shift(f, 4096.0))
    assert far.entropy.item() == pytest.approx(near.entropy.item(), abs=2e-3)
    assert far.self_certainty.item() == pytest.approx(near.self_certainty.item(), abs=2e-3)


# -------------------------------------------------------------------------------------------------------- dtypes


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(dtype):
    f = torch.randn(4, 5_000, generator=torch.Generator().manual_seed(0)).to(dtype)
    ids = torch.tensor([0, 1, 2, 3])
    for half, single in zip(energy.token_energies(f, ids), energy.token_energies(f.float(), ids), strict=True):
        assert torch.equal(half.nan_to_num(), single.nan_to_num())
    for rewrite in (gauge.center, gauge.to_conditional, lambda f: gauge.shift(f, 1.0)):
        assert torch.equal(rewrite(f), rewrite(f.float()))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_energies_are_float64_so_that_they_add_up(dtype):
    assert {field.dtype for field in energy.token_energies(SMALL.to(dtype), SMALL_IDS)} == {torch.float64}
    assert energy.spilled_energy(SMALL.to(dtype), SMALL_IDS.int()).dtype == torch.float64
    assert energy.log_partition(SMALL.to(dtype)).dtype == torch.float64


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gauges_return_logits_of_the_same_precision(dtype):
    f = SMALL.to(dtype)
    for logits in (gauge.center(f), gauge.to_conditional(f), gauge.to_joint(f, SMALL_IDS), gauge.shift(f, 1.0)):
        assert logits.dtype == dtype


def test_the_conditional_gauge_is_accurate_at_a_large_vocabulary():
    """An almost flat row: here torch's own float32 log_softmax is off by 2e-5, twenty times the tolerance."""
    f = torch.randn(1, 50_000, generator=torch.Generator().manual_seed(0)) * 1e-6
    f[0, 0] = 1e-3
    assert_close(gauge.to_conditional(f), f.double().log_softmax(-1), 1e-6)


def test_inputs_are_left_as_they_were():
    f, ids = SMALL.clone(), SMALL_IDS.clone()
    for call in (energy.token_energies, energy.three_terms, gauge.to_joint, energy.spilled_energy):
        call(f, ids)
    gauge.center(f), gauge.to_conditional(f), gauge.shift(f, 2.0)
    assert torch.equal(f, SMALL) and torch.equal(ids, SMALL_IDS)


# ----------------------------------------------------------------------------------------------------- bad input

NAN, INFINITE = SMALL.clone(), SMALL.clone()
NAN[0, 0], INFINITE[3, 1] = math.nan, -math.inf
WITH_IDS = (energy.spilled_energy, energy.token_energies, energy.three_terms, gauge.to_joint)
ALONE = (energy.potentials, energy.log_partition, gauge.center, gauge.to_conditional, lambda f: gauge.shift(f, 1.0))


@pytest.mark.parametrize("function", WITH_IDS)
@pytest.mark.parametrize(
    ("logits", "ids", "says"),
    [
        (SMALL, SMALL_IDS[:3], "logits must be"),
        (SMALL[0], SMALL_IDS, "logits must be"),
        (SMALL[0], SMALL_IDS[0], "logits must be"),
        (SMALL[:1], SMALL_IDS[:1], "two tokens"),
        (SMALL[:0], SMALL_IDS[:0], "two tokens"),
        (SMALL, torch.tensor([0, 1, 2, 3]), "ids must lie in 0 … 2"),
        (SMALL, torch.tensor([0, 1, 2, -1]), "ids must lie in 0 … 2"),
        (SMALL, SMALL_IDS.double(), "whole numbers"),
        (SMALL, SMALL_IDS > 0, "whole numbers"),
        (SMALL, SMALL_IDS.tolist(), "whole numbers"),
        (SMALL.tolist(), SMALL_IDS, "logits must be"),
        (NAN, SMALL_IDS, "NaN or infinite"),
        (INFINITE, SMALL_IDS, "NaN or infinite"),
        (-INFINITE, SMALL_IDS, "NaN or infinite"),
    ],
)
def test_bad_logits_or_ids_are_refused_with_a_reason(function, logits, ids, says):
    with pytest.raises(ValueError, match=says):
        function(logits, ids)


@pytest.mark.parametrize("function", ALONE)
@pytest.mark.parametrize(
    ("logits", "says"),
    [
        (NAN, "NaN or infinite"),
        (INFINITE, "NaN or infinite"),
        (-INFINITE, "NaN or infinite"),
        (torch.tensor(1.0), "logits must be"),
        (torch.zeros(3, 0), "logits must be"),
        ([1.0, 2.0], "logits must be"),
    ],
)
def test_bad_logits_alone_are_refused_with_a_reason(function, logits, says):
    with pytest.raises(ValueError, match=says):
        function(logits)


@pytest.mark.parametrize("g", [torch.zeros(3), torch.zeros(4, 3), torch.zeros(4, 1)])
def test_a_gauge_must_have_one_value_a_context(g):
    with pytest.raises(ValueError, match="g must be a number or have one value a context"):
        gauge.shift(SMALL, g)


@pytest.mark.parametrize("g", [math.nan, math.inf, torch.tensor([0.0, 0.0, -math.inf, 0.0])])
def test_a_gauge_must_be_finite(g):
    with pytest.raises(ValueError, match="g contains NaN or infinite"):
        gauge.shift(SMALL, g)
