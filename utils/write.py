"""Language models: load one, score texts with it, watch it write.

`load_lm` → `score` → a tidy table with one row per token. The numbers come from `utils.energy`; this module
only brings models and text to it. `[B, T, |V|]` logits are never held in memory: the output head is applied
to a few positions, and a piece of the vocabulary, at a time.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from tqdm.auto import tqdm
from transformers import (
    LogitsProcessor,
    LogitsProcessorList,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from utils.energy import Potentials, TokenEnergies, align, potentials
from utils.load import LM
from utils.score import arguments, bos_prefix, output_head, padding


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
