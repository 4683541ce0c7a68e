"""Statistics of answers that come in clusters: one weighted bootstrap for every number with an interval.

A draw of whole clusters is a row of weights `w` [1 + resamples, n], how often each answer counts in it; row 0 is
the answers as they are. A statistic has one value a row: first the estimate, then its draws. Answers about one subject
are not independent, so it is always the whole cluster that is drawn, permuted or held out. AUROC is the chance that a
wrong answer scores higher than a right one (ties count half).
"""

from functools import lru_cache
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy.special import expit, logit
from scipy.stats import rankdata
from scipy.stats import t as student
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

TAILS = np.array([0.025, 0.975])  # of all intervals
RESAMPLES = 2000


class Estimate(NamedTuple):
    """A number with its 95 % interval, and what it rests on: wrong answers, right ones, clusters.

    >>> print(Estimate(0.873, 0.821, 0.906, wrong=20, right=60, clusters=40))
    0.87 [0.82, 0.91]
    """

    value: float
    low: float
    high: float
    wrong: int
    right: int
    clusters: int

    def __str__(self) -> str:
        return f"{self.value:.2f} [{self.low:.2f}, {self.high:.2f}]"


class Answers(NamedTuple):
    """Labels and clusters, checked once: `wrong` is bool [n], `cluster` holds codes 0, 1, 2, … [n]."""

    wrong: np.ndarray
    cluster: np.ndarray

    def scarcer(self) -> int:
        """In how many clusters the scarcer class occurs: it decides how much can be known."""
        return min(len(np.unique(self.cluster[self.wrong == side])) for side in (True, False))

    def estimate(self, value: float, low: float, high: float) -> Estimate:
        return Estimate(float(value), float(low), float(high), *np.bincount(~self.wrong), self.cluster.max() + 1)

    def t_interval(self, draws) -> Estimate:
        reach = student.ppf(TAILS[1], max(1, self.scarcer() - 1)) * np.nanstd(draws[1:])
        return self.estimate(draws[0], draws[0] - reach, draws[0] + reach)


def check_answers(scores, wrong, clusters) -> tuple[np.ndarray, Answers]:
    """Look at what the functions below are given: scores [n] or [n, S] in float64, and Answers. Or ValueError."""
    scores, wrong, clusters = np.asarray(scores, float), np.asarray(wrong), np.asarray(clusters)
    if not len(scores) == len(wrong) == len(clusters) or wrong.ndim != 1 or clusters.ndim != 1:
        raise ValueError("scores, wrong and clusters must have one entry per answer")
    if not np.isin(wrong, (0, 1)).all():
        raise ValueError("wrong must hold True (wrong) or False (right)")
    if np.isnan(scores).any():
        raise ValueError("scores contain NaN; leave those answers out and say how many")
    if wrong.all() or not wrong.any():
        raise ValueError("both classes are needed: all answers are " + ("wrong" if wrong.all() else "right"))
    return scores, Answers(wrong.astype(bool), pd.factorize(clusters, use_na_sentinel=False)[0])


def draw_weights(clusters, resamples: int = RESAMPLES, seed: int = 0) -> np.ndarray:
    """How often each answer counts, [1 + resamples, n]: as they are, then in each draw of whole clusters.

    >>> draw_weights(["a", "a", "b"], resamples=1, seed=4).astype(int).tolist()
    [[1, 1, 1], [2, 2, 0]]
    """
    code, names = pd.factorize(np.asarray(clusters), use_na_sentinel=False)
    return draw_counts(len(names), resamples, seed)[:, code]


@lru_cache(maxsize=4)  # a table asks for the same draws once a column
def draw_counts(n: int, resamples: int, seed: int) -> np.ndarray:
    """How often each of n clusters is drawn, [1 + resamples, n]: once, then in each draw of n with replacement."""
    drawn = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), resamples)
    counts = np.vstack([np.ones(n), drawn])
    counts.flags.writeable = False
    return counts


def weight_below(score, w) -> tuple[np.ndarray, np.ndarray]:
    """Scores in rising order [m], and the weight of what lies below each, [R, m + 1]; the last is all of it."""
    order = np.argsort(score)
    return score[order], np.pad(w[:, order].cumsum(1), ((0, 0), (1, 0)))


def weighted_auroc(score, wrong, w, strata=None) -> np.ndarray:
    """AUROC [R] under each row of w [R, n], NaN where a row lacks a class; with `strata`, of pairs of one stratum."""
    won = pairs = np.zeros(len(w))
    strata = np.zeros(len(score)) if strata is None else np.asarray(strata)
    for stratum in np.unique(strata):
        bad, good = (side & (strata == stratum) for side in (wrong, ~wrong))
        ranked, below = weight_below(score[good], w[:, good])
        less, up_to = (below[:, np.searchsorted(ranked, score[bad], side)] for side in ("left", "right"))
        won = won + (w[:, bad] * (less + up_to) / 2).sum(1)  # a tie is half a win
        pairs = pairs + w[:, bad].sum(1) * below[:, -1]
    if not pairs.any():
        raise ValueError("no stratum holds both a right and a wrong answer; use fewer strata")
    with np.errstate(invalid="ignore"):
        return won / pairs


def weighted_fpr95(score, wrong, w) -> np.ndarray:
    """Share of the right flagged when 95 % of the wrong are, [R], under each row of w [R, n]; NaN as above."""
    rising, found = weight_below(-score[wrong], w[:, wrong])
    enough = found[:, 1:] >= 0.95 * found[:, -1:]
    ranked, below = weight_below(score[~wrong], w[:, ~wrong])
    passed = below[np.arange(len(w)), np.searchsorted(ranked, -rising[enough.argmax(1)])]
    with np.errstate(invalid="ignore"):
        return np.where(found[:, -1] > 0, (below[:, -1] - passed) / below[:, -1], np.nan)


def weighted_slopes(x, y, group, w) -> np.ndarray:
    """Least-squares coefficients [R, d, q] of y [n, q] on x [n, d] with an intercept a group, under w [R, n]."""
    both = np.hstack([x, y])  # an intercept a group is the same as centring in each group (Frisch, Waugh and Lovell)
    products = np.zeros((len(w), x.shape[1], both.shape[1]))
    for g in np.unique(group):
        a, b, v = x[group == g], both[group == g], w[:, group == g]
        size = np.maximum(v.sum(1), 1)[:, None, None]  # a group may be missing from a draw
        raw = v @ (a[:, :, None] * b[:, None, :]).reshape(len(a), -1)
        products += raw.reshape(products.shape) - (v @ a)[:, :, None] * (v @ b)[:, None, :] / size
    return np.linalg.pinv(products[:, :, : x.shape[1]], hermitian=True) @ products[:, :, x.shape[1] :]


def auroc(score, wrong, clusters, strata=None, resamples: int = RESAMPLES, seed: int = 0) -> Estimate:
    """AUROC of a score [n] for wrong answers, with a cluster-bootstrap 95 % interval.

    `wrong` [n] is True where the answer is wrong; `clusters` [n] are resampled as a whole; with `strata` [n], only
    answers of one stratum are compared. A t interval on the logit scale, with the bootstrap's error. Without a lost (or
    won) pair the bound comes from the m clusters of the scarcer class: m disjoint pairs agree with chance AUROC^m.
    """
    score, answers = check_answers(score, wrong, clusters)
    draws = weighted_auroc(score, answers.wrong, draw_weights(clusters, resamples, seed), strata)
    value = draws[0]
    if value in (0.0, 1.0):
        bound = TAILS[0] ** (1 / max(2, answers.scarcer()))
        return answers.estimate(value, *((bound, 1.0) if value == 1 else (0.0, 1 - bound)))
    edge = min(value, 1 - value) / 8  # a draw nearer to 0 or 1 than this has no finite, or no useful, logit
    _, low, high, *_ = answers.t_interval(logit(np.clip(draws, edge, 1 - edge)))
    return answers.estimate(value, expit(low), expit(high))


def auroc_difference(score, baseline, wrong, clusters, strata=None, resamples=RESAMPLES, seed=0) -> Estimate:
    """AUROC(score) − AUROC(baseline) on the same answers and draws, with a t interval; arguments as in `auroc`."""
    both, answers = check_answers(np.column_stack([score, baseline]), wrong, clusters)
    w = draw_weights(clusters, resamples, seed)
    one, other = (weighted_auroc(column, answers.wrong, w, strata) for column in both.T)
    return answers.t_interval(one - other)


def compare(scores: pd.DataFrame, wrong, clusters, strata=None, *, baseline: str | None = None) -> pd.Series:
    """The `auroc` of every column, or its `auroc_difference` to the column `baseline`: a Series of Estimates."""
    measure, against = (auroc, []) if baseline is None else (auroc_difference, [scores[baseline]])
    return pd.Series({name: measure(scores[name], *against, wrong, clusters, strata) for name in scores})


def compare_together(
    scores: pd.DataFrame, wrong, clusters, strata=None, *, baseline: str, resamples: int = RESAMPLES, seed: int = 0
) -> pd.Series:
    """`auroc_difference` of every column to `baseline`, with intervals that hold *together* in 95 % of experiments.

    Single-step max-T on the bootstrap: every interval is as many standard errors wide as the largest deviation of all
    columns, in errors of its own, is in 95 % of the draws. A column whose interval leaves out 0 differs from the
    baseline even after everything was looked at. Columns that equal the baseline have the interval [0, 0].
    """
    _, answers = check_answers(scores, wrong, clusters)
    w = draw_weights(clusters, resamples, seed)
    draws = np.stack([weighted_auroc(scores[name].to_numpy(), answers.wrong, w, strata) for name in scores])
    draws -= draws[list(scores).index(baseline)]
    spread = np.nanstd(draws[:, 1:], axis=1)
    deviation = np.abs(draws[:, 1:] - draws[:, :1]) / np.where(spread > 1e-12, spread, np.inf)[:, None]
    reach = np.nanquantile(np.nanmax(deviation, axis=0), 0.95) * spread
    found = zip(draws[:, 0], draws[:, 0] - reach, draws[:, 0] + reach, strict=True)
    return pd.Series({name: answers.estimate(*three) for name, three in zip(scores, found, strict=True)})


def risk(score, wrong) -> np.ndarray:
    """Share of wrong answers among the 1, 2, … n least suspicious ones, [n]: the risk at each coverage.

    Answers of equal score count as if each were wrong with the share of its ties.

    >>> risk([0.1, 0.9, 0.5, 0.5], [False, True, True, False]).round(2).tolist()
    [0.0, 0.25, 0.33, 0.5]
    """
    score, wrong = np.asarray(score, float), np.asarray(wrong, float)
    shared = pd.Series(wrong).groupby(score).transform("mean").to_numpy()
    return shared[np.argsort(score)].cumsum() / np.arange(1, len(score) + 1)


def fpr95(score, wrong, clusters, accept_right=False, resamples: int = RESAMPLES, seed: int = 0) -> Estimate:
    """The share of right answers flagged by the threshold that finds 95 % of the wrong ones; lower is better.

    With `accept_right`, the other convention (Liu et al. 2010.03759): the share of wrong answers let in by the
    threshold that accepts 95 % of the right ones. The interval holds the middle 95 % of the draws.
    """
    score, answers = check_answers(score, wrong, clusters)
    score, found = (-score, ~answers.wrong) if accept_right else (score, answers.wrong)
    value, *draws = weighted_fpr95(score, found, draw_weights(clusters, resamples, seed))
    return answers.estimate(value, *np.nanquantile(draws, TAILS))


def mean_difference(values, wrong, clusters, resamples: int = RESAMPLES, seed: int = 0) -> Estimate:
    """Mean of paired differences [n] (of log-losses, say) over answers, with a cluster-bootstrap t interval."""
    values, answers = check_answers(values, wrong, clusters)
    w = draw_weights(clusters, resamples, seed)
    return answers.t_interval(w @ values / w.sum(1))


def mean_interval(values):
    """Mean of a Series, or of each column of a frame, over its rows, and its 95 % interval: (mean, low, high).

    Rows (texts, say) count as independent; the interval is 1.96 standard errors of the mean either way.
    """
    mean, reach = values.mean(), 1.96 * values.sem()
    return mean, mean - reach, mean + reach


class Fit(NamedTuple):
    """Coefficients [d, q] of q outcomes on d regressors, with 95 % intervals, and R² [q] within groups."""

    beta: np.ndarray
    low: np.ndarray
    high: np.ndarray
    r2: np.ndarray

    def one(self, regressor: int = 0, outcome: int = 0) -> tuple[float, float, float]:
        """A coefficient and its interval: (value, low, high)."""
        return tuple(float(part[regressor, outcome]) for part in self[:3])

    def said(self, regressor: int = 0, outcome: int = 0) -> str:
        return "{:+.2f} [{:+.2f}, {:+.2f}]".format(*self.one(regressor, outcome))


def regress(x, y, group, cluster, resamples: int = 1000, seed: int = 0) -> Fit:
    """Least squares of `y` [n, q] on `x` [n, d] with one intercept per `group`, resampled by `cluster`.

    Intervals are percentiles of the draws, NaN with `resamples=0`. ValueError if nothing fixes a regressor's slope.
    """
    x, y = (np.asarray(a, float).reshape(len(group), -1) for a in (x, y))
    group = pd.factorize(np.asarray(group))[0]
    within = [a - pd.DataFrame(a).groupby(group).transform("mean").to_numpy() for a in (x, y)]
    unit = within[0].std(0)[:, None]  # of each regressor [d, 1]: what counts as constant hangs on no units
    if (unit.T <= 1e-9 * np.abs(x).max(0)).any() or np.linalg.matrix_rank(within[0] / unit.T, tol=1e-6) < len(unit):
        raise ValueError("a regressor is constant within every group, or a sum of the others")
    w = draw_weights(cluster, resamples, seed)
    beta, *draws = weighted_slopes(within[0] / unit.T, within[1], group, w) / unit
    low, high = np.quantile(draws, TAILS, axis=0) if draws else np.full((2, *beta.shape), np.nan)
    residual = within[1] - within[0] @ beta
    return Fit(beta, low, high, 1 - (residual**2).sum(0) / (within[1] ** 2).sum(0))


def permuted_labels(wrong, clusters, permutations: int, seed: int = 0) -> np.ndarray:
    """Labels [permutations, n], bool: each cluster gets the labels of another of its size, in a random order."""
    _, (wrong, cluster) = check_answers(np.zeros(len(wrong)), wrong, clusters)
    rng = np.random.default_rng(seed)
    labels, size = np.tile(wrong, (permutations, 1)), np.bincount(cluster)[cluster]
    for s in np.unique(size):
        rows = np.flatnonzero(size == s)
        blocks = rows[np.argsort(cluster[rows], kind="stable")].reshape(-1, s)  # [clusters of size s, s]
        dealt = rng.permuted(np.tile(np.arange(len(blocks)), (permutations, 1)), axis=1)
        labels[:, blocks.ravel()] = rng.permuted(wrong[blocks][dealt], axis=2).reshape(permutations, -1)
    return labels


def aurocs(scores, labels) -> np.ndarray:
    """AUROCs [..., S] of scores [n, S] for many label vectors [..., n] at once, by rank sums."""
    ranks, labels = rankdata(np.asarray(scores, float), axis=0), np.asarray(labels, float)
    wrong = labels.sum(-1, keepdims=True)
    return (labels @ ranks - wrong * (wrong + 1) / 2) / (wrong * (labels.shape[-1] - wrong))


def max_t(scores: pd.DataFrame, wrong, clusters, permutations: int = 2000, seed: int = 0) -> pd.Series:
    """p-values of all scores together: how often chance alone gives *some* score so large a deviation.

    Westfall and Young's single-step max-T: every AUROC is measured from its permutation mean in units of its
    spread, in either direction, and compared with the largest such value of each permutation of whole clusters.
    """
    _, answers = check_answers(scores, wrong, clusters)
    deviation = aurocs(scores, np.vstack([answers.wrong, permuted_labels(wrong, clusters, permutations, seed)]))
    spread = deviation.std(0)
    deviation = np.abs(deviation - deviation.mean(0)) / np.where(spread > 0, spread, np.inf)
    p = (deviation.max(1)[:, None] >= deviation[0] - 1e-12).mean(0)  # the observed labels count as one of them
    return pd.Series(p, index=scores.columns)


def cross_fitted_log_loss(features, wrong, clusters, folds: int = 10) -> np.ndarray:
    """Log-loss [n] in nats of each label under a logistic regression on `features` [n, F] of other clusters alone."""
    wrong = np.asarray(wrong, bool)
    features = np.asarray(features, float).reshape(len(wrong), -1)
    model = make_pipeline(StandardScaler(), LogisticRegression())
    p = cross_val_predict(model, features, wrong, groups=clusters, cv=GroupKFold(folds), method="predict_proba")
    return -np.log(np.where(wrong, p[:, 1], p[:, 0]))
