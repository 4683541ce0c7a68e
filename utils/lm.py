"""Language models: load one, score texts with it, watch it write.

`load_lm` → `score` → a tidy table with one row per token. The numbers come from `utils.energy`; this module
only brings models and text to it. `[B, T, |V|]` logits are never held in memory: the output head is applied
to a few positions, and a piece of the vocabulary, at a time.
"""

import inspect
import logging
import os
import weakref
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count, pairwise, repeat
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.nn.functional import linear
from tqdm.auto import tqdm
from transformers import (
    LogitsProcessor,
    LogitsProcessorList,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from utils import DATA
from utils.energy import Potentials, TokenEnergies, align, combine, potentials
from utils.hub import cached, download

MODELS = DATA / "models"
# name → hub id, pinned revision, bundled stand-in of the same class
PINNED = {
    "gpt2": ("openai-community/gpt2", "607a30d783dfa663caf39e06633721c8d4cfcd7e", "almanac-gpt2"),
    "llama": ("HuggingFaceTB/SmolLM2-135M", "93efa2f097d58c2a74874c7e644dbc9b0cee75a2", "almanac-llama"),
}
SOURCES = ("auto", "hub", "cache", "bundled")
LOGITS_HELD = {"cpu": 2**20, "accelerator": 2**26}  # logits held at once: 4 MB stay in a processor's cache
VOCABULARY_PIECE = {"cpu": 1024, "accelerator": 2**20}  # tokens whose logits are computed together


# ---------------------------------------------------------------------------------------------- loading


@dataclass(frozen=True)
class LM:
    """A causal language model with its tokenizer, and one line that says where it came from."""

    model: torch.nn.Module
    tokenizer: object
    name: str
    source: str  # "hub", "cache", "bundled" or "folder"
    provenance: str

    @property
    def window(self) -> int | None:
        """How many positions the model can see, if it says."""
        return getattr(self.model.config.get_text_config(), "max_position_embeddings", None)

    @property
    def stand_in(self) -> bool:
        """True if a bundled model speaks in place of the one that was asked for."""
        return self.source == "bundled"


def load_lm(name: str, source: str = "auto") -> LM:
    """Load a causal language model and print one line of provenance.

    Args:
        name: "gpt2" or "llama" (pinned revisions with a bundled stand-in), the name of a folder in
            `data/models`, the path of a local folder, or any hub id "owner/model".
        source: "auto" tries the local cache of the pinned revision, the hub, then the bundled stand-in;
            "hub", "cache" and "bundled" insist on one. The environment variable SPILLED_ENERGY_MODELS
            replaces "auto". A silent hub costs less than ten seconds.

    Only safetensors are read and no remote code is run. Raises ValueError with the remedy for an unknown
    name or source, missing or corrupt weights, and a source that has not got the model.
    """
    if source == "auto":
        source = os.environ.get("SPILLED_ENERGY_MODELS", "auto")
    if source not in SOURCES:
        raise ValueError(f"source must be one of {', '.join(SOURCES)}; got {source!r}")
    bundled = sorted(folder.name for folder in MODELS.iterdir())
    if name in bundled:
        return _open(MODELS / name, name, "bundled", "bundled")
    if Path(name).is_dir():
        return _open(Path(name), Path(name).name, "folder", "local folder")
    if name not in PINNED and name.count("/") != 1:
        known = ", ".join([*PINNED, *bundled])
        raise ValueError(f"unknown model {name!r}: use one of {known}, a local folder, or a hub id 'owner/model'")

    hub_id, revision, stand_in = PINNED.get(name, (name, None, None))
    reason = f"{source} was asked for"
    if source in ("auto", "cache"):
        if folder := cached(hub_id, revision):
            return _open(folder, hub_id, "cache", f"hub revision {revision or 'main'}, from the local cache")
        reason = "not in the local cache"
    if source in ("auto", "hub"):
        folder, reason = download(hub_id, revision)
        if folder:
            return _open(folder, hub_id, "hub", f"hub revision {revision or 'main'}")
    if stand_in and source in ("auto", "bundled"):
        return _open(MODELS / stand_in, stand_in, "bundled", f"bundled stand-in for {hub_id}: {reason}")
    raise ValueError(f"{hub_id} could not be loaded: {reason}")


@contextmanager
def quiet_transformers():
    """Silence the loading bars and warnings of transformers, and put its settings back afterwards."""
    from transformers.utils import logging as hf_logging

    level, bars = hf_logging.get_verbosity(), hf_logging.is_progress_bar_enabled()
    hf_logging.set_verbosity(logging.CRITICAL)
    hf_logging.disable_progress_bar()
    try:
        yield
    finally:
        hf_logging.set_verbosity(level)
        if bars:
            hf_logging.enable_progress_bar()


def _open(folder: Path, name: str, source: str, origin: str) -> LM:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    try:
        with quiet_transformers():
            tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, use_fast=True)
            model, report = AutoModelForCausalLM.from_pretrained(
                folder, local_files_only=True, use_safetensors=True, dtype=torch.float32, output_loading_info=True
            )
    except Exception as error:
        raise ValueError(
            f"{folder} does not hold a readable causal language model ({type(error).__name__}: "
            f"{str(error).splitlines()[0]}); delete it and fetch it again"
        ) from error
    if report["missing_keys"] or report["mismatched_keys"]:
        missing = sorted(report["missing_keys"])[:3] or "some of wrong shape"
        raise ValueError(f"the weights in {folder} are incomplete ({missing}); delete the folder and fetch it again")
    model.eval().requires_grad_(False)
    size = sum(p.numel() for p in model.parameters())
    start = repr(tokenizer.bos_token) if tokenizer.bos_token_id is not None else "no BOS"
    provenance = f"{name} ({origin}), {size / 1e6:.1f} M parameters, texts start with {start}"
    print(provenance)
    return LM(model, tokenizer, name, source, provenance)


# ---------------------------------------------------------------------------------------------- scoring


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


# ---------------------------------------------------------------------------------------------- writing


class Writer:
    """One text while it is being written: it chooses each token, decodes it, and knows when to stop.

    Args, shared by `stream` and `generate`:
        max_new_tokens: at most this many tokens are written.
        temperature, top_k, top_p: how to sample; temperature 0 or None always takes the likeliest token.
            They decide which token is chosen and never touch an energy, which is that of the raw logits.
        seed: of this text's own random numbers, so that its neighbours in a batch do not matter.
        stop: a string, or several; writing ends after the token that completes one of them.
        bos: as in `score`. With a BOS the prompt may be empty.

    Writing also ends after an EOS token and when the model's window is full. Raises ValueError on options
    out of range, and on a prompt that is empty or leaves no room in the window.
    """

    def __init__(
        self, lm: LM, prompt: str, number: int = 0, max_new_tokens: int = 40, temperature: float | None = 0.0,
        top_k: int | None = None, top_p: float | None = None, seed: int = 0, stop: str | Sequence[str] = (),
        bos: str | bool = "auto",
    ):  # fmt: skip
        prefix = bos_prefix(lm, bos)
        self.ids = prefix + lm.tokenizer(prompt, add_special_tokens=False, verbose=False).input_ids
        self.first, self.bos_count, self.number, self.tokenizer = len(self.ids), len(prefix), number, lm.tokenizer
        if not self.ids:
            raise ValueError(f"prompt {number} is empty and there is no BOS to start from; give it a word")
        if lm.window and self.first >= lm.window:
            raise ValueError(
                f"prompt {number} has {self.first} tokens and the model's window is {lm.window}: "
                "shorten it, so that there is room to write"
            )
        if max_new_tokens < 1:
            raise ValueError(f"max_new_tokens must be at least 1; got {max_new_tokens}")
        self.limit = min(self.first + max_new_tokens, lm.window or np.inf)
        self.stop = [stop] if isinstance(stop, str) else list(stop)
        if "" in self.stop:
            raise ValueError("stop holds an empty string, which every text contains; leave it out")
        self.last_words = end_ids(lm)
        self.sampling = sampling(temperature, top_k, top_p)
        self.random = torch.Generator().manual_seed(seed + number)
        self.text = self.prompt_text = self._decode()
        self.end = len(prompt)  # character offsets count from the start of the prompt
        self.done = False

    def write(self, logits: Tensor) -> dict:
        """Choose a token from raw `logits` [|V|]; returns the text columns of its row in the table."""
        if self.sampling is None:
            token = int(logits.argmax())
        else:
            p = self.sampling(None, logits[None].float()).softmax(-1)[0]
            token = int(torch.multinomial(p.cpu(), 1, generator=self.random))
        self.ids.append(token)
        text = self._decode()
        # A character may take several tokens; it belongs to the one that completes it.
        piece = "" if text.endswith("\N{REPLACEMENT CHARACTER}") else text[len(self.text) :]
        self.text += piece
        start, self.end = self.end, self.end + len(piece)
        special = token in self.tokenizer.all_special_ids
        self.done = (
            token in self.last_words or len(self.ids) == self.limit or any(s in self.completion for s in self.stop)
        )
        return {
            "text": self.number, "position": len(self.ids) - 1 - self.bos_count, "id": token,
            "token": self.tokenizer.convert_ids_to_tokens(token) if special else piece,
            "start": start, "end": self.end,
        }  # fmt: skip

    @property
    def completion(self) -> str:
        """What has been written so far, without the prompt and without special tokens."""
        return self.text[len(self.prompt_text) :]

    def _decode(self) -> str:
        return self.tokenizer.decode(self.ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)


def end_ids(lm: LM) -> set[int]:
    """The ids that end a text, by the tokenizer and by the model's generation settings."""
    found = getattr(getattr(lm.model, "generation_config", None), "eos_token_id", None)
    return {lm.tokenizer.eos_token_id, *(found if isinstance(found, list) else [found])} - {None}


def sampling(temperature: float | None, top_k: int | None, top_p: float | None) -> LogitsProcessorList | None:
    """What turns raw logits into those that a token is drawn from; None for the greedy choice."""
    if not temperature:
        return None
    steps = [TemperatureLogitsWarper(float(temperature))]
    steps += [] if top_k is None else [TopKLogitsWarper(top_k)]
    steps += [] if top_p is None else [TopPLogitsWarper(top_p)]
    return LogitsProcessorList(steps)


def stream(lm: LM, prompt: str, **options) -> Iterator[dict]:
    """Write on from `prompt`, yielding each token with its energies as soon as they are known.

    Yields one dict per token, with the columns of `score`: `pd.DataFrame(stream(lm, prompt))` is a table.
    Options: max_new_tokens, temperature, top_k, top_p, seed, stop and bos, as for `Writer`.

    Term 1 of a token is known when it is chosen; Term 2, `V(c, x)`, only after the model has read it. So a
    row comes one step after its token was chosen, and the last token costs a forward step that nothing is
    chosen from. Between steps only the model's own cache and the potentials of one position are kept.
    An EOS token is a row like any other, with its name as `token` and no characters of its own. Its Term 2
    is what the model says *after* the end of a text, where many models were never trained: pool with care.
    """
    return grow(lm, [Writer(lm, prompt, **options)])


def generate(
    lm: LM, prompts: Sequence[str], batch_size: int = 64, progress: bool = False, **options
) -> tuple[list[str], pd.DataFrame]:
    """Write on from each prompt; returns (completions, the table of the tokens written).

    The table has the columns of `score` and one row per written token: `text` is the index into `prompts`,
    `position`, `start` and `end` count from the start of the prompt. Energies are read while the texts grow, as in
    `stream`. Decoding and encoding again may give other ids: energies belong to the ids in the table.

    Args: `batch_size` texts grow side by side; the other options are those of `Writer`, text number i
    drawing its random numbers from `seed + i`. An EOS token is a row, but not part of a completion.
    """
    prompts = [prompts] if isinstance(prompts, str) else list(prompts)
    if not prompts:
        raise ValueError("prompts is empty; give at least one")
    writers = [Writer(lm, prompt, number, **options) for number, prompt in enumerate(prompts)]
    order = sorted(writers, key=lambda writer: writer.first)
    rows: list[dict] = []
    for start in tqdm(range(0, len(order), batch_size), desc="generate", disable=not progress):
        rows += grow(lm, order[start : start + batch_size])
    table = pd.DataFrame(rows).sort_values(["text", "position"], ignore_index=True)
    return [writer.completion for writer in writers], table


@torch.no_grad()
def grow(lm: LM, writers: list[Writer]) -> Iterator[dict]:
    """Let texts grow side by side, padded on the left; yields each token's row one step after it was chosen."""
    longest = max(len(writer.ids) for writer in writers)
    ids = torch.tensor([[0] * (longest - len(writer.ids)) + writer.ids for writer in writers])
    mask = torch.tensor([[0] * (longest - len(writer.ids)) + [1] * len(writer.ids) for writer in writers])
    head, cache, device = output_head(lm.model), None, lm.model.device
    memory = "cache" if "cache" in arguments(lm.model) else "past_key_values"  # its name before transformers 5.24
    before, logit, rows = None, None, {}
    while True:
        options = padding(lm.model, mask.to(device), ids.shape[1])
        step = lm.model.base_model(ids.to(device), use_cache=True, **{memory: cache}, **options)
        cache, logits = step[memory], head(step.last_hidden_state[:, -1])
        after = potentials(logits)  # Term 2 of the tokens just read, and what the next ones are chosen from
        if before:
            steps = Potentials(*(torch.stack(pair, -1) for pair in zip(before, after, strict=True)))
            fields = torch.stack(align(steps, logit[:, None]), -1)[:, 1].tolist()
            for number, row in rows.items():
                yield row | dict(zip(TokenEnergies._fields, fields[number], strict=True))
        rows = {n: writer.write(logits[n]) for n, writer in enumerate(writers) if not writer.done}
        if not rows:
            return
        ids = torch.tensor([[writer.ids[-1]] for writer in writers])
        logit = logits.gather(-1, ids.to(device)).squeeze(-1).double()  # Term 1, before the token is read
        growing = torch.tensor([[number in rows] for number in range(len(writers))])
        mask = torch.cat([mask, growing.long()], -1)  # finished texts go on as pads
        before = after


class EnergyRecorder(LogitsProcessor):
    """Watches your own `model.generate(…, logits_processor=[recorder])`; the text it writes is not changed.

    A handful of numbers is kept per token, and one step of logits. Ask `energies(sequences)` afterwards.
    Two limits, both set by where `generate` calls it; `stream` has neither:

    1. It runs after the built-in penalties (such as `repetition_penalty`) and before temperature, top-k and
       top-p. With a penalty its energies are those of penalised logits; a processor that rules tokens out
       with −∞ makes it stop with a ValueError.
    2. It is never called after the last token, whose Term 2 is therefore NaN.

    Use a fresh recorder for each call. Beam search reorders texts and is refused.
    """

    def __init__(self):
        self.ids = self.scores = None
        self.after: list[Potentials] = []
        self.logit: list[Tensor] = []

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        if self.ids is not None:
            self._follow(input_ids)
        self.after.append(Potentials(*(field.double() for field in potentials(scores))))
        self.ids, self.scores = input_ids, scores.clone()
        return scores

    def _follow(self, ids: Tensor) -> None:
        """Read Term 1 of the tokens that were just chosen, from the scores they were chosen by."""
        if ids.shape[1] != self.ids.shape[1] + 1 or not torch.equal(ids[:, :-1], self.ids):
            raise ValueError("the texts did not grow by one token: use a fresh recorder, and no beam search")
        self.logit.append(self.scores.gather(-1, ids[:, -1:]).squeeze(-1).double())

    def energies(self, sequences: Tensor) -> TokenEnergies:
        """Energies of the N tokens that `generate` appended to its prompt: fields [B, N], in nats.

        `sequences` [B, T] is what `generate` returned. Rows that ended early go on with pads: mask those.
        """
        if not self.after:
            raise ValueError("nothing was recorded; pass the recorder to generate in logits_processor=[…]")
        if len(self.logit) < len(self.after):
            self._follow(sequences)
        unknown = torch.full_like(self.after[0].entropy, torch.nan)
        after = Potentials(*(torch.stack([*steps, unknown], -1) for steps in zip(*self.after, strict=True)))
        return TokenEnergies(*(field[:, 1:] for field in align(after, torch.stack(self.logit, -1))))


# ---------------------------------------------------------------------------------------------- gauges

GAUGES = ("as trained", "centred", "log-probabilities", "joint")


def in_gauge(table: pd.DataFrame, gauge: str) -> pd.DataFrame:
    """The same tokens, their probabilities unchanged, with a constant `g(c)` added to all logits of a context.

    `g = 0` as trained, `−m(c)` centred, `−V(c)` for log-probabilities, `log p(c) − V(c)` for the joint gauge,
    `log p(c)` counting from each text's first scored token. Then `V → V + g`, `m → m + g` and
    `s → s + g(c) − g(c, x)`; the columns of probabilities stay as they are. ValueError on another gauge.
    """
    if gauge not in GAUGES:
        raise ValueError(f"gauge must be one of {', '.join(GAUGES)}; got {gauge!r}")
    so_far = table["logprob"].fillna(0).groupby(table["text"]).cumsum()  # log p(c, x)

    def g(suffix: str, log_p_context: pd.Series) -> pd.Series | float:
        mean, log_z = table[f"mean_logit{suffix}"], table[f"log_partition{suffix}"]
        return dict(zip(GAUGES, (0.0, -mean, -log_z, log_p_context - log_z), strict=True))[gauge]

    after, before = g("", so_far), g("_before", so_far - table["logprob"])
    return table.assign(
        logit=table["logit"] + before,
        log_partition=table["log_partition"] + after,
        log_partition_before=table["log_partition_before"] + before,
        mean_logit=table["mean_logit"] + after,
        mean_logit_before=table["mean_logit_before"] + before,
        spilled=table["spilled"] + before - after,
    )
