"""Language models: load one, score texts with it, watch it write.

`load_lm` → `score` → a tidy table with one row per token. The numbers come from `utils.energy`; this module
only brings models and text to it. `[B, T, |V|]` logits are never held in memory: the output head is applied
to a few positions, and a piece of the vocabulary, at a time.
"""

import inspect
import weakref
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import count, pairwise, repeat

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.nn.functional import linear
from tqdm.auto import tqdm

from utils.energy import Potentials, TokenEnergies, align, combine, potentials
from utils.load import LM

LOGITS_HELD = {"cpu": 2**20, "accelerator": 2**26}  # logits held at once: 4 MB stay in a processor's cache
VOCABULARY_PIECE = {"cpu": 1024, "accelerator": 2**20}  # tokens whose logits are computed together


@dataclass(frozen=True)
class Head:
    """The map from hidden states [..., D] to logits [..., |V|], or to the logits of some of the tokens."""

    weight: Tensor  # [|V|, D]
    bias: Tensor | None
    scale: float = 1.0
    cap: float | None = None

    def __call__(self, hidden: Tensor, tokens: slice = slice(None)) -> Tensor:
        logits = linear(hidden, self.weight[tokens], None if self.bias is None else self.bias[tokens])
        if self.scale != 1.0:
            logits = logits * self.scale
        return self.cap * torch.tanh(logits / self.cap) if self.cap else logits


VERIFIED: weakref.WeakSet = weakref.WeakSet()  # models whose head gave their own logits


def output_head(model) -> Head:
    """The output head of a causal language model, with its bias, scaling and soft cap.

    The first time it is asked for, the head is tried on two tokens against the model's own logits. Raises
    ValueError if the model has no head, or does something to its logits that this course does not know of.
    """
    layer, config = model.get_output_embeddings(), model.config.get_text_config()
    if getattr(layer, "weight", None) is None:
        raise ValueError(f"{type(model).__name__} has no output head; load it as a causal language model")
    scale = getattr(config, "logit_scale", None) or 1.0  # Cohere multiplies
    scale = scale / (getattr(config, "logits_scaling", None) or 1.0)  # Granite divides
    cap = getattr(config, "final_logit_softcapping", None)  # Gemma-2
    head = Head(layer.weight, getattr(layer, "bias", None), scale, cap)
    if model not in VERIFIED:
        if not gives_own_logits(head, model):
            raise ValueError(
                f"{type(model).__name__} does more to its logits than weight, bias, scaling and soft cap: "
                "use energy.token_energies(model(ids).logits, ids) instead"
            )
        VERIFIED.add(model)
    return head


@torch.no_grad()
def gives_own_logits(head: Head, model) -> bool:
    """Whether the head, applied to the trunk's hidden states, gives the model's own logits for two tokens."""
    ids = torch.tensor([[0, 1]], device=head.weight.device)
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
    `chunk_size`, positions per call of the head. Returns (Potentials of [N], logits [N]) in float64.
    The vocabulary is cut too, and its pieces are put together by `energy.combine`.
    """
    vocab, kind = len(head.weight), "cpu" if hidden.device.type == "cpu" else "accelerator"
    piece = min(VOCABULARY_PIECE[kind], vocab)
    chunk_size = chunk_size or max(1, LOGITS_HELD[kind] // piece)
    after, picked = [], []
    for h, target in zip(hidden.split(chunk_size), targets.split(chunk_size), strict=True):
        pieces, sizes, chosen = [], [], torch.zeros(len(h), dtype=torch.float64, device=h.device)
        for first in range(0, vocab, piece):
            logits = head(h, slice(first, first + piece))
            sizes.append(logits.shape[-1])
            pieces.append(potentials(logits))
            here = (target >= first) & (target < first + sizes[-1])
            chosen[here] = logits[here, target[here] - first].double()
        after.append(combine(pieces, sizes))
        picked.append(chosen)
    return Potentials(*map(torch.cat, zip(*after, strict=True))), torch.cat(picked)


@torch.no_grad()
def score_ids(model, ids: Tensor, attention_mask: Tensor | None = None, chunk_size: int | None = None) -> TokenEnergies:
    """Energies of token ids [B, T] under `model`; every field is float64 [B, T], in nats.

    `attention_mask` [B, T] is 1 at real tokens and may pad on either side; fields are NaN at pads, and
    everything that needs Term 1 is NaN at each row's first real token. `chunk_size` positions go through
    the output head at once (default: as many as keep 4 MB of logits on a CPU); it changes memory, not results.
    Raises ValueError on wrong shapes, ids out of range, rows of fewer than two tokens or longer than the
    model's window, and NaN or infinite logits.
    """
    real = check_batch(model, ids, attention_mask)
    hidden = model.base_model(ids, use_cache=False, **padding(model, real.long(), ids.shape[1])).last_hidden_state
    targets = torch.roll(ids, -1, dims=-1)  # what each position is asked for; the last answer is not used
    after, logit = read_hidden(output_head(model), hidden[real], targets[real], chunk_size)

    def unpack(values: Tensor) -> Tensor:
        return torch.full(ids.shape, torch.nan, dtype=torch.float64, device=values.device).masked_scatter(real, values)

    # `before` a row's first real token lies a pad, or nothing: NaN either way. A right pad gets no Term 1
    # of its own, because its predecessor's target is masked out below.
    energies = align(Potentials(*map(unpack, after)), unpack(logit)[:, :-1])
    return TokenEnergies(*(field.masked_fill(~real, torch.nan) for field in energies))


def arguments(model) -> Mapping[str, inspect.Parameter]:
    """What the transformer trunk of a model can be given, by name."""
    return inspect.signature(model.base_model.forward).parameters


def padding(model, mask: Tensor, width: int) -> dict[str, Tensor]:
    """What a model that reads the last `width` columns of a batch must know of its mask [B, T]: no pads, nothing."""
    if mask.all():
        return {}
    options = {"attention_mask": mask}
    if "position_ids" in arguments(model):
        options["position_ids"] = (mask.cumsum(-1) - 1).clamp_min(0)[:, -width:]
    return options


def check_batch(model, ids: Tensor, attention_mask: Tensor | None) -> Tensor:
    """Validate what `score_ids` was given; returns the mask of real tokens, bool [B, T]."""
    if not isinstance(ids, Tensor) or ids.ndim != 2 or ids.dtype not in (torch.int64, torch.int32):
        raise ValueError("ids must be a tensor of token ids of shape [B, T]")
    if attention_mask is not None and attention_mask.shape != ids.shape:
        raise ValueError(f"attention_mask must have the shape of ids, {[*ids.shape]}; got {[*attention_mask.shape]}")
    real = torch.ones_like(ids, dtype=torch.bool) if attention_mask is None else attention_mask.bool()
    if real.sum(-1).min() < 2:
        raise ValueError("every row of ids needs at least two real tokens: a spill spans two steps")
    if (real[:, 1:] != real[:, :-1]).sum(-1).max() > 1:
        raise ValueError("attention_mask may pad on one side of a row only, without holes")
    vocab = model.config.get_text_config().vocab_size
    if ids[real].min() < 0 or ids[real].max() >= vocab:
        raise ValueError(f"ids must lie in 0 … {vocab - 1}, the model's vocabulary")
    window = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    if window and real.sum(-1).max() > window:
        raise ValueError(f"a row has more tokens than the model's window of {window}; score pieces of it")
    return real


def score(
    lm: LM,
    texts: Sequence[str],
    batch_size: int = 16,
    chunk_size: int | None = None,
    progress: bool = False,
    bos: str | bool = "auto",
    too_long: str = "refuse",
) -> pd.DataFrame:
    """Score texts: a tidy table with one row per token, in the order of the texts.

    Columns: `text` (index into `texts`), `position` (from 0, a BOS not counted), `id`, `token` (the piece
    of the text, so that the tokens of a text join to it), `start` and `end` (the tokenizer's character
    offsets), and the fields of `TokenEnergies` in nats, float64.

    Args:
        batch_size: texts per forward pass; texts of similar length share a batch. Changes speed only.
        chunk_size: positions per call of the output head; changes memory only.
        progress: show a bar.
        bos: "auto" puts the tokenizer's BOS before each text if it has one, so that the first token has a
            Term 1; True insists; False leaves it out, and the first token's Term-1 columns are NaN.
        too_long: "refuse" raises on a text longer than the model's window; "slide" reads it in windows
            that overlap by half, so a token then has at least half a window of context.

    In every text `Σ spilled = Σ logprob + V(first context) − V(last)`, unless it was slid over.
    Raises ValueError for an empty text, a text of one token without BOS, and the errors of `score_ids`.
    """
    texts = [texts] if isinstance(texts, str) else list(texts)
    if too_long not in ("refuse", "slide"):
        raise ValueError(f"too_long must be 'refuse' or 'slide'; got {too_long!r}")
    prefix = bos_prefix(lm, bos)
    encoded = [encode(lm, text, number) for number, text in enumerate(texts)]
    jobs = [
        job
        for number, (ids, _) in enumerate(encoded)
        for job in windows(number, prefix + ids, len(prefix), lm.window, too_long)
    ]
    return _table(texts, encoded, score_windows(lm, jobs, batch_size, chunk_size, progress))


@dataclass(frozen=True)
class Window:
    """A piece of a text to be scored at once; rows before `keep` belong to an earlier piece or the BOS."""

    text: int
    ids: list[int]
    keep: int


def score_windows(
    lm: LM, jobs: Sequence[Window], batch_size: int = 16, chunk_size: int | None = None, progress: bool = False
) -> list[np.ndarray]:
    """The energies of each window's kept tokens, [kept, fields of `TokenEnergies`] in float64."""
    order = sorted(range(len(jobs)), key=lambda j: -len(jobs[j].ids))  # longest first: what does not fit shows at once
    energies: list[np.ndarray] = [np.empty(0)] * len(jobs)
    for start in tqdm(range(0, len(order), batch_size), desc="score", disable=not progress):
        batch = order[start : start + batch_size]
        longest = max(len(jobs[j].ids) for j in batch)
        ids = torch.zeros(len(batch), longest, dtype=torch.long)
        mask = torch.zeros_like(ids)
        for row, j in enumerate(batch):
            ids[row, : len(jobs[j].ids)] = torch.tensor(jobs[j].ids)
            mask[row, : len(jobs[j].ids)] = 1
        device = lm.model.device
        fields = torch.stack(score_ids(lm.model, ids.to(device), mask.to(device), chunk_size), -1).cpu().numpy()
        for row, j in enumerate(batch):
            energies[j] = fields[row, jobs[j].keep : len(jobs[j].ids)]
    return energies


def windows(text: int, ids: list[int], prefix: int, window: int | None, too_long: str) -> Iterable[Window]:
    """Cut `ids` into windows that fit the model: one, or several that overlap by half."""
    if len(ids) < 2:
        raise ValueError(f"texts[{text}] has one token and no BOS before it; a spill needs two")
    if window is None or len(ids) <= window:
        return [Window(text, ids, prefix)]
    if too_long == "refuse":
        raise ValueError(
            f"texts[{text}] has {len(ids)} tokens, the model's window is {window}: shorten it, or pass too_long='slide'"
        )
    pieces, done = [Window(text, ids[:window], prefix)], window
    while done < len(ids):
        stop = min(done + window // 2, len(ids))
        pieces.append(Window(text, ids[stop - window : stop], window - (stop - done)))
        done = stop
    return pieces


def bos_prefix(lm: LM, bos: str | bool) -> list[int]:
    """What is put before each text: the BOS id, or nothing."""
    if bos not in ("auto", True, False):
        raise ValueError(f"bos must be 'auto', True or False; got {bos!r}")
    if lm.tokenizer.bos_token_id is None:
        if bos is True:
            raise ValueError(f"the tokenizer of {lm.name} has no BOS token; use bos='auto'")
        return []
    return [lm.tokenizer.bos_token_id] if bos else []


def encode(lm: LM, text: str, number: int = 0) -> tuple[list[int], list[tuple[int, int]]]:
    """Ids and character offsets of a text, without special tokens. ValueError on an empty text."""
    if not isinstance(text, str) or not text.strip():
        raise ValueError(f"texts[{number}] is empty; give a text with at least one word")
    found = lm.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    return found["input_ids"], found["offset_mapping"]


def _table(texts, encoded, energies) -> pd.DataFrame:
    """Assemble the tidy table; `energies` lists windows in the order of the texts."""
    rows = []
    for number, (text, (ids, offsets)) in enumerate(zip(texts, encoded, strict=True)):
        edges = [0, *np.maximum.accumulate([end for _, end in offsets])]
        edges[-1] = len(text)  # a trailing space belongs to the last token
        tokens = [text[a:b] for a, b in pairwise(edges)]
        rows += zip(repeat(number), count(), ids, tokens, *zip(*offsets, strict=True), strict=False)
    words = pd.DataFrame(rows, columns=["text", "position", "id", "token", "start", "end"])
    return pd.concat([words, pd.DataFrame(np.concatenate(energies), columns=TokenEnergies._fields)], axis=1)


def find_answer(text: str, answer: str, after: int = 0) -> tuple[int, int]:
    """Character span of `answer` in `text`, at or after `after`. ValueError if it is not there."""
    start = text.find(answer, after) if answer else -1
    if start < 0:
        raise ValueError(f"answer {answer!r} not found in {text!r} after character {after}")
    return start, start + len(answer)


def answer_rows(table: pd.DataFrame, spans: Sequence[tuple[int, int]]) -> pd.DataFrame:
    """The rows of `table` whose tokens overlap their text's character span (start, end).

    `spans` has one entry per text, in order. Spans come from the text itself (`find_answer`, or the length
    of a prompt), never from tokenizing the answer again: that need not give the same tokens.
    Raises ValueError if a span is empty, or no token lies in it.
    """
    spans = np.asarray(spans)
    count = int(table["text"].max()) + 1
    if spans.shape != (count, 2):
        raise ValueError(f"spans must hold one (start, end) per text, [{count}, 2]; got {[*spans.shape]}")
    start, end = spans[table["text"]].T
    rows = table[(table["end"] > start) & (table["start"] < end)]
    if missing := sorted(set(range(count)) - set(rows["text"])):
        raise ValueError(f"no token of text {missing[0]} lies in its span {tuple(map(int, spans[missing[0]]))}")
    return rows
