"""The recipe for conda-forge, the citation and the guide say what pyproject.toml says."""

import re
from pathlib import Path

import pytest

import py4dstem_prenet

ROOT = Path(__file__).parents[1]
CONDA_NAMES = {"torch": "pytorch", "matplotlib": "matplotlib-base", "dask[array]": "dask-core"}  # names there


def project():
    tomllib = pytest.importorskip("tomllib", reason="tomllib is new in Python 3.11")
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def recipe():
    yaml = pytest.importorskip("yaml")
    return yaml.safe_load((ROOT / "recipe" / "recipe.yaml").read_text(encoding="utf-8"))


def test_the_recipe_has_the_dependencies_of_the_package():
    wanted = {}
    for requirement in project()["project"]["dependencies"]:
        name, versions = re.fullmatch(r"([\w\[\]-]+)(.*)", requirement).groups()
        wanted[CONDA_NAMES.get(name, name.lower())] = versions
    made = recipe()
    python, *listed = made["requirements"]["run"]
    assert dict(line.split(" ", 1) for line in listed) == wanted
    least = made["context"]["python_min"]
    assert python.replace("${{ python_min }}", least) == "python " + project()["project"]["requires-python"]
    host = dict(line.split(" ", 1) for line in made["requirements"]["host"] if line.startswith("hatchling"))
    assert [name + versions for name, versions in host.items()] == project()["build-system"]["requires"]
    command, = made["build"]["python"]["entry_points"]
    assert command == "prenet = " + project()["project"]["scripts"]["prenet"]


def test_versions_agree():
    assert recipe()["context"]["version"] == py4dstem_prenet.__version__
    yaml = pytest.importorskip("yaml")
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == py4dstem_prenet.__version__ and citation["license"] == recipe()["about"]["license"]
    assert f"version {py4dstem_prenet.__version__}" in (ROOT / "docs" / "citing.md").read_text(encoding="utf-8")
    assert f"## {py4dstem_prenet.__version__} (2" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_every_extra_is_explained_in_one_place():
    guide = (ROOT / "docs" / "install.md").read_text(encoding="utf-8")
    assert [name for name in project()["project"]["optional-dependencies"] if f"`{name}`" not in guide] == []
