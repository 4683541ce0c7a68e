"""Watch a model write, with the energies of each token: `stream` one text, or `generate` many side by side.

Why not transformers' own `generate`? Term 2 of a token is known one step after the token was chosen, so the last
token needs a step that nothing is chosen from. Reading the finished text again would cost as much as writing it.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from tqdm.auto import tqdm
from transformers import LogitsProcessorList, TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from .energy import Potentials, TokenEnergies, align, potentials
from .load import LM, as_lm
from .reading import Past, memory, pad, padding, read_prefix, threads
from .score import bos_prefix, check_characters


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
    out of range, and on a prompt that is empty, no text, or leaves no room in the window.
    """

    def __init__(
        self, lm: LM, prompt: str, number: int = 0, max_new_tokens: int = 40, temperature: float | None = 0.0,
        top_k: int | None = None, top_p: float | None = None, seed: int = 0, stop: str | Sequence[str] = (),
        bos: str | bool = "auto",
    ):  # fmt: skip
        prefix = bos_prefix(lm, bos)
        if not isinstance(prompt, str):
            raise ValueError(f"prompt {number} must be a text; got {type(prompt).__name__}")
        check_characters(prompt, f"prompt {number}")
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


def stream(lm: LM | tuple, prompt: str, **options) -> Iterator[dict]:
    """Write on from `prompt`, yielding each token with its energies as soon as they are known.

    Yields one dict per token, with the columns of `score`: `pd.DataFrame(stream(lm, prompt))` is a table.
    Options: max_new_tokens, temperature, top_k, top_p, seed, stop and bos, as for `Writer`.

    Term 1 of a token is known when it is chosen; Term 2, `V(c, x)`, only after the model has read it. So a
    row comes one step after its token was chosen, and the last token costs a forward step that nothing is
    chosen from. Between steps only the model's own cache and the potentials of one position are kept.
    An EOS token is a row like any other, with its name as `token` and no characters of its own. Its Term 2
    is what the model says *after* the end of a text, where many models were never trained: pool with care.
    """
    lm = as_lm(lm)
    return grow(lm, [Writer(lm, prompt, **options)])


def generate(
    lm: LM | tuple, prompts: Sequence[str], batch_size: int = 64, progress: bool = False, **options
) -> tuple[list[str], pd.DataFrame]:
    """Write on from each prompt; returns (completions, the table of the tokens written).

    The table has the columns of `score` and one row per written token: `text` is the index into `prompts`,
    `position`, `start` and `end` count from the start of the prompt. Energies are read while the texts grow, as in
    `stream`. Decoding and encoding again may give other ids: energies belong to the ids in the table.

    Args: `batch_size` texts grow side by side, and what all prompts begin with is read once; the other options are
    those of `Writer`, text number i drawing its random numbers from `seed + i`. An EOS token is a row, but not
    part of a completion.
    """
    lm = as_lm(lm)
    prompts = [prompts] if isinstance(prompts, str) else list(prompts)
    if not prompts:
        raise ValueError("prompts is empty; give at least one")
    writers = [Writer(lm, prompt, number, **options) for number, prompt in enumerate(prompts)]
    order = sorted(writers, key=lambda writer: writer.first)
    past = read_prefix(lm, [writer.ids for writer in writers], max(writer.limit for writer in writers))
    rows: list[dict] = []
    for start in tqdm(range(0, len(order), batch_size), desc="generate", disable=not progress):
        rows += grow(lm, order[start : start + batch_size], past)
    table = pd.DataFrame(rows).sort_values(["text", "position"], ignore_index=True)
    return [writer.completion for writer in writers], table


def grow(lm: LM, writers: list[Writer], past: Past | None = None) -> Iterator[dict]:
    """Let texts grow side by side after what they have in common; yields each token's row a step after its choice."""
    shared = 0 if past is None else past.ids.shape[1]
    ids, mask = pad([writer.ids[shared:] for writer in writers], lm.model.device, left=True)
    cache = None
    if past:
        past = past.rows(torch.zeros(len(writers), dtype=torch.long, device=ids.device))
        cache, mask = past.cache, torch.cat([past.mask, mask], 1)
    before, logit, rows = None, None, {}
    while True:
        logits, cache = step(lm, ids, mask, cache)
        after = potentials(logits)  # Term 2 of the tokens just read, and what the next ones are chosen from
        if before:
            steps = Potentials(*(torch.stack(pair, -1) for pair in zip(before, after, strict=True)))
            fields = torch.stack(align(steps, logit[:, None]), -1)[:, 1].tolist()
            for number, row in rows.items():
                yield row | dict(zip(TokenEnergies._fields, fields[number], strict=True))
        rows = {n: writer.write(logits[n]) for n, writer in enumerate(writers) if not writer.done}
        if not rows:
            return
        ids = torch.tensor([[writer.ids[-1]] for writer in writers], device=ids.device)
        logit = logits.gather(-1, ids).squeeze(-1).double()  # Term 1, before the token is read
        growing = torch.tensor([[number in rows] for number in range(len(writers))], device=ids.device)
        mask = torch.cat([mask, growing], -1)  # finished texts go on as pads
        before = after


@torch.no_grad()
def step(lm: LM, ids: Tensor, mask: Tensor, cache) -> tuple[Tensor, object]:
    """Read the last columns `ids` [B, T] of a batch: the logits after them [B, |V|], and the cache.

    A model whose head is unusual gives its own logits.
    """
    options = {**padding(lm.model, mask.long(), ids.shape[1]), "use_cache": True}
    with threads(lm.model):
        if lm.head is None:
            read = lm.model(ids, past_key_values=cache, **options)
            return read.logits[:, -1], read.past_key_values
        read = lm.model.base_model(ids, **{memory(lm.model): cache}, **options)
        return lm.head(read.last_hidden_state[:, -1]), read[memory(lm.model)]
