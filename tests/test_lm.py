"""Scoring: the table says what the model's own logits say, however the work is cut up."""

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import stranger, tiny
from hypothesis import given, settings
from hypothesis import strategies as st

from utils.energy import TokenEnergies, token_energies
from utils.load import LM, MODELS, load_lm
from utils.reading import score_ids
from utils.score import answer_rows, encode, find_answer, score, score_tokens, spoil

BUNDLED = ["almanac-gpt2", "almanac-llama"]
TEXTS = [
    "The capital of France is Paris.",
    "On Monday, Ada buys tea.",
    "12 plus 34 is 46.",
    "Question: What is the symbol of gold? Answer: Au.",
    "<b>Émile & Zoë</b> 🙂 buy tea.",
    "Paris",
]
NUMBERS = list(TokenEnergies._fields)


def tolerance(table: pd.DataFrame) -> float:
    """design: 5e-6 · max(1, max |f|), with the largest energy at hand for max |f|"""
    return 5e-6 * max(1.0, np.nanmax(np.abs(table[["logit", "log_partition_after"]].to_numpy())))


@pytest.fixture(scope="module", params=BUNDLED)
def lm(request):
    return load_lm(request.param)


@pytest.fixture(scope="module")
def table(lm):
    return score(lm, TEXTS)


# What the numbers mean


def test_score_equals_a_few_independent_lines_on_the_models_own_logits(lm, table):
    for number, text in enumerate(TEXTS):
        ids = [lm.tokenizer.bos_token_id, *lm.tokenizer(text, add_special_tokens=False).input_ids]
        logits = lm.model(torch.tensor([ids])).logits[0].double()
        rows = table[table.text == number]
        for t, row in enumerate(rows.itertuples(), start=1):
            log_z = np.log(np.exp(logits[t].numpy()).sum())
            log_z_before = np.log(np.exp(logits[t - 1].numpy()).sum())
            assert row.spilled == pytest.approx(logits[t - 1, ids[t]].item() - log_z, abs=tolerance(table))
            assert row.logprob == pytest.approx(logits[t - 1, ids[t]].item() - log_z_before, abs=tolerance(table))


def test_spills_telescope_to_the_log_probability_and_two_potentials(table):
    for _, rows in table.groupby("text"):
        expected = rows.logprob.sum() + rows.log_partition_before.iloc[0] - rows.log_partition_after.iloc[-1]
        assert rows.spilled.sum() == pytest.approx(expected, abs=tolerance(table))


def test_every_row_satisfies_the_identities_of_the_notation_table(lm, table):
    log_vocab = np.log(lm.model.config.vocab_size)
    close = {"rtol": 0, "atol": tolerance(table)}
    V, m, K = table.log_partition_after, table.mean_logit_after, table.self_certainty_after
    np.testing.assert_allclose(V, m + log_vocab + K, **close)
    np.testing.assert_allclose(table.spilled, table.logprob + table.log_partition_before - V, **close)
    inside = table[table.position > 0]
    np.testing.assert_array_equal(inside.log_partition_before, table.log_partition_after.shift()[inside.index])


# What must change nothing


@pytest.mark.parametrize(("batch_size", "chunk_size"), [(1, None), (2, 1), (3, 7), (64, 1000)])
def test_batch_and_chunk_size_change_nothing(lm, table, batch_size, chunk_size):
    other = score(lm, TEXTS, batch_size=batch_size, chunk_size=chunk_size)
    pd.testing.assert_frame_equal(other[["text", "token", "id"]], table[["text", "token", "id"]])
    np.testing.assert_allclose(other[NUMBERS], table[NUMBERS], rtol=0, atol=tolerance(table))


def padded(rows, side):
    longest = max(map(len, rows))
    ids, mask = torch.zeros(len(rows), longest, dtype=torch.long), torch.zeros(len(rows), longest)
    for i, row in enumerate(rows):
        where = slice(0, len(row)) if side == "right" else slice(longest - len(row), longest)
        ids[i, where], mask[i, where] = torch.tensor(row), 1
    return ids, mask


@settings(max_examples=25, deadline=None)
@given(
    lengths=st.lists(st.integers(2, 12), min_size=1, max_size=4),
    architecture=st.sampled_from(["gpt2", "llama"]),
    side=st.sampled_from(["left", "right"]),
    chunk_size=st.sampled_from([None, 1, 5]),
    seed=st.integers(0, 1000),
)
def test_padding_on_either_side_changes_nothing_and_pads_are_nan(lengths, architecture, side, chunk_size, seed):
    model, rng = tiny(architecture), np.random.default_rng(seed)
    rows = [rng.integers(0, 97, n).tolist() for n in lengths]
    ids, mask = padded(rows, side)
    energies = score_ids(model, ids, mask, chunk_size)
    for i, row in enumerate(rows):
        alone = torch.tensor([row])
        expected = token_energies(model(alone).logits, alone)
        real = mask[i].bool()
        for got, want in zip(energies, expected, strict=True):
            limit = 5e-6 * max(1.0, expected.log_partition_after.abs().max().item())
            torch.testing.assert_close(got[i][real], want[0].double(), rtol=0, atol=limit, equal_nan=True)
            assert got[i][~real].isnan().all()


def test_half_precision_models_are_reduced_in_float32(tiny_model):
    ids = torch.arange(2, 12)[None]
    half = tiny_model.to(torch.bfloat16)
    energies = score_ids(half, ids)
    expected = token_energies(half(ids).logits.float(), ids)
    limit = 5e-6 * max(1.0, expected.log_partition_after.abs().max().item())
    torch.testing.assert_close(energies.spilled, expected.spilled.double(), rtol=0, atol=limit, equal_nan=True)


# Tokens, BOS and spans


def test_tokens_of_a_text_join_to_the_text(table):
    for number, text in enumerate(TEXTS):
        assert "".join(table[table.text == number].token) == text


def test_token_ids_are_scored_as_they_are_even_if_their_text_has_others(lm):
    rows = [encode(lm, text)[0] for text in TEXTS]
    fields = ["text", "position", "id", *TokenEnergies._fields]
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


def test_without_bos_the_first_token_has_no_term_1(lm):
    table = score(lm, TEXTS[:2], bos=False)
    first = table[table.position == 0]
    assert first[["logit", "logprob", "spilled", "log_partition_before"]].isna().all(axis=None)
    assert table[table.position > 0][NUMBERS].notna().all(axis=None)
    assert first[["log_partition_after", "entropy_after", "mean_logit_after"]].notna().all(axis=None)


def test_answer_rows_follow_the_characters_of_the_answer(table):
    answers = ["Paris", "tea", "46", "Au", "tea", "Paris"]
    spans = [find_answer(text, answer) for text, answer in zip(TEXTS, answers, strict=True)]
    rows = answer_rows(table, spans)
    for number, answer in enumerate(answers):
        assert "".join(rows[rows.text == number].token).strip() == answer


def test_the_second_mention_is_found_after_the_first():
    assert find_answer("Rome, not Rome", "Rome", after=4) == (10, 14)


# Long texts

LONG = "Ada buys tea and " * 20


def test_a_long_text_is_refused_by_default_and_slid_over_on_request(lm):
    with pytest.raises(ValueError, match="window is 64"):
        score(lm, [LONG])
    table = score(lm, [LONG, TEXTS[0]], too_long="slide")
    assert "".join(table[table.text == 0].token) == LONG
    assert table[NUMBERS].notna().all(axis=None)
    head = score(lm, [LONG[:120]])
    np.testing.assert_allclose(table.spilled[:20], head.spilled[:20], atol=tolerance(table))


def test_a_sliding_window_gives_each_token_at_least_half_a_window_of_context(lm):
    table = score(lm, [LONG], bos=False, too_long="slide")
    ids = table.id.tolist()
    assert len(ids) > 64
    last = score_ids(lm.model, torch.tensor([ids[-64:]]))
    assert table.spilled.iloc[-1] == pytest.approx(last.spilled[0, -1].item(), abs=tolerance(table))


# Bad input


@pytest.mark.parametrize(
    ("texts", "options", "message"),
    [
        ([""], {}, r"texts\[0\] is empty"),
        (["fine", "  "], {}, r"texts\[1\] is empty"),
        (["a"], {"bos": False}, "one token"),
        (["fine"], {"too_long": "cut"}, "too_long"),
        (["fine"], {"bos": "maybe"}, "bos"),
    ],
)
def test_bad_texts_are_refused_by_name(lm, texts, options, message):
    with pytest.raises(ValueError, match=message):
        score(lm, texts, **options)


@pytest.mark.parametrize(
    ("ids", "mask", "message"),
    [
        (torch.tensor([1, 2, 3]), None, r"\[B, T\]"),
        (torch.tensor([[1.0, 2.0]]), None, "ids must be"),
        (torch.tensor([[5]]), None, "at least two"),
        (torch.tensor([[1, 97]]), None, r"0 … 96"),
        (torch.tensor([[-1, 2]]), None, r"0 … 96"),
        (torch.tensor([[1, 2]]), torch.ones(1, 3), "shape of ids"),
        (torch.tensor([[1, 2, 3, 4]]), torch.tensor([[1, 0, 1, 1]]), "without holes"),
        (torch.zeros(1, 49, dtype=torch.long), None, "window of 48"),
    ],
)
def test_bad_ids_are_refused_by_name(tiny_model, ids, mask, message):
    with pytest.raises(ValueError, match=message):
        score_ids(tiny_model, ids, mask)


def test_nan_weights_are_refused(tiny_model):
    tiny_model.get_output_embeddings().weight.data[0] = float("nan")
    with pytest.raises(ValueError, match="NaN or infinite"):
        score_ids(tiny_model, torch.tensor([[1, 2, 3]]))


def test_an_answer_that_is_not_there_is_refused():
    with pytest.raises(ValueError, match="not found"):
        find_answer("The capital is Rome.", "Paris")


def test_spans_must_match_the_texts(table):
    with pytest.raises(ValueError, match=r"one \(start, end\) per text"):
        answer_rows(table, [(0, 3)])
    with pytest.raises(ValueError, match="no token of text 0"):
        answer_rows(table, [(400, 403), *[(0, 5)] * (len(TEXTS) - 1)])


# Loading


def test_an_unknown_name_lists_what_is_known():
    with pytest.raises(ValueError, match="almanac-gpt2"):
        load_lm("gtp2")


def test_an_unknown_source_is_refused():
    with pytest.raises(ValueError, match="source must be"):
        load_lm("gpt2", source="web")


def test_a_hub_model_is_not_looked_for_when_only_bundled_models_are_allowed():
    with pytest.raises(ValueError, match="could not be loaded"):
        load_lm("someone/some-model", source="bundled")


def test_a_stand_in_says_that_it_is_one(capsys):
    lm = load_lm("gpt2", source="bundled")
    line = capsys.readouterr().out
    assert lm.stand_in and "stand-in for openai-community/gpt2" in line and line.count("\n") == 1


def copy_of(name, folder):
    for file in (MODELS / name).iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    return folder


def test_corrupt_weights_are_refused_with_the_remedy(tmp_path):
    folder = copy_of("almanac-llama", tmp_path)
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(ValueError, match="delete it and fetch it again"):
        load_lm(str(folder))


def test_missing_weights_are_refused_rather_than_made_up(tmp_path):
    from safetensors.torch import load_file, save_file

    folder = copy_of("almanac-llama", tmp_path)
    weights = load_file(folder / "model.safetensors")
    weights.pop("lm_head.weight")
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match="incomplete"):
        load_lm(str(folder))


def test_a_pickle_is_never_read(tmp_path):
    folder = copy_of("almanac-llama", tmp_path)
    (folder / "model.safetensors").unlink()
    torch.save({}, folder / "pytorch_model.bin")
    with pytest.raises(ValueError, match="does not hold a readable"):
        load_lm(str(folder))


# A Llama of another make


def test_a_llama_with_another_tokenizer_scores_unchanged(tmp_path):
    lm, text = load_lm(stranger(tmp_path)), "The course is about logits, and Zoë buys tea."
    table = score(lm, [text])
    assert table.spilled.sum() == pytest.approx(
        table.logprob.sum() + table.log_partition_before.iloc[0] - table.log_partition_after.iloc[-1], abs=1e-9
    )
    covered = [at for row in table.itertuples() for at in range(row.start, row.end)]
    assert sorted({*covered}) == [*range(len(text))] and covered == sorted(covered)
    assert isinstance(lm, LM) and not lm.stand_in
