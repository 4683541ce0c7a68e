"""What was measured once, in hours, and put on record in `data/recorded`."""

import hashlib
import json
from functools import partial

import numpy as np
import pandas as pd
from safetensors.torch import load_file
from torch import Tensor

from . import DATA
from .almanac import VOCAB_SIZE

FOLDER = DATA / "recorded"


def recorded(name: str) -> dict[str, np.ndarray] | dict[str, Tensor] | pd.DataFrame:
    """The record of that name: arrays (.npz), tensors (.safetensors) or a table (.parquet, .csv), read anew.

    A training run has `steps` [S], and `V`, `m`, `K`, `m_live`, `kl` [S, 5000] in nats, float64. Tensors are checked
    against the SHA-256 in the `card` beside them. ValueError on an unknown name or an altered tensor.
    """
    csv = partial(pd.read_csv, comment="#")
    read = {".npz": arrays, ".safetensors": tensors, ".parquet": pd.read_parquet, ".csv": csv}
    found = {path.stem: path for path in sorted(FOLDER.glob("*")) if path.suffix in read}
    if name not in found:
        raise ValueError(f"no record is named {name!r}; there are {', '.join(found) or 'none'}")
    return read[found[name].suffix](found[name])


def card(name: str) -> dict:
    """What is known of a record of tensors: what each set is, and the SHA-256 of every tensor."""
    return json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))


def fingerprint(tensor: Tensor) -> str:
    """SHA-256 of a tensor's values."""
    return hashlib.sha256(tensor.contiguous().numpy().tobytes()).hexdigest()


def arrays(path) -> dict[str, np.ndarray]:
    with np.load(path) as stored:
        run = dict(stored)
    if "log_partition" in run:  # of a training run
        run |= {"V": run.pop("log_partition"), "m": run.pop("mean_logit"), "m_live": run.pop("mean_logit_live")}
        run |= {key: run[key].astype(float) for key in run if key != "steps"}
        run["K"] = run["V"] - run["m"] - np.log(VOCAB_SIZE)
    return run


def tensors(path) -> dict[str, Tensor]:
    stored, expected = load_file(path), card(path.stem)["sha256"]
    for name, tensor in stored.items():
        if fingerprint(tensor) != expected.get(name):
            raise ValueError(f"{path.stem}: {name} is not what was recorded; fetch the file again")
    return stored
