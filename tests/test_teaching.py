"""What a class gets: copies without answers, slides, a plan that names what the notebooks hold."""

import re

import nbformat
import pytest

from utils import ROOT
from utils.workshop import student

NOTEBOOKS = ROOT / "notebooks"
PAGES = sorted([*NOTEBOOKS.glob("[0-9]*.ipynb"), *NOTEBOOKS.glob("more/[0-9]*.ipynb")])


def markdown(notebook) -> str:
    return "\n\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")


def is_exercise(cell) -> bool:
    return cell.cell_type == "code" and "\nexercise(" in "\n" + cell.source


@pytest.fixture(scope="module")
def copied(tmp_path_factory):
    """The folder of student copies, and each page as (original, copy)."""
    folder, before = tmp_path_factory.mktemp("student"), [page.read_bytes() for page in PAGES]
    pairs = []
    for page in PAGES:
        copy = folder / page.relative_to(NOTEBOOKS)
        student.student_copy(page, copy)
        pairs.append((page, copy))
    assert [page.read_bytes() for page in PAGES] == before  # nothing happens to the originals
    return {page: tuple(nbformat.read(path, as_version=4) for path in (page, copy)) for page, copy in pairs}


def test_a_student_copy_holds_no_answer_and_no_link_to_a_solution(copied):
    boxes = 0
    for original, copy in copied.values():
        text = markdown(copy)
        assert "](solutions/" not in text and "](../solutions/" not in text
        for summary, body in re.findall(r"<summary>(.*?)</summary>(.*?)</details>", markdown(original), re.DOTALL):
            boxes += 1
            assert (body.strip() in text) == summary.startswith("Notation"), summary
    assert boxes > 20


def test_a_student_copy_is_a_valid_notebook_with_every_exercise_and_all_else_as_it_was(copied):
    exercises = 0
    for original, copy in copied.values():
        nbformat.validate(copy)
        assert [(c.cell_type, c.id) for c in original.cells] == [(c.cell_type, c.id) for c in copy.cells]
        for old, new in zip(original.cells, copy.cells, strict=True):
            exercises += is_exercise(old)
            if is_exercise(old):
                assert new.source == old.source and new.outputs == [] and new.execution_count is None
            elif old.cell_type == "code" or not re.search(r"<details>|solutions/|\]\(\.\./", old.source):
                assert new == old
    asked = sum(is_exercise(cell) for path in NOTEBOOKS.glob("solutions/*.ipynb")
                for cell in nbformat.read(path, as_version=4).cells)  # fmt: skip
    assert exercises == asked > 20


def test_links_of_a_student_copy_in_build_student_lead_somewhere(copied):
    """To another copy, or to a file of the repository outside `notebooks`."""
    folder = ROOT / "build" / "student"
    for page in copied:
        here = folder / page.relative_to(NOTEBOOKS).parent
        text = student.without_answers(markdown(copied[page][0]), page.parent, here)
        for target in re.findall(r"\]\(([^)#]+?)(?:#[^)]*)?\)", text):
            if not target.startswith("http"):
                lies = (here / target).resolve()
                lies = NOTEBOOKS / lies.relative_to(folder) if lies.is_relative_to(folder) else lies
                assert lies.exists(), f"{page.name}: {target}"
