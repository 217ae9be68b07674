"""The table of flags: every name that the package raises is there with the numbers that it needs, and none is idle."""

import ast
import json
import re
from functools import cache
from pathlib import Path
from string import Formatter

import pytest

import py4dstem_prenet
from py4dstem_prenet.core import flag_table
from py4dstem_prenet.core.flags import FLAGS, SEVERITIES, Decision, Flag, FlagKind, has_flag, worst_severity

PACKAGE = Path(py4dstem_prenet.__file__).parent


def names_in(node):
    """The constant names that an expression can have."""
    if isinstance(node, ast.Constant):
        return [node.value]
    if isinstance(node, ast.IfExp):
        return [*names_in(node.body), *names_in(node.orelse)]
    return [None]


@cache
def modules_with_flags():
    """{path: syntax tree} of the modules of the package that raise flags."""
    texts = {path: path.read_text(encoding="utf-8") for path in sorted(PACKAGE.rglob("*.py"))}
    return {path: ast.parse(text) for path, text in texts.items() if "Flag(" in text}


def raised():
    """Every call of Flag in the package: (file and line, names or [None], keys of its numbers or None)."""
    for path, tree in modules_with_flags().items():
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Flag":
                names = names_in(node.args[0])
                numbers = node.args[1] if len(node.args) > 1 else next(
                    (keyword.value for keyword in node.keywords if keyword.arg == "numbers"), ast.Dict([], []))
                keys = None
                if isinstance(numbers, ast.Dict) and all(isinstance(key, ast.Constant) for key in numbers.keys):
                    keys = {key.value for key in numbers.keys}
                yield f"{path.relative_to(PACKAGE)}:{node.lineno}", names, keys


CALLS = list(raised())


def placeholders(kind):
    """The numbers that the texts of a flag need, with their formats."""
    return {name: format_ for text in (kind.sentence, kind.action)
            for _, name, format_, _ in Formatter().parse(text) if name is not None}


def example(format_):
    """A number, or a text, that a format takes."""
    return 1 if format_.endswith("d") else 1.5 if format_ else "text"


def test_every_name_that_is_raised_is_in_the_table():
    unknown = [(place, name) for place, names, _ in CALLS for name in names if name is not None and name not in FLAGS]
    assert not unknown and len(CALLS) > 60


def test_no_name_stands_twice_in_the_table():
    names = [row[0] for table in dir(flag_table) if table.endswith("_FLAGS") for row in getattr(flag_table, table)]
    assert len(names) == len(set(names)) == len(FLAGS)


def test_every_flag_of_the_table_is_raised():
    """By its name, or by one that stands as a text in a module that raises flags by a variable."""
    literal = {name for _, names, _ in CALLS for name in names}
    texts = set()
    for tree in modules_with_flags().values():
        texts |= {node.value for node in ast.walk(tree)
                  if isinstance(node, ast.Constant) and isinstance(node.value, str)}
    assert not set(FLAGS) - literal - texts


@pytest.mark.parametrize(("place", "names", "keys"), [call for call in CALLS if call[2] is not None],
                         ids=lambda value: value if isinstance(value, str) else "")
def test_flags_are_raised_with_the_numbers_that_their_texts_need(place, names, keys):
    for name in names:
        needed = placeholders(FLAGS[name]) if name in FLAGS else {}
        assert set(needed) <= keys, (place, name)


@pytest.mark.parametrize("name", FLAGS)
def test_every_flag_formats(name):
    kind = FLAGS[name]
    assert isinstance(kind, FlagKind) and kind.name == name and re.fullmatch(r"[a-z][a-z_]*", name)
    assert kind.severity in SEVERITIES and kind.stage
    numbers = {key: example(format_) for key, format_ in placeholders(kind).items()}
    flag = Flag(name, numbers)
    assert "{" not in str(flag) and "\n" not in str(flag)
    assert flag.sentence == str(numbers.get("message", flag.sentence)) or flag.sentence.endswith(".")
    assert not flag.action or flag.action.endswith((".", ")"))
    stored = json.loads(json.dumps(flag.to_json()))
    assert stored["flag"] == name and stored["severity"] == kind.severity and stored["sentence"] == flag.sentence
    assert stored["numbers"] == numbers


def test_severities_are_ordered():
    info, warning, refusal = (Flag(next(n for n, k in FLAGS.items() if k.severity == s and not placeholders(k)))
                              for s in SEVERITIES)
    assert SEVERITIES == ("info", "warning", "refusal")
    assert worst_severity([]) == worst_severity([info]) == "info"
    assert worst_severity([info, warning]) == worst_severity([warning, info]) == "warning"
    assert worst_severity([warning, refusal, info]) == "refusal"


def test_a_name_that_is_not_in_the_table_is_an_error():
    with pytest.raises(KeyError):
        Flag("no_such_flag")


def test_a_decision_tells_which_flags_it_carries():
    decision = Decision(False, (Flag("no_beam"), Flag("beam_missing", {"count": 3, "total": 36})))
    assert decision.has("no_beam") and decision.has("jump", "beam_missing") and not decision.has("jump")
    assert has_flag(decision.flags, "beam_missing") and not has_flag((), "beam_missing")
    assert decision.text == " ".join(map(str, decision.flags))
    assert decision == Decision(False, (Flag("no_beam"), Flag("beam_missing", {"count": 3, "total": 36})))
    assert decision != Decision(False, (Flag("no_beam"),))
