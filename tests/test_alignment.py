"""Easy to get wrong: each slip found in existing code, and that the project's own scorer does not make it.

Every test first shows that the slip would have been seen here, then that our number is the right one.
"""

import numpy as np
import pytest
import torch

from utils.energy import log_partition, spilled_energy
from utils.gauge import GAUGES, center, in_gauge, to_conditional, to_joint
from utils.load import load_lm
from utils.reading import score_ids
from utils.score import answer_rows, encode, find_answer, score

PROMPT, ANSWER = "The capital of Japan is", " Tokyo"
TEXT = f"{PROMPT}{ANSWER}."
CLOSE = {"rtol": 0, "atol": 2e-4}


@pytest.fixture(scope="module", params=["almanac-gpt2", "almanac-llama"])
def lm(request):
    return load_lm(request.param)


@pytest.fixture(scope="module")
def ids(lm):
    return torch.tensor([[lm.tokenizer.bos_token_id, *encode(lm, TEXT)[0]]])


@pytest.fixture(scope="module")
def logits(lm, ids):
    """`logits[t]` is the output after reading `ids[t]`."""
    return lm.model(ids).logits[0].double()


@pytest.fixture(scope="module")
def answer(lm):
    return answer_rows(score(lm, [TEXT]), [find_answer(TEXT, ANSWER)])


def place_of(answer) -> int:
    """Where the first answer token stands in `ids`, which begin with a BOS."""
    return int(answer.position.iloc[0]) + 1


def test_the_first_answer_token_has_a_term_1_and_the_sign_is_that_of_the_blog_post(logits, ids, answer):
    """The slip: Term 1 starts at 0 in the slice, so a one-token answer is left with `−V` alone."""
    first, t = answer.iloc[0], place_of(answer)
    lost = -log_partition(logits[t]).item()
    assert abs(first.spilled - lost) > 1
    np.testing.assert_allclose(first.logit, logits[t - 1, ids[0, t]], **CLOSE)
    delta = log_partition(logits[t]) - logits[t - 1, ids[0, t]]  # as in the paper's released code
    np.testing.assert_allclose([first.logit + lost, -delta.item()], first.spilled, **CLOSE)


def test_the_last_answer_token_has_a_term_2(lm, logits, answer):
    """The slip: a text ends where its answer ends, and the last token's own step is never taken."""
    last, t = answer.iloc[-1], place_of(answer) + len(answer) - 1
    np.testing.assert_allclose(last.log_partition_after, log_partition(logits[t]), **CLOSE)
    unfinished = score(lm, [PROMPT + ANSWER]).iloc[-1]  # nothing follows the answer here
    np.testing.assert_allclose(unfinished.spilled, last.spilled, **CLOSE)


def test_term_1_is_read_one_position_before_term_2(logits, ids, answer):
    """The slip: `scores[i]` of `generate` already predicts token i; taken for a forward pass's row i, all is late."""
    right = spilled_energy(logits, ids[0])
    late = spilled_energy(torch.cat([logits[:1], logits[:-1]]), ids[0])  # row i is what token i was chosen from
    places = slice(place_of(answer) - 1, place_of(answer) - 1 + len(answer))
    assert (late - right)[places].abs().min() > 0.1
    np.testing.assert_allclose(answer.spilled, right[places], **CLOSE)


def test_generated_energies_come_from_raw_logits_not_from_processed_scores(lm):
    """The slip: `output_scores` have been through temperature and top-k; their log-partition is another number."""
    prompt = torch.tensor([[lm.tokenizer.bos_token_id, *encode(lm, "On Monday, Ada")[0]]])
    torch.manual_seed(0)
    out = lm.model.generate(
        prompt, attention_mask=torch.ones_like(prompt), do_sample=True, temperature=2.0, top_k=30, max_new_tokens=3,
        output_scores=True, output_logits=True, return_dict_in_generate=True,
    )  # fmt: skip
    start = prompt.shape[1]
    written = out.sequences[0, start:]
    raw, cooked = (
        f[:-1].gather(-1, written[:-1, None])[:, 0] - f[1:].logsumexp(-1)
        for f in (torch.stack(given, 1)[0].double() for given in (out.logits, out.scores))
    )
    assert (raw - cooked).abs().min() > 0.1
    np.testing.assert_allclose(score_ids(lm.model, out.sequences).spilled[0, start:-1], raw, **CLOSE)


def test_answers_are_found_by_characters_not_by_encoding_them_again(lm, answer):
    """The slips: the answer alone has other tokens than in its text; and not found, it is taken for the whole text."""
    assert encode(lm, ANSWER.strip())[0] != answer.id.tolist()
    assert "".join(answer.token) == ANSWER
    with pytest.raises(ValueError, match="not found"):
        find_answer(TEXT, "Kyoto")


def test_log_probabilities_are_those_of_the_model_s_own_loss(lm, ids):
    """The slip: a log-likelihood baseline read off by one. The model's own loss is the referee."""
    loss = lm.model(ids, labels=ids).loss.item()
    assert -score(lm, [TEXT]).logprob.mean() == pytest.approx(loss, abs=1e-5)


@pytest.mark.parametrize("gauge", GAUGES)
def test_a_table_in_another_gauge_is_what_those_logits_would_have_given(lm, logits, ids, gauge):
    other = {
        "as trained": lambda f: f, "centred": center, "conditional": to_conditional,
        "joint": lambda f: to_joint(f, ids[0]),
    }[gauge](logits)  # fmt: skip
    table = in_gauge(score(lm, [TEXT]), gauge)
    np.testing.assert_allclose(table.spilled, spilled_energy(other, ids[0]), **CLOSE)
    np.testing.assert_allclose(table.log_partition_after, other[1:].logsumexp(-1), **CLOSE)
    np.testing.assert_allclose(table.log_partition_before, other[:-1].logsumexp(-1), **CLOSE)
    np.testing.assert_allclose(table.mean_logit_after, other[1:].mean(-1), **CLOSE)
    np.testing.assert_allclose(table.mean_logit_before, other[:-1].mean(-1), **CLOSE)
    np.testing.assert_allclose(table.logit, other[:-1].gather(-1, ids[0, 1:, None])[:, 0], **CLOSE)


def test_gauges_of_several_texts_do_not_leak_into_each_other_and_an_unknown_one_is_refused(lm):
    alone, both = (in_gauge(score(lm, texts), "joint") for texts in ([TEXT], ["Paris is a city.", TEXT]))
    np.testing.assert_allclose(both[both.text == 1].log_partition_after, alone.log_partition_after, **CLOSE)
    assert both.spilled.abs().max() < 2e-4
    without_bos = in_gauge(score(lm, [TEXT], bos=False), "joint")  # log p(c) counts from the first scored token
    assert without_bos.log_partition_after[0] == pytest.approx(0, abs=1e-4)
    with pytest.raises(ValueError, match="gauge must be one of"):
        in_gauge(alone, "lorenz")
