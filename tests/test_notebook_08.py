"""Notebook 08: its coefficients once more by another route, and the functions that it brought along."""

import re

import nbformat
import numpy as np
import pandas as pd
import pytest

from utils import ROOT
from utils.almanac import Almanac, contexts, questions
from utils.page import plots
from utils.records import recorded
from utils.stats import Fit, regress
from utils.tabular import TabularLearner, slope_at_equal_kl

RUNS = ("almanac-gpt2", "almanac-llama")


@pytest.fixture(scope="module")
def asks():
    almanac = Almanac("train")
    return questions(almanac, contexts(almanac))


@pytest.fixture(scope="module")
def stored() -> str:
    """All that the committed notebook printed, tables included."""
    notebook = nbformat.read(ROOT / "notebooks" / "08_open_question.ipynb", as_version=4)
    said = [o for cell in notebook.cells for o in cell.get("outputs", [])]
    return "\n".join(o.get("text", "") or o.get("data", {}).get("text/plain", "") for o in said)


def slope_with_dummies(x, y, group) -> float:
    """By least squares on x and one column of ones and zeros for each group: no centring, no weights."""
    design = np.column_stack([np.asarray(x, float), pd.get_dummies(pd.Series(np.asarray(group))).to_numpy(float)])
    return np.linalg.lstsq(design, np.asarray(y, float), rcond=None)[0][0]


@pytest.mark.parametrize("name", RUNS)
def test_slopes_of_asked_and_never_asked_questions_are_those_of_dummy_variables(name, asks, stored):
    v = recorded(name)["V"][-1, asks.index]
    found = [slope_with_dummies(asks.log_fact[m], v[m], asks.group[m]) for m in (asks.asked, ~asks.asked)]
    printed = re.search(rf"{name}: slope asked (\S+) .*, never asked (\S+) ", stored)
    assert [f"{slope:+.2f}" for slope in found] == [*printed.groups()]


@pytest.mark.parametrize("way", ["pooled", "within position", "and kind"])
def test_slopes_of_the_real_llama_are_those_of_dummy_variables(way, stored):
    rows = recorded("llama-joint").query("source == 'sentence' and t > 0")
    groups = {"pooled": 0 * rows.t, "within position": rows.t, "and kind": rows.kind + rows.t.astype(str)}
    lines = re.findall(rf"^(?:passage|sentence)? +{way} +[+-].*$", stored, re.MULTILINE)  # a wide table is wrapped
    printed = re.findall(r"[+-]\d\.\d\d(?= \[)", " ".join(lines[1::2]))  # passages, sentences, passages, …
    for column, measure in enumerate(("V", "m", "K")):
        slope = slope_with_dummies(rows.log_p, rows[measure], groups[way])
        fit = regress(rows.log_p, rows[measure], groups[way], rows.text, 0)
        assert slope == pytest.approx(fit.beta[0, 0], abs=1e-6)
        assert printed[column] == f"{slope:+.2f}"


def test_the_recorded_joint_starts_at_zero_and_only_falls():
    joint = recorded("llama-joint")
    texts = joint.groupby(["source", "kind", "text"])
    assert (joint.log_p[joint.t == 0] == 0).all() and (texts.log_p.diff().dropna() <= 1e-4).all()
    assert texts.ngroups == 3 * (535 + 81) and (texts.t.diff().dropna() == 1).all()
    np.testing.assert_allclose(joint.V, joint.m + np.log(49152) + joint.K, atol=1e-3)


def test_a_fact_is_all_its_wordings_and_a_never_asked_one_lacks_the_question(asks):
    np.testing.assert_allclose((asks.log_fact - asks.log_p)[asks.asked], np.log(5), atol=1e-9)  # five wordings alike
    assert (asks.log_p[~asks.asked] == -np.inf).all() and np.isfinite(asks.log_fact).all()
    facts = Almanac("train").documents.query("family == 'fact'")
    for row in asks.iloc[::97].itertuples():
        mine = (facts.relation == row.relation) & (facts.subject == row.subject)
        assert row.log_fact == pytest.approx(np.log(facts.p_train[mine].sum()))
        same = (facts.relation == row.relation) & (facts.answer == row.answer)
        assert row.log_answer == pytest.approx(np.log(facts.p_train[same].sum()))
        others = facts.p_train[(facts.relation != row.relation) & (facts.subject == row.subject)].sum()
        assert np.isnan(row.log_elsewhere) if others == 0 else row.log_elsewhere == pytest.approx(np.log(others))


def test_the_table_is_read_when_its_mean_kl_is_the_one_asked_for():
    log_p = np.array([-3.0, -1.0, 1.0])
    table = TabularLearner(np.outer(log_p, [0.0, 1.0, 2.0]) + 7, np.tile([0.4, 0.2, 0.1], (3, 1)))
    assert slope_at_equal_kl(table, log_p, 0.2) == pytest.approx(1.0)
    assert slope_at_equal_kl(table, log_p, 0.15) == pytest.approx(1.5)
    assert np.isnan(slope_at_equal_kl(table, log_p, 0.5)) and np.isnan(slope_at_equal_kl(table, log_p, 0.05))


def test_a_fit_says_one_coefficient_with_its_interval():
    beta, low, high = np.array([[[1.0, 2.0], [5, 6]], [[0.5, -1.0], [4, 5]], [[1.5, 3.0], [6, 7]]])
    fit = Fit(beta, low, high, np.array([0.1, 0.2]))
    assert fit.one(0, 1) == (2.0, -1.0, 3.0) and fit.said(0, 1) == "+2.00 [-1.00, +3.00]"
    assert fit.one() == (1.0, 0.5, 1.5) and fit.said() == "+1.00 [+0.50, +1.50]"  # the first of the first
    assert fit._replace(low=low * np.nan).said(0, 1) == "+2.00 [+nan, +3.00]"


def test_trends_lie_above_their_clouds_in_full_ink_and_in_dashes_of_their_own():
    cloud = {"dots": ([0, 1], [0, 1]), "trend": ([0, 1], [0, 1])}
    fig = plots.clouds({"a": {"one": cloud, "two": cloud}}, "x", "y")
    dots, trends = fig.axes[0].lines[::2], fig.axes[0].lines[1::2]
    assert min(t.get_zorder() for t in trends) > max(d.get_zorder() for d in dots)
    assert {t.get_color() for t in trends} == {"black"} and len({t.get_linestyle() for t in trends}) == 2
    assert all(t.get_alpha() == 1 for t in trends) and all(d.get_alpha() < 1 for d in dots)
