"""What was measured once, in hours, and put on record in `data/recorded`."""

import hashlib
import json

import numpy as np
import pandas as pd
from safetensors.torch import load_file
from torch import Tensor

from . import DATA
from .almanac import VOCAB_SIZE

FOLDER = DATA / "recorded"


def recorded(name: str) -> dict[str, np.ndarray] | dict[str, Tensor] | pd.DataFrame:
    """The record of that name: arrays (.npz), tensors (.safetensors) or a table (.csv, .parquet), read anew.

    A training run has `steps` [S], and `V`, `m`, `K`, `m_live`, `kl` [S, 5000] in nats, float64. ValueError on an
    unknown name, or a tensor whose SHA-256 is not the one in the `card` beside it.
    """
    readable = (".npz", ".safetensors", ".csv", ".parquet")
    found = {path.stem: path for path in sorted(FOLDER.glob("*")) if path.suffix in readable}
    if name not in found:
        raise ValueError(f"no record is named {name!r}; there are {', '.join(found) or 'none'}")
    if found[name].suffix == ".csv":
        return pd.read_csv(found[name], comment="#")
    if found[name].suffix == ".parquet":
        return pd.read_parquet(found[name])
    if found[name].suffix == ".safetensors":
        tensors, expected = load_file(found[name]), card(name)["sha256"]
        for key, tensor in tensors.items():
            if fingerprint(tensor) != expected.get(key):
                raise ValueError(f"{name}: {key} is not what was recorded; fetch the file again")
        return tensors
    with np.load(found[name]) as stored:
        run = dict(stored)
    if "log_partition" in run:  # of a training run
        run |= {"V": run.pop("log_partition"), "m": run.pop("mean_logit"), "m_live": run.pop("mean_logit_live")}
        run |= {key: run[key].astype(float) for key in run if key != "steps"}
        run["K"] = run["V"] - run["m"] - np.log(VOCAB_SIZE)
    return run


def card(name: str) -> dict:
    """What is known of a record of tensors: what each set is, and the SHA-256 of every tensor."""
    return json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))


def fingerprint(tensor: Tensor) -> str:
    """SHA-256 of a tensor's values."""
    return hashlib.sha256(tensor.contiguous().numpy().tobytes()).hexdigest()
