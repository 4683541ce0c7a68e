"""Language models: load one, score texts with it, watch it write.

`load_lm` → `score` → a tidy table with one row per token. The numbers come from `utils.energy`; this module
only brings models and text to it. `[B, T, |V|]` logits are never held in memory: the output head is applied
to a few positions, and a piece of the vocabulary, at a time.
"""

import logging
import os
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

from utils import DATA
from utils.hub import cached, download

MODELS = DATA / "models"
# name → hub id, pinned revision, bundled stand-in of the same class
PINNED = {
    "gpt2": ("openai-community/gpt2", "607a30d783dfa663caf39e06633721c8d4cfcd7e", "almanac-gpt2"),
    "llama": ("HuggingFaceTB/SmolLM2-135M", "93efa2f097d58c2a74874c7e644dbc9b0cee75a2", "almanac-llama"),
}
SOURCES = ("auto", "hub", "cache", "bundled")


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
