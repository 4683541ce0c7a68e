"""`make bench`: what energies cost beyond the forward pass, at true model shapes with random weights.

Times are medians of interleaved runs in one process, given as ratios to the bare forward pass; memory is the
peak of a fresh process each, over that of the transformer trunk alone. The machine is printed with the numbers.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time

import torch
from tqdm import tqdm
from transformers import GPT2Config, GPT2LMHeadModel

from utils import versions
from utils.energy import token_energies
from utils.lm import score_ids

BATCH, LENGTH = 2, 1024


def gpt2():
    torch.manual_seed(0)
    return GPT2LMHeadModel(GPT2Config()).eval().requires_grad_(False)


def ids():
    return torch.randint(0, 50257, (BATCH, LENGTH), generator=torch.Generator().manual_seed(0))


def trunk(model, ids):
    return model.base_model(ids, use_cache=False).last_hidden_state


def forward(model, ids):
    return model(ids, use_cache=False).logits


def naive(model, ids):
    """All logits at once, in float32, then the energies."""
    return token_energies(model(ids, use_cache=False).logits.float(), ids)


VARIANTS = {"trunk only": trunk, "bare forward": forward, "score_ids": score_ids, "naive": naive}


def peak_memory(variant: str) -> float:
    """Peak resident memory of a fresh process that runs one variant, in MB."""
    out = subprocess.run([sys.executable, __file__, "--memory", variant], capture_output=True, text=True, check=True)
    return json.loads(out.stdout)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--memory", choices=VARIANTS)
    parser.add_argument("--runs", type=int, default=7)
    arguments = parser.parse_args()
    if arguments.memory:
        model, text = gpt2(), ids()
        with torch.no_grad():
            VARIANTS[arguments.memory](model, text)
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
        return

    print(
        f"{versions()} · {torch.get_num_threads()} threads · GPT-2's shape, random weights, {BATCH} × {LENGTH} tokens"
    )
    memory = {name: peak_memory(name) for name in VARIANTS}
    model, text, times = gpt2(), ids(), {name: [] for name in VARIANTS}
    with torch.no_grad():
        for _ in tqdm(range(arguments.runs), desc="interleaved runs"):
            for name, run in VARIANTS.items():
                start = time.perf_counter()
                run(model, text)
                times[name].append(time.perf_counter() - start)
    bare = statistics.median(times["bare forward"])
    print(f"{'':14}{'seconds':>10}{'× bare forward':>16}{'MB over trunk':>16}")
    for name, seconds in times.items():
        median = statistics.median(seconds)
        print(f"{name:14}{median:10.2f}{median / bare:16.3f}{memory[name] - memory['trunk only']:16.0f}")


if __name__ == "__main__":
    main()
