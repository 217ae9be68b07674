"""The structure of the package: how many modules, imports and names there are, and that each public name stands once.

    python tests/test_structure.py      # prints the counts

The direction of imports is checked by import-linter (`make lint`).
"""

import ast
from collections import defaultdict
from functools import cache
from pathlib import Path

import py4dstem_prenet

ROOT = Path(py4dstem_prenet.__file__).parent
DOORS = {"accessor", "cli", "libertem", "__init__", "errors"}  # they repeat names on purpose
MAX_TOP_LEVEL, MAX_IMPORTS_PER_MODULE = 9, 1.8


@cache
def modules():
    """{dotted name inside the package: syntax tree}."""
    found = {}
    for path in sorted(ROOT.rglob("*.py")):
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        found[name] = ast.parse(path.read_text(encoding="utf-8"))
    return found


def cross_imports(trees):
    """{(module, module or package of ours that it imports)}; imports inside functions count, `_version` does not."""
    known = set(trees) | {name.removesuffix(".__init__") for name in trees}
    found = set()
    for name, tree in trees.items():
        folder = name.split(".")[:-1]
        for node in ast.walk(tree):
            if not isinstance(node, ast.ImportFrom) or not node.level:
                continue
            base = [*folder[: len(folder) - node.level + 1], *(node.module.split(".") if node.module else [])]
            for alias in node.names:
                target = ".".join([*base, alias.name])
                target = target if target in known else ".".join(base) or "__init__"
                if target not in (name, "_version"):
                    found.add((name, target))
    return found


def public_names(tree):
    """Public names that a module defines at its top level."""
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names = [node.name]
        elif isinstance(node, ast.Assign):
            targets = [target.elts if isinstance(target, ast.Tuple) else [target] for target in node.targets]
            names = [t.id for target in targets for t in target if isinstance(t, ast.Name)]
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            names = [node.target.id]
        else:
            continue
        yield from (name for name in names if not name.startswith("_"))


def repeated_names(trees):
    """{public name: modules that define it}, of names that more than one module defines, the doors aside."""
    homes = defaultdict(set)
    for module, tree in trees.items():
        if not DOORS & {module.split(".")[0], module.split(".")[-1]}:
            for name in public_names(tree):
                homes[name].add(module)
    return {name: sorted(where) for name, where in homes.items() if len(where) > 1}


def test_few_modules_at_the_top():
    assert len(list(ROOT.glob("*.py"))) <= MAX_TOP_LEVEL


def test_few_imports_between_modules():
    assert len(cross_imports(modules())) <= MAX_IMPORTS_PER_MODULE * len(modules())


def test_no_public_name_stands_twice():
    assert repeated_names(modules()) == {}


def test_the_kind_of_data_is_asked_in_one_place():
    asked = [line for path in ROOT.rglob("*.py") for line in path.read_text(encoding="utf-8").splitlines()
             if "R_Nx" in line or ("isinstance(" in line and "Sample" in line)]
    assert len(asked) <= 2, asked


if __name__ == "__main__":
    trees = modules()
    print(f"{len(list(ROOT.glob('*.py')))} modules at the top, {len(trees)} in all; "
          f"{len(cross_imports(trees))} imports between modules")
    for name, where in sorted(repeated_names(trees).items()):
        print(f"  {name}: {', '.join(where)}")
