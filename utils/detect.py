"""Finding wrong answers: one number per answer, read off the tidy table.

tidy table (`score`, `generate`; answer tokens only) → `pool` → `utils.stats`: `auroc`, `auroc_difference`, `max_t`.

Every score goes by its symbol and is oriented so that **higher = more suspicious**, by its source and before any
label is seen.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pandas as pd

from .energy import terms_of

POOLINGS = ("mean", "max", "min", "last", "sum")


class Score(NamedTuple):
    """A score of one token: how it is computed from the table, and who set its direction."""

    of: Callable[[pd.DataFrame], pd.Series]  # higher = more suspicious
    source: str


# Of a token x in its context c; "before" is V(c), from which x was chosen, and "after" is V(c, x).
SCORES = {
    "−s": Score(lambda x: -x.spilled, "Δ = −s is high where the paper's code finds errors (2602.18671)"),
    "−log p": Score(lambda x: -x.logprob, "surprise, the usual baseline"),
    "−f": Score(lambda x: -x.logit, "few familiar features, low logit (2203.02486)"),
    "−V before": Score(lambda x: -x.log_partition_before, "unfamiliar: high energy (2010.03759)"),
    "−V after": Score(lambda x: -x.log_partition_after, "a limp Term 2 (the blog post)"),
    "H": Score(lambda x: x.entropy_before, "predictive uncertainty (2002.07650)"),
    "−max log p": Score(lambda x: -x.max_logprob_before, "low maximum probability (1610.02136)"),
    "−K": Score(lambda x: -x.self_certainty_before, "low self-certainty (2502.18581)"),
}
# The three terms of s, in the direction of −s, and what the second and third add to the first.
TERMS = {
    "−A": Score(lambda x: -terms_of(x).likelihood, "A = log p(x|c)"),
    "−B": Score(lambda x: -terms_of(x).certainty_drop, "B = K(c) − K(c,x)"),
    "−C": Score(lambda x: -terms_of(x).gauge_drop, "C = m(c) − m(c,x)"),
    "−(A+B)": Score(lambda x: -terms_of(x).likelihood - terms_of(x).certainty_drop, "s in the centred gauge"),
    "−(A+C)": Score(lambda x: -terms_of(x).likelihood - terms_of(x).gauge_drop, "likelihood and gauge alone"),
    "−(A+B+C)": Score(lambda x: -x.spilled, "the sum is −s"),
}
# Readings of the sign, and two rivals that know nothing of a token.
SIGNS = {
    "−s": SCORES["−s"],
    "s": Score(lambda x: x.spilled, "Term 1 far above Term 2 (the blog post)"),
    "|s|": Score(lambda x: x.spilled.abs(), "far from consistent, either way (the paper's documentation)"),
}


def noise(table: pd.DataFrame) -> pd.Series:
    """A standard normal number a token, always the same ones. Pooled by max or min it still counts tokens."""
    return pd.Series(np.random.default_rng(0).normal(size=len(table)), table.index)


def pool(table: pd.DataFrame, how: str = "mean", scores: dict[str, Score] = SCORES) -> pd.DataFrame:
    """One row per answer: each oriented score pooled over the answer's tokens, and `length` in tokens.

    Args: `table`, the tidy table restricted to answer tokens (`score.answer_rows`); `how`, one of mean, max,
    min, last, sum, taken of the *oriented* score: max is the most suspicious token, for every score alike.
    Rows are indexed by the text's number, columns named by symbol. ValueError on another `how`, or a token
    without a value.

    >>> tokens = pd.DataFrame({"text": [0, 0, 1], "spilled": [-1.0, -3.0, 2.0]})
    >>> pool(tokens, "max", {"−s": SCORES["−s"]})
        −s  length
    0  3.0       2
    1 -2.0       1
    """
    if how not in POOLINGS:
        raise ValueError(f"how must be one of {', '.join(POOLINGS)}; got {how!r}")
    values = pd.DataFrame({symbol: score.of(table) for symbol, score in scores.items()})
    if values.isna().any(axis=None):
        raise ValueError("a token has no Term 1 (the first of a text without BOS); leave it out of the answer")
    grouped = values.groupby(table["text"].to_numpy())
    return getattr(grouped, how)().assign(length=grouped.size())
