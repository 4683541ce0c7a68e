"""From hidden states to energies: the output head, a few positions and a piece of the vocabulary at a time.

The logits of a text fill `T × |V|` numbers, 0.2 GB for 1,024 tokens of SmolLM2. Nothing here holds them: each piece
is reduced to its potentials (`energy.potentials`) and thrown away, and `energy.combine` puts the pieces together.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import linear

from .energy import Potentials, combine, potentials

LOGITS_HELD = {"cpu": 2**20, "accelerator": 2**26}  # logits held at once: 4 MB stay in a processor's cache
VOCABULARY_PIECE = {"cpu": 1024, "accelerator": 2**20}  # tokens whose logits are computed together


@dataclass(frozen=True)
class Head:
    """The map from hidden states [..., D] to logits [..., |V|], or to the logits of some of the tokens."""

    weight: Tensor  # [|V|, D]
    bias: Tensor | None = None
    scale: float = 1.0
    cap: float | None = None

    def __call__(self, hidden: Tensor, tokens: slice = slice(None)) -> Tensor:
        logits = linear(hidden, self.weight[tokens], None if self.bias is None else self.bias[tokens])
        if self.scale != 1.0:
            logits = logits * self.scale
        return self.cap * torch.tanh(logits / self.cap) if self.cap else logits


def output_head(model) -> Head | None:
    """The output head of a causal language model, with its bias, scaling and soft cap.

    It is tried on two tokens against the model's own logits. None if the model does more to its logits than that,
    or has no trunk to read hidden states from: its own logits must then serve. ValueError if it has no head at all.
    """
    layer, config = model.get_output_embeddings(), model.config.get_text_config()
    if getattr(layer, "weight", None) is None:
        raise ValueError(f"{type(model).__name__} has no output head; load it as a causal language model")
    scale = getattr(config, "logit_scale", None) or 1.0  # Cohere multiplies
    scale = scale / (getattr(config, "logits_scaling", None) or 1.0)  # Granite divides
    cap = getattr(config, "final_logit_softcapping", None)  # Gemma-2
    head = Head(layer.weight, getattr(layer, "bias", None), scale, cap)
    return head if gives_own_logits(head, model) else None


@torch.no_grad()
def gives_own_logits(head: Head, model) -> bool:
    """Whether the head, applied to the trunk's hidden states, gives the model's own logits for two tokens."""
    ids = torch.tensor([[0, 1]], device=model.device)
    options = {"attention_mask": torch.ones_like(ids), "use_cache": False}
    own = model(ids, **options).logits
    try:
        ours = head(model.base_model(ids, **options).last_hidden_state)
    except (AttributeError, RuntimeError):  # no trunk of its own, or one of another width
        return False
    atol = 32 * torch.finfo(own.dtype).eps * max(1.0, own.abs().max().item())
    return own.shape == ours.shape and torch.allclose(own, ours.to(own.dtype), rtol=0, atol=atol, equal_nan=True)


def read_hidden(head: Head, hidden: Tensor, targets: Tensor, chunk_size: int | None = None):
    """Potentials after each position, and the logit of each target, without holding all logits.

    Args: `hidden` [N, D]; `targets` [N], the token that followed each position (any id where none did);
    `chunk_size`, positions per call of the head. Returns (Potentials of [N], logits [N]) in float64, in nats.
    """
    vocab, kind = len(head.weight), "cpu" if hidden.device.type == "cpu" else "accelerator"
    piece = min(VOCABULARY_PIECE[kind], vocab)
    chunk_size = chunk_size or max(1, LOGITS_HELD[kind] // piece)
    after, picked = [], []
    for h, target in zip(hidden.split(chunk_size), targets.split(chunk_size), strict=True):
        pieces, sizes, chosen = [], [], torch.zeros(len(h), dtype=torch.float64, device=h.device)
        for first in range(0, vocab, piece):
            logits = head(h, slice(first, first + piece))  # (chunk, piece)
            sizes.append(logits.shape[-1])
            pieces.append(potentials(logits))
            here = (target >= first) & (target < first + sizes[-1])
            chosen[here] = logits[here, target[here] - first].double()
        after.append(combine(pieces, sizes))
        picked.append(chosen)
    return Potentials(*map(torch.cat, zip(*after, strict=True))), torch.cat(picked)
