"""Shared by all tests: bundled models only, one thread a worker, models built on the spot, and how energies compare."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time

os.environ["SPILLED_ENERGY_MODELS"] = "bundled"
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pandas as pd
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import AutoConfig, AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from utils import DATA, ROOT
from utils.energy import TokenEnergies
from utils.load import LM

FIELDS = list(TokenEnergies._fields)
SMALL = {
    "vocab_size": 97, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 48, "initializer_range": 0.4,
    "pad_token_id": None, "bos_token_id": None, "eos_token_id": None,
}  # fmt: skip


def tolerance(energies, share: float = 5e-6) -> float:
    """For a table or a `TokenEnergies`: `share · max(1, max |f|)`, with the largest |V| at hand for max |f|."""
    return share * max(1.0, float(np.nanmax(np.abs(np.asarray(energies.log_partition_after)))))


def assert_same_energies(got, want, share: float = 5e-6) -> None:
    """Every field of two tables or two `TokenEnergies`, NaN where the other has NaN, up to `tolerance`."""
    got, want_fields = (
        x[FIELDS].to_numpy().T if isinstance(x, pd.DataFrame) else torch.stack([*x]).double().numpy()
        for x in (got, want)
    )  # fmt: skip
    np.testing.assert_allclose(got, want_fields, rtol=0, atol=tolerance(want, share))


def tiny(architecture: str, **options):
    """A random model of the real class, sharp enough that its logits differ from each other."""
    torch.manual_seed(0)
    config = AutoConfig.for_model(architecture, **{**SMALL, **options})
    return AutoModelForCausalLM.from_config(config).eval().requires_grad_(False)


@contextlib.contextmanager
def full_disk(room: int = 20_000):
    """As on a full disk, no file, and none of a process started here, can grow beyond `room` bytes."""
    resource = pytest.importorskip("resource", reason="needs the limits of Unix")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def start(code: str, *arguments) -> subprocess.Popen:
    """Another Python that runs `code`, with the tests at hand."""
    paths = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    options = {"cwd": ROOT, "env": os.environ | {"PYTHONPATH": paths}, "stdout": subprocess.PIPE, "encoding": "utf-8"}
    return subprocess.Popen([sys.executable, "-u", "-c", code, *map(str, arguments)], **options)


def killed(code: str, *arguments) -> None:
    """Run `code` in another Python, and kill it, with no chance to tidy up, when it prints "now"."""
    process = start(code, *arguments)
    said = list(iter(process.stdout.readline, "now\n")) if process.poll() is None else []
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL, said


def hang_in_file(number: int) -> None:
    """Let the workshop come to a halt, and say "now", with the file of that number half written; to be `killed`."""
    from utils.workshop import whole

    names = []

    def opened(path, mode):
        file = open(path, mode, 0)
        names.append(path)
        if len(names) == number:
            file.write(b"half of a file")
            print("now")
            time.sleep(60)
        return file

    whole.open = opened


@pytest.fixture(params=["gpt2", "llama"])
def tiny_model(request):
    return tiny(request.param)


@pytest.fixture(scope="module")
def browser():
    """Chromium without a screen; a test that asks for it is skipped where it or `playwright` is missing."""
    api = pytest.importorskip("playwright.sync_api", reason="needs the Python package playwright")
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if chromium is None:
        pytest.skip("needs Chromium, for instance: apt-get install chromium")
    flags = ["--no-sandbox", "--no-first-run", "--disable-gpu", "--disable-background-networking",
             "--disable-component-update", "--disable-sync"]  # fmt: skip
    with api.sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=chromium, args=flags)
        yield running
        running.close()


def learned(tokenizer: Tokenizer, size: int, total: int, more=(), **options) -> Tokenizer:
    """The tokenizer with up to `size` entries learned from data/texts.csv, `more`, and spare ones that no text has."""
    tokenizer.train([str(DATA / "texts.csv")], trainers.BpeTrainer(vocab_size=size, show_progress=False, **options))
    made = json.loads(tokenizer.to_str())
    entries = made["model"]["vocab"]
    for name in [*more, *(f"spare{i}" for i in range(total))][: total - len(entries)]:
        entries[name] = len(entries)
    return Tokenizer.from_str(json.dumps(made))


def random_gpt2(spread: float) -> LM:
    """GPT-2's architecture, kind of tokenizer and number of tokens at full size, with random weights."""
    tokenizer, alphabet = Tokenizer(models.BPE()), pre_tokenizers.ByteLevel.alphabet()
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.ByteLevel(False), decoders.ByteLevel()
    tokenizer = learned(tokenizer, 1500, 50_256, initial_alphabet=alphabet)
    end = {"bos_token": "<|endoftext|>", "eos_token": "<|endoftext|>"}  # the last of 50,257
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=tokenizer, **end)
    torch.manual_seed(0)
    model = GPT2LMHeadModel(GPT2Config(initializer_range=spread)).eval().requires_grad_(False)
    return LM(model, tokenizer, "random GPT-2", "folder", "random GPT-2")


def stranger(folder) -> str:
    """A folder as others make them: a small Llama with grouped heads and another kind of tokenizer, SentencePiece's:
    a space before every text, spaces inside the tokens, and bytes for characters that it does not know."""
    special, characters = ["<unk>", "<s>", "</s>"], [f"<0x{b:02X}>" for b in range(256)]
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    tokenizer = learned(tokenizer, 256, 512, characters, special_tokens=special)
    tokenizer.pre_tokenizer = None
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    names = dict(zip(("unk_token", "bos_token", "eos_token"), special, strict=True))
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names).save_pretrained(folder)
    tiny("llama", vocab_size=512).save_pretrained(folder)
    return str(folder)
