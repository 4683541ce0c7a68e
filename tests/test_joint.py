"""The regressions of notebook 07, re-derived by other routes."""

import numpy as np
import pandas as pd
import pytest
from scipy.stats import norm

from utils.almanac import Almanac
from utils.joint import contexts, recorded, regress


@pytest.fixture(scope="module")
def frame():
    return contexts(Almanac("train"))


def simulated(seed=0, groups=6, clusters=60, n=900, noise=0.5):
    rng = np.random.default_rng(seed)
    group, cluster = rng.integers(groups, size=n), rng.integers(clusters, size=n)
    x = rng.normal(size=(n, 2)) + group[:, None]
    y = (
        x @ [[1.0], [-2.0]]
        + 5 * group[:, None]
        + noise * (rng.normal(size=(n, 1)) + rng.normal(size=clusters)[cluster, None])
    )
    return x, y, group, cluster


def test_coefficients_agree_with_dummy_variables_and_normal_equations():
    x, y, group, cluster = simulated()
    design = np.concatenate([x, pd.get_dummies(group).to_numpy(float)], 1)
    expected = np.linalg.solve(design.T @ design, design.T @ y)[:2]
    fit = regress(x, y, group, cluster, resamples=0)
    np.testing.assert_allclose(fit.beta, expected, atol=1e-9)
    residual = y - design @ np.linalg.solve(design.T @ design, design.T @ y)
    within = y - pd.DataFrame(y).groupby(group).transform("mean").to_numpy()
    assert fit.r2[0] == pytest.approx(1 - (residual**2).sum() / (within**2).sum(), abs=1e-12)


@pytest.mark.parametrize("slot", ["habit", "question"])
def test_coefficients_of_v_are_those_of_m_plus_those_of_k(frame, slot):
    run = recorded("almanac-llama")
    rows = (frame.slot == slot) & np.isfinite(frame.log_p)
    columns = ["log_p", "log_k"] if slot == "habit" else ["log_p"]
    y = np.stack([run[name][-1, rows] for name in ("V", "m", "K")], 1)
    part = frame[rows]
    fit = regress(part[columns], y, part.group, part.subject, resamples=0)
    np.testing.assert_allclose(fit.beta[:, 0], fit.beta[:, 1] + fit.beta[:, 2], atol=1e-9)
    dummies = pd.get_dummies(part.group).to_numpy(float)
    by_hand = np.linalg.lstsq(np.concatenate([part[columns], dummies], 1), y, rcond=None)[0][: len(columns)]
    np.testing.assert_allclose(fit.beta, by_hand, atol=1e-9)


def test_intervals_know_that_a_cluster_is_one_observation():
    """The cluster noise here varies with x: resampling rows would claim far too much precision."""
    rng = np.random.default_rng(0)
    cluster = np.repeat(np.arange(40), 25)
    x = rng.normal(size=40)[cluster, None]
    y = x + rng.normal(size=40)[cluster, None]
    group = np.zeros(len(x))
    by_cluster = regress(x, y, group, cluster)
    by_row = regress(x, y, group, np.arange(len(x)))
    assert (by_cluster.high - by_cluster.low)[0, 0] > 3 * (by_row.high - by_row.low)[0, 0]


def test_intervals_cover_the_true_coefficient():
    """95 % intervals over 200 simulated data sets; the count is binomial."""
    hits = 0
    for seed in range(200):
        fit = regress(*simulated(seed, n=240), resamples=200, seed=seed)
        hits += fit.low[0, 0] <= 1.0 <= fit.high[0, 0]
    spread = norm.ppf(0.9995) * np.sqrt(200 * 0.95 * 0.05)
    assert abs(hits - 190) <= spread


def test_a_regressor_without_variation_inside_groups_is_refused(frame):
    additions = frame[(frame.slot == "sum") & np.isfinite(frame.log_p)]
    with pytest.raises(ValueError, match="constant within every group"):
        regress(additions[["log_p"]], additions[["length"]], additions.group, additions.subject)


def test_exact_columns_are_the_almanacs_own(frame):
    almanac = Almanac("train")
    for row in frame.iloc[::211].itertuples():
        ids = almanac.ids[row.document][: row.length]
        assert row.log_p == almanac.logprob(ids)
        if np.isfinite(row.log_p):
            q = almanac.next_token(ids)
            assert row.k == almanac.branching(ids) and row.log_k == pytest.approx(np.log(row.k))
            assert row.entropy == pytest.approx(-(q[q > 0] * np.log(q[q > 0])).sum(), abs=1e-12)
            assert row.entropy <= row.log_k + 1e-9


def test_every_prefix_is_recorded_once_and_habits_cross_k_with_frequency(frame):
    almanac = Almanac("train")
    keys = {tuple(almanac.ids[d][:n]) for d, n in zip(frame.document, frame.length, strict=True)}
    assert len(keys) == len(frame) == 5000
    habits = frame[frame.slot == "habit"]
    assert abs(np.corrcoef(habits.log_p, habits.log_k)[0, 1]) < 1e-9  # crossed, not merely mixed


def test_the_training_slider_shows_every_step_run_and_potential(frame):
    from utils.widgets import recorded_training

    habit = (frame.slot == "habit").to_numpy()
    runs = {name: recorded(name) for name in ("almanac-gpt2", "almanac-llama")}
    box = recorded_training(runs, frame.log_p[habit], frame.k[habit], habit)
    last = (box.picture.value, box.sentence.value)
    box.controls["step"].value = box.controls["step"].options[0]
    assert "step 0" in box.sentence.value and box.picture.value != last[0]
    for name, control in box.controls.items():
        for option in control.options:
            control.value = option
            assert str(option) in box.sentence.value, name
