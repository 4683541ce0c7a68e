"""How every bundled weight and recorded table was made: `python -m utils.workshop.train NAME …` (or `make train`).

A run is seeded, shows its progress, and resumes from `build/train/` when it was interrupted. It draws each
document independently from the Almanac's training law, never epochs over a list, one document per row.
The loss is the sum over tokens divided by a constant, so that a prefix's expected weight in the gradient
is proportional to its exact probability.
"""

import argparse
import json
import shutil
from dataclasses import dataclass, replace

import numpy as np
import torch
from safetensors.torch import save
from tqdm.auto import tqdm
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from .. import DATA, ROOT
from ..almanac import BOS, EOS, PAD, Almanac
from ..energy import potentials
from .documents import SEED
from .law import live_tokens, sample
from .whole import whole

WINDOW = 64  # positions; the longest document has 27 tokens with its BOS
TOKENS_PER_DOCUMENT = 12.9  # the constant the loss is divided by: expected tokens to predict
SAVE_EVERY = 500  # steps, for a run to go on from when it was interrupted
RECORD_AT = (0, 10, 30, 100, 200, 400, 700, 1000, 1600, 2500, 4000, 6000, 8000)


@dataclass(frozen=True)
class Recipe:
    """Everything that decides a training run."""

    architecture: str  # "gpt2" (tied output) or "llama" (untied)
    width: int
    layers: int
    seed: int
    steps: int = 8000
    batch: int = 96
    rate: float = 3e-3
    z_loss: float = 0.0  # weight of V² in the loss
    save_at: tuple[int, ...] = ()  # steps whose weights are shipped


RECIPES = {
    "almanac-gpt2": Recipe("gpt2", width=144, layers=4, seed=0, save_at=(400, 1600, 8000)),
    "almanac-llama": Recipe("llama", width=128, layers=4, seed=0, save_at=(400, 1600, 8000)),
    **{
        f"small-{architecture}-{seed}": Recipe(architecture, width=96, layers=2, seed=seed, steps=3000)
        for architecture in ("gpt2", "llama")
        for seed in (1, 2, 3, 4, 5, 6)  # 4 to 6 were trained later, to repeat a finding made on 1 to 3
    },
    "small-llama-zloss": Recipe("llama", width=96, layers=2, seed=1, steps=3000, z_loss=1e-2),
}


def build_model(recipe: Recipe, almanac: Almanac):
    """A freshly initialised model of the real transformers class, seeded."""
    torch.manual_seed(recipe.seed)
    special = {"bos_token_id": almanac.bos, "eos_token_id": almanac.eos, "pad_token_id": almanac.pad}
    if recipe.architecture == "gpt2":
        config = GPT2Config(
            vocab_size=almanac.vocab_size, n_positions=WINDOW, n_embd=recipe.width, n_layer=recipe.layers,
            n_head=4, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, tie_word_embeddings=True, **special,
        )  # fmt: skip
        return GPT2LMHeadModel(config)
    config = LlamaConfig(
        vocab_size=almanac.vocab_size, hidden_size=recipe.width, num_hidden_layers=recipe.layers,
        intermediate_size=recipe.width * 11 // 4, num_attention_heads=4, max_position_embeddings=WINDOW,
        tie_word_embeddings=False, **special,
    )  # fmt: skip
    return LlamaForCausalLM(config)


def document_batch(almanac: Almanac, recipe: Recipe, step: int) -> list[torch.Tensor]:
    """The documents of one step, i.i.d. from the law, in four right-padded groups of similar length.

    The draw depends on (seed, step) alone, so a resumed run sees what an uninterrupted one sees.
    """
    rng = np.random.default_rng([recipe.seed, step])
    rows = sorted((almanac.ids[i] for i in sample(almanac, recipe.batch, rng)), key=len)
    groups = [rows[i : i + recipe.batch // 4] for i in range(0, recipe.batch, recipe.batch // 4)]
    return [
        torch.nn.utils.rnn.pad_sequence([torch.tensor(r) for r in g], batch_first=True, padding_value=almanac.pad)
        for g in groups
    ]


def loss_of(model, ids: torch.Tensor, pad: int, recipe: Recipe) -> torch.Tensor:
    """Cross-entropy (and z-loss) summed over the tokens of `ids` [B, T], over a constant."""
    hidden = model.base_model(ids, attention_mask=(ids != pad).long()).last_hidden_state[:, :-1]
    target = ids[:, 1:]
    real = target != pad  # pads are never predicted and never paid for
    logits = model.lm_head(hidden[real])
    loss = torch.nn.functional.cross_entropy(logits, target[real], reduction="sum")
    if recipe.z_loss:
        loss = loss + recipe.z_loss * logits.logsumexp(-1).square().sum()
    return loss / (recipe.batch * TOKENS_PER_DOCUMENT)


def train(name: str, recipe: Recipe, progress: bool = True, write: bool = True):
    """Train one model; returns it. With `write`, its weights and records go to `data/`."""
    almanac = Almanac("train")
    model = build_model(recipe, almanac)
    optimizer = torch.optim.Adam(model.parameters(), lr=recipe.rate, betas=(0.9, 0.99), fused=True)
    warm, total = min(200, recipe.steps), recipe.steps
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / warm, max(0.02, 1 - step / total))
    )
    record = Recorder(almanac) if write else None
    scratch = ROOT / "build" / "train" / f"{name}.pt"
    first = resume(scratch, model, optimizer, schedule, record) if write else 0
    bar = tqdm(range(first, total + 1), initial=first, total=total + 1, desc=name, disable=not progress)
    for step in bar:
        if record and (step in RECORD_AT or step == total) and step not in record.steps:
            record.add(step, rounded(model, recipe, almanac))
        if write and step in recipe.save_at:
            export(model, almanac, name if step == total else f"{name}-step{step}", recipe, step)
        if step == total:
            break
        running = 0.0
        for ids in document_batch(almanac, recipe, step):
            loss = loss_of(model, ids, almanac.pad, recipe)
            loss.backward()
            running += loss.item()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        if step % 100 == 0:
            bar.set_postfix(loss=f"{running:.3f}")
        if write and (step + 1) % SAVE_EVERY == 0:
            save_scratch(scratch, step + 1, model, optimizer, schedule, record)
    if record:
        record.write(name)
    return model


def save_scratch(path, step: int, model, optimizer, schedule, record) -> None:
    """Everything needed to go on after an interruption. OSError if there is no room; the file before it stays."""
    parts = {"step": step, "model": model.state_dict(), "optimizer": optimizer.state_dict(),
             "schedule": schedule.state_dict(), "steps": record.steps,
             "rows": [torch.from_numpy(rows) for rows in record.rows]}  # fmt: skip
    with whole(path) as file:
        torch.save(parts, file)


def resume(path, model, optimizer, schedule, record) -> int:
    """Load an interrupted run, if there is one; returns the step to go on from."""
    if not path.exists():
        return 0
    parts = torch.load(path, weights_only=True)
    for key, thing in (("model", model), ("optimizer", optimizer), ("schedule", schedule)):
        thing.load_state_dict(parts[key])
    record.steps, record.rows = parts["steps"], [rows.numpy() for rows in parts["rows"]]
    return parts["step"]


def rounded(model, recipe: Recipe, almanac: Almanac):
    """A copy with its weights rounded to float16, as they are shipped: what is measured is what you get."""
    copy = build_model(recipe, almanac)
    copy.load_state_dict({key: value.half().float() for key, value in model.state_dict().items()})
    return copy.eval()


def export(model, almanac: Almanac, name: str, recipe: Recipe, step: int) -> None:
    """Write a model folder that `from_pretrained` reads: float16 safetensors, loaded as float32."""
    folder = ROOT / "build" / "train" / name  # moved when it is whole
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    model.config.dtype = torch.float32
    model.config.save_pretrained(folder)
    tied = {"lm_head.weight"} if recipe.architecture == "gpt2" else set()
    weights = {k: v.half().contiguous() for k, v in model.state_dict().items() if k not in tied}
    with whole(folder / "model.safetensors") as file:
        file.write(save(weights, metadata={"format": "pt"}))
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=almanac.tokenizer, bos_token=BOS, eos_token=EOS, pad_token=PAD, model_max_length=WINDOW
    )
    tokenizer.save_pretrained(folder)
    (folder / "recipe.json").write_text(json.dumps({**vars(recipe), "step": step}, indent=1) + "\n", "utf-8")
    shutil.rmtree(DATA / "models" / name, ignore_errors=True)
    shutil.move(folder, DATA / "models" / name)


def recorded_prefixes(almanac: Almanac) -> dict[str, np.ndarray]:
    """The 5,000 prefixes measured along training, as (document, length, slot): `almanac.ids[document][:length]`.

    All habits at their choice, every fact at the end of its question, of its first statement and of its
    answer, additions at theirs, and a draw of the other prefixes that is even over log-probability.
    """
    rng = np.random.default_rng(SEED)
    d = almanac.documents
    encode = almanac.tokenizer.encode_batch
    prompt = np.array([1 + len(e.ids) for e in encode(list(d.prompt))])
    answer = prompt + np.array([len(e.ids) for e in encode(list(d.answer))])
    fact, habit, addition = (d.family == f for f in ("fact", "stochastic", "arithmetic"))
    chosen = [
        ("habit", d.index[habit & ~d.duplicated("prompt")], prompt),
        ("question", d.index[fact & d.question], prompt),
        ("statement", d.index[fact & (d.template == 0)], prompt),
        ("answer", d.index[fact & d.question], answer),
        ("sum", d.index[addition & d.question][rng.permutation((addition & d.question).sum())[:600]], prompt),
    ]
    rows = [(i, length[i], slot) for slot, index, length in chosen for i in index]
    taken = {tuple(almanac.ids[i][:n]) for i, n, _ in rows}
    others = {}
    for i, ids in enumerate(almanac.ids):
        for n in range(1, len(ids)):
            key = tuple(ids[:n])
            if key not in taken:
                others.setdefault(key, (i, n))
    mass = np.array([almanac.mass[almanac.node(key)] for key in others])
    stratum = np.where(mass > 0, np.floor(2 * np.log10(np.maximum(mass, 1e-300))), 1)
    order = rng.permutation(len(mass))
    rank = np.empty(len(mass), int)
    for value in np.unique(stratum):  # k-th draw of each stratum before the (k+1)-th of any
        members = order[stratum[order] == value]
        rank[members] = np.arange(len(members))
    for j in np.argsort(rank, kind="stable")[: 5000 - len(rows)]:
        rows.append((*list(others.values())[j], "other"))
    document, length, slot = zip(*rows, strict=True)
    return {"document": np.array(document, np.int32), "length": np.array(length, np.int8), "slot": np.array(slot)}


class Recorder:
    """Measures `V`, `m`, `m` over live tokens and `KL(q ‖ p̂)` on the recorded prefixes along training."""

    COLUMNS = ("log_partition", "mean_logit", "mean_logit_live", "kl")

    def __init__(self, almanac: Almanac):
        self.prefixes = recorded_prefixes(almanac)
        pairs = zip(self.prefixes["document"], self.prefixes["length"], strict=True)
        self.ids = [almanac.ids[i][:n] for i, n in pairs]
        self.live = torch.from_numpy(live_tokens(almanac))
        self.truth = [almanac.next_token(ids) if almanac.mass[almanac.node(ids)] > 0 else None for ids in self.ids]
        self.steps: list[int] = []
        self.rows: list[np.ndarray] = []

    @torch.no_grad()
    def add(self, step: int, model) -> None:
        """Append the measurements [5000, 4] (float32, nats) of `model` at `step`."""
        values = np.full((len(self.ids), len(self.COLUMNS)), np.nan, np.float32)
        by_length = np.argsort(self.prefixes["length"], kind="stable")
        for length in np.unique(self.prefixes["length"]):
            index = by_length[self.prefixes["length"][by_length] == length]
            logits = model(torch.tensor([self.ids[i] for i in index])).logits[:, -1]
            p = potentials(logits)
            logp = logits.double().log_softmax(-1).numpy()
            values[index, 0] = p.log_partition
            values[index, 1] = p.mean_logit
            values[index, 2] = logits[:, self.live].mean(-1)
            for i, row in zip(index, logp, strict=True):
                q = self.truth[i]
                if q is not None:
                    seen = q > 0
                    values[i, 3] = (q[seen] * (np.log(q[seen]) - row[seen])).sum()
        self.steps.append(step)
        self.rows.append(values)

    def write(self, name: str) -> None:
        """`data/recorded/NAME.npz`: steps, the columns as [steps, 5000], and the prefixes in a file of their own."""
        folder = DATA / "recorded"
        values = np.stack(self.rows)
        columns = {column: values[:, :, j] for j, column in enumerate(self.COLUMNS)}
        for file_name, arrays in ((name, {"steps": np.array(self.steps), **columns}), ("prefixes", self.prefixes)):
            with whole(folder / f"{file_name}.npz") as file:
                np.savez_compressed(file, **arrays)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", default=[*RECIPES], help=f"default: all of {', '.join(RECIPES)}")
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--steps", type=int, default=None, help="stop the schedule earlier (for a quick look)")
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    for name in arguments.names:
        recipe = RECIPES[name]
        train(name, replace(recipe, steps=arguments.steps) if arguments.steps else recipe)


if __name__ == "__main__":
    main()
