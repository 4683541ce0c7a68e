"""Notebook 03 and what belongs to it speak for any GPT-2: their cells run on its true shape, with random weights."""

import IPython.display
import matplotlib
import nbformat
import pytest
from conftest import random_gpt2

import utils.load
from utils import ROOT

FEWER = {  # enough to run everything
    "sample(60,": "sample(4,", "sample(40,": "sample(3,",
    "texts.text[texts.kind == kind].tolist()": "texts.text[texts.kind == kind].tolist()[:3]",
}  # fmt: skip
FOUND = "✗ Llama: "  # what was found with the Llama, which random weights need not show


class Screen(list):
    """Takes what a cell displays; live outputs can be updated."""

    def __call__(self, thing, **_):
        self.append(thing)
        return self

    update = __call__


@pytest.fixture(scope="module")
def gpt2():
    return random_gpt2(0.05)


@pytest.mark.parametrize(("name", "cuts", "checks", "shown"), [
    ("03_gpt2", 2, 2, 7), ("more/03_alignment", 1, 6, 1), ("more/03_writing", 0, 5, 10),
])  # fmt: skip
def test_every_cell_runs_on_a_gpt2_of_the_true_shape_and_every_check_holds(
    name, cuts, checks, shown, gpt2, monkeypatch, capsys
):
    screen = Screen()
    monkeypatch.setattr(utils.load, "load_lm", lambda name: gpt2)
    monkeypatch.setattr(IPython.display, "display", screen)
    matplotlib.use("agg")
    notebook = nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", as_version=4)
    source = "\n\n".join(cell.source for cell in notebook.cells if cell.cell_type == "code")
    assert sum(source.count(long) for long in FEWER) == cuts
    for long, short in FEWER.items():
        source = source.replace(long, short)
    exec(compile(source, name, "exec"), {"__name__": "__main__"})
    lines = capsys.readouterr().out.splitlines()
    assert not [line for line in lines if "✗" in line and not line.startswith(FOUND)]
    assert sum("✓" in line for line in lines) >= checks and len(screen) >= shown
