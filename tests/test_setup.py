"""The two commands, the environment files, and what a clone looks like."""

import tomllib

import yaml

from utils import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def test_environment_yml_installs_this_package_with_conda_forge_python():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    assert environment["channels"] == ["conda-forge"]
    packages = [p for p in environment["dependencies"] if isinstance(p, str)]
    assert any(p.startswith("python>=3.11") for p in packages) and "pip" in packages
    pip = next(p["pip"] for p in environment["dependencies"] if isinstance(p, dict))
    assert any(line.startswith("-e .") for line in pip)


def test_the_packages_the_course_names_are_declared_and_torchvision_is_not():
    declared = " ".join(PROJECT["dependencies"] + PROJECT["optional-dependencies"]["test"])
    for package in ("jupyterlab", "torch", "transformers", "matplotlib", "seaborn", "ipywidgets", "nbval"):
        assert package in declared
    assert "torchvision" not in declared
    assert PROJECT["name"] == "spilled-energy-notebooks" and PROJECT["requires-python"] == ">=3.11"


def test_ci_calls_the_test_command_of_the_readme():
    assert "make test" in (ROOT / ".ci" / "run").read_text()
    assert "make test" in (ROOT / "README.md").read_text()
    makefile = (ROOT / "Makefile").read_text()
    assert all(f"\n{target}:" in makefile for target in ("lab", "test", "notebooks", "train", "bench"))


def test_workflows_test_each_push_and_run_the_real_models_on_a_schedule():
    folder = ROOT / ".github" / "workflows"
    loaded = {path.stem: yaml.safe_load(path.read_text()) for path in folder.glob("*.yml")}
    triggers = {name: workflow[True] for name, workflow in loaded.items()}  # YAML reads `on` as true
    assert "push" in triggers["tests"] and "schedule" in triggers["real-models"]
    assert "make test" in (folder / "tests.yml").read_text()
    assert "SPILLED_ENERGY_MODELS" in (folder / "real-models.yml").read_text()


def test_citation_and_licences_are_there():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["cff-version"] == "1.2.0" and citation["references"]
    assert (ROOT / "LICENSE").read_text().startswith("MIT License")
    assert "CC BY 4.0" in (ROOT / "LICENSE-TEXT").read_text()
