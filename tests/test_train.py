"""How the bundled models were made, and that what is shipped is what was measured."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from utils import DATA
from utils.almanac import Almanac
from utils.load import load_lm
from utils.workshop.card import excess_loss
from utils.workshop.train import RECIPES, Recorder, build_model, document_batch, loss_of, train

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
