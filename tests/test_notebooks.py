"""Hygiene of every committed notebook: executed, whole, readable without a kernel, and true to the style."""

import ast
import re
import statistics
from functools import cache
from typing import NamedTuple

import nbformat
import pytest

from utils import ROOT

FOLDER = ROOT / "notebooks"
LESSONS = sorted(FOLDER.glob("[0-9][0-9]_*.ipynb"))
SOLUTIONS = sorted((FOLDER / "solutions").glob("*.ipynb"))
MORE = sorted((FOLDER / "more").glob("*.ipynb"))
LONGEST_CELL = 20

every = pytest.mark.parametrize("path", [*LESSONS, *MORE, *SOLUTIONS], ids=lambda p: f"{p.parent.name}/{p.stem}")
lessons = pytest.mark.parametrize("path", LESSONS, ids=lambda p: p.stem)


@cache
def read(path):
    return nbformat.read(path, as_version=4)


def code_cells(path) -> list:
    return [cell for cell in read(path).cells if cell.cell_type == "code"]


def outputs(path) -> list:
    return [output for cell in code_cells(path) for output in cell.outputs]


def printed(outputs) -> str:
    return "".join(output.get("text", "") for output in outputs)


def prose(path) -> str:
    return "\n\n".join(cell.source for cell in read(path).cells if cell.cell_type == "markdown")


def nodes(path) -> list:
    """The syntax of all code cells; SyntaxError where one of them is no Python."""
    return [node for cell in code_cells(path) for node in ast.walk(ast.parse(cell.source))]


def exercises(path) -> list:
    """Every call of `exercise(...)`."""
    return [n for n in nodes(path) if isinstance(n, ast.Call) and getattr(n.func, "id", "") == "exercise"]


class Row(NamedTuple):
    """A notebook's line in the table of the front page."""

    name: str
    minutes: int


@cache
def front_page() -> dict[str, Row]:
    readme = (ROOT / "README.md").read_text("utf-8")
    table = re.findall(r"^\| \[(.+?)\]\(notebooks/(.+?)\) \|.*?\| (\d+) \|", readme, re.M)
    return {file: Row(name, int(minutes)) for name, file, minutes in table}


@every
def test_is_executed_in_order_without_errors_warnings_or_failed_checks(path):
    assert [cell.execution_count for cell in code_cells(path)] == list(range(1, len(code_cells(path)) + 1))
    for output in outputs(path):
        assert output.output_type != "error"
        assert output.get("name") != "stderr", output.get("text")
        assert "✗" not in output.get("text", "")


@every
def test_set_up_cell_is_the_shared_one(path):
    assert code_cells(path)[0].source == code_cells(LESSONS[0])[0].source
    assert "nbval-ignore-output" in code_cells(path)[0].metadata.tags


@every
def test_every_figure_has_alt_text(path):
    """In the HTML of `plots.show`, or as metadata of a bare PNG."""
    for output in outputs(path):
        for attributes in re.findall(r"<img\b([^>]*)>", output.get("data", {}).get("text/html", "")):
            assert len(re.search(r'\balt="([^"]*)"', attributes)[1]) > 20
        if "image/png" in output.get("data", {}):
            assert len(output.metadata.get("image/png", {}).get("alt", "")) > 20


@every
def test_is_small_and_carries_no_widget_state(path):
    assert path.stat().st_size <= 600_000
    assert "widgets" not in read(path).metadata


def lines_of_code(path) -> list[int]:
    """How many lines each cell after the set-up has that are neither blank nor comments."""
    cells = [[line.strip() for line in cell.source.splitlines()] for cell in code_cells(path)[1:]]
    return [sum(line != "" and not line.startswith("#") for line in lines) for lines in cells]


@every
def test_cells_are_python_and_short_and_end_in_no_semicolon(path):
    assert nodes(path) and max(lines_of_code(path)) <= LONGEST_CELL
    assert not [cell.source for cell in code_cells(path)[1:] if cell.source.rstrip().endswith(";")]


@lessons
def test_half_of_the_cells_have_at_most_six_lines(path):
    """The style asks for a median of five; a check line under a figure may make it six."""
    assert statistics.median(lines_of_code(path)) <= 6


@lessons
def test_says_what_it_shows_needs_and_does_not_show(path):
    text, first = prose(path), read(path).cells[0].source.lower()
    assert text.startswith(f"# {int(path.stem[:2])}. ")
    for phrase in ("In this notebook you will show that", "You have now shown", "What this does not show",
                   "Exercises", "References"):  # fmt: skip
        assert phrase.lower() in text.lower(), phrase
    assert all(word in first for word in ("goals", "you need", "time", "runs on"))


@lessons
def test_pages_end_alike_and_their_minutes_are_those_of_the_front_page(path):
    text, row = prose(path), front_page()[path.name]
    ends = "Control, and what this does not show", "Exercises", "You have now shown", "References"
    assert [title for title in re.findall(r"^## (.+)$", text, re.M) if title in ends] == [*ends]
    lines = [line for line in text.splitlines() if re.match(rf"\*\*{int(path.name[:2])}\.\d", line)]
    form = r"\*\*\d\.\d\*\* · difficulty [●○]{3} · importance [●○]{3} · (\d+) minutes( · open(, .+?)?)?\. "
    minutes = [int(re.match(form, line)[1]) for line in lines if "mini-project" not in line]
    assert f"- **Time**: {row.minutes} minutes, {sum(minutes)} of them for exercises" in text
    for name in re.findall(r"\[(?:← |next: )(\d\. [^\]]*?)(?: →)?\]", text):
        assert name in {other.name for other in front_page().values()}


@lessons
def test_links_lead_somewhere(path):
    for target in re.findall(r"\]\(([^)#]+?)(?:#[^)]*)?\)", prose(path)):
        assert target.startswith("http") or (path.parent / target).exists(), target


@every
def test_mathematics_is_what_github_renders(path):
    banned = (r"\newcommand", r"\tag{", r"\label{", r"\begin{align}", r"\operatorname*")
    assert not [command for command in banned if command in prose(path)] and prose(path).count("$$") % 2 == 0


@lessons
def test_exercises_have_a_solution_with_the_same_checker(path):
    solution = FOLDER / "solutions" / path.name
    asked, solved = ([ast.unparse(call) for call in exercises(each)] for each in (path, solution))
    assert 2 <= len(asked) <= 4 and asked == solved
    said = printed(outputs(solution))
    assert said.count("correct ✓") == len(solved) and "not yet" not in said


@every
def test_exercises_take_a_function_so_that_no_error_stops_the_notebook(path):
    functions = {node.name for node in nodes(path) if isinstance(node, ast.FunctionDef)}
    assigned = [n for n in nodes(path) if isinstance(n, ast.Assign) and isinstance(n.value, ast.Lambda)]
    functions |= {node.targets[0].id for node in assigned}
    for call in exercises(path):
        assert isinstance(call.args[1], ast.Lambda) or call.args[1].id in functions, ast.unparse(call)


@lessons
def test_stored_exercises_are_not_attempted(path):
    for cell in code_cells(path):
        if re.search(r"^exercise\(", cell.source, re.MULTILINE):
            assert "not attempted yet" in printed(cell.outputs)
