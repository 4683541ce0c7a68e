"""The scores that tell unknown pictures from known ones, each against an independent route; and the page's pictures."""

import numpy as np
import pytest
import torch
from scipy.special import log_softmax, logsumexp
from scipy.stats import multivariate_normal

from utils import images, ood
from utils.page import pictures

RNG = np.random.default_rng(0)
MEANS = np.array([[3.0, 0, 0, 0], [0, 3, 0, 0], [0, 0, 3, 1]])
LABELS = np.arange(300) % 3
TRAIN = MEANS[LABELS] + RNG.normal(size=(300, 4)) @ np.diag([1.0, 0.5, 2.0, 0.1])
LESSON = ood.learn(TRAIN, LABELS)
FEATURES, LOGITS = RNG.normal(1, 2, (40, 4)), RNG.normal(0, 3, (40, 3))
SCORES = ood.scores(torch.tensor(LOGITS), FEATURES, LESSON)


def test_scores_of_logits_are_their_formulas_by_scipy():
    log_p, f = log_softmax(LOGITS, axis=1), LOGITS
    np.testing.assert_allclose(SCORES["−V"], -logsumexp(f, axis=1))
    np.testing.assert_allclose(SCORES["−max log p"], -log_p.max(1))
    np.testing.assert_allclose(SCORES["−max f"], -f.max(1))
    np.testing.assert_allclose(SCORES["−K"], np.log(3) + log_p.mean(1))
    assert list(SCORES) == list(ood.NAMES)


def test_class_distances_and_gem_are_those_of_gaussians_with_one_covariance():
    residual = TRAIN - np.stack([TRAIN[LABELS == y].mean(0) for y in range(3)])[LABELS]
    covariance = residual.T @ residual / len(TRAIN)
    gaussians = [multivariate_normal(TRAIN[LABELS == y].mean(0), covariance) for y in range(3)]
    densities = np.stack([g.logpdf(FEATURES) for g in gaussians], 1)
    constant = -0.5 * np.linalg.slogdet(2 * np.pi * covariance)[1]
    np.testing.assert_allclose(SCORES["Mahalanobis"], 2 * (constant - densities.max(1)))
    np.testing.assert_allclose(SCORES["GEM"], constant - logsumexp(densities, axis=1))


def test_along_and_across_the_classes_add_up_and_only_the_first_sees_the_classes():
    along, across = ood.along_and_across(FEATURES, LESSON)
    np.testing.assert_allclose(along + across, SCORES["Mahalanobis"])
    there = np.concatenate([LESSON.means, LESSON.means.mean(0)[None]])
    np.testing.assert_allclose(ood.along_and_across(there, LESSON)[1], 0, atol=1e-9)
    np.testing.assert_allclose(ood.along_and_across(there, LESSON)[0][:3], 0, atol=1e-9)


def test_relative_mahalanobis_takes_off_the_distance_to_all_classes_as_one_gaussian():
    background = multivariate_normal(TRAIN.mean(0), np.cov(TRAIN.T, bias=True))
    distance = 2 * (background.logpdf(TRAIN.mean(0)) - background.logpdf(FEATURES))
    np.testing.assert_allclose(SCORES["relative Mahalanobis"], SCORES["Mahalanobis"] - distance)


def test_neighbours_are_counted_on_the_unit_sphere():
    def unit(h):
        return h / np.linalg.norm(h, axis=1, keepdims=True)

    distances = np.linalg.norm(unit(FEATURES)[:, None] - unit(TRAIN)[None], axis=2)
    np.testing.assert_allclose(SCORES["KNN"], np.sort(distances, 1)[:, ood.NEIGHBOURS - 1])
    scaled = ood.scores(torch.tensor(LOGITS), 7 * FEATURES, LESSON)
    np.testing.assert_allclose(scaled["KNN"], SCORES["KNN"])
    np.testing.assert_allclose(scaled["−‖h‖"], 7 * SCORES["−‖h‖"])


def test_a_familiar_picture_is_less_suspicious_than_an_empty_one_by_every_score():
    logits, features = torch.tensor([[9.0, 0, 0], [0.1, 0, 0]]), np.stack([LESSON.means[0], 0 * LESSON.means[0]])
    table = ood.scores(logits, features, LESSON)
    assert (table.iloc[0] < table.iloc[1]).all()


def test_the_way_to_a_class_starts_in_the_middle_and_ends_at_the_mean():
    middle = LESSON.means.mean(0)
    there = np.stack([middle, LESSON.means[1], (middle + LESSON.means[2]) / 2])
    np.testing.assert_allclose(ood.to_class(there, LESSON), [0, 1, 0.5], atol=1e-12)


def test_a_class_without_pictures_is_refused():
    with pytest.raises(ValueError, match="every class"):
        ood.learn(TRAIN, LABELS * 2)


def test_the_gallery_is_the_same_each_time_and_only_noise_follows_the_seed():
    first, again, other = pictures.gallery(), pictures.gallery(), pictures.gallery(seed=1)
    assert len(first) == 12
    for name, pixels in first.items():
        assert pixels.dtype == torch.uint8 and pixels.shape == (3, 32, 32)
        assert torch.equal(pixels, again[name])
        assert torch.equal(pixels, other[name]) == (name != "noise")
    assert len({pixels.numpy().tobytes() for pixels in first.values()}) == 12


def test_every_score_is_separated_by_its_own_numbers():
    found = ood.separations(SCORES[:25], SCORES[25:])
    assert list(found) == list(ood.NAMES)
    assert all(found[name] == images.separation(SCORES[name][:25], SCORES[name][25:]) for name in ood.NAMES)
    assert len({separation.auroc.value for separation in found.values()}) > 5


def test_a_lead_is_the_difference_of_two_separations():
    known, unknown = SCORES[:25], SCORES[25:]
    one, other = (images.separation(known[name], unknown[name]).auroc.value for name in ("KNN", "−V"))
    found = ood.lead(known, unknown, "KNN", "−V")
    assert found.value == pytest.approx(one - other)
    assert found.low < found.value < found.high


def test_sets_on_record_are_read_one_under_the_other():
    halves = {"a": slice(25), "b": slice(25, None)}
    record = {name: torch.tensor(LOGITS[rows]) for name, rows in halves.items()}
    record |= {f"features/{name}": torch.tensor(FEATURES[rows]) for name, rows in halves.items()}
    found = ood.read(record, ["b", "a"], 10, LESSON)
    np.testing.assert_allclose(found, SCORES.iloc[[*range(25, 35), *range(10)]], rtol=1e-4)


def test_energies_name_the_likeliest_class_and_add_up():
    table = ood.energies(torch.tensor(LOGITS), range(40), "abc")
    np.testing.assert_allclose(table.V, table.m + np.log(3) + table.K, atol=0.16)  # three roundings
    np.testing.assert_allclose(table.V, logsumexp(LOGITS, axis=1), atol=0.051)
    assert list(table.called) == ["abc"[i] for i in LOGITS.argmax(1)]
