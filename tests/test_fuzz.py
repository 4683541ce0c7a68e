"""Hostile texts and other people's models: emoji, right-to-left, control characters, a hundred thousand characters."""

import numpy as np
import pytest
import torch
from conftest import stranger, tiny, tolerance
from hypothesis import example, given, settings
from hypothesis import strategies as st

from utils.energy import terms_of
from utils.load import as_lm, load_lm
from utils.score import answer_rows, find_answer, score, score_continuations, score_tokens
from utils.write import generate, stream

SLIDING = {"sliding_window": 16, "use_sliding_window": True, "max_window_layers": 0, "head_dim": 8}
ARCHITECTURES = {  # with windows that slide before the texts below are over, and a soft cap that bites
    "gpt2": {}, "llama": {}, "mistral": SLIDING, "qwen2": SLIDING, "qwen3": SLIDING,
    "gemma2": {**SLIDING, "final_logit_softcapping": 5.0}, "gemma3_text": SLIDING, "phi3": SLIDING, "gpt_neox": {},
    "olmo": {}, "olmo2": {},
}  # fmt: skip
PROMPTS = [f"The capital of France is Paris. The capital of {name} is" for name in ("Japan", "Kenya", "Papua")]
HOSTILE = {
    "joined emoji": "👩‍👧 buy 🏳️‍🌈 tea", "arabic": "يشتري الشاي في ١٢", "hebrew": "עדה קונה תֵּה",
    "stacked marks": "Z\u0351\u036b\u0343a\u0301\u0301lgo \u0301", "turned around": "Ada \u202esyub\u202c tea \u200f!",
    "controls": "tea\x00and\x01 \x1b[31mred\x7f\x85", "line ends": "a\r\nb\tc\u2028d\x0b\x0ce", "a mark": "\ufefftea",
    "replaced": "\ufffd\ufffd tea \ufffd", "last of all": "\U0010ffff\uffff", "blanks": "\u3000tea\u00a0 \u200b ",
    "markup": "<script>alert('&amp;')</script> $$", "special tokens": "tea <|eos|> and <|bos|>",
}  # fmt: skip


@pytest.fixture(scope="module", params=["almanac-gpt2", "almanac-llama", "another make"])
def lm(request, tmp_path_factory):
    name = request.param
    return load_lm(stranger(tmp_path_factory.mktemp("llama")) if name == "another make" else name)


@torch.no_grad()
def by_hand(model, ids):
    """Term 1 − Term 2 and log p of each token but the first, from the model's own logits in a few plain lines."""
    f = model(torch.tensor([ids])).logits[0].double()
    term_1, V = f[:-1].gather(-1, torch.tensor(ids)[1:, None])[:, 0], f.logsumexp(-1)
    return np.stack([term_1 - V[1:], term_1 - V[:-1]], 1)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_architecture_is_scored_compared_and_written_with_the_energies_of_its_own_logits(architecture):
    options = {"vocab_size": 1536, "max_position_embeddings": 128, **ARCHITECTURES[architecture]}
    lm = as_lm((tiny(architecture, **options), load_lm("almanac-llama").tokenizer))
    bos, fields = lm.tokenizer.bos_token_id, ["spilled", "logprob"]
    table, written = score(lm, PROMPTS), generate(lm, PROMPTS, max_new_tokens=5)[1]
    options = [[" Tokyo.", " Lima"], [" Nairobi"], [" Port Moresby"]]
    followed = score_continuations(lm, PROMPTS, options)
    close = {"rtol": 0, "atol": tolerance(table)}
    for i, prompt in enumerate(PROMPTS):
        ids = [bos, *table.id[table.text == i]]
        np.testing.assert_allclose(table[fields][table.text == i], by_hand(lm.model, ids), **close)
        new, chosen = written[written.text == i], list(ids)
        for _ in range(len(new)):  # greedily, without a cache
            chosen.append(int(lm.model(torch.tensor([chosen])).logits[0, -1].argmax()))
        assert new.id.tolist() == chosen[len(ids) :]
        np.testing.assert_allclose(new[fields], by_hand(lm.model, chosen)[-len(new) :], **close)
        for j, words in enumerate(options[i]):
            rows = followed[(followed.prompt == i) & (followed.continuation == j)]
            whole = [bos, *lm.tokenizer(prompt + words, add_special_tokens=False).input_ids]
            np.testing.assert_allclose(rows[fields], by_hand(lm.model, whole)[-len(rows) :], **close)


def assert_scored(lm, text):
    table = score(lm, [text], too_long="slide")
    assert "".join(table.token) == text
    assert table.start.between(0, table.end).all() and (table.end <= len(text)).all()
    np.testing.assert_allclose(table.spilled, sum(terms_of(table)), rtol=0, atol=tolerance(table))
    ids = [lm.tokenizer.bos_token_id, *table.id]
    if len(ids) <= lm.window:
        np.testing.assert_allclose(table.spilled, by_hand(lm.model, ids)[:, 0], rtol=0, atol=tolerance(table))


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_hostile_texts_are_scored_found_and_continued_and_their_tokens_join_to_them(lm, text):
    assert_scored(lm, text)
    whole = f"Ada says {text} now"
    rows = answer_rows(score(lm, [whole], too_long="slide"), [find_answer(whole, text)])
    assert text.strip() in "".join(rows.token)
    prompt = text[:9]  # which may end in the middle of something
    table = score_continuations(lm, [prompt], [[text[9:] + "tea"]])
    assert (prompt + text[9:] + "tea").endswith("".join(table.token)) and len("".join(table.token)) >= len(text[9:]) + 3
    (completion,), written = generate(lm, [prompt], max_new_tokens=4, temperature=5.0)
    assert "".join(written.token[written.end > written.start]) == completion and written.start.iloc[0] == len(prompt)
    assert written.spilled.notna().all()


@settings(max_examples=60, deadline=None)
@given(st.text(min_size=1, max_size=40).filter(str.strip))
@example("\x00")
def test_any_text_is_scored_and_its_tokens_join_to_it(lm, text):
    assert_scored(lm, text)


@pytest.mark.parametrize("text", ["tea \ud800", "\udfff\ud800 tea", b"tea", None, 7], ids=ascii)
def test_half_a_character_and_what_is_no_text_are_refused_in_a_sentence(text):
    lm = load_lm("almanac-gpt2")
    calls = [lambda: score(lm, [text]), lambda: generate(lm, [text]), lambda: stream(lm, text)]
    calls += [lambda: score_continuations(lm, ["tea"], [[text]])] * isinstance(text, str)
    for call in calls:
        with pytest.raises(ValueError, match=r"holds half a character \('\\ud|must be a text|is empty; give a text"):
            call()


def test_a_hundred_thousand_characters_are_refused_in_a_short_sentence_and_slid_over_on_request():
    lm, text = load_lm("almanac-gpt2"), ("On Monday, Ada buys tea 🙂. " * 5000)[:100_000]
    calls = [lambda: score(lm, [text]), lambda: generate(lm, [text]), lambda: score_continuations(lm, [text], [["a"]])]
    for call in (*calls, lambda: find_answer(text, "rice"), lambda: find_answer("tea", text)):
        with pytest.raises(ValueError, match=r"window is 64: shorten it|not found in") as refused:
            call()
        assert len(str(refused.value)) < 300
    assert_scored(lm, text)


def test_where_a_text_cannot_be_slid_over_sliding_is_not_offered():
    lm, long = load_lm("almanac-gpt2"), "tea and " * 70
    for call in (lambda: score_continuations(lm, [long], [["rice"]]), lambda: score_tokens(lm, [[5] * 99])):
        with pytest.raises(ValueError, match=r"window is 64: shorten it$"):
            call()
