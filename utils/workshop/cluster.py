"""The scorer on many machines: one stage of Ray Data, from Parquet to Parquet. Needs the extra `cluster`.

Ray cuts the work up, moves the blocks, restarts workers that die and hands out their blocks again. What is
ours is a `Scorer`: it opens a model once and turns a batch of texts into the table of `score`.
"""

import logging
import os
from pathlib import Path

import pandas as pd
import torch

from ..load import load_lm
from ..score import score

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # read by Ray when it starts: send no statistics


class Scorer:
    """A worker. `options` are those of `score`; the model moves to a GPU if Ray gave this worker one."""

    def __init__(self, model: str, source: str, text: str, key: str, options: dict):
        self.lm, self.text, self.key, self.options = load_lm(model, source), text, key, options
        if torch.cuda.is_available():
            self.lm.model.to("cuda")

    def __call__(self, batch: pd.DataFrame) -> pd.DataFrame:
        table = score(self.lm, batch[self.text].tolist(), **self.options)
        key = batch[self.key].to_numpy()[table.pop("text")]
        return pd.concat([pd.DataFrame({self.key: key, "model": self.lm.name}), table], axis=1)


def score_parquet(
    source: str | Path,
    target: str | Path,
    model: str = "gpt2",
    text: str = "text",
    key: str = "key",
    workers: int = 2,
    texts_per_block: int = 256,
    resources: dict | None = None,
    progress: bool = False,
    **options,
) -> None:
    """Score the texts of a Parquet file or folder; write one row per token to Parquet files in `target`.

    A row has the text's `key`, the `model` that scored it, and the columns of `score` from `position` on.
    Rows come in no particular order: sort by `key` and `position`. All machines must see both folders.

    Args:
        text, key: the columns of `source` that hold the texts and what tells them apart.
        workers: processes, each with its own copy of the model; Ray starts them where there is room.
        texts_per_block: the piece of work that is handed out, and done again if a worker dies.
        resources: what Ray sets aside for a worker, or `{"num_gpus": 1}`. Half a core is the default, so that
            reading and writing find room beside the workers; a worker that gets less than two runs one thread.
        progress: let Ray show what it does.
        options: those of `score`.

    The model is settled here, once: no worker falls back to a stand-in by itself. Joins the cluster that Ray
    is connected to, or starts one on this machine. Raises ValueError for a column that is not there and a
    target that holds files, and whatever `score` raises for a text it cannot score, when Ray reaches it.
    """
    import ray.data

    ray.data.DataContext.get_current().enable_progress_bars = progress
    logging.getLogger("ray.data").setLevel(logging.INFO if progress else logging.ERROR)
    target = Path(target).absolute()
    if target.exists() and any(target.iterdir()):
        raise ValueError(f"target {target} is not empty; name a new folder, so that two runs do not mix")
    lm = load_lm(model)
    worker = (lm.name, "bundled") if lm.stand_in else (model, "auto" if lm.source == "folder" else lm.source)
    texts = ray.data.read_parquet(str(Path(source).absolute()))
    if missing := {text, key} - set(texts.columns()):
        raise ValueError(f"{source} has no column {sorted(missing)[0]!r}; it has {', '.join(texts.columns())}")
    texts.select_columns([key, text]).repartition(target_num_rows_per_block=texts_per_block).map_batches(
        Scorer,
        fn_constructor_args=(*worker, text, key, options),
        batch_format="pandas",
        batch_size=None,  # a block at a time: `score` makes its own batches, by length
        compute=ray.data.ActorPoolStrategy(size=workers),
        **(resources or {"num_cpus": 0.5}),
    ).write_parquet(str(target))
