"""The scorer on several workers gives what one process gives, even if a worker dies on the way."""

import os
import signal
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from utils.energy import TokenEnergies
from utils.load import load_lm
from utils.score import score
from utils.workshop import cluster

ray = pytest.importorskip("ray", reason="needs the extra `cluster`: pip install -e '.[cluster]'")
NUMBERS = list(TokenEnergies._fields)


@pytest.fixture(scope="module", autouse=True)
def one_machine():
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    yield
    ray.shutdown()


@pytest.fixture
def texts(tmp_path):
    """240 texts of very different lengths, with names of their own and a column that nobody asked for."""
    rng, words = np.random.default_rng(0), "The capital of France is Paris and Ada buys tea on Monday".split()
    lines = [" ".join(rng.choice(words, size)) for size in rng.integers(2, 30, 240)]
    table = pd.DataFrame({"key": [f"text-{i:03d}" for i in range(240)], "text": lines, "other": 1.0})
    table.to_parquet(tmp_path / "texts.parquet")
    return table


def expected(texts, **options):
    table = score(load_lm("almanac-gpt2"), texts.text, **options)
    return table.assign(text=texts.key.to_numpy()[table.text]).rename(columns={"text": "key"})


def read(folder):
    return pd.read_parquet(folder).sort_values(["key", "position"], ignore_index=True)


def assert_same(got, want):
    words = ["key", "position", "id", "token", "start", "end"]
    pd.testing.assert_frame_equal(got[words], want[words], check_dtype=False)
    atol = 5e-6 * max(1.0, want[["logit", "log_partition_after"]].abs().max(axis=None))
    np.testing.assert_allclose(got[NUMBERS], want[NUMBERS], rtol=0, atol=atol)


def test_two_workers_give_what_one_process_gives_though_one_is_killed(texts, tmp_path, monkeypatch):
    diary = tmp_path / "diary"
    diary.mkdir()

    class Mortal(cluster.Scorer):
        """Notes who takes up a block; the first worker to take up its second one is killed in the middle of it."""

        def __call__(self, batch):
            own = [note for note in diary.iterdir() if note.name.startswith(f"{os.getpid()}-")]
            Path(diary, f"{os.getpid()}-{len(own)}").touch()
            result = super().__call__(batch)
            try:
                if own:
                    Path(diary, "killed").touch(exist_ok=False)
                    os.kill(os.getpid(), signal.SIGKILL)
            except FileExistsError:
                pass
            return result

    monkeypatch.setattr(cluster, "Scorer", Mortal)
    cluster.score_parquet(tmp_path / "texts.parquet", tmp_path / "out", "almanac-gpt2", texts_per_block=20)
    notes = [note.name for note in diary.iterdir()]
    assert "killed" in notes
    assert len({note.split("-")[0] for note in notes} - {"killed"}) >= 3  # two workers and one in place of the dead
    assert len(notes) - 1 > 240 / 20  # and somebody took up again what the dead one had in hand
    got = read(tmp_path / "out")
    assert set(got.model) == {"almanac-gpt2"}
    assert_same(got, expected(texts))


def test_options_of_score_reach_the_workers(texts, tmp_path):
    cluster.score_parquet(tmp_path / "texts.parquet", tmp_path / "out", "almanac-gpt2", bos=False, workers=1,
                          text="text", key="key")  # fmt: skip
    got = read(tmp_path / "out")
    assert got.spilled[got.position == 0].isna().all()
    assert_same(got, expected(texts, bos=False))


def test_a_missing_column_and_a_target_in_use_are_refused(texts, tmp_path):
    with pytest.raises(ValueError, match="no column 'prose'"):
        cluster.score_parquet(tmp_path / "texts.parquet", tmp_path / "out", "almanac-gpt2", text="prose")
    with pytest.raises(ValueError, match="not empty"):
        cluster.score_parquet(tmp_path / "texts.parquet", tmp_path, "almanac-gpt2")
