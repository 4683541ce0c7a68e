"""The texts of notebook 03 are what the data card says they are."""

import re
from collections import Counter

import pandas as pd
import pytest

from utils import DATA


@pytest.fixture(scope="module")
def texts():
    return pd.read_csv(DATA / "texts.csv")


def words(text: str) -> list[str]:
    return re.findall(r"[a-z]+(?:['-][a-z]+)*", text.lower())


def by_pair(texts: pd.DataFrame, *kinds: str) -> pd.DataFrame:
    """One row per pair, one column per kind; raises ValueError if a pair has two texts of one kind."""
    return texts[texts.kind.isin(kinds)].pivot(index="pair", columns="kind", values="text")[list(kinds)]


def test_every_text_is_short_complete_and_has_a_source(texts):
    assert Counter(texts.kind) == {"famous": 81, "new": 81, "fact": 81, "swapped": 81}
    assert texts.notna().all(axis=None) and texts.text.is_unique
    assert texts.text.map(words).str.len().between(12, 40).all()
    assert (texts.text == texts.text.str.strip()).all() and texts.text.str.endswith((".", "!", "?")).all()


@pytest.mark.parametrize("kinds", [("famous", "new"), ("fact", "swapped")])
def test_pairs_are_complete_and_in_the_same_order(texts, kinds):
    first, second = (texts[texts.kind == kind].pair.tolist() for kind in kinds)
    assert first == second == sorted(set(first))


def test_a_new_text_is_as_long_as_its_famous_partner(texts):
    lengths = by_pair(texts, "famous", "new").map(lambda text: len(words(text)))
    assert (lengths.famous - lengths.new).abs().max() <= 2
    assert abs(lengths.famous.mean() - lengths.new.mean()) < 0.5


def test_no_new_text_shares_four_words_in_a_row_with_a_famous_one(texts):
    def runs(kind: str) -> set[tuple[str, ...]]:
        rows = [words(text) for text in texts[texts.kind == kind].text]
        return {tuple(row[i : i + 4]) for row in rows for i in range(len(row) - 3)}

    assert not runs("famous") & runs("new")


def test_a_swapped_sentence_is_its_fact_with_the_answer_of_the_next_one_in_its_group(texts):
    pairs = by_pair(texts, "fact", "swapped")
    for start in range(81, 162, 9):
        group = pairs.loc[start : start + 8]
        assert Counter(words(" ".join(group.fact))) == Counter(words(" ".join(group.swapped)))
        for own, other, following in zip(group.fact, group.swapped, [*group.fact[1:], group.fact.iloc[0]], strict=True):
            answer = Counter(words(other)) - Counter(words(own))
            assert answer and not answer - Counter(words(following))  # what is new in it stands in the next fact
