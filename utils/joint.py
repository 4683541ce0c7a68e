"""How much of the joint do the logits carry? Regressions of recorded potentials on exact probabilities.

The unit is a prefix of the Almanac, a node of its trie. `V = m + log |V| + K` is an identity, so the same
regression is run for all three, and the coefficients add up: β_V = β_m + β_K.
"""

from typing import NamedTuple

import numpy as np
import pandas as pd

from utils import DATA
from utils.almanac import VOCAB_SIZE, Almanac


def contexts(almanac: Almanac) -> pd.DataFrame:
    """The recorded prefixes with what is exactly known of them, one row each, in recorded order.

    Columns: `slot` (where in its document the prefix ends), `relation`, `subject` (the cluster), `withheld`,
    `group` (template and slot: the unit of fixed effects), `log_p` (log p(prefix) under the training law,
    −∞ if never seen), `k` and `log_k` (possible next tokens), `entropy` of the exact conditional, in nats.
    """
    stored = np.load(DATA / "recorded" / "prefixes.npz")
    frame = pd.DataFrame({key: stored[key] for key in ("document", "length", "slot")})
    documents = almanac.documents.iloc[frame.document].reset_index(drop=True)
    frame[["relation", "subject", "withheld"]] = documents[["relation", "subject", "withheld"]]
    prompts = [1 + len(e.ids) for e in almanac.tokenizer.encode_batch(list(documents.prompt))]
    part = np.where(frame.length < prompts, "in the prompt", "in the answer")
    template = frame.relation + " " + documents.template.astype(str)
    frame["group"] = np.where(frame.slot == "other", template + " " + part, frame.relation + " " + frame.slot)
    exact = [exact_values(almanac, almanac.ids[i][:n]) for i, n in zip(frame.document, frame.length, strict=True)]
    frame[["log_p", "k", "entropy"]] = exact
    frame["log_k"] = np.log(frame.k)
    return frame


def exact_values(almanac: Almanac, ids) -> tuple[float, float, float]:
    """(log p(prefix), k, entropy of the exact conditional in nats); the last two NaN where p = 0."""
    log_p = almanac.logprob(ids)
    if log_p == -np.inf:
        return log_p, np.nan, np.nan
    q = almanac.next_token(ids)
    q = q[q > 0]
    return log_p, float(len(q)), float(-(q * np.log(q)).sum()) + 0.0


def recorded(name: str) -> dict[str, np.ndarray]:
    """A recorded run: `steps` [S], and `V`, `m`, `K`, `m_live`, `kl` [S, 5000] in nats, float64."""
    with np.load(DATA / "recorded" / f"{name}.npz") as stored:
        run = {key: stored[key].astype(float) for key in stored.files if key != "steps"}
        run["steps"] = stored["steps"]
    run["V"], run["m"], run["m_live"] = (run.pop(f"{c}") for c in ("log_partition", "mean_logit", "mean_logit_live"))
    run["K"] = run["V"] - run["m"] - np.log(VOCAB_SIZE)
    return run


class Fit(NamedTuple):
    """Coefficients [d, q] of q outcomes on d regressors, with 95 % intervals, and R² [q] within groups."""

    beta: np.ndarray
    low: np.ndarray
    high: np.ndarray
    r2: np.ndarray


def regress(x, y, group, cluster, resamples: int = 1000, seed: int = 0) -> Fit:
    """Least squares of `y` [n, q] on `x` [n, d] with one intercept per `group`, resampled by `cluster`.

    Intervals are percentiles over `resamples` draws of whole clusters with replacement: rows of one subject
    stand or fall together. With `resamples=0` they are NaN. R² is the share of the variance within groups.
    Raises ValueError if a regressor is constant within every group (its coefficient would be made up).
    """
    x, y = (np.asarray(a, float).reshape(len(group), -1) for a in (x, y))
    group_ids = pd.factorize(np.asarray(group))[0]
    within = [demean(a, group_ids) for a in (x, y)]
    spread = within[0].std(0)
    if (spread < 1e-9).any() or np.linalg.matrix_rank(within[0] / spread, tol=1e-6) < x.shape[1]:
        raise ValueError("a regressor is constant within every group, or a sum of the others")
    beta = np.linalg.lstsq(*within, rcond=None)[0]
    residual = within[1] - within[0] @ beta
    r2 = 1 - (residual**2).sum(0) / (within[1] ** 2).sum(0)
    low = high = np.full_like(beta, np.nan)
    if resamples:
        draws = resampled(x, y, group_ids, cluster, resamples, seed)
        low, high = np.quantile(draws, [0.025, 0.975], axis=0)
    return Fit(beta, low, high, r2)


def demean(values: np.ndarray, group: np.ndarray) -> np.ndarray:
    """`values` [n, q] minus the mean of their group."""
    sums = np.zeros((group.max() + 1, values.shape[1]))
    np.add.at(sums, group, values)
    return values - (sums / np.bincount(group)[:, None])[group]


def resampled(x, y, group, cluster, resamples: int, seed: int) -> np.ndarray:
    """Coefficients [resamples, d, q] on draws of clusters, from each cluster's own cross products."""
    design = np.concatenate([x, np.eye(group.max() + 1)[group]], 1)  # regressors, then one column a group
    cluster = pd.factorize(np.asarray(cluster))[0]
    count = cluster.max() + 1
    xx = np.zeros((count, design.shape[1], design.shape[1]))
    xy = np.zeros((count, design.shape[1], y.shape[1]))
    np.add.at(xx, cluster, design[:, :, None] * design[:, None, :])
    np.add.at(xy, cluster, design[:, :, None] * y[:, None, :])
    rng = np.random.default_rng(seed)
    weight = np.stack([np.bincount(rng.integers(count, size=count), minlength=count) for _ in range(resamples)])
    inverse = np.linalg.pinv(np.tensordot(weight, xx, 1), hermitian=True)  # a group may be missing from a draw
    return (inverse @ np.tensordot(weight, xy, 1))[:, : x.shape[1]]
