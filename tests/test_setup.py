"""The two commands, the environment files, what a clone looks like, and what works without one."""

import ast
import csv
import doctest
import importlib
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections import Counter
from pathlib import Path

import pytest
import yaml

from utils import DATA, ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
PACKAGES = {"IPython": "ipython", "jupyter_client": "jupyter-client",
            "PIL": "pillow", "huggingface_hub": "huggingface-hub", "sklearn": "scikit-learn",
            "yaml": "pyyaml"}  # fmt: skip


def imported(pattern):
    """The modules that the Python files and notebooks of a pattern import, wherever in the code."""
    modules = set()
    for path in ROOT.glob(pattern):
        source = path.read_text(encoding="utf-8")
        if path.suffix == ".ipynb":
            cells = json.loads(source)["cells"]
            source = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.Import):
                modules |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                above = path.relative_to(ROOT).parts[: -node.level] if node.level else ()  # a relative import
                module = ".".join([*above, *([node.module] if node.module else [])])
                modules |= {module} | {f"{module}.{alias.name}" for alias in node.names}
    return modules


def test_environment_yml_installs_this_package_with_conda_forge_python():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text("utf-8"))
    assert environment["channels"] == ["conda-forge"]
    packages = [p for p in environment["dependencies"] if isinstance(p, str)]
    assert any(p.startswith("python>=3.11") for p in packages) and "pip" in packages
    assert environment["dependencies"][-1] == {"pip": ["-e ."]}  # and no test tools


def dry_run(folder, python, target="lab", **variables) -> str:
    """What `make target` would do in a folder whose `.venv` is newer than everything and has this Python."""
    for name in ("Makefile", "pyproject.toml"):
        shutil.copy2(ROOT / name, folder)
    (folder / ".venv" / "bin").mkdir(parents=True, exist_ok=True)
    (folder / ".venv" / "bin" / "python").unlink(missing_ok=True)
    (folder / ".venv" / "bin" / "python").symlink_to(python)
    (folder / ".venv" / "installed").touch()
    clean = {name: value for name, value in os.environ.items() if "SPILLED" not in name and "MAKE" not in name}
    return subprocess.run(["make", "--dry-run", target], cwd=folder, capture_output=True, encoding="utf-8", check=True,
                          env=clean | variables).stdout  # fmt: skip


def old_python(folder):
    """A program that is Python, and says that it is 3.9."""
    old = folder / "python3.9"
    old.write_text(f"""#!/bin/sh
exec {sys.executable} -c 'import sys; sys.version_info = (3, 9, 1); exec(sys.argv[1])' "$2"
""", "utf-8")
    old.chmod(0o755)
    return old


def test_make_leaves_a_good_venv_alone_and_mends_one_whose_python_has_gone_or_is_too_old(tmp_path):
    assert "venv" not in dry_run(tmp_path, sys.executable).replace(".venv/bin", "")
    for python in ("/no/such/python", old_python(tmp_path)):
        lines = dry_run(tmp_path, python).splitlines()
        [told], [made] = ([i for i, line in enumerate(lines) if words in line] for words in (" GB ", "-m venv --clear"))
        assert told < made  # how long and how much, before anything is fetched


def test_an_old_python_gets_one_sentence_and_no_venv(tmp_path):
    for name in ("Makefile", "pyproject.toml"):
        shutil.copy2(ROOT / name, tmp_path)
    run = subprocess.run(["make", ".venv/installed", f"PYTHON={old_python(tmp_path)}"], cwd=tmp_path,
                         capture_output=True, encoding="utf-8")  # fmt: skip
    assert run.returncode != 0 and "Python 3.11 or newer is needed" in run.stderr
    assert not (tmp_path / ".venv").exists() and "Setting up" not in run.stdout


def test_make_lab_tries_the_real_models_and_keeps_to_those_that_are_named(tmp_path):
    assert "SPILLED_ENERGY_MODELS=auto .venv/bin/jupyter lab" in dry_run(tmp_path, sys.executable)
    named = dry_run(tmp_path, sys.executable, SPILLED_ENERGY_MODELS="bundled")
    assert "SPILLED_ENERGY_MODELS=bundled .venv/bin/jupyter lab" in named


def test_binder_sets_up_what_make_lab_does_with_one_model_for_everybody():
    binder = ROOT / ".binder"
    environment = yaml.safe_load((binder / "environment.yml").read_text("utf-8"))
    assert environment["channels"] == ["conda-forge"] and "pip" in environment["dependencies"]
    assert environment["dependencies"][0] in ("python=3.11", "python=3.12", "python=3.13")
    for name in ("postBuild", "start"):
        assert os.access(binder / name, os.X_OK)
        assert subprocess.run(["bash", "-n", binder / name]).returncode == 0
    lines, makefile = (path.read_text("utf-8") for path in (binder / "postBuild", ROOT / "Makefile"))
    assert lines.splitlines()[-1].removeprefix("python") in makefile  # the Llama is written out the same way
    assert "SPILLED_ENERGY_MODELS=bundled" in (binder / "start").read_text("utf-8")


def test_every_page_that_installs_names_this_folder_or_the_pinned_file_of_the_llama():
    """Static: these lines are read, not run. (`make` itself is run by whoever runs this test.)"""
    llama = re.search(r"LLAMA := (\S+)", (ROOT / "Makefile").read_text("utf-8"))[1]
    pages = [ROOT / "README.md", ROOT / "environment.yml", ROOT / ".binder" / "postBuild",
             *ROOT.glob("notebooks/book/*.md"), *ROOT.glob(".github/*.md")]  # fmt: skip
    texts = {page: page.read_text("utf-8") for page in pages}
    said = [(page, line) for page, text in texts.items() for line in re.findall(r"pip install([^\n`&;)]*)", text)]
    for page, line in said:
        words = [word.strip("\"'") for word in line.split()]
        wanted = [word for word in words if not word.startswith("-") and word != "--upgrade"]
        if llama.split("==")[0] in line:
            assert wanted == [llama] and "--no-deps" in words, (page, line)
        elif wanted:
            assert re.fullmatch(r"(\.|\./?spilled-energy-notebooks)(\[[\w,]+\])?|uv", wanted[0]), (page, line)
    assert len(said) >= 5


def test_what_is_imported_is_declared_and_torchvision_is_not():
    extras = PROJECT["optional-dependencies"]
    needed, also = ({re.match(r"[\w-]+", line)[0] for line in lines} for lines in
                    (PROJECT["dependencies"], extras["test"] + extras["cluster"]))  # fmt: skip
    for pattern, declared in (("utils/*.py", needed), ("notebooks/**/*.ipynb", needed), ("utils/workshop/*.py",
                              needed | also), ("tests/**/*.py", needed | also | {"mutmut"})):  # fmt: skip
        own = {"utils", "spilled_energy", *(path.stem for path in ROOT.glob("tests/*.py"))} | sys.stdlib_module_names
        names = {module.split(".")[0] for module in imported(pattern)} - own
        assert {PACKAGES.get(name, name) for name in names} <= declared, pattern
    assert "jupyterlab" in needed and {"nbval", "ruff"} <= also and "torchvision" not in needed | also
    assert PROJECT["name"] == "spilled-energy-notebooks" and PROJECT["requires-python"] == ">=3.11"


def test_nothing_a_student_reads_imports_the_workshop():
    modules = imported("utils/*.py") | imported("utils/page/*.py") | imported("notebooks/**/*.ipynb")
    assert "utils.energy" in modules and not any(module.startswith("utils.workshop") for module in modules)


def test_an_ordinary_installation_works_beside_another_utils_and_without_data(tmp_path):
    """As a wheel is installed: the packages alone, under a name of their own. The README's five lines run on a model
    of the reader's, and what needs `data/` says so in one sentence when it is asked for."""
    site, elsewhere = tmp_path / "site", tmp_path / "elsewhere"
    shutil.copytree(ROOT / "utils", site / "spilled_energy", ignore=shutil.ignore_patterns("__pycache__"))
    (elsewhere / "utils").mkdir(parents=True)
    (elsewhere / "utils" / "__init__.py").write_text("raise ImportError('the wrong utils')", "utf-8")
    lines = re.search(r"```python\n(from transformers.*?)```", (ROOT / "README.md").read_text("utf-8"), re.DOTALL)[1]
    assert lines.count("\n") == 5 and "spilled_energy.score" in lines
    rooms = ", ".join(sorted(path.stem for path in (ROOT / "utils").glob("[a-z]*.py")))
    code = f"""
{lines.replace("your/model", str(DATA / "models" / "almanac-gpt2"))}
from spilled_energy import {rooms}
for ask in (almanac.Almanac, almanac.read_facts, images.load_classifier):
    try:
        ask()
    except FileNotFoundError as error:
        print(error)
"""
    run = subprocess.run([sys.executable, "-c", code], cwd=elsewhere, capture_output=True, encoding="utf-8",
                         env={"PYTHONPATH": str(site), "PATH": os.environ["PATH"]})  # fmt: skip
    assert run.returncode == 0, run.stderr
    assert "spilled" in run.stdout  # the table
    assert run.stdout.count("is missing: clone the course and run `pip install --editable .` in it") == 3


def test_ci_calls_the_test_command_of_the_readme():
    assert "make test" in (ROOT / ".ci" / "run").read_text("utf-8")
    assert "make test" in (ROOT / "README.md").read_text("utf-8")
    makefile = (ROOT / "Makefile").read_text("utf-8")
    assert all(f"\n{target}:" in makefile for target in ("lab", "test", "notebooks", "train", "bench"))


def commands() -> list[str]:
    """What `.ci/run` runs, with the recipe of `make test` in place, up to the first variable and without set-up."""
    script, makefile = (path.read_text("utf-8") for path in (ROOT / ".ci" / "run", ROOT / "Makefile"))
    recipe = re.search(r"^test: \.venv/installed.*\n((?:\t.*\n)+)", makefile, re.M)[1].replace("$(if $(CHECKED),", "")
    script = script.replace("\nmake test\n", "\n" + recipe.replace("$(BIN)", ".venv/bin"))
    lines = re.findall(r"^\t?(?:\.venv/bin/(?!pip)|(?=make))(.+)", script, re.M)
    return [line.split(" $(")[0] for line in lines]


def test_the_table_of_what_ci_runs_has_every_command_and_no_other():
    page, makefile = ((ROOT / name).read_text("utf-8") for name in (".github/CONTRIBUTING.md", "Makefile"))
    rows = dict(re.findall(r"^\| `([^`]+)` \| (.*?) \|", page.split("## What CI runs")[1].split("\n## ")[0], re.M))
    assert [*rows] == commands() and len(rows) == 7
    exact = re.findall(r"(\d\d)_\*", re.search(r"^EXACT := .*", makefile, re.M)[0])
    lessons = [path.name[:2] for path in sorted(ROOT.glob("notebooks/[0-9]*.ipynb"))]
    for option, numbers in (("--nbval", exact), ("--nbval-lax", [n for n in lessons if n not in exact])):
        [covers] = [what for command, what in rows.items() if command.endswith(option)]
        assert re.findall(r"\b\d\b", covers) == [str(int(n)) for n in numbers]


def test_workflows_test_each_push_and_run_the_real_models_on_a_schedule():
    folder = ROOT / ".github" / "workflows"
    loaded = {path.stem: yaml.safe_load(path.read_text("utf-8")) for path in folder.glob("*.yml")}
    triggers = {name: workflow[True] for name, workflow in loaded.items()}  # YAML reads `on` as true
    assert "push" in triggers["tests"] and "schedule" in triggers["real-models"]
    assert "make test" in (folder / "tests.yml").read_text("utf-8")
    assert "SPILLED_ENERGY_MODELS" in (folder / "real-models.yml").read_text("utf-8")


def test_citation_and_licences_are_there():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text("utf-8"))
    assert citation["cff-version"] == "1.2.0" and citation["type"] == "software" and citation["message"]
    assert citation["version"] == PROJECT["version"]
    assert all(one.keys() & {"name", "family-names"} for one in citation["authors"])
    cited = {one["url"]: one for one in citation["references"]}
    for url in ("https://arxiv.org/abs/2602.18671", "https://vaishnavh.github.io/blog/joint-or-conditional"):
        assert {"type", "title", "authors"} <= cited[url].keys() and url in (ROOT / "README.md").read_text("utf-8")
    assert (ROOT / "LICENSE").read_text("utf-8").startswith("MIT License")
    assert "CC BY 4.0" in (ROOT / "LICENSE-TEXT").read_text("utf-8")


@pytest.mark.parametrize("room", ["energy", "gauge", "reading", "score", "tabular"])
def test_the_examples_in_the_docstrings_of_the_rooms_run(room):
    """(Those of the other rooms run beside their tests.)"""
    failed, tried = doctest.testmod(importlib.import_module(f"utils.{room}"))
    assert not failed and tried


def test_the_table_of_mutants_names_every_room_and_adds_up():
    text = (ROOT / ".github" / "CONTRIBUTING.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w+)` \| (\d+) \| (\d+) \| (\d+) \| (\d+) \| ([\d.]+) % \|$", text, re.MULTILINE)
    mutated = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["mutmut"]["only_mutate"]
    assert [room for room, *_ in rows] == [Path(file).stem for file in mutated]
    listed = Counter(row["room"] for row in csv.DictReader((ROOT / "tests" / "equivalent.csv").open(encoding="utf-8")))
    for room, *counts, share in rows:
        errors, noticed, harmless, missed = map(int, counts)
        assert errors == noticed + harmless + missed and harmless >= listed[room]
        assert float(share) == round(100 * noticed / (errors - harmless), 1) >= 90


def test_the_reading_edition_is_published_by_a_workflow_that_may_do_nothing_else():
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "book.yml").read_text("utf-8"))
    build, publish = workflow["jobs"]["build"], workflow["jobs"]["publish"]
    assert workflow["permissions"] == {"contents": "read"} and "permissions" not in build
    assert publish["permissions"] == {"pages": "write", "id-token": "write"} and publish["needs"] == "build"
    steps = [step.get("run", step.get("uses")) for step in build["steps"]]
    assert "make book" in steps and any(step.startswith("actions/upload-pages-artifact@") for step in steps)
    assert [step["with"]["path"] for step in build["steps"] if "pages" in step.get("uses", "")] == ["build/book"]
    assert "make book" in (ROOT / ".ci" / "run").read_text("utf-8")
