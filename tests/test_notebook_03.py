"""Notebook 03 speaks for any GPT-2: its cells run unchanged on the real shape and vocabulary, with random weights."""

import IPython.display
import matplotlib
import nbformat
from conftest import random_gpt2

import utils.load
from utils import ROOT

FEWER = ("sample(60,", "sample(4,")  # countries: four are enough to run everything


class Screen(list):
    """Takes what a cell displays; live outputs can be updated."""

    def __call__(self, thing, **_):
        self.append(thing)
        return self

    update = __call__


def test_every_cell_runs_on_a_gpt2_of_the_true_shape_and_every_check_holds(monkeypatch, capsys):
    gpt2, screen = random_gpt2(0.05), Screen()
    monkeypatch.setattr(utils.load, "load_lm", lambda name: gpt2)
    monkeypatch.setattr(IPython.display, "display", screen)
    matplotlib.use("agg")
    notebook = nbformat.read(ROOT / "notebooks" / "03_gpt2.ipynb", as_version=4)
    sources = [cell.source for cell in notebook.cells if cell.cell_type == "code"][1:]  # after the set-up cell
    assert sum(FEWER[0] in source for source in sources) == 1
    space = {"__name__": "__main__"}
    for source in sources:
        exec(compile(source.replace(*FEWER), "<cell>", "exec"), space)
    out = capsys.readouterr().out
    assert "✗" not in out and out.count("✓") >= 10
    assert space["lm"].model.config.vocab_size == 50257 and len(screen) > 8
