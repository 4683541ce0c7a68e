"""Finding wrong answers: one number per answer, and how well it separates wrong from right, with honest intervals.

tidy table (`lm.score`, `lm.generate`, answer tokens only) → `pool` → `auroc`, `fpr95`, `auroc_difference`, `max_t`.

Every score is oriented so that **higher = more suspicious**, by its source and before any label is seen.
AUROC is the chance that a wrong answer scores higher than a right one (ties count half), so a score that
points the other way reads below 0.5. Answers about one subject are not independent: what is resampled and
permuted is always the whole cluster (a subject, a sum).
"""

from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy.sparse import csr_array
from scipy.special import expit, logit
from scipy.stats import rankdata
from scipy.stats import t as student
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from utils.energy import terms_of

LEVEL = 0.95  # of all intervals
RESAMPLES = 2000
POOLINGS = ("mean", "max", "min", "last", "sum")


class Score(NamedTuple):
    """A score of one token: how it is printed, how it is computed from the table, and who set its direction."""

    symbol: str
    of: Callable[[pd.DataFrame], pd.Series]  # higher = more suspicious
    source: str


SCORES = {
    "spilled": Score("−s", lambda x: -x.spilled, "Δ = −s is high where the paper's code finds errors (2602.18671)"),
    "logprob": Score("−log p(x|c)", lambda x: -x.logprob, "surprise, the usual baseline"),
    "logit": Score("−f(x;c)", lambda x: -x.logit, "few familiar features, low logit (2203.02486)"),
    "partition_before": Score("−V(c)", lambda x: -x.log_partition_before, "unfamiliar: high energy (2010.03759)"),
    "partition_after": Score("−V(c,x)", lambda x: -x.log_partition_after, "a limp Term 2 (the blog post)"),
    "entropy": Score("H(c)", lambda x: x.entropy_before, "predictive uncertainty (2002.07650)"),
    "max_prob": Score("−max log p(·|c)", lambda x: -x.max_logprob_before, "low maximum probability (1610.02136)"),
    "self_certainty": Score("−K(c)", lambda x: -x.self_certainty_before, "low self-certainty (2502.18581)"),
}  # fmt: skip
# The three terms of s, in the direction of −s, and what the second and third add to the first.
TERMS = {
    "A": Score("−A", lambda x: -terms_of(x).likelihood, "A = log p(x|c)"),
    "B": Score("−B", lambda x: -terms_of(x).certainty_drop, "B = K(c) − K(c,x)"),
    "C": Score("−C", lambda x: -terms_of(x).gauge_drop, "C = m(c) − m(c,x)"),
    "A+B": Score("−(A+B)", lambda x: -terms_of(x).likelihood - terms_of(x).certainty_drop, "s in the centred gauge"),
    "A+C": Score("−(A+C)", lambda x: -terms_of(x).likelihood - terms_of(x).gauge_drop, "likelihood and gauge alone"),
    "A+B+C": Score("−(A+B+C)", lambda x: -x.spilled, "the sum is −s"),
}


def pool(table: pd.DataFrame, how: str = "mean", scores: dict[str, Score] = SCORES) -> pd.DataFrame:
    """One row per answer: each oriented score pooled over the answer's tokens, and `length` in tokens.

    Args: `table`, the tidy table restricted to answer tokens (`lm.answer_rows`); `how`, one of mean, max,
    min, last, sum, taken of the *oriented* score: max is the most suspicious token, for every score alike.
    Rows are indexed by `text`. Raises ValueError on another `how`, or a token that lacks a value.
    """
    if how not in POOLINGS:
        raise ValueError(f"how must be one of {', '.join(POOLINGS)}; got {how!r}")
    values = pd.DataFrame({name: score.of(table) for name, score in scores.items()})
    if values.isna().any(axis=None):
        raise ValueError("a token has no Term 1 (the first of a text without BOS); leave it out of the answer")
    grouped = values.groupby(table["text"].to_numpy())
    return getattr(grouped, how)().assign(length=grouped.size())


class Estimate(NamedTuple):
    """A number with its 95 % interval, and what it rests on. Prints as `0.87 [0.82, 0.91]`."""

    value: float
    low: float
    high: float
    wrong: int  # wrong answers
    right: int
    clusters: int

    def __str__(self) -> str:
        return f"{self.value:.2f} [{self.low:.2f}, {self.high:.2f}]"


class Design(NamedTuple):
    """Labels and clusters, checked once: `wrong` is bool [n], `cluster` holds codes 0 … clusters − 1, [n]."""

    wrong: np.ndarray
    cluster: np.ndarray
    clusters: int

    @property
    def freedom(self) -> int:
        """Degrees of freedom: the scarcer class decides, counted in clusters."""
        return max(1, min(len(np.unique(self.cluster[self.wrong == side])) for side in (True, False)) - 1)

    def estimate(self, value: float, low: float, high: float) -> Estimate:
        wrong = int(self.wrong.sum())
        return Estimate(float(value), float(low), float(high), wrong, len(self.wrong) - wrong, self.clusters)


@lru_cache(maxsize=4)  # many scores of the same answers share their draws
def draw_clusters(clusters: int, resamples: int, seed: int) -> np.ndarray:
    """How often each cluster occurs in each bootstrap draw, [resamples, clusters]."""
    even = np.full(clusters, 1 / clusters)
    return np.random.default_rng(seed).multinomial(clusters, even, resamples).astype(float)


def design(scores, wrong, clusters) -> tuple[np.ndarray, Design]:
    """Check what all functions below are given; returns scores [n, S] and the Design. ValueError if it cannot work."""
    scores = np.asarray(scores, float)
    scores = scores[:, None] if scores.ndim == 1 else scores
    wrong, clusters = np.asarray(wrong), np.asarray(clusters)
    if not len(scores) == len(wrong) == len(clusters) or wrong.ndim != 1 or clusters.ndim != 1:
        raise ValueError("scores, wrong and clusters must have one entry per answer")
    if not np.isin(wrong, (0, 1)).all():
        raise ValueError("wrong must hold True (wrong) or False (right)")
    if np.isnan(scores).any():
        raise ValueError("scores contain NaN; leave those answers out and say how many")
    if wrong.all() or not wrong.any():
        raise ValueError("both classes are needed: all answers are " + ("wrong" if wrong.all() else "right"))
    codes, names = pd.factorize(clusters)
    return scores, Design(wrong.astype(bool), codes, len(names))


def count_wins(scores: np.ndarray, plan: Design, strata=None) -> tuple[list[np.ndarray], np.ndarray]:
    """How often a wrong answer of cluster g beats a right one of cluster h: S matrices [clusters, clusters].

    Also returns how many such pairs there are. With `strata` [n], only pairs from one stratum count.
    A bootstrap draw is then two products with these matrices, and no answer is looked at again.
    """
    bad, good = np.flatnonzero(plan.wrong), np.flatnonzero(~plan.wrong)

    def members(rows):
        entries = (np.ones(len(rows)), (plan.cluster[rows], np.arange(len(rows))))
        return csr_array(entries, shape=(plan.clusters, len(rows)))

    def by_cluster(answer_pairs):
        return members(bad) @ answer_pairs @ members(good).T

    strata = np.zeros(len(plan.wrong)) if strata is None else np.asarray(strata)
    comparable = (strata[bad][:, None] == strata[good]).astype(float)
    wins = []
    for column in scores.T:
        a, b = column[bad][:, None], column[good]
        wins.append(by_cluster(comparable * ((a > b) + 0.5 * (a == b))))
    return wins, by_cluster(comparable)


def bootstrap_auroc(scores, wrong, clusters, strata=None, resamples: int = RESAMPLES, seed: int = 0):
    """AUROCs [S] of scores [n, S], their cluster-bootstrap draws [resamples, S], and the Design.

    All scores see the same draws, so differences between columns are paired. A draw without one class is NaN.
    """
    scores, plan = design(scores, wrong, clusters)
    wins, pairs = count_wins(scores, plan, strata)
    if pairs.sum() == 0:
        raise ValueError("no stratum holds both a right and a wrong answer; use fewer strata")
    w = draw_clusters(plan.clusters, resamples, seed)
    total = ((w @ pairs) * w).sum(1)
    with np.errstate(invalid="ignore"):
        draws = np.stack([((w @ win) * w).sum(1) / total for win in wins], axis=1)
    return np.array([win.sum() / pairs.sum() for win in wins]), draws, plan


def auroc(score, wrong, clusters, strata=None, resamples: int = RESAMPLES, seed: int = 0) -> Estimate:
    """AUROC of a score [n] for wrong answers, with a cluster-bootstrap 95 % interval.

    Args: `wrong` [n], True where the answer is wrong; `clusters` [n], what is resampled as a whole;
    `strata` [n], optional: compare only answers of one stratum (pairs weigh equally).
    The interval is a t interval on the logit scale, with the bootstrap's standard error of the logit.
    Without a single lost (or won) pair the bootstrap sees no spread: the bound then comes from the
    m clusters of the scarcer class, whose m disjoint pairs all agree with probability AUROC^m.
    """
    (value,), draws, plan = bootstrap_auroc(score, wrong, clusters, strata, resamples, seed)
    if value in (0.0, 1.0):
        bound = (0.5 - LEVEL / 2) ** (1 / (plan.freedom + 1))
        return plan.estimate(value, *((bound, 1.0) if value == 1 else (0.0, 1 - bound)))
    edge = min(value, 1 - value) / 8  # a draw nearer to 0 or 1 than this has no finite, or no useful, logit
    spread = np.nanstd(logit(np.clip(draws, edge, 1 - edge)))
    reach = student.ppf(0.5 + LEVEL / 2, plan.freedom) * spread
    return plan.estimate(value, expit(logit(value) - reach), expit(logit(value) + reach))


def auroc_difference(
    score, baseline, wrong, clusters, strata=None, resamples: int = RESAMPLES, seed: int = 0
) -> Estimate:
    """AUROC(score) − AUROC(baseline) on the same answers, with a paired cluster-bootstrap t interval of 95 %.

    Above 0: `score` separates wrong from right better than `baseline`. Arguments as in `auroc`.
    """
    both = np.column_stack([score, baseline])
    values, draws, plan = bootstrap_auroc(both, wrong, clusters, strata, resamples, seed)
    value = values[0] - values[1]
    reach = student.ppf(0.5 + LEVEL / 2, plan.freedom) * np.nanstd(draws[:, 0] - draws[:, 1])
    return plan.estimate(value, value - reach, value + reach)


def compare(scores: pd.DataFrame, wrong, clusters, baseline: str | None = None, strata=None) -> pd.Series:
    """The `auroc` of every column, or its `auroc_difference` to the column `baseline`: a Series of Estimates."""
    if baseline is None:
        return pd.Series({name: auroc(scores[name], wrong, clusters, strata) for name in scores})
    against = scores[baseline]
    return pd.Series({name: auroc_difference(scores[name], against, wrong, clusters, strata) for name in scores})


def fpr95(score, wrong, clusters, resamples: int = RESAMPLES, seed: int = 0) -> Estimate:
    """The share of right answers that are flagged when the threshold finds 95 % of the wrong ones; lower is better.

    The interval holds the middle 95 % of the cluster-bootstrap draws. With few wrong answers, one or two of
    them decide the threshold, and the interval is wide.
    """
    scores, plan = design(score, wrong, clusters)
    column = scores[:, 0]
    order = np.argsort(-column, kind="stable")
    last_of_tie = np.append(np.diff(column[order]) != 0, True)  # a threshold cannot cut through equal scores

    def rate(weights: np.ndarray) -> np.ndarray:
        weights = weights[:, plan.cluster[order]]
        found = np.cumsum(weights * plan.wrong[order], axis=1)
        flagged = np.cumsum(weights * ~plan.wrong[order], axis=1)
        enough = last_of_tie & (found >= 0.95 * found[:, -1:] - 1e-9)
        with np.errstate(invalid="ignore"):
            return np.take_along_axis(flagged, enough.argmax(1)[:, None], 1)[:, 0] / flagged[:, -1]

    draws = rate(draw_clusters(plan.clusters, resamples, seed))
    low, high = np.nanquantile(draws, [0.5 - LEVEL / 2, 0.5 + LEVEL / 2])
    return plan.estimate(rate(np.ones((1, plan.clusters)))[0], low, high)


def mean_difference(values, wrong, clusters, resamples: int = RESAMPLES, seed: int = 0) -> Estimate:
    """Mean of paired differences [n] (of log-losses, say) over answers, with a cluster-bootstrap t interval."""
    values, plan = design(values, wrong, clusters)
    sums, sizes = (np.bincount(plan.cluster, x, plan.clusters) for x in (values[:, 0], np.ones(len(values))))
    w = draw_clusters(plan.clusters, resamples, seed)
    reach = student.ppf(0.5 + LEVEL / 2, plan.freedom) * ((w @ sums) / (w @ sizes)).std()
    value = values.mean()
    return plan.estimate(value, value - reach, value + reach)


def permuted_labels(wrong, clusters, permutations: int, seed: int = 0) -> np.ndarray:
    """Labels [permutations, n], bool: each cluster gets the labels of another of its size, in a random order.

    So how many wrong answers fall together stays as it is, and only the tie between label and score is cut.
    """
    _, plan = design(np.zeros(len(wrong)), wrong, clusters)
    rng = np.random.default_rng(seed)
    labels = np.tile(plan.wrong, (permutations, 1))
    size = np.bincount(plan.cluster)[plan.cluster]
    for s in np.unique(size):
        rows = np.flatnonzero(size == s)
        blocks = rows[np.argsort(plan.cluster[rows], kind="stable")].reshape(-1, s)  # [clusters of size s, s]
        dealt = rng.permuted(np.tile(np.arange(len(blocks)), (permutations, 1)), axis=1)
        labels[:, blocks.ravel()] = rng.permuted(plan.wrong[blocks][dealt], axis=2).reshape(permutations, -1)
    return labels


def aurocs(scores, labels) -> np.ndarray:
    """AUROCs [..., S] of scores [n, S] for many label vectors [..., n] at once, by rank sums."""
    ranks = rankdata(np.asarray(scores, float), axis=0)
    labels = np.asarray(labels, float)
    wrong = labels.sum(-1, keepdims=True)
    return (labels @ ranks - wrong * (wrong + 1) / 2) / (wrong * (labels.shape[-1] - wrong))


def max_t(scores: pd.DataFrame, wrong, clusters, permutations: int = 2000, seed: int = 0) -> pd.Series:
    """p-values of all scores together: how often chance alone gives *some* score so large a deviation.

    Westfall and Young's single-step max-T: every AUROC is measured from its permutation mean in units of its
    permutation spread, in either direction, and compared with the largest such value of each permutation of
    whole clusters. So a p-value is honest for the best of all columns, whichever that turned out to be.
    """
    design(scores, wrong, clusters)
    labels = np.vstack([np.asarray(wrong, bool)[None], permuted_labels(wrong, clusters, permutations, seed)])
    deviation = aurocs(scores, labels)
    deviation -= deviation.mean(0)
    spread = deviation.std(0)
    deviation = np.abs(deviation) / np.where(spread > 0, spread, np.inf)
    p = (deviation.max(1)[:, None] >= deviation[0] - 1e-12).mean(0)  # the observed labels count as one of them
    return pd.Series(p, index=scores.columns)


def cross_fitted_log_loss(features, wrong, clusters, folds: int = 10) -> np.ndarray:
    """Log-loss [n] in nats of each answer's label under a logistic regression that never saw its cluster.

    `features` [n, F]: unit-weight sums such as A + B test one choice of coefficients, this learns them.
    """
    wrong = np.asarray(wrong, bool)
    features = np.asarray(features, float).reshape(len(wrong), -1)
    model = make_pipeline(StandardScaler(), LogisticRegression())
    p = cross_val_predict(model, features, wrong, groups=clusters, cv=GroupKFold(folds), method="predict_proba")
    return -np.log(np.where(wrong, p[:, 1], p[:, 0]))
