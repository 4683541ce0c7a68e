"""Shared by all tests: bundled models only, one thread a worker, and models built on the spot."""

import os

os.environ["SPILLED_ENERGY_MODELS"] = "bundled"
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from utils import ROOT

REAL_DATA = ROOT.parent / "shared" / "data"  # real data for tests, not part of the project


def tiny(architecture: str, vocab: int = 97, seed: int = 0):
    """A random model of the real class, sharp enough that its logits differ from each other."""
    torch.manual_seed(seed)
    if architecture == "gpt2":
        config = GPT2Config(
            vocab_size=vocab, n_positions=48, n_embd=32, n_layer=2, n_head=4, initializer_range=0.4
        )  # fmt: skip
        model = GPT2LMHeadModel(config)
    else:
        config = LlamaConfig(
            vocab_size=vocab, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
            num_key_value_heads=2, max_position_embeddings=48, initializer_range=0.4, tie_word_embeddings=False,
        )  # fmt: skip
        model = LlamaForCausalLM(config)
    return model.eval().requires_grad_(False)


@pytest.fixture(params=["gpt2", "llama"])
def tiny_model(request):
    return tiny(request.param)


def need(path):
    """Skip, saying why, when real data is not at hand."""
    if not path.exists():
        pytest.skip(f"needs {path.name}, which is not part of the project")
    return path
