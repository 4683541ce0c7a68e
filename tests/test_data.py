"""What lies under data/ is what its card says."""

import hashlib
import re

import numpy as np
import pytest

from utils import DATA
from utils.almanac import Almanac
from utils.workshop.card import files, replace_block
from utils.workshop.law import entropy_per_token
from utils.workshop.train import RECIPES, Recorder, recorded_prefixes

CARD = (DATA / "README.md").read_text(encoding="utf-8")
PRESENT = [p for p in DATA.rglob("*") if p.is_file()]


def test_every_file_stands_in_the_card_with_its_size_and_checksum():
    listed = dict(re.findall(r"^\| `(\S+)` \| (\d+ \| `[0-9a-f]{16})` \|", CARD, re.MULTILINE))
    present = {p.relative_to(DATA).as_posix(): p.read_bytes() for p in PRESENT if p.name != "README.md"}
    assert listed == {name: f"{len(b)} | `{hashlib.sha256(b).hexdigest()[:16]}" for name, b in present.items()}


def test_every_file_says_how_it_was_made():
    assert "?" not in set(files()["made by"])


def test_the_folder_stays_below_60_megabytes_and_holds_no_pickle():
    assert sum(p.stat().st_size for p in PRESENT) < 60e6
    assert not {p.suffix for p in PRESENT} & {".pkl", ".pt", ".pth", ".bin", ".pickle"}


def test_the_card_quotes_the_exact_entropy():
    assert f"{entropy_per_token(Almanac('train')):.4f} nats a token" in CARD


def test_a_block_that_is_missing_is_not_written_silently():
    with pytest.raises(ValueError, match="no block 'losses'"):
        replace_block("no markers here", "losses", "1")


def test_recorded_prefixes_are_the_ones_the_recipe_draws():
    stored = np.load(DATA / "recorded" / "prefixes.npz")
    for key, values in recorded_prefixes(Almanac("train")).items():
        np.testing.assert_array_equal(stored[key], values)


@pytest.mark.parametrize("name", RECIPES)
def test_records_are_complete_and_obey_what_no_training_can_break(name):
    record = np.load(DATA / "recorded" / f"{name}.npz")
    assert record["steps"][0] == 0 and record["steps"][-1] == RECIPES[name].steps
    assert all(record[column].shape == (len(record["steps"]), 5000) for column in Recorder.COLUMNS)
    certainty = record["log_partition"] - record["mean_logit"] - np.log(Almanac().vocab_size)
    assert certainty.min() > -1e-3  # K is a Kullback–Leibler divergence
    kl = record["kl"]
    assert np.nanmin(kl) > -1e-3 and np.isnan(kl[0]).sum() == np.isnan(kl[-1]).sum() > 0
    assert np.nanmean(kl[-1]) < np.nanmean(kl[0]) / 5  # it learned
