"""`make bench`: what energies cost beyond the forward pass, at true model shapes with random weights.

Every number is a ratio within one run: the variants take turns in one process, and medians are compared (all but
the job for Ray, which is done once each way). Memory is the peak of a fresh process each, over that of the
transformer trunk alone; that process gives back what it frees, so that its peak is what was held, and not what the
allocator kept for later. The table is printed and recorded in `data/recorded/bench.csv`, with the machine it speaks
of; notebook 09 reads it, and the figure is drawn from it.
"""

import argparse
import functools
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pandas as pd
import psutil
import torch
from tqdm import tqdm
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, BatchEncoding

from utils import DATA, ROOT, reading, versions
from utils.almanac import Almanac
from utils.energy import TokenEnergies, token_energies
from utils.head import output_head
from utils.load import LM, MODELS, load_lm
from utils.page import plots
from utils.reading import memory, score_ids
from utils.score import Window, score, score_continuations, score_windows
from utils.workshop.card import list_files
from utils.workshop.cluster import score_parquet
from utils.write import Writer, generate, stream

RECORD = DATA / "recorded" / "bench.csv"
FIGURE = ROOT / "notebooks" / "figures" / "bench.png"
GIVE_BACK = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "0"}  # glibc: freed memory goes back at once
SMOLLM2 = {
    "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30, "num_attention_heads": 9,
    "num_key_value_heads": 3, "max_position_embeddings": 8192, "tie_word_embeddings": True, "vocab_size": 49152,
}  # fmt: skip


def build(shape: str, vocab: int | None = None):
    """Random weights: "GPT-2" and "SmolLM2" at their true shapes, "six layers" of SmolLM2 with any vocabulary."""
    torch.manual_seed(0)
    cut = {"num_hidden_layers": 6, "vocab_size": vocab} if shape == "six layers" else {}
    config = AutoConfig.for_model("gpt2") if shape == "GPT-2" else AutoConfig.for_model("llama", **SMOLLM2 | cut)
    return AutoModelForCausalLM.from_config(config).eval().requires_grad_(False)


def random_ids(vocab: int, batch: int, length: int):
    return torch.randint(0, vocab, (batch, length), generator=torch.Generator().manual_seed(0))


head_of = functools.lru_cache(1)(output_head)  # tried once a model, as in an LM

VARIANTS = {
    "trunk only": lambda model, ids: model.base_model(ids, use_cache=False).last_hidden_state,
    "bare forward": lambda model, ids: model(ids, use_cache=False).logits,
    "score": lambda model, ids: score_ids(model, ids, head=head_of(model)),
    "score, 256 positions": lambda model, ids: score_ids(model, ids, chunk_size=256, head=head_of(model)),
    "score, 4096 positions": lambda model, ids: score_ids(model, ids, chunk_size=4096, head=head_of(model)),
    "naive": lambda model, ids: token_energies(model(ids, use_cache=False).logits.float(), ids),
}
MAIN = ["trunk only", "bare forward", "score", "naive"]
TIMED = {"headline": list(VARIANTS), "headline again": ["bare forward", "score"]}  # elsewhere MAIN
CASES = [  # what is varied, shape, vocabulary, batch, length, runs
    *[("headline", shape, None, 2, 1024, 7) for shape in ("GPT-2", "SmolLM2")],
    *[("headline again", shape, None, 2, 1024, 7) for shape in ("GPT-2", "SmolLM2", "GPT-2", "SmolLM2")],
    *[("length", "six layers", 49152, 1, length, 3) for length in (256, 512, 1024, 2048, 4096)],
    *[("vocabulary", "six layers", vocab, 1, 1024, 3) for vocab in (512, 4096, 32768, 151936)],
    *[("batch", "six layers", 49152, batch, 256, 3) for batch in (1, 4, 16)],
]


def interleaved(variants: dict, runs: int) -> pd.DataFrame:
    """Seconds of each variant, taking turns: median, fastest, slowest; a first round is not counted."""
    times = {name: [] for name in variants}
    with torch.no_grad():
        for _ in range(runs + 1):
            for name, run in variants.items():
                start = time.perf_counter()
                run()
                times[name].append(time.perf_counter() - start)
    rows = [(name, statistics.median(t), min(t), max(t)) for name, (_, *t) in times.items()]
    return pd.DataFrame(rows, columns=["variant", "seconds", "fastest", "slowest"])


def described(rows: pd.DataFrame, base, varied: str, shape: str, vocab: int, batch: int, length: int) -> pd.DataFrame:
    """The rows with their ratio to `base`, seconds, and what they are measurements of."""
    about = {"varied": varied, "shape": shape, "vocabulary": vocab, "batch": batch, "length": length}
    return rows.assign(ratio=rows.seconds / base, **about)


def peak_memory(variant: str, case: int) -> float:
    """Peak resident memory of a fresh process that runs one variant of a case, in MB."""
    command = [sys.executable, __file__, "--memory", variant, "--case", str(case)]
    env = os.environ | GIVE_BACK
    return float(subprocess.run(command, capture_output=True, encoding="utf-8", check=True, env=env).stdout)


def measure_case(number: int) -> pd.DataFrame:
    varied, shape, vocab, batch, length, runs = CASES[number]
    names = TIMED.get(varied, MAIN)
    memory = {name: peak_memory(name, number) for name in MAIN} if "trunk only" in names else {}
    model = build(shape, vocab)
    ids = random_ids(model.config.vocab_size, batch, length)
    rows = interleaved({name: lambda run=VARIANTS[name]: run(model, ids) for name in names}, runs)
    rows["extra_mb"] = [memory.get(name, np.nan) - memory.get("trunk only", np.nan) for name in names]
    base = rows.seconds[names.index("bare forward")]
    return described(rows, base, varied, shape, model.config.vocab_size, batch, length)


def measure_writing(tokens: int = 200, runs: int = 5) -> pd.DataFrame:
    """Energies while 200 tokens are written, against the same loop without them."""
    model, tokenizer = build("GPT-2"), AutoTokenizer.from_pretrained(MODELS / "almanac-gpt2")
    lm = LM(model, tokenizer, "random GPT-2", "folder", "random GPT-2")

    def without():
        writer, head, cache = Writer(lm, "The capital", max_new_tokens=tokens), output_head(model), None
        ids, name = writer.ids, memory(model)
        while not writer.done:
            step = model.base_model(torch.tensor([ids]), use_cache=True, **{name: cache})
            cache, ids = step[name], [writer.write(head(step.last_hidden_state[0, -1]))["id"]]
        assert len(writer.ids) == writer.first + tokens

    def with_energies():
        assert len(list(stream(lm, "The capital", max_new_tokens=tokens))) == tokens

    rows = interleaved({"writing": without, "writing with energies": with_energies}, runs)
    return described(rows, rows.seconds[0], "writing", "GPT-2", 50257, 1, tokens)


def measure_ragged(texts: int = 24, batch: int = 8, runs: int = 3) -> pd.DataFrame:
    """Texts of very different lengths: padded in the order they come, all logits held, against `score`."""
    model, rng = build("SmolLM2"), np.random.default_rng(0)
    lengths = np.clip(rng.lognormal(np.log(90), 1.2, texts).astype(int), 8, 1024)
    lm = LM(model, None, "random SmolLM2", "folder", "random SmolLM2")
    jobs = [Window(rng.integers(0, 49152, n).tolist(), 0) for n in lengths]

    def naive():
        for part in (jobs[i : i + batch] for i in range(0, texts, batch)):
            ids = torch.nn.utils.rnn.pad_sequence([torch.tensor(job.ids) for job in part], True)
            mask = torch.nn.utils.rnn.pad_sequence([torch.ones(len(job.ids)) for job in part], True)
            token_energies(model(ids, attention_mask=mask, use_cache=False).logits.float(), ids)

    rows = interleaved({"naive, padded": naive, "score": lambda: score_windows(lm, jobs, batch)}, runs)
    return described(rows, rows.seconds[0], "ragged", "SmolLM2", 49152, batch, int(lengths.sum()))


class Numbers:
    """A tokenizer whose words are token numbers, so that prompts have the lengths they should have."""

    bos_token_id, eos_token_id, all_special_ids, is_fast = None, None, (), True

    def __call__(self, text, return_offsets_mapping=False, **_):
        ids = [int(word) for word in text.split()]
        ends = np.cumsum([len(word) + 1 for word in text.split(" ")])
        return BatchEncoding({"input_ids": ids, "offset_mapping": [(int(e) - 6, int(e) - 1) for e in ends]})

    def decode(self, ids, **_):
        return " ".join(f"{i:05d}" for i in ids)


def measure_sharing(runs: int = 5) -> pd.DataFrame:
    """What is read once: 16 prompts of 30 tokens, 4 continuations each; 64 questions behind 100 common tokens."""
    lm, rng = LM(build("SmolLM2"), Numbers(), "random SmolLM2", "folder", "random SmolLM2"), np.random.default_rng(0)

    def words(n):
        return " ".join(f"{i:05d}" for i in rng.integers(0, 49152, n))

    def apart(call):
        worth, reading.WORTH_SHARING = reading.WORTH_SHARING, 10**9
        try:
            return call()
        finally:
            reading.WORTH_SHARING = worth

    def check(together, one_by_one):
        fields = [*TokenEnergies._fields]
        got, want = together[fields].to_numpy(), one_by_one[fields].to_numpy()[-len(together) :]
        np.testing.assert_allclose(got, want, rtol=0, atol=5e-6 * max(1.0, np.nanmax(np.abs(want[:, 0]))))

    prompts = [words(30) for _ in range(16)]
    options = [[" " + words(3) for _ in range(4)] for _ in prompts]
    whole = [p + o for p, own in zip(prompts, options, strict=True) for o in own]
    check(score_continuations(lm, prompts[:1], [options[0][:1]]), score(lm, whole[:1]))
    few_shot = words(100)
    questions = [f"{few_shot} {words(int(n))}" for n in rng.integers(8, 16, 64)]
    check(score(lm, questions[:2]), apart(lambda: score(lm, questions[:2])))
    writing = {"max_new_tokens": 8}
    pairs = {
        "whole texts": lambda: apart(lambda: score(lm, whole)),
        "continuations": lambda: score_continuations(lm, prompts, options),
        "questions, apart": lambda: apart(lambda: score(lm, questions)),
        "questions": lambda: score(lm, questions),
        "writing, apart": lambda: apart(lambda: generate(lm, questions, **writing)),
        "writing": lambda: generate(lm, questions, **writing),
    }
    rows = interleaved(pairs, runs)
    return described(rows, np.repeat(rows.seconds[::2].to_numpy(), 2), "sharing", "SmolLM2", 49152, 16, 100)


def measure_cluster(copies: int = 4, workers: int = 2) -> pd.DataFrame:
    """The Almanac's documents, several times over, from Parquet to Parquet: one process against Ray with its start."""
    if not find_spec("ray"):
        print("no cluster run: it needs the extra `cluster`")
        return pd.DataFrame()
    corpus = pd.concat([Almanac().documents[["text"]]] * copies, ignore_index=True).rename_axis("key").reset_index()
    lm = load_lm("almanac-llama")
    with TemporaryDirectory() as folder:
        corpus.to_parquet(f"{folder}/texts.parquet")
        times = [time.perf_counter()]
        score(lm, pd.read_parquet(f"{folder}/texts.parquet").text, batch_size=64).to_parquet(f"{folder}/one.parquet")
        times.append(time.perf_counter())
        score_parquet(f"{folder}/texts.parquet", f"{folder}/many", "almanac-llama", workers=workers, batch_size=64)
        times.append(time.perf_counter())
        one, many = pd.read_parquet(f"{folder}/one.parquet"), pd.read_parquet(f"{folder}/many")
    many = many.sort_values(["key", "position"], ignore_index=True)
    np.testing.assert_allclose(many[[*TokenEnergies._fields]], one[[*TokenEnergies._fields]], rtol=0, atol=1e-3)
    rows = pd.DataFrame({"variant": ["one process", f"Ray, {workers} workers"], "seconds": np.diff(times)})
    return described(rows, rows.seconds[0], "cluster", "almanac-llama", lm.model.config.vocab_size, 64, len(one))


PEAK = Path("/proc/self/clear_refs")  # Linux lets a process forget its peak: making a model takes more than running it


@torch.no_grad()
def peak_of(variant: str, case: int) -> float:
    """Peak resident memory of this process while one variant runs, in MB; where there is no `PEAK`, since its start."""
    _, shape, vocab, batch, length, _ = CASES[case]
    model = build(shape, vocab)
    head_of(model)  # tried before anything is measured
    if PEAK.exists():
        PEAK.write_text("5", "utf-8")
    VARIANTS[variant](model, random_ids(model.config.vocab_size, batch, length))
    if not PEAK.exists():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    line = next(line for line in Path("/proc/self/status").read_text("utf-8").splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1024


def machine() -> str:
    about = Path("/proc/cpuinfo")
    lines = about.read_text("utf-8").splitlines() if about.exists() else []
    names = (line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    name = next(names, platform.processor() or "processor")
    memory = psutil.virtual_memory().total / 2**30
    return f"{name}, {torch.get_num_threads()} threads, {memory:.0f} GiB · {versions()} · float32"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--memory", choices=VARIANTS)
    parser.add_argument("--case", type=int)
    asked = parser.parse_args()
    if asked.memory:
        return print(peak_of(asked.memory, asked.case))
    print(machine())
    tables = [measure_case(number) for number in tqdm(range(len(CASES)), desc="cases")]
    others = [measure_writing, measure_ragged, measure_sharing, measure_cluster]
    tables += [measure() for measure in tqdm(others, desc="other measures")]
    table = pd.concat(tables, ignore_index=True)
    order = ["varied", "shape", "vocabulary", "batch", "length", "variant"]
    table = table[[*order, "seconds", "fastest", "slowest", "ratio", "extra_mb"]]
    for _, rows in table.groupby("varied", sort=False):
        print(rows.round({"seconds": 2, "fastest": 2, "slowest": 2, "ratio": 3, "extra_mb": 0}).to_string(index=False))
    text = table.round({"seconds": 4, "fastest": 4, "slowest": 4, "ratio": 4, "extra_mb": 1}).to_csv(index=False)
    RECORD.write_text(f"# {machine()}\n{text}", "utf-8")
    plots.cost_curves(table).savefig(FIGURE)
    list_files()


if __name__ == "__main__":
    main()
