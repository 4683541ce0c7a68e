"""Where the course runs: any folder, another `utils` beside it, no ipywidgets, the C locale, 1, 2 or 8 threads.

Each claim is tried in a process of its own, since a process cannot change where it runs. Other releases of Python and
of the libraries are tried by a workflow, `surroundings.yml`.
"""

import ast
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

from utils import ROOT
from utils.page import widgets

NOTEBOOKS = ROOT / "notebooks"
C_LOCALE = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}  # as plain as Python can be made
SCORES = """
from utils.load import load_lm
from utils.score import score
table = score(load_lm("almanac-gpt2"), ["The capital of Japan is Tokyo.", "The capital of Kenya is Nairobi."])
"""
REST = """
import numpy as np
import torch
from utils import images, stats, tabular
from utils.fetch import packaged
print(table[["token", "logprob", "spilled", "self_certainty_after"]].round(1).to_string())
table = score(load_lm("almanac-llama"), ["The capital of Japan is Tokyo."])
print(table[["token", "logprob", "spilled", "self_certainty_after"]].round(1).to_string())
if packaged.find():
    table = score(load_lm("llama", "bundled"), ["The capital of Australia is Sydney."])
    print(table[["token", "logprob", "spilled", "self_certainty_after"]].round(1).to_string())

rng = np.random.default_rng(0)
group, wrong = np.repeat(np.arange(100), 3), rng.random(300) < 0.4
scores = rng.normal(size=300) + wrong
print(*(f"{x:.2f}" for x in stats.auroc(scores, wrong, group)))
print(stats.regress(scores, rng.normal(size=300), group % 5, group).said())

learned = tabular.tabular_learner([tabular.power_law(k) for k in (1, 3, 30)], np.geomspace(1, 1e3, 4), 500)
print(learned.log_partition.round(2), learned.kl.round(2))
print(tabular.sgd([tabular.power_law(3)], [1000], 500).logits.round(2)[:, :4])

pixels = torch.randint(256, (40, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
print(images.suspicion(images.classify(images.load_classifier(), pixels)).round(2).to_string())
"""


def threads(n: int) -> dict[str, str]:
    """As many where there are fewer cores, which MKL would heed, and none that keeps a core busy while it waits."""
    counts = {name: str(n) for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS")}
    return counts | {"MKL_DYNAMIC": "FALSE", "OMP_WAIT_POLICY": "PASSIVE"}


def variables(path, others=None) -> dict[str, str]:
    """This process's variables without what Python and pytest were told, UTF-8, `path` to import from, and `others`."""
    own = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "PYTEST"))}
    return own | {"PYTHONUTF8": "1", "PYTHONPATH": os.pathsep.join(map(str, path))} | (others or {})


def fresh(code: str, script: Path, cwd: Path, path=(ROOT,), others=None) -> str:
    """What a fresh Python prints that runs `code`, saved as `script`, with `cwd` for its working directory."""
    script.write_text(code, "utf-8")
    run = subprocess.run([sys.executable, script], cwd=cwd, env=variables(path, others), capture_output=True,
                         encoding="utf-8")  # fmt: skip
    assert run.returncode == 0, run.stderr
    return run.stdout


def replayed(notebook: str, folder: Path, path=(ROOT,), others=None) -> str:
    """nbval's last line on a copy of a notebook in `folder`, each of its cells against its stored output."""
    copy = shutil.copy(NOTEBOOKS / notebook, folder)
    options = ["--nbval", "--nbval-current-env", "--nbval-cell-timeout", "300", "--nbval-sanitize-with",
               ROOT / "tests" / "nbval_sanitize.cfg", "-p", "no:cacheprovider"]  # fmt: skip
    run = subprocess.run([sys.executable, "-m", "pytest", *options, copy], cwd=folder, env=variables(path, others),
                         capture_output=True, encoding="utf-8", errors="replace")  # fmt: skip
    assert run.returncode == 0, run.stdout[-3000:] + run.stderr[-3000:]
    return run.stdout.splitlines()[-1]


def code_cells(notebook: Path) -> list[str]:
    cells = json.loads(notebook.read_text("utf-8"))["cells"]
    return ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]


@pytest.fixture
def elsewhere(tmp_path):
    """A folder with blanks and letters of other languages in its name."""
    folder = tmp_path / "Müllers Ordner, 第二"
    folder.mkdir()
    return folder


def test_scores_are_the_same_in_any_working_directory(elsewhere, tmp_path):
    code = SCORES + "print(table.round(1).to_string())"
    at_home = fresh(code, tmp_path / "one.py", ROOT)
    assert "spilled" in at_home and at_home.count("\n") > 15
    for folder in (NOTEBOOKS / "more", elsewhere, Path("/")):
        assert fresh(code, tmp_path / "one.py", folder) == at_home


@pytest.mark.parametrize("others", [{}, C_LOCALE, threads(8)], ids=["any folder", "C locale", "eight threads"])
def test_a_notebook_says_the_same_wherever_it_runs(others, elsewhere, tmp_path):
    """(A kernel whose file names are in ASCII needs a folder that it can spell.)"""
    line = replayed("02_gauge_freedom.ipynb", tmp_path if others is C_LOCALE else elsewhere, others=others)
    assert line.startswith(f"{len(code_cells(NOTEBOOKS / '02_gauge_freedom.ipynb'))} passed in ")


def test_a_utils_that_is_in_the_way_is_named_by_the_first_cell_in_one_sentence(tmp_path):
    """The package index has a `utils`, and many a folder of notebooks has a `utils.py`."""
    (tmp_path / "utils.py").write_text("def helper(): ...", "utf-8")
    first, script = code_cells(NOTEBOOKS / "02_gauge_freedom.ipynb")[0], tmp_path / "first.py"
    with pytest.raises(AssertionError, match=r"AssertionError: another package named utils is in the way: use `make"):
        fresh(first, script, tmp_path)
    script.with_name("utils.py").unlink()
    assert fresh(first, script, tmp_path).startswith("Python 3")


def test_beside_another_utils_every_room_answers_to_its_other_name(tmp_path):
    """As both are installed: theirs is found first, ours under `spilled_energy`, and neither sees the other."""
    theirs, ours = tmp_path / "theirs", tmp_path / "ours"
    (theirs / "utils").mkdir(parents=True)
    (theirs / "utils" / "__init__.py").write_text("answer = 42", "utf-8")
    ours.mkdir()
    (ours / "spilled_energy").symlink_to(ROOT / "utils")
    rooms = [".".join(path.relative_to(ROOT / "utils").with_suffix("").parts) for path in ROOT.glob("utils/**/*.py")]
    names = [room.removesuffix("__init__").rstrip(".") for room in sorted(rooms) if room != "workshop.cluster"]  # Ray
    code = f"""
import importlib, sys
import utils
for name in {names}:
    importlib.import_module(f"spilled_energy.{{name}}" if name else "spilled_energy")
print(utils.answer, [name for name in sys.modules if name.startswith("utils.")])
""" + SCORES.replace("utils.", "spilled_energy.")
    said = fresh(code, tmp_path / "both.py", tmp_path, (theirs, ours))
    assert said.startswith("42 []\nalmanac-gpt2 (bundled)") and len(names) > 30


EXPLORERS = {name for name, what in vars(widgets).items()
             if getattr(what, "__annotations__", {}).get("return") is widgets.Explorer}  # fmt: skip


def calls(node: ast.AST) -> set[str]:
    """The last names of what is called in a piece of code."""
    return {ast.unparse(n.func).split(".")[-1] for n in ast.walk(node) if isinstance(n, ast.Call)}


def without_ipywidgets(folder: Path) -> tuple[Path, Path]:
    """Where to import from, so that the course is found and ipywidgets is not."""
    (folder / "ipywidgets.py").write_text("raise ModuleNotFoundError(\"No module named 'ipywidgets'\")", "utf-8")
    return folder, ROOT


def test_without_ipywidgets_an_explorer_is_one_sentence_and_everything_else_runs(tmp_path, elsewhere):
    path = without_ipywidgets(tmp_path)
    code = "from utils.page import widgets\n" + "\n".join(f"print(widgets.{name}())" for name in sorted(EXPLORERS))
    assert fresh(code, tmp_path / "all.py", tmp_path, path) == f"{widgets.MISSING}\n" * len(EXPLORERS)
    assert " passed in " in replayed("more/08_habits.ipynb", elsewhere, path)  # one that has an explorer


def test_notebooks_show_explorers_and_need_nothing_of_them():
    trees = {file: [*map(ast.parse, code_cells(file))] for file in NOTEBOOKS.rglob("[0-9]*.ipynb")}
    assert len({name for parts in trees.values() for tree in parts for name in calls(tree)} & EXPLORERS) > 4
    for file, parts in trees.items():
        kept = [n for tree in parts for n in ast.walk(tree) if isinstance(n, ast.Assign | ast.NamedExpr | ast.Return)]
        assert not [ast.unparse(node) for node in kept if calls(node) & EXPLORERS], file


def test_in_the_c_locale_a_terminal_gets_names_for_letters_that_it_lacks(tmp_path):
    code = """
import sys
from utils import almanac, images
from utils.page.checks import check
from utils.page.plots import figure, image_html
""" + SCORES + """
print(sys.stdout.encoding, len(almanac.read_facts()) > 100, images.load_classifier().training)
fig, ax = figure(4, 2)
ax.set_title("Σ s = log p(x) + V(∅) − V(x)")
print(len(image_html(fig, "Σ and −")) > 1000)
check("Σ s is − what it was", 1, 1)
"""  # fmt: skip
    said = fresh(code, tmp_path / "plain.py", tmp_path, others=C_LOCALE).splitlines()
    assert said[-3:-1] == ["ascii True False", "True"]
    assert said[-1] == r"\N{CHECK MARK} \N{GREEK CAPITAL LETTER SIGMA} s is \N{MINUS SIGN} what it was (within 1e-09)"


def nameless(call: ast.Call) -> bool:
    """Whether a call opens text, of a file or of another process, without naming its encoding."""
    name, words = ast.unparse(call.func).split(".")[-1], {k.arg: ast.unparse(k.value) for k in call.keywords}
    if "encoding" in words or ast.unparse(call.func) == "Image.open":
        return False
    modes = [ast.unparse(arg) for arg in call.args] + [words.get("mode", "")]
    in_bytes = any("b'" in mode for mode in modes) or modes[2:3] == ["0"]  # what has no buffer is bytes, too
    named = {"read_text": len(call.args) > 0, "write_text": len(call.args) > 1, "open": in_bytes}
    return words.get("text") == "True" or not named.get(name, True)


def test_every_file_is_opened_with_its_encoding_named():
    sources = {path: [path.read_text("utf-8")] for path in (*ROOT.glob("utils/**/*.py"), *ROOT.glob("tests/**/*.py"))}
    sources |= {path: code_cells(path) for path in NOTEBOOKS.rglob("[0-9]*.ipynb")}
    for path, parts in sources.items():
        calls = [node for part in parts for node in ast.walk(ast.parse(part)) if isinstance(node, ast.Call)]
        assert [ast.unparse(call) for call in calls if nameless(call)] == [], path
    for line in ("open('a')", "p.read_text()", "p.write_text(x)", "run(x, text=True)", "open('a', 'w')"):
        assert nameless(ast.parse(line).body[0].value), line
    for line in ("open('a', 'rb')", "p.read_text('utf-8')", "open('a', encoding='utf-8')", "print(x)"):
        assert not nameless(ast.parse(line).body[0].value), line


def test_one_two_and_eight_threads_print_the_same_digits(tmp_path):
    codes = {n: f"{SCORES}{REST}assert torch.get_num_threads() == {n}" for n in (1, 2, 8)}
    one, two, eight = (fresh(code, tmp_path / "do.py", tmp_path, others=threads(n)) for n, code in codes.items())
    assert one == two == eight and one.count("\n") > 70


def test_a_workflow_tries_the_oldest_and_newest_releases_on_every_python_and_the_page_says_what_came_of_it():
    github = ROOT / ".github"
    text, page = ((github / name).read_text("utf-8") for name in ("workflows/surroundings.yml", "CONTRIBUTING.md"))
    workflow = yaml.safe_load(text)
    matrix = workflow["jobs"]["linux"]["strategy"]["matrix"]
    assert "schedule" in workflow[True]  # YAML reads `on` as true
    assert matrix == {"python": ["3.11", "3.12", "3.13"], "resolution": ["lowest-direct", "highest"]}
    assert re.search(r"LLAMA := (\S+)", (ROOT / "Makefile").read_text("utf-8"))[1] in text
    rows = set(re.findall(r"^\| (3\.\d\d)\.\d+, (\w+) \|", page, re.M))
    assert rows == {(python, age) for python in matrix["python"] for age in ("oldest", "newest")}


def test_every_dependency_says_how_old_it_may_be():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    needed = sum(project["optional-dependencies"].values(), project["dependencies"])
    assert len(needed) > 25 and all(re.match(r"[\w\[\]-]+>=[\d.]+", line) for line in needed), needed
