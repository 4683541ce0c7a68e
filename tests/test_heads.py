"""Whatever lies between hidden states and logits is applied as the model applies it, in pieces, in any precision."""

import pytest
import torch
from conftest import assert_same_energies, tiny
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import GPT2Config, GPT2LMHeadModel

from utils import head as room
from utils.energy import token_energies
from utils.head import output_head
from utils.reading import score_ids

HEADS = {  # architecture → what is special about its logits
    "llama": {"tie_word_embeddings": False},  # untied
    "qwen2": {"tie_word_embeddings": True},  # tied
    "phi": {},  # with a bias
    "gemma2": {"head_dim": 8, "final_logit_softcapping": 5.0},  # a soft cap that bites
    "granite": {"logits_scaling": 8.0},  # divides
    "cohere": {"logit_scale": 0.0625},  # multiplies
}


def build(architecture: str, **options):
    model = tiny(architecture, **{**HEADS.get(architecture, {}), **options})
    head = model.get_output_embeddings()
    if getattr(head, "bias", None) is not None:
        head.bias.normal_()
    return model


@pytest.fixture(params=HEADS)
def model(request):
    return build(request.param)


@pytest.fixture
def ids():
    return torch.randint(0, 97, (3, 12), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("piece", [1, 10, 96, 97, 1000])
@pytest.mark.parametrize("chunk_size", [None, 1, 5])
def test_energies_are_those_of_the_models_own_logits_in_whatever_pieces(model, ids, piece, chunk_size, monkeypatch):
    monkeypatch.setitem(room.VOCABULARY_PIECE, "cpu", piece)
    assert output_head(model) is not None  # so that nothing below comes from the model's own logits
    assert_same_energies(score_ids(model, ids, chunk_size=chunk_size), token_energies(model(ids).logits, ids))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_precision_costs_no_more_than_its_own_rounding(model, ids, dtype, monkeypatch):
    """Logits come out of the head rounded to `dtype`; cut elsewhere, one of them may round the other way."""
    monkeypatch.setitem(room.VOCABULARY_PIECE, "cpu", 40)
    half = model.to(dtype)
    want = token_energies(half(ids).logits.float(), ids)
    assert_same_energies(score_ids(half, ids), want, torch.finfo(dtype).eps)


@pytest.mark.parametrize(("architecture", "plain"), [
    ("gemma2", {"final_logit_softcapping": None}),
    ("granite", {"logits_scaling": 1.0}), ("cohere", {"logit_scale": 1.0}),
])  # fmt: skip
def test_special_logits_are_special(architecture, plain, ids):
    """Without its scaling or its cap a model would have other energies, so the tests above can fail."""
    with_it, without = (score_ids(build(architecture, **own), ids).log_partition_after for own in ({}, plain))
    assert (with_it - without).abs().max() > 0.1


@pytest.mark.parametrize("architecture", ["bert", "electra", "granite"])
def test_an_unusual_head_is_noticed_and_the_models_own_logits_serve(architecture, ids):
    """Heads with layers of their own; and HyperCLOVA X multiplies by the number that Granite divides by."""
    model = build(architecture, **({} if architecture == "granite" else {"is_decoder": True}))
    if architecture == "granite":
        model.get_output_embeddings().register_forward_hook(lambda layer, inputs, logits: logits * 64.0)
    assert output_head(model) is None
    real = torch.ones_like(ids)
    real[1, :3] = real[2, 8:] = 0
    got = score_ids(model, ids, real)
    for row, mask in enumerate(real.bool()):
        alone = ids[row : row + 1, mask]
        want = token_energies(model(alone).logits, alone)
        assert_same_energies([field[row : row + 1, mask] for field in got], want)


def test_a_model_without_a_head_is_refused():
    with pytest.raises(ValueError, match="no output head"):
        score_ids(build("llama").model, torch.tensor([[1, 2, 3]]))


class LargestTensor(TorchDispatchMode):
    """Remembers how many numbers the largest tensor held that any operation made."""

    numbers = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, (tuple, list)) else [result]:
            if isinstance(tensor, torch.Tensor) and not tensor._is_view():
                self.numbers = max(self.numbers, tensor.numel())
        return result


def test_scoring_never_holds_all_logits_at_gpt2s_true_shape():
    """124 M random weights, 50,257 tokens: the head makes nothing larger than the trunk does."""
    model = GPT2LMHeadModel(GPT2Config()).eval().requires_grad_(False)
    ids = torch.randint(0, 50257, (2, 256), generator=torch.Generator().manual_seed(0))
    head = output_head(model)
    with LargestTensor() as scored:
        energies = score_ids(model, ids, head=head)
    with LargestTensor() as naive, torch.no_grad():
        model(ids)
    assert energies.spilled.shape == ids.shape and energies.spilled[:, 1:].isfinite().all()
    assert naive.numbers >= ids.numel() * 50257
    assert scored.numbers <= max(room.LOGITS_HELD["cpu"], ids.numel() * 4 * 768)
