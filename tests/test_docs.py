"""Documentation follows the code: pages build without a warning, and every call that a guide names exists."""

import importlib.util
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

import py4dstem_prenet
from py4dstem_prenet import accessor, cli

ROOT = Path(__file__).parents[1]
GUIDES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
CALLS = {name for name in dir(accessor.PrenetAccessor) if not name.startswith("_")}


@pytest.mark.parametrize("guide", GUIDES, ids=lambda path: path.name)
def test_names_in_a_guide_exist(guide):
    text = guide.read_text(encoding="utf-8")
    functions = set(re.findall(r"py4dstem_prenet\.(\w+)\(", text))
    assert functions <= set(dir(py4dstem_prenet)), functions
    named = set(re.findall(r"(?<!py4dstem_)prenet\.(\w+)\(", text))
    assert named <= CALLS, named - CALLS
    commands = {command.name or command.callback.__name__ for command in cli.app.registered_commands}
    used = set(re.findall(r"(?:`|^|bin/)prenet ([a-z]+)", text, flags=re.MULTILINE))
    assert used <= commands, used - commands
    modules = set(re.findall(r"`((?:\w+/)?\w+\.py)`", text))
    folders = ROOT, ROOT / "py4dstem_prenet"
    missing = {name for name in modules if not any((folder / name).exists() for folder in folders)}
    assert missing == set()
    for link in re.findall(r"\]\(((?!http)[^)#]+)\)", text):
        assert (guide.parent / link).exists(), link


def test_every_door_is_in_the_guides():
    together = " ".join(path.read_text(encoding="utf-8") for path in GUIDES)
    told = {name for name in CALLS if re.search(rf"prenet\.{name}\b|`{name}\b|, `?{name}\(", together)}
    assert told >= CALLS, CALLS - told


def test_the_page_of_flags_is_that_of_the_table():
    spec = importlib.util.spec_from_file_location("build", ROOT / "docs" / "build.py")
    build = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(build)
    assert (ROOT / "docs" / "flags.md").read_text(encoding="utf-8") == build.flags_page()


@pytest.mark.skipif(None in map(find_spec, ("pdoc", "myst_parser", "furo")), reason="the extra `docs` is not installed")
@pytest.mark.slow
def test_pages_build_without_a_warning(tmp_path):
    # In a process of its own: what pdoc loads changes sys.modules while py4DSTEM.read walks through it.
    run = subprocess.run([sys.executable, "docs/build.py", "--check", tmp_path], cwd=ROOT, capture_output=True,
                         text=True)
    assert run.returncode == 0, run.stderr
    guides = {path.stem for path in tmp_path.glob("*.html")}
    assert guides >= {"index", *(path.stem for path in (ROOT / "docs").glob("*.md"))}
    pages = {path.relative_to(tmp_path / "api").as_posix() for path in (tmp_path / "api").rglob("*.html")}
    assert {"index.html", "py4dstem_prenet.html", "py4dstem_prenet/origin.html"} <= pages and len(pages) > 30
    top = (tmp_path / "api/py4dstem_prenet.html").read_text(encoding="utf-8")
    for name in py4dstem_prenet.__all__:
        assert f'id="{name}"' in top or f"py4dstem_prenet/{name}.html" in pages, name


def test_the_guide_names_the_built_in_standards():
    from py4dstem_prenet.pixel_size.standards import STANDARDS

    words = re.findall(r"\w+", (ROOT / "docs" / "from_py4dstem.md").read_text(encoding="utf-8"))
    assert set(STANDARDS) <= set(words)
