"""Scoring: the table says what the model's own logits say, however the work is cut up."""

import copy

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import FIELDS, assert_same_energies, stranger, tiny, tolerance
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers.processors import TemplateProcessing

from utils.energy import token_energies
from utils.load import LM, load_lm
from utils.reading import score_ids
from utils.score import (
    Window,
    answer_rows,
    encode,
    find_answer,
    score,
    score_continuations,
    score_tokens,
    shorten,
    spoil,
    windows,
)

TEXTS = [
    "The capital of France is Paris.", "On Monday, Ada buys tea.", "12 plus 34 is 46.",
    "Question: What is the symbol of gold? Answer: Au.", "<b>Émile & Zoë</b> 🙂 buy tea.", "Paris",
]  # fmt: skip
LONG = "Ada buys tea and " * 40  # more than two windows


@pytest.fixture(scope="module", params=["almanac-gpt2", "almanac-llama"])
def lm(request):
    return load_lm(request.param)


@pytest.fixture(scope="module")
def table(lm):
    return score(lm, TEXTS)


def test_score_equals_a_few_independent_lines_on_the_models_own_logits(lm, table):
    for number, text in enumerate(TEXTS):
        ids = [lm.tokenizer.bos_token_id, *lm.tokenizer(text, add_special_tokens=False).input_ids]
        logits = lm.model(torch.tensor([ids])).logits[0].double()
        rows = table[table.text == number]
        for t, row in enumerate(rows.itertuples(), start=1):
            log_z, log_z_before = (np.log(np.exp(logits[i].numpy()).sum()) for i in (t, t - 1))
            assert row.spilled == pytest.approx(logits[t - 1, ids[t]].item() - log_z, abs=tolerance(table))
            assert row.logprob == pytest.approx(logits[t - 1, ids[t]].item() - log_z_before, abs=tolerance(table))


def test_every_row_satisfies_the_identities_of_the_notation_table_and_spills_telescope(lm, table):
    close = {"rtol": 0, "atol": tolerance(table)}
    V, m, K = table.log_partition_after, table.mean_logit_after, table.self_certainty_after
    np.testing.assert_allclose(V, m + np.log(lm.model.config.vocab_size) + K, **close)
    np.testing.assert_allclose(table.spilled, table.logprob + table.log_partition_before - V, **close)
    inside = table[table.position > 0]
    np.testing.assert_array_equal(inside.log_partition_before, table.log_partition_after.shift()[inside.index])
    for _, rows in table.groupby("text"):
        ends = rows.log_partition_before.iloc[0] - rows.log_partition_after.iloc[-1]
        np.testing.assert_allclose(rows.spilled.sum(), rows.logprob.sum() + ends, **close)


@pytest.mark.parametrize(("batch_size", "chunk_size"), [(1, None), (2, 1), (3, 7), (64, 1000)])
def test_batch_and_chunk_size_change_nothing(lm, table, batch_size, chunk_size):
    other = score(lm, TEXTS, batch_size=batch_size, chunk_size=chunk_size)
    pd.testing.assert_frame_equal(other[["text", "token", "id"]], table[["text", "token", "id"]])
    assert_same_energies(other, table)


@settings(max_examples=50, deadline=None)
@given(
    rows=st.lists(st.tuples(st.integers(0, 3), st.integers(2, 12)), min_size=1, max_size=4),
    architecture=st.sampled_from(["gpt2", "llama"]),
    side=st.sampled_from(["left", "right", "both"]),
    chunk_size=st.sampled_from([None, 1, 5]),
    seed=st.integers(0, 1000),
)
def test_pads_at_either_end_of_a_row_or_both_change_nothing_and_are_nan(rows, architecture, side, chunk_size, seed):
    model, longest = tiny(architecture), max(n for _, n in rows)
    starts = [{"left": longest - n, "right": 0, "both": first}[side] for first, n in rows]
    places = [slice(first, first + n) for first, (_, n) in zip(starts, rows, strict=True)]
    real = torch.zeros(len(rows), max(place.stop for place in places) + (side == "both"))
    for i, place in enumerate(places):
        real[i, place] = 1
    ids = torch.from_numpy(np.random.default_rng(seed).integers(0, 97, real.shape)) * real.long()
    energies = score_ids(model, ids, real, chunk_size)
    for i, place in enumerate(places):
        alone = ids[i : i + 1, place]
        want = token_energies(model(alone).logits, alone)
        assert_same_energies([field[i : i + 1, place] for field in energies], want)
        assert torch.stack(energies)[:, i, real[i] == 0].isnan().all()


def test_half_precision_models_are_reduced_in_float32(tiny_model):
    half, ids = tiny_model.to(torch.bfloat16), torch.arange(2, 12)[None]
    assert_same_energies(score_ids(half, ids), token_energies(half(ids).logits.float(), ids))


def test_tokens_of_a_text_join_to_the_text_and_answer_rows_follow_the_characters_of_the_answer(table):
    answers = ["Paris", "tea", "46", "Au", "tea", "Paris"]
    rows = answer_rows(table, [find_answer(text, answer) for text, answer in zip(TEXTS, answers, strict=True)])
    for number, (text, answer) in enumerate(zip(TEXTS, answers, strict=True)):
        assert "".join(table[table.text == number].token) == text
        assert "".join(rows[rows.text == number].token).strip() == answer
    assert find_answer("Rome, not Rome", "Rome", after=4) == (10, 14)  # the second mention, after the first


def test_token_ids_are_scored_as_they_are_even_if_their_text_has_others(lm):
    rows = [encode(lm, text)[0] for text in TEXTS]
    fields = ["text", "position", "id", *FIELDS]
    pd.testing.assert_frame_equal(score_tokens(lm, rows)[fields], score(lm, TEXTS)[fields], rtol=0, atol=2e-4)
    letters = [lm.tokenizer.convert_tokens_to_ids(letter) for letter in "Tok"]  # as a text they are one token, or two
    odd = score_tokens(lm, [np.array(letters)])
    assert odd.id.tolist() == letters and "".join(odd.token) == "Tok" and len(encode(lm, "Tok")[0]) < 3


def test_spoilt_rows_keep_their_last_token_and_grow_by_steps():
    rows = [[1, 2, 3, 4, 5, 6, 0], [11, 12, 13, 14, 10]]
    moved = {n: spoil(rows, n, "moved") for n in range(5)}
    assert [row.tolist() for row in moved[0]] == rows
    for n in (2, 3, 4):
        for row, before, own in zip(moved[n], moved[n - 1], rows, strict=True):
            assert sorted(row) == sorted(own) and row[-1] == own[-1]
            assert (row != own).sum() == n and set(np.flatnonzero(before != own)) <= set(np.flatnonzero(row != own))
    pool = {token for row in rows for token in row}
    places = [np.flatnonzero(spoil(rows, 4, "moved", seed)[0] != rows[0]).tolist() for seed in range(5)]
    for row, later, own in zip(spoil(rows, 2, "replaced"), spoil(rows, 4, "replaced"), rows, strict=True):
        assert (row != own).sum() <= 2 and set(row) <= pool and row[-1] == later[-1] == own[-1]
        assert (later == row)[row != own].all()  # what is replaced stays so
    for n, how in ((5, "moved"), (-1, "moved"), (1, "eaten")):
        with pytest.raises(ValueError, match="how must be 'replaced' or 'moved'"):
            spoil(rows, n, how)
    assert len({*map(tuple, places)}) > 1 and rows[0] == [1, 2, 3, 4, 5, 6, 0]  # what came in is untouched


def test_tokens_are_spoilt_by_seed_0_unless_you_say_otherwise():
    rows = [list(range(9)), list(range(20, 29))]
    for how in ("replaced", "moved"):
        stated, other = (spoil(rows, 5, how, seed=seed) for seed in (0, 1))
        np.testing.assert_array_equal(spoil(rows, 5, how), stated)
        assert not np.array_equal(stated, other)


def test_token_ids_are_refused_by_the_number_of_their_row(lm):
    many = lm.tokenizer(LONG, add_special_tokens=False)["input_ids"]
    with pytest.raises(ValueError, match=r"texts\[1\] has \d+ tokens, the model's window is 64: shorten it$"):
        score_tokens(lm, [many[:3], many])
    bare = LM(lm.model, copy.deepcopy(lm.tokenizer), "bare", "yours", "")
    bare.tokenizer.bos_token = None
    with pytest.raises(ValueError, match=r"texts\[1\] has one token and no BOS"):
        score_tokens(bare, [many[:3], many[:1]])


@pytest.mark.parametrize("many", [
    lambda lm, **bar: score(lm, TEXTS[:2], **bar),
    lambda lm, **bar: score_continuations(lm, ["Paris is", "Lima is"], [[" big", " old"], [" big"]], **bar),
])  # fmt: skip
def test_a_bar_is_shown_when_it_is_asked_for_and_only_then(lm, many, capfd):
    many(lm)
    score_tokens(lm, [[5, 6, 7]])
    assert capfd.readouterr().err == ""
    many(lm, progress=True)
    assert capfd.readouterr().err.lstrip("\r").startswith("score: ")


def test_without_bos_the_first_token_has_no_term_1(lm):
    table = score(lm, TEXTS[:2], bos=False)
    first = table[table.position == 0]
    assert first[["logit", "logprob", "spilled", "log_partition_before"]].isna().all(axis=None)
    assert table[table.position > 0][FIELDS].notna().all(axis=None)
    assert first[["log_partition_after", "entropy_after", "mean_logit_after"]].notna().all(axis=None)


def test_a_long_text_is_refused_by_default_and_slid_over_on_request(lm):
    with pytest.raises(ValueError, match=r"window is 64: shorten it, or pass too_long='slide'$"):
        score(lm, [LONG])
    table = score(lm, [LONG, TEXTS[0]], too_long="slide")
    assert "".join(table[table.text == 0].token) == LONG
    assert table[FIELDS].notna().all(axis=None)
    head = score(lm, [LONG[:120]])
    np.testing.assert_allclose(table.spilled[:20], head.spilled[:20], atol=tolerance(table))


def test_a_text_that_just_fits_is_read_at_once_and_a_longer_one_in_windows_that_overlap_by_half():
    ids = list(range(23))
    assert windows(0, ids[:10], 1, 10) == [Window(ids[:10], 1)] == windows(0, ids[:10], 1, None)
    assert windows(0, ids[:2], 1, 10) == [Window(ids[:2], 1)]
    assert windows(0, ids, 1, 10, "slide") == [
        Window(ids[:10], 1), Window(ids[5:15], 5), Window(ids[10:20], 5), Window(ids[13:], 7)
    ]  # fmt: skip


def test_a_bos_is_put_before_a_text_as_you_say_and_never_twice(lm):
    one, insisted, without = (score(lm, TEXTS[0], bos=bos) for bos in ("auto", True, False))
    pd.testing.assert_frame_equal(one, insisted)
    assert without.logprob.isna().sum() == 1
    adds_its_own = copy.deepcopy(lm.tokenizer)
    start = (lm.tokenizer.bos_token, lm.tokenizer.bos_token_id)
    adds_its_own._tokenizer.post_processor = TemplateProcessing(single=f"{start[0]} $A", special_tokens=[start])
    assert adds_its_own(TEXTS[0]).input_ids[0] == start[1]
    pd.testing.assert_frame_equal(score((lm.model, adds_its_own), TEXTS[0]), one)
    bare = copy.deepcopy(lm.tokenizer)
    bare.bos_token = None
    pd.testing.assert_frame_equal(score((lm.model, bare), TEXTS[0], bos=False), without)
    with pytest.raises(ValueError, match="has no BOS token; use bos='auto'"):
        score((lm.model, bare), TEXTS[0], bos=True)


def test_one_text_is_as_good_as_a_list_and_a_bad_one_goes_by_its_number(lm):
    pd.testing.assert_frame_equal(score(lm, TEXTS[0]), score(lm, TEXTS[:1]))
    with pytest.raises(ValueError, match=r"texts\[1\] has \d+ tokens"):
        score(lm, [TEXTS[0], LONG])
    with pytest.raises(ValueError, match=r"texts\[0\] is empty"):
        encode(lm, "")


def test_a_sliding_window_gives_each_token_at_least_half_a_window_of_context(lm):
    table = score(lm, [LONG], bos=False, too_long="slide")
    assert len(table) > 64
    last = score_ids(lm.model, torch.tensor([table.id.tolist()[-64:]]))
    assert table.spilled.iloc[-1] == pytest.approx(last.spilled[0, -1].item(), abs=tolerance(table))


def test_a_llama_with_another_tokenizer_scores_unchanged(tmp_path):
    lm, text = load_lm(stranger(tmp_path)), "The course is about logits, and Zoë buys tea."
    table = score(lm, [text])
    ends = table.log_partition_before.iloc[0] - table.log_partition_after.iloc[-1]
    assert table.spilled.sum() == pytest.approx(table.logprob.sum() + ends, abs=1e-9)
    covered = [at for row in table.itertuples() for at in range(row.start, row.end)]
    assert sorted({*covered}) == [*range(len(text))] and covered == sorted(covered)
    assert isinstance(lm, LM) and not lm.stand_in


@pytest.mark.parametrize(("texts", "options", "message"), [
    ([], {}, "texts is empty"),
    (["fine", "tea \ud800"], {}, r"texts\[1\] holds half a character"),
    ([""], {}, r"texts\[0\] is empty"), (["fine", "  "], {}, r"texts\[1\] is empty"),
    (["a"], {"bos": False}, "one token"), (["a b"], {"too_long": "cut"}, "too_long"), (["a b"], {"bos": "yes"}, "bos"),
])  # fmt: skip
def test_bad_texts_are_refused_by_name(lm, texts, options, message):
    with pytest.raises(ValueError, match=message):
        score(lm, texts, **options)


@pytest.mark.parametrize(("ids", "mask", "message"), [
    ([1, 2, 3], None, r"\[B, T\]"), ([[1.0, 2.0]], None, "ids must be"), ([[5]], None, "at least two"),
    ([[1, 97]], None, r"0 … 96"), ([[-1, 2]], None, r"0 … 96"), ([[0] * 49], None, "window of 48"),
    ([[1, 2]], torch.ones(1, 3), "shape of ids"), ([[1, 2, 3, 4]], torch.tensor([[1, 0, 1, 1]]), "without holes"),
])  # fmt: skip
def test_bad_ids_are_refused_by_name(tiny_model, ids, mask, message):
    with pytest.raises(ValueError, match=message):
        score_ids(tiny_model, torch.tensor(ids), mask)


def test_nan_weights_are_refused(tiny_model):
    tiny_model.get_output_embeddings().weight.data[0] = float("nan")
    with pytest.raises(ValueError, match="NaN or infinite"):
        score_ids(tiny_model, torch.tensor([[1, 2, 3]]))


def test_a_long_text_is_quoted_by_its_ends():
    assert shorten("Rome, not Rome", most=14) == "'Rome, not Rome'"
    assert shorten("Rome, not Rome", most=8) == shorten("Rome and Rome", most=8) == "'Rome … Rome'"
    assert len(shorten("a" * 10_000)) < 110


def test_an_answer_is_the_first_one_after_where_it_was_looked_for_and_never_empty():
    assert find_answer("Rome, Rome and Rome", "Rome") == (0, 4)
    assert find_answer("Rome, Rome and Rome", "Rome", after=1) == (6, 10)
    for missing in ("", "Oslo"):
        with pytest.raises(ValueError, match="not found"):
            find_answer("Rome", missing)


def test_a_token_that_only_touches_a_span_is_not_in_it():
    table = pd.DataFrame({"text": [0, 0, 0], "start": [0, 3, 6], "end": [3, 6, 9]})
    assert answer_rows(table, [(3, 6)]).index.tolist() == [1]
    assert answer_rows(table, [(2, 7)]).index.tolist() == [0, 1, 2]


@pytest.mark.parametrize(("spans", "message"), [
    ([(0, 3)], r"one \(start, end\) per text"), ([(400, 403), *[(0, 5)] * (len(TEXTS) - 1)], "no token of text 0"),
])  # fmt: skip
def test_spans_must_match_the_texts(table, spans, message):
    with pytest.raises(ValueError, match=message):
        answer_rows(table, spans)
