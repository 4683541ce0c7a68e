"""Writing: energies that arrive while a text grows are those of the finished text."""

from itertools import islice

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import FIELDS, assert_same_energies, random_gpt2, stranger, tolerance

from utils import write
from utils.energy import TokenEnergies
from utils.load import LM, load_lm
from utils.reading import score_ids
from utils.score import score
from utils.write import Writer, generate, stream

WORDS = ["position", "id", "token", "start", "end"]
SAMPLED = {"temperature": 1.3, "top_k": 50, "top_p": 0.95, "seed": 3}
CAPITAL = "The capital of France is"
PROMPTS = [CAPITAL, "On Monday, Ada buys", "Question: What is 12 + 34? Answer:", "Paris"]
MODELS = {  # a prompt, and how many tokens to write after it
    "almanac-gpt2": (CAPITAL, 12), "almanac-llama": (PROMPTS[2], 12), "another make": ("The course is about", 12),
    "gpt2 at its true shape": (CAPITAL, 4),
}  # fmt: skip


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


def written(lm: LM, prompt: str, count: int, **options) -> pd.DataFrame:
    return pd.DataFrame(stream(lm, prompt, max_new_tokens=count, **options))


def finished_ids(lm: LM, prompt: str, table: pd.DataFrame = None, bos: bool = True) -> torch.Tensor:
    prefix = [lm.tokenizer.bos_token_id] if bos else []
    new = [] if table is None else table.id
    return torch.tensor([[*prefix, *lm.tokenizer(prompt, add_special_tokens=False).input_ids, *new]])


@pytest.mark.parametrize("bos", [True, False])
@pytest.mark.parametrize("options", [{}, SAMPLED], ids=["greedy", "sampled"])
def test_streamed_energies_equal_those_of_the_finished_ids(case, options, bos):
    lm, prompt, count = case
    table = written(lm, prompt, count, bos=bos, **options)
    energies = score_ids(lm.model, finished_ids(lm, prompt, table, bos))
    assert_same_energies(table, TokenEnergies(*(field[0, -len(table) :] for field in energies)))
    assert table[FIELDS].notna().all(axis=None)  # the last token has its Term 2 as well


@pytest.mark.parametrize("bos", [True, False])
@pytest.mark.parametrize("options", [{}, SAMPLED], ids=["greedy", "sampled"])
def test_a_batch_writes_what_each_text_would_have_written_alone(case, options, bos):
    lm, prompt, count = case
    prompts = [prompt, prompt[: len(prompt) // 2], prompt + " the"]
    completions, table = generate(lm, prompts, max_new_tokens=count, batch_size=2, bos=bos, **options)
    for number, prompt in enumerate(prompts):
        expected = written(lm, prompt, count, bos=bos, **{**options, "seed": options.get("seed", 0) + number})
        rows = table[table.text == number].reset_index(drop=True)
        pd.testing.assert_frame_equal(rows[WORDS], expected[WORDS])
        assert_same_energies(rows, expected)
        assert "".join(rows[rows.end > rows.start].token) == completions[number]


def test_the_table_has_the_columns_of_score(lm):
    _, table = generate(lm, PROMPTS, max_new_tokens=3)
    assert list(table) == list(score(lm, PROMPTS)) == list(written(lm, CAPITAL, 1))
    assert table.dtypes.equals(score(lm, PROMPTS).dtypes)


def test_written_text_scores_the_same_when_its_tokens_come_back(lm):
    """Here encoding gives the same ids again, so text in and ids in agree, positions and offsets included."""
    completions, table = generate(lm, CAPITAL, max_new_tokens=4, stop=".")
    tail = score(lm, [CAPITAL + completions[0]]).tail(len(table)).reset_index(drop=True)
    pd.testing.assert_frame_equal(table[WORDS], tail[WORDS])
    assert_same_energies(table, tail)


def test_energies_belong_to_the_written_ids_not_to_the_text(lm):
    """Sampled wildly, a model writes 'to' + 'day': encoding the text again would score other tokens."""
    table = written(lm, CAPITAL, 20, temperature=5.0, seed=1)
    ids = finished_ids(lm, CAPITAL, table)
    text = lm.tokenizer.decode(ids[0], skip_special_tokens=True)
    assert lm.tokenizer(text, add_special_tokens=False).input_ids != ids[0, 1:].tolist()
    assert table.spilled.iloc[-1] == pytest.approx(score_ids(lm.model, ids).spilled[0, -1].item(), abs=1e-4)


def test_how_a_token_is_chosen_never_touches_its_energies(lm):
    """top_k = 1 always takes the likeliest token, at any temperature: same tokens, so the same energies."""
    pd.testing.assert_frame_equal(written(lm, CAPITAL, 6), written(lm, CAPITAL, 6, temperature=0.2, top_k=1))


def test_a_seed_repeats_a_text_and_another_one_changes_it(lm):
    first, again, other = (generate(lm, "On Monday,", temperature=2.0, seed=seed)[0] for seed in (1, 1, 2))
    assert first == again != other


def test_a_row_comes_one_forward_step_of_one_token_after_its_token_was_chosen(lm):
    widths = []
    hook = lm.model.base_model.register_forward_pre_hook(lambda _, args: widths.append(args[0].shape[1]))
    try:
        rows = stream(lm, CAPITAL, max_new_tokens=4)
        assert len(widths) == 0
        for count in range(1, 5):
            next(rows)
            assert widths[1:] == [1] * count  # the prompt, then one step a token, the last one included
    finally:
        hook.remove()


def test_writing_stops_after_eos_which_is_a_row_without_characters(lm):
    completions, table = generate(lm, [CAPITAL, "Paris"], max_new_tokens=30)
    last = table[table.text == 0].iloc[-1]
    assert last.id == lm.tokenizer.eos_token_id and last.token == "<|eos|>"
    assert last.start == last.end == len(CAPITAL + completions[0])
    assert "<|eos|>" not in completions[0] and np.isfinite(last.spilled)


def test_writing_stops_after_a_stop_string_at_max_new_tokens_or_when_its_reader_leaves(lm):
    (completion,), _ = generate(lm, CAPITAL, stop=["?", "s"])  # " Paris", without its full stop
    assert completion.endswith("s") and completion.count("s") == 1
    assert len(written(lm, PROMPTS[1], 1)) == 1 and len(generate(lm, PROMPTS[1], max_new_tokens=2)[1]) == 2
    assert len(list(islice(stream(lm, CAPITAL), 2))) == 2


def test_writing_stops_when_the_window_is_full(lm, monkeypatch):
    """A short text and a long one in one batch: the short one goes on after the long one has to stop."""
    monkeypatch.setattr(write, "end_ids", lambda lm: set())  # so that nothing else stops it
    long = "Ada buys tea " * 13
    room = lm.window - finished_ids(lm, long).numel()
    assert 0 < room < 20
    options = {"temperature": 3.0, "seed": 5}
    _, table = generate(lm, [long, "On"], max_new_tokens=30, **options)
    assert table.groupby("text").size().tolist() == [room, 30]
    assert_same_energies(table[table.text == 0], written(lm, long, 30, **options))


def test_with_a_bos_the_prompt_may_be_empty(lm):
    completions, table = generate(lm, ["", ""], temperature=1.0, max_new_tokens=40)
    assert table.position.min() == 0 and all(completions)


def test_characters_of_several_tokens_belong_to_the_token_that_completes_them(lm):
    text, writer = " Zoë 🙂 tea", Writer(lm, "On")
    rows = [writer.write(torch.eye(1536)[token]) for token in lm.tokenizer(text).input_ids]
    pieces = [row["token"] for row in rows]
    assert "".join(pieces) == writer.completion == text
    assert "" in pieces and not any("\N{REPLACEMENT CHARACTER}" in piece for piece in pieces)
    assert [row["end"] for row in rows] == list(2 + np.cumsum([len(piece) for piece in pieces]))


def test_what_transformers_writes_has_the_energies_that_score_ids_reads(lm):
    """Your own `model.generate`: its sequences go through `score_ids`, last token's Term 2 included."""
    ids = finished_ids(lm, CAPITAL)
    sequences = lm.model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=4, do_sample=False)
    spilled = score_ids(lm.model, torch.cat([sequences, sequences[:, :1]], 1)).spilled[0, ids.shape[1] :]
    table = written(lm, CAPITAL, 4)
    np.testing.assert_allclose(spilled[: len(table)], table.spilled, atol=tolerance(table))


@pytest.mark.parametrize(("prompt", "options", "message"), [
    ("", {"bos": False}, "prompt 0 is empty"), ("tea and " * 70, {}, "window is 64"),
    ("On", {"max_new_tokens": 0}, "max_new_tokens"), ("On", {"temperature": -1}, "temperature"),
    ("On", {"temperature": 1.0, "top_k": 0}, "top_k"), ("On", {"temperature": 1.0, "top_p": 2.0}, "top_p"),
    ("On", {"stop": ""}, "stop"), ("On", {"bos": "maybe"}, "bos"),
])  # fmt: skip
def test_bad_options_are_refused_before_anything_is_written(lm, prompt, options, message, capfd):
    for call, given in ((stream, prompt), (generate, [prompt])):
        with pytest.raises(ValueError, match=message):
            call(lm, given, **options)
    assert capfd.readouterr().err == ""


def test_no_prompts_and_unknown_options_are_refused(lm):
    with pytest.raises(ValueError, match="prompts is empty"):
        generate(lm, [])
    with pytest.raises(TypeError, match="temprature"):
        stream(lm, "On", temprature=1.0)
