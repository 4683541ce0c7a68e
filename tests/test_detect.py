"""Scores and pooling: which way each score points, and what is pooled."""

import numpy as np
import pandas as pd
import pytest

from utils.detect import POOLINGS, SCORES, SIGNS, TERMS, Score, noise, pool
from utils.energy import TokenEnergies


@pytest.fixture
def table() -> pd.DataFrame:
    """A tidy table of random energies that obey their identities: answers of two, three and one tokens."""
    values = np.random.default_rng(0).normal(size=(6, len(TokenEnergies._fields)))
    t = pd.DataFrame(values, columns=TokenEnergies._fields)
    for side in ("_before", "_after"):
        t[f"log_partition{side}"] = t[f"mean_logit{side}"] + 5.0 + t[f"self_certainty{side}"]
    t["logprob"] = t.logit - t.log_partition_before
    t["spilled"] = t.logit - t.log_partition_after
    return t.assign(text=np.repeat([0, 1, 2], [2, 3, 1]))


def test_scores_are_oriented_by_their_sources(table):
    suspicious = {
        "−s": -table.spilled, "−log p": -table.logprob, "−f": -table.logit, "−V before": -table.log_partition_before,
        "−V after": -table.log_partition_after, "H": table.entropy_before, "−max log p": -table.max_logprob_before,
        "−K": -table.self_certainty_before,
    }  # fmt: skip
    assert list(SCORES) == list(suspicious)
    for symbol, score in SCORES.items():
        np.testing.assert_array_equal(score.of(table), suspicious[symbol])
        assert score.source


def test_the_three_terms_add_up_to_the_oriented_spill(table):
    terms = pool(table, "mean", TERMS)
    for parts in ("AB", "AC", "ABC"):
        np.testing.assert_allclose(terms[f"−({'+'.join(parts)})"], sum(terms[f"−{p}"] for p in parts), atol=1e-12)
    np.testing.assert_array_equal(terms["−(A+B+C)"], pool(table)["−s"])


@pytest.mark.parametrize("how", POOLINGS)
def test_pooling_takes_the_oriented_score(table, how):
    reduce = {"last": lambda x: x[-1]}.get(how, getattr(np, how, None))
    pooled = pool(table, how)
    np.testing.assert_allclose(pooled["−s"], [reduce(-g.spilled.to_numpy()) for _, g in table.groupby("text")])
    assert pooled.length.tolist() == [2, 3, 1]


def test_pooling_refuses_what_it_cannot_do(table):
    with pytest.raises(ValueError, match="how must be one of"):
        pool(table, "median")
    with pytest.raises(ValueError, match="no Term 1"):
        pool(table.assign(spilled=np.nan))


def test_the_three_readings_of_the_sign_agree_on_what_they_read(table):
    read = pool(table, "mean", SIGNS)
    np.testing.assert_allclose(read["s"], -read["−s"])
    np.testing.assert_array_equal(pool(table, "max", SIGNS)["|s|"], table.spilled.abs().groupby(table.text).max())
    assert pool(table, "max", SIGNS)["s"][0] == table.spilled[:2].max()  # oriented first, then pooled


def test_noise_knows_no_token_but_pooled_by_max_it_counts_them():
    lengths = np.repeat([1, 8], 500)
    tokens = pd.DataFrame({"text": np.repeat(np.arange(1000), lengths)})
    by = {how: pool(tokens, how, {"noise": Score(noise, "none")}).noise for how in ("mean", "max", "min")}
    above = {how: (values[500:].to_numpy()[:, None] > values[:500].to_numpy()).mean() for how, values in by.items()}
    assert abs(above["mean"] - 0.5) < 0.05 and above["max"] > 0.8 and above["min"] < 0.2
    pd.testing.assert_series_equal(noise(tokens), noise(tokens.assign(x=1)))
    assert noise(tokens[7:]).index.equals(tokens.index[7:])  # of some rows of a table, too, each its own
