"""Comparison and display of results: as text in a console, and as a table in a notebook."""

from __future__ import annotations

import textwrap
from dataclasses import fields, is_dataclass
from html import escape

import numpy as np

from . import Decision, Flag

TEXT_WIDTH = 110  # characters; largest length of a line of text
MAX_REPR_LINES = 11  # lines; largest number that the repr of a result has; print shows all of them


class Result:
    """Base class of results: equal if all fields are, shown as a short text and as a small table in notebooks.

    Subclasses are dataclasses made with `eq=False, repr=False`; `rows` lists the values to show.
    """

    def rows(self) -> list[tuple[str, str]]:
        """Return the rows that are shown for the result.

        Returns
        -------
        list of tuple
            Pairs of a label and a value, at most ten.
        """
        raise NotImplementedError

    def __eq__(self, other):
        if type(self) is not type(other):
            return NotImplemented
        return all(_equal(getattr(self, f.name), getattr(other, f.name)) for f in fields(self))

    __hash__ = object.__hash__

    def __str__(self):
        rows = self.rows()
        width = max((len(label) for label, _ in rows), default=0)
        lines = (wrapped(f"  {label:{width}}  ", value) for label, value in rows)
        return "\n".join([type(self).__name__, *lines])

    def __repr__(self):
        lines = Result.__str__(self).splitlines()
        if len(lines) > MAX_REPR_LINES:
            lines[MAX_REPR_LINES - 1 :] = ["  ... (print it to see the rest)"]
        return "\n".join(lines)

    def _repr_html_(self):
        left = "style='text-align:left'"
        rows = "".join(f"<tr><th {left}>{escape(label)}</th><td {left}>{escape(value)}</td></tr>"
                       for label, value in self.rows())
        return f"<table><caption>{type(self).__name__}</caption><tbody>{rows}</tbody></table>"


def shape_text(shape) -> str:
    """Write a shape as text, such as 20 x 20.

    Parameters
    ----------
    shape : tuple of int
        The shape.

    Returns
    -------
    str
        The text.
    """
    return " x ".join(str(int(n)) for n in shape)


def wrapped(start: str, text: str) -> str:
    """Break text into lines of TEXT_WIDTH characters.

    Parameters
    ----------
    start : str
        Start of the first line.
    text : str
        The text.

    Returns
    -------
    str
        The lines; later ones are indented as far as the text of the first.
    """
    return textwrap.fill(text, TEXT_WIDTH, initial_indent=start, subsequent_indent=" " * len(start))


def _equal(a, b):
    if isinstance(a, np.ndarray) or isinstance(b, np.ndarray):
        a, b = np.asarray(a), np.asarray(b)
        return a.shape == b.shape and bool(np.array_equal(a, b, equal_nan=a.dtype.kind == "f" == b.dtype.kind))
    if type(a) is type(b) and is_dataclass(a) and not isinstance(a, Result):
        return all(_equal(getattr(a, f.name), getattr(b, f.name)) for f in fields(a))
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(_equal(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple) and isinstance(b, list | tuple):
        return len(a) == len(b) and all(_equal(x, y) for x, y in zip(a, b, strict=True))
    if isinstance(a, float) and isinstance(b, float) and np.isnan(a) and np.isnan(b):
        return True
    return bool(a == b)


class Decided(Result):
    """A result with a `decision`."""

    decision: Decision

    @property
    def accepted(self) -> bool:
        """Whether the result can be used."""
        return self.decision.accepted

    @property
    def flags(self) -> tuple[Flag, ...]:
        """The flags of the result, the most important first."""
        return self.decision.flags

    @property
    def reason(self) -> str:
        """The flags as text."""
        return self.decision.text
