"""Whatever lies between hidden states and logits is applied as the model applies it, in pieces, in any precision."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import AutoConfig, AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel

from utils import head as room
from utils.energy import token_energies
from utils.head import output_head
from utils.reading import score_ids

SMALL = {
    "vocab_size": 97, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 48, "initializer_range": 0.4,
    "pad_token_id": None, "bos_token_id": None, "eos_token_id": None,
}  # fmt: skip
HEADS = {  # architecture → what is special about its logits
    "llama": {"tie_word_embeddings": False},  # untied
    "qwen2": {"tie_word_embeddings": True},  # tied
    "phi": {},  # with a bias
    "gemma2": {"head_dim": 8, "final_logit_softcapping": 5.0},  # a soft cap that bites
    "granite": {"logits_scaling": 8.0},  # divides
    "cohere": {"logit_scale": 0.0625},  # multiplies
}


def build(architecture: str, **options):
    torch.manual_seed(0)
    config = AutoConfig.for_model(architecture, **{**SMALL, **HEADS.get(architecture, {}), **options})
    model = AutoModelForCausalLM.from_config(config).eval().requires_grad_(False)
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


def assert_close(got, want, per_nat: float) -> None:
    limit = per_nat * max(1.0, want.logit.nan_to_num().abs().max().item(), want.log_partition_after.abs().max().item())
    for field, expected in zip(got, want, strict=True):
        torch.testing.assert_close(field, expected.double(), rtol=0, atol=limit, equal_nan=True)


@pytest.mark.parametrize("piece", [1, 10, 96, 97, 1000])
@pytest.mark.parametrize("chunk_size", [None, 1, 5])
def test_energies_are_those_of_the_models_own_logits_however_the_head_is_cut(
    model, ids, piece, chunk_size, monkeypatch
):
    monkeypatch.setitem(room.VOCABULARY_PIECE, "cpu", piece)
    assert_close(score_ids(model, ids, chunk_size=chunk_size), token_energies(model(ids).logits, ids), 5e-6)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_precision_costs_no_more_than_its_own_rounding(model, ids, dtype, monkeypatch):
    """Logits come out of the head rounded to `dtype`; cut elsewhere, one of them may round the other way."""
    monkeypatch.setitem(room.VOCABULARY_PIECE, "cpu", 40)
    half = model.to(dtype)
    want = token_energies(half(ids).logits.float(), ids)
    assert_close(score_ids(half, ids), want, torch.finfo(dtype).eps)


def test_special_logits_are_special():
    """Without its scaling or its cap a model would have other energies, so the tests above can fail."""
    ids = torch.tensor([[1, 2, 3, 4]])
    for architecture, plain in (
        ("gemma2", {"final_logit_softcapping": None}),
        ("granite", {"logits_scaling": 1.0}),
        ("cohere", {"logit_scale": 1.0}),
    ):
        with_it, without = build(architecture), build(architecture, **plain)
        moved = score_ids(with_it, ids).log_partition_after - score_ids(without, ids).log_partition_after
        assert moved.abs().max() > 0.1


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
        assert_close([field[row : row + 1, mask] for field in got], want, 5e-6)


def test_a_model_without_a_head_is_refused():
    with pytest.raises(ValueError, match="no output head"):
        score_ids(build("llama").model, torch.tensor([[1, 2, 3]]))


class LargestTensor(TorchDispatchMode):
    """Remembers how many numbers the largest tensor held that any operation made."""

    def __init__(self):
        super().__init__()
        self.numbers = 0

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
