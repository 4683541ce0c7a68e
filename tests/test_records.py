"""Records are read as they were made, under names that say what they are, or not at all."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest

from utils import DATA, records
from utils.records import card, recorded


def test_a_training_run_is_read_in_the_notation_of_the_course():
    stored, run = np.load(DATA / "recorded" / "almanac-llama.npz"), recorded("almanac-llama")
    for name, column in {"V": "log_partition", "m": "mean_logit", "m_live": "mean_logit_live", "kl": "kl"}.items():
        assert run[name].dtype == np.float64 and run[name].shape == (len(run["steps"]), 5000)
        np.testing.assert_array_equal(run[name], stored[column])
    np.testing.assert_allclose(run["V"], run["m"] + np.log(1536) + run["K"], atol=1e-12)
    assert recorded("almanac-llama")["V"] is not run["V"]  # read anew: nobody shares it


def test_tables_and_prefixes_are_read_by_their_name_and_another_name_is_refused(monkeypatch, tmp_path):
    assert set(recorded("prefixes")) == {"document", "length", "slot"} and "seconds" in recorded("bench")
    with pytest.raises(ValueError, match="no record is named 'gpt2'; there are almanac-gpt2, almanac-llama, bench"):
        recorded("gpt2")
    monkeypatch.setattr(records, "FOLDER", tmp_path)
    pd.DataFrame({"x": [1, 2]}).to_csv(tmp_path / "rows.csv", index=False)
    assert recorded("rows").x.tolist() == [1, 2]
    pd.DataFrame({"x": [3]}).to_parquet(tmp_path / "table.parquet")
    assert recorded("table").x.tolist() == [3]


def test_an_altered_record_is_noticed(monkeypatch, tmp_path):
    for path in (DATA / "recorded").glob("cifar10-1.*"):
        shutil.copy(path, tmp_path)
    monkeypatch.setattr(records, "FOLDER", tmp_path)
    recorded("cifar10-1")
    about = card("cifar10-1")
    about["sha256"]["mnist"] = "0" * 64
    (tmp_path / "cifar10-1.json").write_text(json.dumps(about), "utf-8")
    with pytest.raises(ValueError, match="cifar10-1: mnist is not what was recorded"):
        recorded("cifar10-1")
