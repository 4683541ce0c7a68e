"""Writing: energies that arrive while a text grows are those of the finished text."""

from itertools import islice

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import random_gpt2, stranger

from utils.energy import TokenEnergies
from utils.load import LM, load_lm
from utils.reading import score_ids
from utils.score import score
from utils.write import Writer, generate, stream

NUMBERS = list(TokenEnergies._fields)
SAMPLED = {"temperature": 1.3, "top_k": 50, "top_p": 0.95, "seed": 3}
MODELS = {  # a prompt, and how many tokens to write after it
    "almanac-gpt2": ("The capital of France is", 12),
    "almanac-llama": ("Question: What is 12 + 34? Answer:", 12),
    "another make": ("The course is about", 12),
    "gpt2 at its true shape": ("The capital of France is", 4),
}


@pytest.fixture(scope="module", params=MODELS)
def case(request, tmp_path_factory):
    """A model, a prompt that it can go on from, and a number of tokens."""
    name = request.param
    if name == "gpt2 at its true shape":
        return random_gpt2(0.1), *MODELS[name]
    return load_lm(stranger(tmp_path_factory.mktemp("llama")) if name == "another make" else name), *MODELS[name]


@pytest.fixture(scope="module")
def lm():
    return load_lm("almanac-gpt2")


@pytest.fixture(scope="module")
def prompts(lm):
    return ["The capital of France is", "On Monday, Ada buys", "Question: What is 12 + 34? Answer:", "Paris"]


def finished_ids(lm: LM, prompt: str, table: pd.DataFrame, bos: bool) -> torch.Tensor:
    prefix = [lm.tokenizer.bos_token_id] if bos else []
    return torch.tensor([[*prefix, *lm.tokenizer(prompt, add_special_tokens=False).input_ids, *table.id]])


def assert_same_energies(got: pd.DataFrame, want: pd.DataFrame) -> None:
    atol = 5e-6 * max(1.0, np.nanmax(np.abs(want[["logit", "log_partition_after"]].to_numpy())))
    np.testing.assert_allclose(got[NUMBERS].to_numpy(), want[NUMBERS].to_numpy(), rtol=0, atol=atol)


# The claim


@pytest.mark.parametrize("bos", [True, False])
@pytest.mark.parametrize("options", [{}, SAMPLED], ids=["greedy", "sampled"])
def test_streamed_energies_equal_those_of_the_finished_ids(case, options, bos):
    lm, prompt, count = case
    table = pd.DataFrame(stream(lm, prompt, max_new_tokens=count, bos=bos, **options))
    energies = score_ids(lm.model, finished_ids(lm, prompt, table, bos))
    scored = pd.DataFrame({name: field[0, -len(table) :].numpy() for name, field in energies._asdict().items()})
    assert_same_energies(table, scored)
    assert table[NUMBERS].notna().all(axis=None)  # the last token has its Term 2 as well


@pytest.mark.parametrize("bos", [True, False])
@pytest.mark.parametrize("options", [{}, SAMPLED], ids=["greedy", "sampled"])
def test_a_batch_writes_what_each_text_would_have_written_alone(case, options, bos):
    lm, prompt, count = case
    prompts = [prompt, prompt[: len(prompt) // 2], prompt + " the"]
    completions, table = generate(lm, prompts, max_new_tokens=count, batch_size=2, bos=bos, **options)
    for number, prompt in enumerate(prompts):
        alone = {**options, "seed": options.get("seed", 0) + number}
        expected = pd.DataFrame(stream(lm, prompt, max_new_tokens=count, bos=bos, **alone))
        rows = table[table.text == number].reset_index(drop=True)
        words = ["position", "id", "token", "start", "end"]
        pd.testing.assert_frame_equal(rows[words], expected[words])
        assert_same_energies(rows, expected)
        own = rows[rows.end > rows.start]
        assert "".join(own.token) == completions[number]


def test_the_table_has_the_columns_of_score(lm, prompts):
    _, table = generate(lm, prompts, max_new_tokens=3)
    assert list(table) == list(score(lm, prompts)) == list(pd.DataFrame(stream(lm, prompts[0], max_new_tokens=1)))
    assert table.dtypes.equals(score(lm, prompts).dtypes)


def test_written_text_scores_the_same_when_its_tokens_come_back(lm, prompts):
    """Here encoding gives the same ids again, so text in and ids in agree, positions and offsets included."""
    completions, table = generate(lm, prompts[:1], max_new_tokens=4, stop=".")
    scored = score(lm, [prompts[0] + completions[0]])
    tail = scored.tail(len(table)).reset_index(drop=True)
    pd.testing.assert_frame_equal(table[["position", "id", "token", "start", "end"]], tail[list(table)[1:6]])
    assert_same_energies(table, tail)


def test_energies_belong_to_the_written_ids_not_to_the_text(lm):
    """Sampled wildly, a model writes 'to' + 'day': encoding the text again would score other tokens."""
    prompt = "The capital of France is"
    table = pd.DataFrame(stream(lm, prompt, max_new_tokens=20, temperature=5.0, seed=1))
    ids = finished_ids(lm, prompt, table, bos=True)
    text = lm.tokenizer.decode(ids[0], skip_special_tokens=True)
    assert lm.tokenizer(text, add_special_tokens=False).input_ids != ids[0, 1:].tolist()
    assert table.spilled.iloc[-1] == pytest.approx(score_ids(lm.model, ids).spilled[0, -1].item(), abs=1e-4)


def test_how_a_token_is_chosen_never_touches_its_energies(lm, prompts):
    """top_k = 1 always takes the likeliest token, at any temperature: same tokens, so the same energies."""
    greedy = pd.DataFrame(stream(lm, prompts[0], max_new_tokens=6))
    other = pd.DataFrame(stream(lm, prompts[0], max_new_tokens=6, temperature=0.2, top_k=1))
    pd.testing.assert_frame_equal(greedy, other)


def test_a_seed_repeats_a_text_and_another_one_changes_it(lm):
    def write(seed):
        return generate(lm, ["On Monday,"], temperature=2.0, seed=seed)[0][0]

    assert write(1) == write(1) != write(2)


# When rows come, and when they stop


def test_a_row_comes_one_forward_step_after_its_token_was_chosen(lm, prompts):
    reads = []
    hook = lm.model.base_model.register_forward_hook(lambda *_: reads.append(1))
    try:
        rows = stream(lm, prompts[0], max_new_tokens=5)
        assert len(reads) == 0
        for count in range(1, 4):
            next(rows)
            assert len(reads) == 1 + count  # the prompt, then one step a token, the last one included
    finally:
        hook.remove()


def test_each_step_reads_one_token_only(lm, prompts):
    widths = []
    hook = lm.model.base_model.register_forward_pre_hook(lambda _, args: widths.append(args[0].shape[1]))
    try:
        list(stream(lm, prompts[0], max_new_tokens=4))
    finally:
        hook.remove()
    assert widths[1:] == [1] * 4


def test_writing_stops_after_eos_which_is_a_row_without_characters(lm):
    completions, table = generate(lm, ["The capital of France is", "Paris"], max_new_tokens=30)
    last = table[table.text == 0].iloc[-1]
    assert last.id == lm.tokenizer.eos_token_id and last.token == "<|eos|>"
    assert last.start == last.end == len("The capital of France is" + completions[0])
    assert "<|eos|>" not in completions[0] and np.isfinite(last.spilled)


def test_writing_stops_after_the_token_that_completes_a_stop_string(lm, prompts):
    completions, _ = generate(lm, prompts[:1], stop=["?", "."])
    assert completions[0].endswith(".") and completions[0].count(".") == 1


def test_writing_stops_at_max_new_tokens(lm, prompts):
    assert len(list(stream(lm, prompts[1], max_new_tokens=1))) == 1
    assert len(generate(lm, prompts[1], max_new_tokens=2)[1]) == 2


def test_writing_stops_when_the_window_is_full(lm):
    """A short text and a long one in one batch: the short one goes on after the long one has to stop."""
    long = "Ada buys tea " * 13
    room = lm.window - 1 - len(lm.tokenizer(long, add_special_tokens=False).input_ids)
    assert 0 < room < 20
    options = {"max_new_tokens": 30, "temperature": 3.0, "seed": 5}
    _, table = generate(lm, [long, "On"], **options)
    assert (table.text == 0).sum() <= room < (table.text == 1).sum()
    assert_same_energies(table[table.text == 0], pd.DataFrame(stream(lm, long, **options)))


def test_with_a_bos_the_prompt_may_be_empty(lm):
    completions, table = generate(lm, ["", ""], temperature=1.0, max_new_tokens=40)
    assert table.position.min() == 0 and all(completions)


def test_characters_of_several_tokens_belong_to_the_token_that_completes_them(lm):
    text = " Zoë 🙂 tea"
    writer = Writer(lm, "On")
    rows = [writer.write(torch.eye(1536)[token]) for token in lm.tokenizer(text).input_ids]
    pieces = [row["token"] for row in rows]
    assert "".join(pieces) == writer.completion == text
    assert "" in pieces and not any("\N{REPLACEMENT CHARACTER}" in piece for piece in pieces)
    assert [row["end"] for row in rows] == list(2 + np.cumsum([len(piece) for piece in pieces]))


def test_what_transformers_writes_has_the_energies_that_score_ids_reads(lm, prompts):
    """Your own `model.generate`: its sequences go through `score_ids`, last token's Term 2 included."""
    ids = torch.tensor([[lm.tokenizer.bos_token_id, *lm.tokenizer(prompts[0], add_special_tokens=False).input_ids]])
    sequences = lm.model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=4, do_sample=False)
    longer = torch.cat([sequences, sequences[:, :1]], 1)
    _, table = generate(lm, prompts[0], max_new_tokens=4)
    new = slice(ids.shape[1], ids.shape[1] + len(table))
    atol = 5e-6 * max(1.0, table.log_partition_after.abs().max())
    np.testing.assert_allclose(score_ids(lm.model, longer).spilled[0, new], table.spilled, atol=atol)


# Bad input


@pytest.mark.parametrize(
    ("prompt", "options", "message"),
    [
        ("", {"bos": False}, "prompt 0 is empty"),
        ("tea and " * 70, {}, "window is 64"),
        ("On", {"max_new_tokens": 0}, "max_new_tokens"),
        ("On", {"temperature": -1}, "temperature"),
        ("On", {"temperature": 1.0, "top_k": 0}, "top_k"),
        ("On", {"temperature": 1.0, "top_p": 2.0}, "top_p"),
        ("On", {"stop": ""}, "stop"),
        ("On", {"bos": "maybe"}, "bos"),
    ],
)
def test_bad_options_are_refused_before_anything_is_written(lm, prompt, options, message, capfd):
    with pytest.raises(ValueError, match=message):
        stream(lm, prompt, **options)
    with pytest.raises(ValueError, match=message):
        generate(lm, [prompt], **options)
    assert capfd.readouterr().err == ""


def test_no_prompts_are_refused(lm):
    with pytest.raises(ValueError, match="prompts is empty"):
        generate(lm, [])


def test_an_unknown_option_is_refused(lm):
    with pytest.raises(TypeError, match="temprature"):
        stream(lm, "On", temprature=1.0)


def test_stream_can_be_left_at_any_time(lm, prompts):
    assert len(list(islice(stream(lm, prompts[0]), 2))) == 2
