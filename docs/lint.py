"""Check the docstrings of everything public against numpydoc, and the wording of code and guides: `make lint`.

    python docs/lint.py
"""

import importlib
import inspect
import pkgutil
import re
import sys
from dataclasses import is_dataclass
from importlib.util import find_spec
from pathlib import Path

from numpydoc.validate import validate

CHECKS = {  # of numpydoc: summary, parameters with types and descriptions, returns
    "GL02", "GL03", "GL06", "GL07", "GL08", "SS01", "SS03", "SS06", "PR01", "PR02", "PR03", "PR04", "PR07", "PR10",
    "RT01",
    "RT03", "YD01"}
LEFT_OUT = ("py4dstem_prenet.cli",)  # docstrings of commands are help texts; annotations describe their parameters
ROOT = Path(__file__).parents[1]
READ = ("*.md", "docs/*.md", "py4dstem_prenet/**/*.py", "py4d_browser_plugin/*.py", "tests/**/*.py", "benchmarks/*.py")
WORDING = {  # mended repeatedly: what to write instead
    r"(colour|behaviour|neighbour|favour|honour)\w*": "-or",
    r"(centre|fibre|metre)s?": "-er",
    r"(normalis|optimis|recognis|minimis|maximis|initialis|summaris|visualis|organis)(e|es|ed|er|ing)": "-iz",
    r"analys(e|ed|er|ing)": "analyz-",
    r"(model|label|travel|cancel)l(ed|ing)": "one l",
    r"(to|after)wards": "toward, afterward",
    r"(electrons|units|patterns|frames|MB|px) an? (pattern|electron|second)": "per",
    r"as was asked": "as requested",
    r"right within (some )?\d+(?= %)": "approximate, within",
    r"told (apart|from)": "distinguished",
    r"(measured?s?|searched|replaced|works?|saved?), too": "also",
}
NEEDS_LIBERTEM = ("py4dstem_prenet.libertem", "py4dstem_prenet.io.dataset_scan", "py4dstem_prenet.live.udf")


def public_objects():
    """Yield (name, checks) of public functions, classes, methods and properties, each where it is defined."""
    package = importlib.import_module("py4dstem_prenet")
    for info in pkgutil.walk_packages(package.__path__, "py4dstem_prenet."):
        if info.name.startswith(LEFT_OUT) or (info.name in NEEDS_LIBERTEM and find_spec("libertem") is None):
            continue
        module = importlib.import_module(info.name)
        for name, thing in vars(module).items():
            if name.startswith("_") or getattr(thing, "__module__", None) != info.name:
                continue
            if inspect.isfunction(thing):
                yield f"{info.name}.{name}", CHECKS
            if inspect.isclass(thing):
                made = is_dataclass(thing) or "__init__" not in vars(thing)  # Attributes, or its base, describe it
                yield f"{info.name}.{name}", CHECKS - {"PR01"} if made else CHECKS
                yield from ((f"{info.name}.{name}.{member}", CHECKS) for member, value in vars(thing).items()
                            if not member.startswith("_") and documents_itself(value))


def documents_itself(member) -> bool:
    """Whether a member of a class has a docstring of its own: an override without one has that of its base."""
    if isinstance(member, classmethod | staticmethod):
        member = member.__func__
    return (inspect.isfunction(member) or isinstance(member, property)) and member.__doc__ is not None


def wording():
    """Yield (place, text, what to write instead) of banned words in code and guides."""
    banned = [(re.compile(rf"\b{pattern}\b", re.IGNORECASE), advice) for pattern, advice in WORDING.items()]
    for path in sorted(path for pattern in READ for path in ROOT.glob(pattern)):
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            yield from ((f"{path.relative_to(ROOT)}:{number}", match.group(), advice) for pattern, advice in banned
                        for match in pattern.finditer(line))


def main() -> int:
    """Print what is wrong; return how many objects and words are."""
    wrong = 0
    for place, text, advice in wording():
        wrong += 1
        print(f'{place}: "{text}"; write: {advice}')
    for name, checks in public_objects():
        errors = [f"{code} {text}" for code, text in validate(name)["errors"] if code in checks]
        wrong += bool(errors)
        for error in errors:
            print(f"{name}: {error}")
    return wrong


if __name__ == "__main__":
    sys.exit(min(main(), 1))
