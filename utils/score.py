"""Texts in, energies out: a tidy table with one row per token.

The numbers come from `utils.energy`; this room brings models and texts to it. What several texts begin with is read
once (`utils.reading`).
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import count, pairwise, repeat

import numpy as np
import pandas as pd
import torch
from tqdm.auto import tqdm

from .energy import TokenEnergies
from .load import LM, as_lm
from .reading import Past, common_prefix, energies_of, keeps_all, pad, read_left_padded, read_prefix, score_ids


def score(
    lm: LM | tuple, texts: Sequence[str], batch_size: int = 16, chunk_size: int | None = None,
    progress: bool = False, bos: str | bool = "auto", too_long: str = "refuse",
) -> pd.DataFrame:  # fmt: skip
    """Score texts: a tidy table with one row per token, in the order of the texts.

    Columns: `text` (index into `texts`), `position` (from 0, a BOS not counted), `id`, `token` (the piece
    of the text, so that the tokens of a text join to it), `start` and `end` (the tokenizer's character
    offsets), and the fields of `TokenEnergies` in nats, float64.

    Args:
        lm: from `load_lm`, or your own pair (model, tokenizer), on any device and in any dtype.
        batch_size: texts per forward pass; texts of similar length share a batch, and what all texts begin with is
            read once. Changes speed only.
        chunk_size: positions per call of the output head; changes memory only.
        progress: show a bar.
        bos: "auto" puts the tokenizer's BOS before each text if it has one, so that the first token has a
            Term 1; True insists; False leaves it out, and the first token's Term-1 columns are NaN.
        too_long: "refuse" raises on a text longer than the model's window; "slide" reads it in windows
            that overlap by half, so a token then has at least half a window of context.

    In every text `Σ spilled = Σ logprob + V(first context) − V(last)`, unless it was slid over.
    Raises ValueError for an empty text, a text of one token without BOS, and the errors of `score_ids`.
    """
    lm = as_lm(lm)
    texts = [texts] if isinstance(texts, str) else list(texts)
    if not texts:
        raise ValueError("texts is empty; give at least one")
    if too_long not in ("refuse", "slide"):
        raise ValueError(f"too_long must be 'refuse' or 'slide'; got {too_long!r}")
    prefix = bos_prefix(lm, bos)
    encoded = [encode(lm, text, number) for number, text in enumerate(texts)]
    jobs = [
        job
        for number, (ids, _) in enumerate(encoded)
        for job in windows(number, prefix + ids, len(prefix), lm.window, too_long)
    ]
    energies = score_windows(lm, jobs, batch_size, chunk_size, progress)
    return pd.concat([words(texts, encoded), energy_columns(energies)], axis=1)


def score_tokens(lm: LM | tuple, rows: Sequence[Sequence[int]], batch_size: int = 16) -> pd.DataFrame:
    """As `score`, for texts given as rows of token ids: what you have shuffled or replaced is scored as it is.

    A BOS is put before each row if the tokenizer has one. Columns: `text`, `position`, `id`, `token` (what the id
    spells by itself) and the fields of `TokenEnergies`, in nats. Raises what `score` raises.
    """
    lm, rows = as_lm(lm), [[int(i) for i in row] for row in rows]
    prefix = bos_prefix(lm, "auto")
    jobs = [windows(n, prefix + row, len(prefix), lm.window)[0] for n, row in enumerate(rows)]
    places = [(n, t, i, lm.tokenizer.decode(i)) for n, row in enumerate(rows) for t, i in enumerate(row)]
    table = pd.DataFrame(places, columns=["text", "position", "id", "token"])
    return pd.concat([table, energy_columns(score_windows(lm, jobs, batch_size))], axis=1)


def spoil(rows: Sequence[Sequence[int]], n: int, how: str, seed: int = 0) -> list[np.ndarray]:
    """Rows of token ids with `n` of each "replaced" by tokens of these rows, or "moved" among themselves.

    The last token stays; one token alone cannot be moved. What is spoilt at `n` is among what is spoilt at `n + 1`,
    with the same seed. ValueError on another `how`, or a row without `n` tokens before its last.
    """
    if how not in ("replaced", "moved") or not 0 <= n < min(map(len, rows)):
        raise ValueError(f"how must be 'replaced' or 'moved', n smaller than the shortest row; got {how!r}, {n}")
    rng, pool, spoilt = np.random.default_rng(seed), np.concatenate(rows), [np.array(row) for row in rows]
    for row in spoilt:
        places, fresh = rng.permutation(len(row) - 1)[:n], rng.choice(pool, len(row))
        row[places] = fresh[:n] if how == "replaced" else np.roll(row[places], 1)
    return spoilt


def score_continuations(
    lm: LM | tuple, prompts: Sequence[str], continuations: Sequence[Sequence[str]], batch_size: int = 16,
    chunk_size: int | None = None, progress: bool = False, bos: str | bool = "auto",
) -> pd.DataFrame:  # fmt: skip
    """Score what may follow each prompt; every prompt is read once, and what all prompts begin with once for all.

    Args: `continuations[i]` lists the strings that may follow `prompts[i]`, each with its own leading space if it
    needs one; `batch_size`, prompts per forward pass; the rest as in `score`.
    Returns the columns of `score` for the tokens that reach into a continuation, with `prompt` and `continuation`
    (indices) in place of `text`. A prompt and its continuation are encoded as one text, and `position`, `start` and
    `end` count from the prompt's beginning, so a row is the one that `score` gives for the whole text.
    Raises ValueError for a prompt without continuations, an empty one, and whatever `score` raises.
    """
    lm = as_lm(lm)
    if len(prompts) != len(continuations) or isinstance(continuations, str):
        raise ValueError(f"continuations must hold one list a prompt, {len(prompts)}; got {len(continuations)}")
    if not prompts:
        raise ValueError("prompts is empty; give at least one")
    pairs = [(i, j) for i, options in enumerate(continuations) for j in range(len(options))]
    if missing := sorted({*range(len(prompts))} - {i for i, _ in pairs}):
        raise ValueError(f"prompts[{missing[0]}] has no continuation; give at least one, or leave the prompt out")
    if empty := [(i, j) for i, j in pairs if not continuations[i][j]]:
        raise ValueError("continuations[{}][{}] is empty; give at least one character".format(*empty[0]))
    texts = [prompts[i] + continuations[i][j] for i, j in pairs]
    encoded = [encode(lm, text, number) for number, text in enumerate(texts)]
    table = words(texts, encoded)
    ends = np.array([len(prompts[i]) for i, _ in pairs])
    table = table[table["end"].to_numpy() > ends[table["text"]]].reset_index(drop=True)
    wanted = table.groupby("text").size().to_numpy()  # tokens of each continuation
    prefix = bos_prefix(lm, bos)
    jobs = [
        windows(number, prefix + ids, len(prefix) + len(ids) - wanted[number], lm.window)[0]
        for number, (ids, _) in enumerate(encoded)
    ]
    energies = score_after_prompts(lm, jobs, np.array([i for i, _ in pairs]), batch_size, chunk_size, progress)
    which = pd.DataFrame(pairs, columns=["prompt", "continuation"]).iloc[table.pop("text")].reset_index(drop=True)
    return pd.concat([which, table, energy_columns(energies)], axis=1)


@dataclass(frozen=True)
class Window:
    """A piece of a text to be scored at once; rows before `keep` belong to an earlier piece, the prompt or the BOS."""

    ids: list[int]
    keep: int


def score_windows(
    lm: LM, jobs: Sequence[Window], batch_size: int = 16, chunk_size: int | None = None, progress: bool = False
) -> list[np.ndarray]:
    """The energies of each window's kept tokens, [kept, fields of `TokenEnergies`] in float64."""
    order = sorted(range(len(jobs)), key=lambda j: -len(jobs[j].ids))  # longest first: what does not fit shows at once
    energies: list[np.ndarray] = [np.empty(0)] * len(jobs)
    past, shared, first = read_prefix(lm, [job.ids for job in jobs], len(jobs[order[0]].ids)), 0, None
    if past:  # its own energies are the same in every window
        shared = past.ids.shape[1]
        own = energies_of(lm.head, past.ids, past.mask, past.hidden, chunk_size)
        first = torch.stack(own, -1)[0].cpu().numpy()
    for start in tqdm(range(0, len(order), batch_size), desc="score", disable=not progress):
        batch = order[start : start + batch_size]
        rows = past and past.rows(torch.zeros(len(batch), dtype=torch.long, device=lm.model.device))
        found = score_rows(lm, [jobs[j].ids[shared:] for j in batch], rows, chunk_size)
        for j, own in zip(batch, found, strict=True):
            energies[j] = (np.concatenate([first, own]) if past else own)[jobs[j].keep :]
    return energies


def score_after_prompts(
    lm: LM, jobs: Sequence[Window], prompts: np.ndarray, batch_size: int, chunk_size: int | None, progress: bool
) -> list[np.ndarray]:
    """As `score_windows`, for windows that keep what follows a prompt; `prompts[j]` numbers the one of window j."""
    members = [np.flatnonzero(prompts == i) for i in range(prompts.max() + 1)]
    roots = [common_prefix([jobs[j].ids[: jobs[j].keep] for j in group]) for group in members]
    longest, whole = max(len(job.ids) for job in jobs), (lm, jobs, batch_size, chunk_size, progress)
    if lm.head is None or not all(roots):
        return score_windows(*whole)
    past = read_prefix(lm, roots, longest)
    shared = 0 if past is None else past.ids.shape[1]
    energies: list[np.ndarray] = [np.empty(0)] * len(jobs)
    order = sorted(range(len(roots)), key=lambda i: -len(roots[i]))
    for start in tqdm(range(0, len(order), batch_size), desc="score", disable=not progress):
        group = order[start : start + batch_size]
        root = read_left_padded(lm, [roots[i][shared:] for i in group], past)
        if not keeps_all(root.cache, longest):
            return score_windows(*whole)
        leaves = [(row, j, len(roots[i])) for row, i in enumerate(group) for j in members[i]]
        many = 4 * batch_size  # continuations are short
        for part in (leaves[a : a + many] for a in range(0, len(leaves), many)):
            rows = root.rows(torch.tensor([row for row, _, _ in part], device=lm.model.device))
            found = score_rows(lm, [jobs[j].ids[n:] for _, j, n in part], rows, chunk_size)
            for (_, j, n), own in zip(part, found, strict=True):
                energies[j] = own[jobs[j].keep - n :]
    return energies


def score_rows(lm: LM, rows: Sequence[Sequence[int]], past: Past | None, chunk_size: int | None) -> list[np.ndarray]:
    """The energies of rows of ids read after `past`, [tokens, fields of `TokenEnergies`] for each row."""
    ids, real = pad(rows, lm.model.device)
    fields = torch.stack(score_ids(lm.model, ids, real, chunk_size, past, lm.head), -1).cpu().numpy()
    return [own[: len(row)] for own, row in zip(fields, rows, strict=True)]


def windows(
    text: int, ids: list[int], prefix: int, window: int | None, too_long: str | None = None
) -> Iterable[Window]:
    """Cut `ids` into windows that fit the model: one, or several that overlap by half (`too_long="slide"`).

    ValueError on a text that fits in none; `too_long` is None where a caller cannot slide.
    """
    if len(ids) < 2:
        raise ValueError(f"texts[{text}] has one token and no BOS before it; a spill needs two")
    if window is None or len(ids) <= window:
        return [Window(ids, prefix)]
    if too_long != "slide":
        remedy = "shorten it, or pass too_long='slide'" if too_long else "shorten it"
        raise ValueError(f"texts[{text}] has {len(ids)} tokens, the model's window is {window}: {remedy}")
    pieces, done = [Window(ids[:window], prefix)], window
    while done < len(ids):
        stop = min(done + window // 2, len(ids))
        pieces.append(Window(ids[stop - window : stop], window - (stop - done)))
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
    check_characters(text, f"texts[{number}]")
    found = lm.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    return found["input_ids"], found["offset_mapping"]


def check_characters(text: str, name: str) -> None:
    """ValueError if a string holds half a character, a lone surrogate, which no tokenizer can read."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(
            f"{name} holds half a character ({text[error.start]!a}) at {error.start}; decode it again or remove it"
        ) from None


def words(texts, encoded) -> pd.DataFrame:
    """The columns of the table that need no model, one row per token."""
    rows = []
    for number, (text, (ids, offsets)) in enumerate(zip(texts, encoded, strict=True)):
        edges = [0, *np.maximum.accumulate([end for _, end in offsets])]
        edges[-1] = len(text)  # a trailing space belongs to the last token
        tokens = [text[a:b] for a, b in pairwise(edges)]
        rows += zip(repeat(number), count(), ids, tokens, *zip(*offsets, strict=True), strict=False)
    return pd.DataFrame(rows, columns=["text", "position", "id", "token", "start", "end"])


def energy_columns(energies: Sequence[np.ndarray]) -> pd.DataFrame:
    """The columns of the table that the model gives; `energies` lists the windows in the order of the texts."""
    return pd.DataFrame(np.concatenate(energies), columns=TokenEnergies._fields)


def shorten(text: str, most: int = 100) -> str:
    """A text in quotes, with "…" for what an error message has no room for.

    >>> print(shorten("Rome, not Rome", most=14), shorten("Rome, not Rome", most=8))
    'Rome, not Rome' 'Rome … Rome'
    """
    return repr(text if len(text) <= most else f"{text[: most // 2]} … {text[-most // 2 :]}")


def find_answer(text: str, answer: str, after: int = 0) -> tuple[int, int]:
    """Character span of `answer` in `text`, at or after `after`. ValueError if it is not there.

    >>> find_answer("Rome, not Rome", "Rome", after=4)
    (10, 14)
    """
    start = text.find(answer, after) if answer else -1
    if start < 0:
        raise ValueError(f"answer {shorten(answer)} not found in {shorten(text)} after character {after}")
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
