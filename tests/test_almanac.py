"""The Almanac: its law, what it withholds, and its exact probabilities, re-derived by other routes."""

import hashlib
from collections import Counter
from functools import cache
from itertools import combinations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from utils import DATA
from utils.almanac import Almanac, contexts, questions, read_documents, read_facts
from utils.workshop.documents import BRANCHING, DAYS, GOODS, NAMES, SHARES, TEMPLATES, make_documents, train_tokenizer
from utils.workshop.law import entropy_per_token, sample

under = cache(Almanac)


def train() -> Almanac:
    return under("train")


@pytest.fixture(scope="module", params=["train", "world"])
def almanac(request):
    return under(request.param)


@pytest.fixture(scope="module")
def documents():
    return read_documents()


def test_the_stored_language_is_the_one_that_was_published(documents):
    """Exactly, to the last bit of both laws: every bundled model was trained on it."""
    digest = hashlib.sha256()
    for column in ("prompt", "answer", "withheld", "split"):
        digest.update("\n".join(documents[column]).encode())
    for law in ("p_world", "p_train"):
        digest.update(documents[law].to_numpy().astype("<f8").tobytes())
    assert digest.hexdigest() == "81ab6c781526c0429c805d09fdc630ac73171e4eef167cf8cdd883711e8ff4c3"
    assert documents.text.equals(documents.prompt + documents.answer + ".")


def test_the_workshop_still_makes_the_stored_tokenizer_and_documents(documents):
    assert train().tokenizer.to_str() == train_tokenizer(read_facts()).to_str()
    made, laws = make_documents(read_facts(), train().tokenizer), ["p_world", "p_train"]
    pd.testing.assert_frame_equal(made.drop(columns=laws), documents.drop(columns=[*laws, "text"]))
    # NumPy's powers and sums may differ in the last bit between processors; what counts is what is stored
    np.testing.assert_allclose(made[laws], documents[laws], rtol=1e-14, atol=0)


def test_no_two_objects_share_a_frame():
    frames = (train().documents, under("world").documents, read_documents())
    assert not any(np.shares_memory(one.p_world, other.p_world) for one, other in combinations(frames, 2))


def test_the_world_law_has_the_stated_shares_and_the_training_law_is_it_given_that_nothing_is_withheld(documents):
    for family, share in SHARES.items():
        assert documents[documents.family == family].p_world.sum() == pytest.approx(share, abs=1e-12)
    kept = documents.withheld == ""
    assert documents.p_train[~kept].eq(0).all()
    np.testing.assert_allclose(documents.p_train[kept], documents.p_world[kept] / documents.p_world[kept].sum())


def test_there_are_enough_documents_facts_relations_and_templates(documents):
    facts = read_facts()
    assert len(documents) >= 20_000 and documents.text.is_unique
    assert len(facts) >= 600 and facts.relation.nunique() >= 6 and not facts.duplicated(["relation", "subject"]).any()
    for relation in facts.relation.unique():
        assert len(TEMPLATES[relation]) >= 4
        assert [t.startswith("Question:") for t in TEMPLATES[relation]].count(True) == 1


def test_subjects_follow_zipfs_law_in_every_relation_and_templates_are_equally_likely(documents):
    facts = documents[documents.family == "fact"]
    for _, rows in facts.groupby("relation"):
        weights = np.sort(rows.groupby("subject").p_world.sum().to_numpy())[::-1]
        np.testing.assert_allclose(weights, weights[0] / np.arange(1, len(weights) + 1))
    spread = facts.groupby(["relation", "subject"]).p_world.agg(lambda p: p.max() / p.min())
    np.testing.assert_allclose(spread, 1)


def test_the_withheld_parts_have_their_stated_sizes(documents):
    facts = documents[documents.family == "fact"]
    subjects = facts.subject.nunique()
    unseen = facts[facts.withheld == "subject"]
    assert unseen.subject.nunique() == pytest.approx(0.05 * subjects, abs=1)
    assert set(unseen.subject).isdisjoint(facts[facts.withheld != "subject"].subject)
    triples = facts.drop_duplicates(["relation", "subject"])
    several = triples.groupby("subject").size().gt(1).sum() - unseen.subject.nunique()
    assert (triples.withheld == "relation").sum() == pytest.approx(0.05 * several, abs=3)
    questions = facts[facts.question & ~facts.withheld.isin(["subject", "relation"])]
    assert (questions.withheld == "question").mean() == pytest.approx(0.20, abs=0.01)
    additions = documents[documents.family == "arithmetic"]
    assert (additions.withheld == "sum").mean() == pytest.approx(1 / 3, abs=0.01)


def test_a_withheld_sum_does_not_return_with_its_numbers_swapped_nor_a_subject_in_both_splits(documents):
    additions = documents[documents.family == "arithmetic"]
    assert additions.groupby("subject").withheld.nunique().eq(1).all()
    questions = documents[documents.split != ""]
    assert questions.groupby(["family", "subject"]).split.nunique().eq(1).all()


def test_answer_lengths_in_tokens_are_balanced_between_the_large_groups(documents):
    tokenizer = train().tokenizer
    questions = documents[(documents.family == "fact") & documents.question]
    lengths = questions.answer.map(lambda answer: len(tokenizer.encode(answer).ids))
    means = lengths.groupby(questions.withheld).mean()
    assert abs(means["question"] - means[""]) < 0.15
    assert abs(means["subject"] - means[""]) < 0.35  # 47 facts


def test_every_branching_factor_comes_with_at_least_ten_frequencies_over_two_decades(almanac):
    habits = almanac.documents[almanac.documents.family == "stochastic"].drop_duplicates("prompt")
    ids, seen = [almanac.encode(prompt) for prompt in habits.prompt], {k: [] for k in BRANCHING}
    for prompt in ids:
        seen[np.count_nonzero(almanac.next_token(prompt))].append(almanac.logprob(prompt))
    assert len({len(prompt) for prompt in ids}) == 1  # same template, same position
    for logprobs in seen.values():
        assert len(set(np.round(logprobs, 6))) >= 10
        assert (max(logprobs) - min(logprobs)) / np.log(10) >= 2 - 1e-9


def test_prompt_and_answer_encode_to_the_tokens_of_the_whole(documents):
    encode = train().tokenizer.encode_batch
    prompts, answers, stops, texts = (
        [e.ids for e in encode(list(column))]
        for column in (documents.prompt, documents.answer, documents.answer + ".", documents.text)
    )
    for prompt, answer, stop, text in zip(prompts, answers, stops, texts, strict=True):
        assert prompt + stop == text
        assert text[: len(prompt) + len(answer)] == prompt + answer


def test_words_of_the_habits_and_digits_are_single_tokens_and_prompts_end_without_a_space(documents):
    encode, decode = train().tokenizer.encode, train().tokenizer.decode
    assert all(len(encode(f" {word}").ids) == 1 for word in (*DAYS, *NAMES, *GOODS))
    assert [decode([i]) for i in encode("12+345").ids] == ["1", "2", "+", "3", "4", "5"]
    assert not documents.prompt.str.endswith(" ").any()
    assert train().vocab_size <= 2048


def test_prefix_probabilities_agree_with_brute_force_on_a_sub_language(almanac):
    """Sum the documents that start with a prefix, without any trie, for all prefixes of 300 documents."""
    sub = read_documents().sample(300, random_state=0)
    language = Almanac(almanac.law, documents=sub)
    p = sub[f"p_{almanac.law}"].to_numpy()
    prefixes = {tuple(ids[:n]) for ids in language.ids for n in range(1, len(ids) + 1)}
    for prefix in prefixes:
        mass = sum(p_i for p_i, ids in zip(p, language.ids, strict=True) if tuple(ids[: len(prefix)]) == prefix)
        assert np.exp(language.logprob(prefix)) == pytest.approx(mass, rel=1e-12, abs=0)


@settings(max_examples=60, deadline=None)
@given(document=st.integers(0, 27_000), length=st.integers(1, 20))
def test_conditionals_are_ratios_of_prefix_probabilities_and_sum_to_one(document, length):
    almanac = train()
    ids = almanac.ids[document][:length]
    if ids[-1] == almanac.eos or almanac.logprob(ids) == -np.inf:
        return
    p = almanac.next_token(ids)
    assert p.sum() == pytest.approx(1, abs=1e-12)
    for token in np.flatnonzero(p):
        ratio = np.exp(almanac.logprob([*ids, token]) - almanac.logprob(ids))
        assert p[token] == pytest.approx(ratio, rel=1e-9)


def test_chain_rule_gives_every_document_its_probability(almanac):
    p = almanac.documents[f"p_{almanac.law}"].to_numpy()
    for i in range(0, len(p), 97):
        assert np.exp(almanac.logprob(almanac.ids[i])) == pytest.approx(p[i], rel=1e-9, abs=0)


def test_sampled_frequencies_agree_with_exact_probabilities(almanac):
    n = 200_000
    drawn = sample(almanac, n, np.random.default_rng(0))
    counts = Counter(tuple(almanac.ids[i][:4]) for i in drawn)
    for prefix, count in counts.items():
        p = np.exp(almanac.logprob(prefix))
        assert abs(count - n * p) < 6 * np.sqrt(n * p * (1 - p)) + 1
    assert sum(np.exp(almanac.logprob(prefix)) for prefix in counts) > 0.99


def test_withheld_documents_have_probability_zero_under_training_only():
    world = under("world")
    for i in np.flatnonzero(world.documents.withheld != "")[::501]:
        assert train().logprob(train().ids[i]) == -np.inf
        assert np.isfinite(world.logprob(world.ids[i]))


def test_entropy_per_token_is_that_of_a_large_sample():
    drawn = sample(train(), 100_000, np.random.default_rng(1))
    p, tokens = train().documents.p_train.to_numpy()[drawn], sum(len(train().ids[i]) - 1 for i in drawn)
    assert -np.log(p).sum() / tokens == pytest.approx(entropy_per_token(train()), abs=0.005)


@pytest.mark.parametrize(("ask", "message"), [
    *((lambda known, ids=ids: known.logprob(ids), "BOS") for ids in ([], [5], [1, 2])),
    (lambda known: known.logprob(known.encode("The capital of Atlantis is")), "no prefix of any Almanac document"),
    (lambda known: known.next_token(known.ids[0]), "after EOS"),
    (lambda known: known.next_token(known.encode(known.documents.query("withheld == 'question'").prompt.iloc[0])),
     "probability 0"),
    (lambda _: Almanac("moon"), "law must be"),
])  # fmt: skip
def test_what_lies_outside_the_language_is_refused(ask, message):
    with pytest.raises(ValueError, match=message):
        ask(train())


def test_what_leaves_the_language_is_named_up_to_where_it_does():
    ids = list(train().ids[100])
    ids[3] = train().pad
    with pytest.raises(ValueError) as refusal:
        train().node(ids)
    read = repr(train().tokenizer.decode(ids[:4]))
    assert str(refusal.value) == f"{read} is no prefix of any Almanac document (token 3 leaves the trie)"


def test_a_whole_document_ends_with_eos_and_a_prefix_does_not():
    text = train().documents.text[7]
    assert Almanac().law == "train"
    assert train().encode(text, whole=True) == train().ids[7] == [*train().encode(text), train().eos]


def test_facts_that_many_get_wrong_are_right():
    """Written down here by hand, from general knowledge: capitals that are not the largest city, and the like."""
    known = """capital: Australia Canberra, Brazil Brasilia, Canada Ottawa, Kazakhstan Astana, Morocco Rabat,
    Nigeria Abuja, Pakistan Islamabad, Switzerland Bern, Turkey Ankara, Vietnam Hanoi; continent: Morocco Africa,
    Nepal Asia, Peru South America; symbol: iron Fe, lead Pb, sodium Na, tungsten W; constellation: Betelgeuse Orion,
    Polaris Ursa Minor, Vega Lyra"""
    facts = read_facts().set_index(["relation", "subject"]).object
    for line in known.split(";"):
        relation, pairs = line.strip().split(": ")
        for pair in pairs.split(","):
            subject, answer = pair.strip().split(" ", 1)
            assert facts[relation, subject] == answer


def test_atomic_numbers_run_from_1_to_118_and_the_fact_table_is_plain_sorted_ascii():
    facts = read_facts()
    assert sorted(facts[facts.relation == "number"].object.astype(int)) == list(range(1, 119))
    assert facts[facts.relation == "symbol"].object.is_unique
    assert "\r" not in (DATA / "almanac.csv").read_text(encoding="ascii")
    assert facts.sort_values(["relation", "subject"]).index.equals(facts.index)


@pytest.fixture(scope="module")
def frame():
    return contexts(train())


def test_exact_columns_are_the_almanacs_own(frame):
    almanac = train()
    for row in frame.iloc[::211].itertuples():
        ids = almanac.ids[row.document][: row.length]
        assert row.log_p == almanac.logprob(ids)
        if np.isfinite(row.log_p):
            q = almanac.next_token(ids)
            assert row.k == np.count_nonzero(q) and row.log_k == pytest.approx(np.log(row.k))
            assert row.entropy == pytest.approx(-(q[q > 0] * np.log(q[q > 0])).sum(), abs=1e-12)
            assert row.entropy <= row.log_k + 1e-9 and not np.signbit(row.entropy)  # never "−0.0"
        else:
            assert np.isnan([row.k, row.log_k, row.entropy]).all()


def test_prefixes_are_grouped_by_template_and_slot_and_by_the_side_of_the_prompts_end(frame):
    almanac = train()
    for row in frame[(frame.slot == "other") | (frame.index % 53 == 0)].itertuples():
        document = almanac.documents.iloc[row.document]
        assert (row.relation, row.subject, row.withheld) == (document.relation, document.subject, document.withheld)
        read = almanac.tokenizer.decode(almanac.ids[row.document][1 : row.length])
        inside = len(read) < len(document.prompt) and document.prompt.startswith(read)
        part = f"{document.template} in the {'prompt' if inside else 'answer'}" if row.slot == "other" else row.slot
        assert row.group == f"{row.relation} {part}"


def test_a_question_knows_how_often_its_fact_its_answer_and_its_subject_are_told(frame):
    almanac = train()
    documents, asked = almanac.documents, questions(almanac, frame)
    facts = documents[documents.family == "fact"]
    alone = asked.log_elsewhere.isna()
    assert 0 < alone.sum() < len(asked)
    for row in (*asked[~alone].iloc[::97].itertuples(), *asked[alone].iloc[:5].itertuples()):
        its = facts[facts.subject == row.subject]
        told = its.relation == row.relation
        answer = facts[(facts.relation == row.relation) & (facts.answer == documents.answer[row.document])]
        assert row.log_fact == pytest.approx(np.log(its.p_train[told].sum()))
        assert row.log_answer == pytest.approx(np.log(answer.p_train.sum()))
        elsewhere = its.p_train[~told].sum()
        assert row.log_elsewhere == pytest.approx(np.log(elsewhere)) if elsewhere else np.isnan(row.log_elsewhere)
        assert row.asked == (documents.withheld[row.document] == "")


def test_every_prefix_is_recorded_once_and_habits_cross_k_with_frequency(frame):
    ids = train().ids
    assert len({tuple(ids[d][:n]) for d, n in zip(frame.document, frame.length, strict=True)}) == len(frame) == 5000
    habits = frame[frame.slot == "habit"]
    assert abs(np.corrcoef(habits.log_p, habits.log_k)[0, 1]) < 1e-9  # crossed, not merely mixed
