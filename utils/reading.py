"""Reading token ids: one forward pass, energies for every token, and what texts have in common read only once.

A model's cache is what it remembers of the tokens so far. `Past` holds it, so that several texts can go on from there.
"""

import contextlib
import copy
import inspect
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from .energy import Potentials, TokenEnergies, align, chosen, potentials
from .head import Head, output_head, read_hidden

WORTH_SHARING = 8  # tokens that texts must have in common before they are read apart
SMALL = 10_000_000  # parameters; a smaller model is fastest on one thread


class Past(NamedTuple):
    """What a model has read so far, for B texts or (B = 1) for all texts of a call."""

    ids: Tensor  # [B, P]
    mask: Tensor  # bool [B, P], False at pads
    hidden: Tensor  # [B, P, D], the states after the tokens; of a copy, only the last [B, 1, D]
    cache: object  # the model's own memory of the tokens

    def rows(self, index: Tensor) -> "Past":
        """A copy for the texts in `index` [b], which may name a text more than once; the model may write into it."""
        cache = copy.deepcopy(self.cache)
        cache.batch_select_indices(index)
        return Past(self.ids[index], self.mask[index], self.hidden[index, -1:], cache)


@torch.no_grad()
def score_ids(
    model, ids: Tensor, attention_mask: Tensor | None = None, chunk_size: int | None = None,
    past: Past | None = None, head: Head | None = None,
) -> TokenEnergies:  # fmt: skip
    """Energies of token ids [B, T] under `model`; every field is float64 [B, T], in nats.

    `attention_mask` [B, T] is 1 at real tokens and may pad on either side, or both; fields are NaN at pads, and
    everything that needs Term 1 is NaN at each row's first real token. `chunk_size` positions go through
    the output head at once (default: as many as keep 4 MB of logits on a CPU); it changes memory, not results.
    `past` holds what each row has before it: then every token has a Term 1, and pads may stand on the right only.
    `head` is `output_head(model)`, if you have it already.
    Raises ValueError on wrong shapes, ids out of range, rows of fewer than two tokens or longer than the
    model's window, and NaN or infinite logits.
    """
    real = check_batch(model, ids, attention_mask, 0 if past is None else int(past.mask.sum(-1).max()))
    head = head or output_head(model)
    with threads(model):
        if head is None:
            after, logit = read_logits(model, ids, real)
            return spread(ids, real, after, logit)
        hidden, _ = read(model, ids, real, past)
        if past:  # the token before each row is where the row's first Term 1 is read
            before = past.ids[:, -1:], torch.ones_like(real[:, :1]), past.hidden[:, -1:]
            ids, real, hidden = (torch.cat(pair, 1) for pair in zip(before, (ids, real, hidden), strict=True))
        energies = energies_of(head, ids, real, hidden, chunk_size)
    return TokenEnergies(*(field[:, 1:] for field in energies)) if past else energies


def energies_of(head: Head, ids: Tensor, real: Tensor, hidden: Tensor, chunk_size: int | None = None) -> TokenEnergies:
    """Energies [B, T] from the hidden states [B, T, D] after ids [B, T]; NaN where `real` [B, T] is False."""
    targets = torch.roll(ids, -1, dims=-1)  # what each position is asked for; the last answer is not used
    return spread(ids, real, *read_hidden(head, hidden[real], targets[real], chunk_size))


def spread(ids: Tensor, real: Tensor, after: Potentials, logit: Tensor) -> TokenEnergies:
    """Potentials and Term 1 of the real tokens, [N] each, back in the places of ids [B, T]."""

    def unpack(values: Tensor) -> Tensor:
        return torch.full(ids.shape, torch.nan, dtype=torch.float64, device=values.device).masked_scatter(real, values)

    # `before` a row's first real token lies a pad, or nothing: NaN either way. A right pad gets no Term 1
    # of its own, because its predecessor's target is masked out below.
    energies = align(Potentials(*map(unpack, after)), unpack(logit)[:, :-1])
    return TokenEnergies(*(field.masked_fill(~real, torch.nan) for field in energies))


def read(model, ids: Tensor, real: Tensor, past: Past | None = None, keep: bool = False):
    """Run the trunk over ids [B, T] (`real`, bool [B, T]) after `past`: hidden states [B, T, D]; the cache, if kept."""
    mask = real if past is None else torch.cat([past.mask, real], 1)
    options = padding(model, mask.long(), ids.shape[1])
    if past:
        options[memory(model)] = past.cache
    step = model.base_model(ids, use_cache=keep or past is not None, **options)
    return step.last_hidden_state, getattr(step, memory(model), None) if keep else None  # some hand out no such cache


def read_logits(model, ids: Tensor, real: Tensor) -> tuple[Potentials, Tensor]:
    """What `read_hidden` gives, from the model's own logits: for unusual heads. Holds the logits of one row."""
    parts = []
    for row, here in zip(ids, real, strict=True):
        row = row[here][None]
        logits = model(row, use_cache=False).logits[0]
        parts.append((potentials(logits), torch.cat([chosen(logits, row[0]), logits.new_zeros(1).double()])))
    after, logit = zip(*parts, strict=True)
    return Potentials(*map(torch.cat, zip(*after, strict=True))), torch.cat(logit)


def read_prefix(lm, rows: Sequence[Sequence[int]], longest: int) -> Past | None:
    """Read what all `rows` of ids begin with, once; None if that is too little, or the model cannot share it.

    At least one token of every row is left. `longest` is the length of the longest text that will follow.
    """
    shared = common_prefix([row[:-1] for row in rows])
    if len(rows) < 2 or len(shared) < WORTH_SHARING or lm.head is None:
        return None
    past = read_left_padded(lm, [shared])
    return past if keeps_all(past.cache, longest) else None


@torch.no_grad()
def read_left_padded(lm, rows: Sequence[Sequence[int]], past: Past | None = None) -> Past:
    """Read rows of ids, padded on the left so that all end together, after what they have in common."""
    ids, real = pad(rows, lm.model.device, left=True)
    if past:
        past = past.rows(torch.zeros(len(rows), dtype=torch.long, device=ids.device))
    with threads(lm.model):
        hidden, cache = read(lm.model, ids, real, past, keep=True)
    if past:
        ids, real = torch.cat([past.ids, ids], 1), torch.cat([past.mask, real], 1)
    return Past(ids, real, hidden, cache)


def pad(rows: Sequence[Sequence[int]], device, left: bool = False) -> tuple[Tensor, Tensor]:
    """Rows of ids as one tensor [B, T], and the mask of real tokens, bool [B, T]."""
    longest = max(map(len, rows))
    ids, real = torch.zeros(len(rows), longest, dtype=torch.long), torch.zeros(len(rows), longest, dtype=torch.bool)
    for row, (line, mask) in zip(rows, zip(ids, real, strict=True), strict=True):
        place = slice(longest - len(row), None) if left else slice(len(row))
        line[place], mask[place] = torch.tensor(row), True
    return ids.to(device), real.to(device)


def keeps_all(cache, longest: int) -> bool:
    """Whether every layer of a cache remembers all tokens one by one, so that its rows can be copied and extended.

    Not so for recurrent states, nor for windows that slide before a text of `longest` tokens, and its pads, are over.
    """
    layers = getattr(cache, "layers", ())
    return len(layers) > 0 and all(
        hasattr(layer, "keys")
        and not hasattr(layer, "conv_states")
        and (getattr(layer, "sliding_window", None) or 2 * longest) >= 2 * longest
        for layer in layers
    )


def common_prefix(rows: Sequence[Sequence[int]]) -> list[int]:
    """The longest list that all rows begin with.

    >>> common_prefix([[1, 2, 3], [1, 2, 4]])
    [1, 2]
    """
    first, last = min(rows), max(rows)  # in alphabetical order, what these two share all share
    return list(first[: next((i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), len(first))])


def arguments(model) -> Mapping[str, inspect.Parameter]:
    """What the transformer trunk of a model can be given, by name."""
    return inspect.signature(model.base_model.forward).parameters


def memory(model) -> str:
    """The name of the trunk's cache, which transformers 5.24 changed."""
    return "cache" if "cache" in arguments(model) else "past_key_values"


def padding(model, mask: Tensor, width: int) -> dict[str, object]:
    """What a model that reads the last `width` columns of a batch must know of its mask [B, T]: no pads, nothing."""
    if mask.all():
        return {}
    options = {"attention_mask": mask}
    if "position_ids" in arguments(model):
        options["position_ids"] = (mask.cumsum(-1) - 1).clamp_min(0)[:, -width:]
    return options


@contextlib.contextmanager
def threads(model):
    """One thread for a small model on the CPU, where several wait for one another; as many as before afterwards."""
    before = torch.get_num_threads()
    if model.device.type == "cpu" and model.num_parameters() < SMALL:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def check_batch(model, ids: Tensor, attention_mask: Tensor | None, before: int = 0) -> Tensor:
    """Validate what `score_ids` was given, with `before` tokens read already; the mask of real tokens, bool [B, T]."""
    if not isinstance(ids, Tensor) or ids.ndim != 2 or ids.dtype not in (torch.int64, torch.int32):
        raise ValueError("ids must be a tensor of token ids of shape [B, T]")
    if attention_mask is not None and attention_mask.shape != ids.shape:
        raise ValueError(f"attention_mask must have the shape of ids, {[*ids.shape]}; got {[*attention_mask.shape]}")
    real = torch.ones_like(ids, dtype=torch.bool) if attention_mask is None else attention_mask.bool()
    if not before and real.sum(-1).min() < 2:
        raise ValueError("every row of ids needs at least two real tokens: a spill spans two steps")
    starts = real[:, 0].long() + (real[:, 1:] & ~real[:, :-1]).sum(-1)
    if starts.max() > 1 or (before and not real[:, 0].all()):
        raise ValueError("attention_mask may pad at the ends of a row (after a past: at its right end), without holes")
    vocab = model.config.get_text_config().vocab_size
    if ids[real].min() < 0 or ids[real].max() >= vocab:
        raise ValueError(f"ids must lie in 0 … {vocab - 1}, the model's vocabulary")
    window = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    if window and before + real.sum(-1).max() > window:
        raise ValueError(f"a row has more tokens than the model's window of {window}; score pieces of it")
    return real
