"""What texts have in common is read once; your own model is as welcome as ours."""

import copy
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import FIELDS, assert_same_energies, tiny

from utils import reading
from utils.load import LM, as_lm, load_lm
from utils.reading import common_prefix, keeps_all, read_prefix
from utils.score import score, score_continuations
from utils.write import generate

SHOTS = "The capital of France is Paris. The capital of Peru is Lima. "
PROMPTS = [SHOTS + f"The capital of {country} is" for country in ("Japan", "Kenya", "Papua New Guinea")]
OPTIONS = [[" Tokyo", " Kyoto.", " Lima"], [" Nairobi"], [" Port Moresby", " Paris"]]


@pytest.fixture(scope="module")
def lm():
    return load_lm("almanac-llama")


@pytest.fixture
def read(monkeypatch):
    """How many tokens the trunk was given, call by call."""
    seen, original = [], reading.read

    def spy(model, ids, real, past=None, keep=False):
        seen.append(int(real.sum()))
        return original(model, ids, real, past, keep)

    monkeypatch.setattr(reading, "read", spy)
    return seen


def encoded(lm: LM) -> list[list[int]]:
    return [lm.tokenizer(prompt, add_special_tokens=False).input_ids for prompt in PROMPTS]


def alone(lm) -> pd.DataFrame:
    return pd.concat([score(lm, [prompt]) for prompt in PROMPTS], ignore_index=True)


@pytest.mark.parametrize("architecture", ["gpt2", "llama"])
def test_texts_that_begin_alike_have_the_energies_of_texts_read_alone(architecture, read):
    lm = load_lm(f"almanac-{architecture}")
    table, together = score(lm, PROMPTS, batch_size=2), sum(read)
    read.clear()
    assert_same_energies(table, alone(lm))
    assert sum(read) > 1.8 * together  # so they were not read three times


def test_a_continuation_has_the_energies_that_it_has_in_the_whole_text(lm):
    table, place = score_continuations(lm, PROMPTS, OPTIONS, batch_size=2), ["position", "id", "start", "end"]
    for (i, j), rows in table.groupby(["prompt", "continuation"]):
        whole = score(lm, [PROMPTS[i] + OPTIONS[i][j]]).iloc[-len(rows) :]
        assert_same_energies(rows, whole)
        assert "".join(rows.token) == OPTIONS[i][j]
        assert rows[place].to_numpy().tolist() == whole[place].to_numpy().tolist()


def test_each_prompt_is_read_once_and_what_all_begin_with_once_for_all(lm, read):
    score_continuations(lm, PROMPTS, OPTIONS)
    shots, prompts, continuations = read
    assert shots == 1 + len(common_prefix(encoded(lm)))  # and the BOS
    assert prompts == sum(len(ids) + 1 - shots for ids in encoded(lm))
    assert continuations < 30


def test_a_token_across_the_seam_belongs_to_the_continuation(lm):
    """Encoding prompt and continuation apart would give other tokens than the text has."""
    table = score_continuations(lm, ["The capital of Japan is To"], [["kyo."]])
    assert_same_energies(table, score(lm, ["The capital of Japan is Tokyo."]).iloc[-len(table) :])
    assert table.token.iloc[0] == " Tokyo" or table.start.iloc[0] < len("The capital of Japan is To")


def test_continuations_have_the_columns_of_score_and_an_index_without_gaps(lm):
    table, whole = score_continuations(lm, PROMPTS, OPTIONS), score(lm, PROMPTS)
    assert [*table] == ["prompt", "continuation", *(column for column in whole if column != "text")]
    assert table.index.equals(pd.RangeIndex(len(table)))


def test_of_continuations_the_whole_text_is_refused_by_its_number(lm):
    for prompts, options, message in (
        (["Paris is", ""], [[" big"], [" old", " "]], r"texts\[2\] is empty"),
        (["Paris is", "Lima is"], [[" big"], [" and on" * 40]], r"texts\[1\] has \d+ tokens, the model's window"),
    ):
        with pytest.raises(ValueError, match=message):
            score_continuations(lm, prompts, options)


@pytest.mark.parametrize(("continuations", "message"), [
    ([[" a"], []], r"prompts\[1\] has no continuation"), ([[" a"]], "one list a prompt, 2; got 1"),
    ([[" a", ""], [" a"]], r"continuations\[0\]\[1\] is empty"),
])  # fmt: skip
def test_prompts_without_continuations_are_refused_by_name(lm, continuations, message):
    with pytest.raises(ValueError, match=message):
        score_continuations(lm, PROMPTS[:2], continuations)
    with pytest.raises(ValueError, match="prompts is empty"):
        score_continuations(lm, [], [])


def test_an_empty_prompt_needs_a_bos_and_no_more(lm):
    table = score_continuations(lm, [""], [["Ada buys tea", "Paris"]])
    assert_same_energies(table[table.continuation == 0], score(lm, ["Ada buys tea"]))
    without = score_continuations(lm, [""], [["Ada buys tea"]], bos=False)
    assert without.spilled.isna().tolist() == [True] + [False] * (len(without) - 1)


def test_writing_behind_a_common_prefix_is_writing(lm):
    completions, table = generate(lm, PROMPTS, max_new_tokens=4)
    one_by_one = [generate(lm, [prompt], max_new_tokens=4) for prompt in PROMPTS]
    assert completions == [c for (c,), _ in one_by_one]
    assert_same_energies(table, pd.concat([t for _, t in one_by_one], ignore_index=True))


def test_rows_of_different_length_are_written_with_holes_between_prefix_and_prompt(lm):
    """Sampled at a temperature at which any error in positions would change the words."""
    options = {"max_new_tokens": 6, "temperature": 2.0}
    completions, _ = generate(lm, PROMPTS[::-1], seed=0, **options)
    for number, prompt in enumerate(PROMPTS[::-1]):
        assert generate(lm, [prompt], seed=number, **options)[0][0] == completions[number]


SLIDING = {"sliding_window": 16, "use_sliding_window": True}


@pytest.mark.parametrize(("architecture", "options", "shared"), [
    ("qwen2", {}, True), ("mistral", SLIDING, False), ("gemma2", {**SLIDING, "head_dim": 8}, False),
    ("mamba", {"state_size": 4, "conv_kernel": 2, "expand": 1}, False),
])  # fmt: skip
def test_only_caches_that_keep_every_token_are_shared_and_energies_are_right_either_way(
    architecture, options, shared, lm
):
    mine = as_lm((tiny(architecture, vocab_size=1536, max_position_embeddings=256, **options), lm.tokenizer))
    assert (read_prefix(mine, encoded(lm), 60) is not None) == shared
    assert_same_energies(score(mine, PROMPTS), alone(mine))
    table = score_continuations(mine, PROMPTS, OPTIONS)
    first = table[(table.prompt == 2) & (table.continuation == 0)]
    assert_same_energies(first, score(mine, [PROMPTS[2] + OPTIONS[2][0]]).iloc[-len(first) :])


def test_a_cache_without_layers_is_not_shared():
    assert not keeps_all(object(), 10)


def test_a_pair_of_model_and_tokenizer_is_scored_and_writes_like_ours(lm):
    pair = (lm.model, lm.tokenizer)
    pd.testing.assert_frame_equal(score(pair, PROMPTS), score(lm, PROMPTS))
    assert generate(pair, PROMPTS, max_new_tokens=3)[0] == generate(lm, PROMPTS, max_new_tokens=3)[0]
    assert isinstance(as_lm(pair), LM) and as_lm(lm) is lm


def test_your_own_model_goes_by_where_it_came_from_or_by_its_class(lm):
    model = copy.deepcopy(lm.model)
    for path, name in (("someone/some-model", "someone/some-model"), ("", "LlamaForCausalLM")):
        model.config.name_or_path = path
        own = as_lm([model, lm.tokenizer])
        assert (own.name, own.source, own.provenance, own.stand_in) == (name, "yours", f"{name} (yours)", False)
    without = SimpleNamespace(training=False, config=object(), get_output_embeddings=None)
    assert as_lm((without, lm.tokenizer)).name == "SimpleNamespace"


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64], ids=str)
def test_a_model_is_scored_in_its_own_dtype_and_stays_in_it(lm, dtype):
    model = copy.deepcopy(lm.model).to(dtype)
    table = score((model, lm.tokenizer), PROMPTS)
    assert model.dtype == dtype and table[FIELDS].to_numpy().dtype == "float64"
    rough = 4 * max(torch.finfo(dtype).eps, 5e-6) * table.logit.abs().max()
    assert np.nanmax(np.abs(table.spilled - score(lm, PROMPTS).spilled)) < rough


@pytest.mark.parametrize(("spoil", "message"), [
    (lambda lm: lm.model, "an LM from load_lm, or the pair"),
    (lambda lm: ("gpt2", lm.tokenizer), "an LM from load_lm, or the pair"),
    (lambda lm: (lm.model, object()), "use_fast=True"),
    (lambda lm: (tiny("llama").train(), lm.tokenizer), "model.eval"),
])  # fmt: skip
def test_what_is_no_model_with_a_tokenizer_is_refused_with_the_remedy(lm, spoil, message):
    with pytest.raises(ValueError, match=message):
        score(spoil(lm), ["Ada buys tea"])


def test_the_head_of_a_loaded_model_is_tried_once(lm):
    fresh, calls = LM(lm.model, lm.tokenizer, "a", "yours", "a"), []
    hook = lm.model.register_forward_hook(lambda *_: calls.append(1))
    for _ in range(3):
        score(fresh, PROMPTS)
    hook.remove()
    assert len(calls) == 1


def test_small_models_run_on_one_thread_and_the_setting_comes_back(lm):
    before, seen = torch.get_num_threads(), []
    assert lm.head is not None  # tried beforehand
    torch.set_num_threads(2)
    hook = lm.model.base_model.register_forward_hook(lambda *_: seen.append(torch.get_num_threads()))
    score(lm, PROMPTS)
    after = torch.get_num_threads()
    hook.remove()
    torch.set_num_threads(before)
    assert seen and set(seen) == {1} and after == 2
