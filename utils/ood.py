"""Scores that tell pictures of an unknown kind (out of distribution, OOD) from known ones, by logits or features.

Every score is oriented so that higher = more suspicious, by its source where it has one. Four read the logits `f`
[N, classes], in nats; five read the features `h` [N, d] that the head sees, and four of them compare with features of
training pictures. The symbols are the names of the columns. To try a score of your own, add a column in `scores`.
"""

from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from sklearn.covariance import EmpiricalCovariance
from sklearn.neighbors import NearestNeighbors
from sklearn.preprocessing import normalize

from . import images, stats
from .energy import potentials

NAMES = {  # symbol: what it is called, and where it comes from
    "−max log p": "largest probability (MSP), arXiv 1610.02136",
    "−max f": "largest logit, 1911.11132",
    "−V": "energy, 2010.03759",
    "−K": "self-certainty, the part of V that no gauge moves",
    "−‖h‖": "norm of the features",
    "KNN": "distance to the 50th nearest training picture, 2204.06507",
    "Mahalanobis": "distance to the nearest class, 1807.03888",
    "relative Mahalanobis": "that, less the distance to all classes as one Gaussian, 2106.09022",
    "GEM": "minus the log-density of a Gaussian mixture, 2112.00787",
}
NEIGHBOURS = 50


class Lesson(NamedTuple):
    """What the features of training pictures say about the classes."""

    features: np.ndarray  # [n, d]
    means: np.ndarray  # of each class, [classes, d]
    within: EmpiricalCovariance  # of the features around their class's mean, one for all classes
    whole: EmpiricalCovariance  # of the features around their common mean


def learn(features, labels) -> Lesson:
    """Means and common covariance of training features [n, d] with labels [n]; ValueError if a class is missing."""
    features, labels = np.asarray(features, float), np.asarray(labels, int)
    if len(np.unique(labels)) != labels.max() + 1:
        raise ValueError("labels must hold every class from 0 up; a class without pictures has no mean")
    means = np.stack([features[labels == y].mean(0) for y in range(labels.max() + 1)])
    within = EmpiricalCovariance(assume_centered=True).fit(features - means[labels])
    return Lesson(features, means, within, EmpiricalCovariance().fit(features))


def class_distances(features, lesson: Lesson) -> np.ndarray:
    """Squared Mahalanobis distances [N, classes] of features [N, d] to the mean of each class."""
    return np.stack([lesson.within.mahalanobis(np.asarray(features, float) - mean) for mean in lesson.means], 1)


def along_and_across(features, lesson: Lesson) -> tuple[np.ndarray, np.ndarray]:
    """The two parts [N] of the squared Mahalanobis distance of features [N, d] to the nearest class; they add up to it.

    Along the directions in which the means of the classes differ, and across them, where all classes are one.
    """
    whiten = np.linalg.cholesky(lesson.within.precision_)
    h, means = ((np.asarray(x, float) - lesson.means.mean(0)) @ whiten for x in (features, lesson.means))
    ways = np.linalg.svd(means, full_matrices=False)[2][:-1]  # [classes − 1, d], orthonormal
    along = (((h @ ways.T)[:, None] - means @ ways.T) ** 2).sum(2).min(1)
    return along, (h**2).sum(1) - ((h @ ways.T) ** 2).sum(1)


def neighbour_distance(features, lesson: Lesson, k: int = NEIGHBOURS) -> np.ndarray:
    """Distance [N] from each feature vector to the k-th nearest training one, all scaled to length 1."""
    nearest = NearestNeighbors(n_neighbors=k).fit(normalize(lesson.features))
    return nearest.kneighbors(normalize(np.asarray(features, float)))[0][:, -1]


def scores(logits, features, lesson: Lesson) -> pd.DataFrame:
    """One oriented score a column, those of `NAMES`, one picture a row; logits [N, classes], features [N, d].

    Mahalanobis is the squared distance to the nearest class. GEM takes every class for equally frequent and leaves
    out the density's constant: `−log Σ_y exp(−½ d_y²)`.
    """
    h = np.asarray(features, float)
    squared = class_distances(h, lesson)
    of_features = {
        "−‖h‖": -np.linalg.norm(h, axis=1),
        "KNN": neighbour_distance(h, lesson),
        "Mahalanobis": squared.min(1),
        "relative Mahalanobis": squared.min(1) - lesson.whole.mahalanobis(h),
        "GEM": -np.logaddexp.reduce(-squared / 2, axis=1),
    }
    return images.suspicion(logits).assign(**of_features)[[*NAMES]]


def stacked(record, names, each: int | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits [N, classes] and features [N, d] of sets on record one under the other, float32, `each` of a set."""
    return tuple(torch.cat([record[kind + name][:each].float() for name in names]) for kind in ("", "features/"))


def read(record, names, each: int | None, lesson: Lesson) -> pd.DataFrame:
    """`scores` of sets on record (`records.recorded("cifar10-1")`) under each other, of the first `each` of a set."""
    return scores(*stacked(record, names, each), lesson)


def energies(logits, names, classes) -> pd.DataFrame:
    """V, K, m (nats, one decimal) and the likeliest class of pictures with `names`, from logits [N, classes]."""
    p, called = potentials(logits.double()), [classes[i] for i in logits.argmax(-1)]
    numbers = {"V": p.log_partition, "K": p.self_certainty, "m": p.mean_logit}
    return pd.DataFrame(numbers, index=[*names]).astype(float).round(1).add(0.0).assign(called=called)


def to_class(features, lesson: Lesson) -> np.ndarray:
    """How far [N] a picture lies on the way from the middle of all classes (0) to a class's mean (1).

    The middle is the mean of the class means. The class is the one in whose direction the picture has come farthest.
    """
    middle = lesson.means.mean(0)
    ways = lesson.means - middle  # [classes, d]
    return ((np.asarray(features, float) - middle) @ ways.T / (ways**2).sum(1)).max(1)


def separations(known: pd.DataFrame, unknown: pd.DataFrame) -> dict[str, images.Separation]:
    """AUROC and FPR95, with intervals, of every score of two tables of `scores`, by the score's symbol."""
    return {name: images.separation(known[name], unknown[name]) for name in known}


def lead(known: pd.DataFrame, unknown: pd.DataFrame, score: str, baseline: str, resamples: int = 400):
    """AUROC of one column of `scores` minus that of another, on the same pictures and draws: a stats.Estimate.

    Pictures are drawn in 200 groups, as in `images.separation`.
    """
    both, groups = pd.concat([known, unknown]), images.side_by_side(len(known), len(unknown))
    return stats.auroc_difference(both[score], both[baseline], *groups, resamples=resamples)
