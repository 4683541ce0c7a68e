"""How the bundled models were made, and that what is shipped is what was measured."""

from dataclasses import replace
from functools import partial

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import full_disk, killed
from safetensors.torch import save

from utils import DATA
from utils.almanac import Almanac, read_documents
from utils.load import load_lm
from utils.workshop import train as workshop
from utils.workshop.card import excess_loss
from utils.workshop.train import RECIPES, Recipe, Recorder, build_model, document_batch, loss_of, train
from utils.workshop.whole import whole

shipped = pytest.mark.parametrize("name", ["almanac-gpt2", "almanac-llama"])


@pytest.fixture(scope="module")
def almanac():
    return Almanac("train")


@pytest.mark.parametrize("architecture", ["gpt2", "llama"])
def test_a_200_step_run_reproduces_bit_for_bit_from_its_seed_on_one_thread(architecture):
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    recipe = replace(RECIPES[f"small-{architecture}-1"], width=16, layers=1, steps=200, batch=8)
    first, second = (train("again", recipe, progress=False, write=False).state_dict() for _ in range(2))
    other = train("other", replace(recipe, seed=2), progress=False, write=False).state_dict()
    torch.set_num_threads(threads)
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert not all(torch.equal(first[key], other[key]) for key in first)


def in_small(home, patch=setattr):
    """A training on some of the documents, whose files go to `home`: 30 steps, saved every 10, shipped at 15 and 30."""
    documents = read_documents().iloc[::40].reset_index(drop=True)
    documents["p_train"] /= documents.p_train.sum()
    some = {"Almanac": partial(Almanac, documents=documents), "RECORD_AT": (0, 12), "SAVE_EVERY": 10}
    for name, value in {"ROOT": home, "DATA": home / "data", **some}.items():
        patch(workshop, name, value)
    return partial(train, "small", Recipe("gpt2", 16, 1, seed=0, steps=30, batch=8, save_at=(15, 30)), progress=False)


def made(home) -> dict:
    """What a training leaves in `data`: every file but a folder's, by its path."""
    files = sorted(path for path in (home / "data").rglob("*") if path.is_file())
    read = {".npz": lambda path: {k: v.tobytes() for k, v in np.load(path).items()}}
    return {str(path.relative_to(home)): read.get(path.suffix, lambda p: p.read_bytes())(path) for path in files}


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    """What the small training leaves, on one thread, when nothing happens to it."""
    home = tmp_path_factory.mktemp("straight")
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        in_small(home, patch.setattr)()
    return made(home)


KILLED = """import sys, pathlib, conftest, test_train
test_train.torch.set_num_threads(1)
conftest.hang_in_file(int(sys.argv[1]))
test_train.in_small(pathlib.Path(sys.argv[2]))()"""


@pytest.mark.parametrize(("file", "saved"), [(2, 10), (3, 10), (5, 30)], ids=["weights", "state", "record"])
def test_a_training_killed_while_it_writes_goes_on_and_ends_with_the_same_weights_and_records(
    straight, file, saved, tmp_path, monkeypatch
):
    killed(KILLED, file, tmp_path)
    assert [path for path in tmp_path.rglob("*.part") if path.read_bytes() == b"half of a file"]
    left = made(tmp_path)
    assert all(straight[name] == content for name, content in left.items() if not name.endswith(".part"))
    assert not [*(tmp_path / "data" / "models").rglob("*.part")]  # no folder of weights without all of them
    steps = []
    monkeypatch.setattr(workshop, "document_batch", lambda *a: steps.append(a[-1]) or document_batch(*a))
    in_small(tmp_path, monkeypatch.setattr)()
    assert steps == [*range(saved, 30)]  # what was saved is not done again
    assert made(tmp_path) == straight and not [*tmp_path.rglob("*.part")]


def test_a_training_that_meets_a_full_disk_says_so_and_goes_on_when_there_is_room(straight, tmp_path, monkeypatch):
    small = in_small(tmp_path, monkeypatch.setattr)
    with full_disk(), pytest.raises(OSError, match=r"small.pt could not be written \(.+\); make room there"):
        small()
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]
    small()
    assert made(tmp_path) == straight


BIG = np.random.default_rng(0).random(100_000)
WRITERS = {
    "state": lambda file: torch.save({"a": torch.from_numpy(BIG)}, file),
    "weights": lambda file: file.write(save({"a": torch.from_numpy(BIG)})),
    "table": lambda file: pd.DataFrame({"a": BIG}).to_parquet(file),
    "arrays": lambda file: np.savez_compressed(file, a=BIG),
}


@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)
def test_on_a_full_disk_the_old_file_stays_whole_and_nothing_half_is_left_beside_it(write, tmp_path):
    path = tmp_path / "new folder" / "file"
    for content in (np.zeros(9), np.ones(9)):  # the second takes the place of the first
        with whole(path) as file:
            np.save(file, content)
    with full_disk(), pytest.raises(OSError, match=r"file could not be written \(.+\); make room there and start"):
        with whole(path) as file:
            write(file)
    assert [*path.parent.iterdir()] == [path] and np.load(path).tolist() == [1.0] * 9


def losses(almanac, name):
    """The loss of the untrained model of a recipe, as a function of ids [B, T]."""
    model = build_model(RECIPES[name], almanac)
    return lambda ids: loss_of(model, ids, almanac.pad, RECIPES[name]).item()


def test_pads_are_neither_read_nor_paid_for(almanac):
    loss, row = losses(almanac, "small-llama-1"), torch.tensor([almanac.ids[0]])
    padded = torch.nn.functional.pad(row, (0, 5), value=almanac.pad)
    assert loss(padded) == pytest.approx(loss(row), rel=1e-5)


def test_the_loss_is_a_sum_over_tokens_so_a_prefix_weighs_what_it_is_worth(almanac):
    """Two documents cost what they cost alone: no document is divided by its own length."""
    loss, rows = losses(almanac, "small-llama-1"), [torch.tensor(r) for r in sorted(almanac.ids[::9000], key=len)]
    together = torch.nn.utils.rnn.pad_sequence(rows, True, almanac.pad)
    assert loss(together) == pytest.approx(sum(loss(row[None]) for row in rows), rel=1e-5)


def test_a_step_draws_whole_documents_and_no_two_steps_draw_the_same(almanac):
    recipe = RECIPES["almanac-gpt2"]
    batches = [document_batch(almanac, recipe, step) for step in (0, 0, 1)]
    flat = [[row[row != almanac.pad].tolist() for group in b for row in group] for b in batches]
    assert flat[0] == flat[1] != flat[2] and len(flat[0]) == recipe.batch
    assert {tuple(row) for row in flat[0]} <= {tuple(ids) for ids in almanac.ids}


def test_the_z_loss_adds_its_weight_times_the_squared_log_partition(almanac):
    recipe = RECIPES["small-llama-zloss"]
    model = build_model(recipe, almanac)
    ids = torch.tensor([almanac.ids[0]])
    extra = loss_of(model, ids, almanac.pad, recipe) - loss_of(model, ids, almanac.pad, replace(recipe, z_loss=0.0))
    v = model(ids).logits[0, :-1].logsumexp(-1)
    assert extra.item() == pytest.approx((recipe.z_loss * v.square().sum()).item() / (recipe.batch * 12.9), rel=1e-4)


@shipped
def test_shipped_models_reproduce_their_recorded_measurements(almanac, name):
    """The last record of training, re-measured on every 25th prefix with the weights in the repository."""
    recorded = np.load(DATA / "recorded" / f"{name}.npz")
    recorder = Recorder(almanac)
    keep = np.arange(0, len(recorder.ids), 25)
    recorder.ids, recorder.truth = [recorder.ids[i] for i in keep], [recorder.truth[i] for i in keep]
    recorder.prefixes = {key: value[keep] for key, value in recorder.prefixes.items()}
    recorder.add(0, load_lm(name).model)
    for column, measured in zip(Recorder.COLUMNS, recorder.rows[0].T, strict=True):
        np.testing.assert_allclose(measured, recorded[column][-1][keep], atol=1e-3, err_msg=column)


@shipped
def test_bundled_models_come_close_to_the_exact_entropy(almanac, name):
    """Excess cross-entropy over the exact entropy, on 1,500 fresh documents: the data card's claim."""
    assert 0 < excess_loss(load_lm(name), almanac, 1500) < 0.05
