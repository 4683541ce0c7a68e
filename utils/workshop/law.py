"""What training a model of the Almanac needs to know of its law, beyond what the notebooks ask."""

import numpy as np

from ..almanac import Almanac


def sample(almanac: Almanac, n: int, rng: np.random.Generator) -> np.ndarray:
    """Indices of `n` documents drawn independently from the law."""
    cumulative = np.cumsum(almanac.documents[f"p_{almanac.law}"].to_numpy())
    return np.searchsorted(cumulative / cumulative[-1], rng.random(n), side="right")


def entropy_per_token(almanac: Almanac) -> float:
    """The exact entropy of a document, in nats, over its expected length in tokens: the least possible loss."""
    p = almanac.documents[f"p_{almanac.law}"].to_numpy()
    lengths = np.array([len(ids) - 1 for ids in almanac.ids])
    seen = p > 0
    return float(-(p[seen] * np.log(p[seen])).sum() / (p * lengths).sum())


def live_tokens(almanac: Almanac) -> np.ndarray:
    """Ids of the live tokens: those that some document of positive probability asks the model to predict."""
    seen = almanac.documents[f"p_{almanac.law}"].to_numpy() > 0
    return np.unique(np.concatenate([ids[1:] for ids, s in zip(almanac.ids, seen, strict=True) if s]))
