"""Copies of the notebooks to hand out before a class: `python -m utils.workshop.student [folder]` (`make student`).

The answer boxes are closed for good, what the cells printed and drew is gone, and nothing leads to the solutions. All
else is as it was. The copies find `utils` and `data` wherever they lie, as set-up installs this folder by its path.
"""

import os
import re
import shutil
import sys
from pathlib import Path

import nbformat

from .. import ROOT

NOTEBOOKS = ROOT / "notebooks"
ANSWER = re.compile(r"<details>\s*<summary>(?!Notation)(.*?)</summary>.*?</details>", re.DOTALL)  # a glossary stays
CLOSED = r"*\1: after the discussion.*"
SOLUTION = r"\[([^\]]*)\]\((?:\.\./)?solutions/[^)]*\)"


def without_answers(text: str, here: Path, there: Path) -> str:
    """The Markdown of a cell without answers, for a page that moves from folder `here` to folder `there`."""
    text = ANSWER.sub(CLOSED, text)
    text = re.sub(SOLUTION, r"\1", re.sub(" · " + SOLUTION, "", text))  # out of a row of links; elsewhere, its words

    def moved(link: re.Match) -> str:
        target = (here / link[1]).resolve()
        stays = target.is_relative_to(NOTEBOOKS) or not target.exists()
        return link[0] if stays else f"]({Path(os.path.relpath(target, there)).as_posix()}"

    return re.sub(r"\]\((\.\./[^)#]*)", moved, text)


def student_copy(path: Path, copy: Path) -> None:
    """Write the notebook `path` as `copy`, without what it gives away."""
    notebook = nbformat.read(path, as_version=4)
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            cell.source = without_answers(cell.source, path.parent, copy.parent)
        else:
            cell.outputs, cell.execution_count = [], None
    copy.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(notebook, copy)


if __name__ == "__main__":
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else ROOT / "build" / "student").resolve()
    for path in [*NOTEBOOKS.glob("[0-9]*.ipynb"), *NOTEBOOKS.glob("more/[0-9]*.ipynb")]:
        student_copy(path, folder / path.relative_to(NOTEBOOKS))
    shutil.copytree(NOTEBOOKS / "figures", folder / "figures", dirs_exist_ok=True)
    print(f"{folder}: the notebooks, without answers and solutions")
