"""Flags: the statements of this package about its results, from one table (`flag_table`).

A decision carries flags, each with its numbers. Reports, verdicts, JSON, pages and alarms are made from flags, and
`docs/flags.md` is written from the table; no code reads a sentence.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from .flag_table import (
    CALIBRATION_FLAGS,
    DENOISING_FLAGS,
    DESCAN_FLAGS,
    DETECTOR_FLAGS,
    ELLIPSE_FLAGS,
    FILES_FLAGS,
    LIVE_FLAGS,
    ORIGIN_FLAGS,
    PIXEL_SIZE_FLAGS,
    PROBE_FLAGS,
    ROTATION_FLAGS,
    SUMMARY_FLAGS,
    TRANSFER_FLAGS,
)

INFO, WARNING, REFUSAL = "info", "warning", "refusal"
SEVERITIES = (INFO, WARNING, REFUSAL)


@dataclass(frozen=True)
class FlagKind:
    """One row of the table.

    Attributes
    ----------
    name : str
        Unique name, for programs.
    stage : str
        The stage that raises it.
    severity : str
        "info", "warning" or "refusal".
    sentence : str
        Sentence with placeholders for the numbers.
    action : str
        What the user should do; empty if nothing.
    """

    name: str
    stage: str
    severity: str
    sentence: str
    action: str = ""


@dataclass(frozen=True)
class Flag:
    """One statement about one result.

    Attributes
    ----------
    name : str
        A name of the table `FLAGS`.
    numbers : dict
        Its numbers, of types that JSON supports.

    Examples
    --------
    >>> flag = Flag("beam_missing", {"count": 3, "total": 36})
    >>> flag.severity, flag.kind.stage, flag.numbers["count"]
    ('warning', 'origin', 3)
    """

    name: str
    numbers: Mapping = field(default_factory=dict)

    def __post_init__(self):
        if self.name not in FLAGS:
            raise KeyError(f"There is no flag {self.name!r}.")

    @property
    def kind(self) -> FlagKind:
        """The row of the table."""
        return FLAGS[self.name]

    @property
    def severity(self) -> str:
        """Severity: "info", "warning" or "refusal"."""
        return self.kind.severity

    @property
    def sentence(self) -> str:
        """The statement, with its numbers."""
        return self.kind.sentence.format(**self._words)

    @property
    def action(self) -> str:
        """Advice for the user; empty if there is none."""
        return self.kind.action.format(**self._words)

    @property
    def _words(self):
        """Return the numbers, with each list of names, numbers or positions (row, column) as text."""
        return {name: _listed(value) if isinstance(value, list) else value for name, value in self.numbers.items()}

    def to_json(self) -> dict:
        """Return the flag as plain data.

        Returns
        -------
        dict
            flag, stage, severity, numbers, sentence and action.
        """
        return {"flag": self.name, "stage": self.kind.stage, "severity": self.severity, "numbers": dict(self.numbers),
                "sentence": self.sentence, "action": self.action}

    def __str__(self):
        return f"{self.sentence} {self.action}".strip()


@dataclass(frozen=True)
class Decision:
    """Whether a result can be used, and why.

    Attributes
    ----------
    accepted : bool
        Whether the result can be used.
    flags : tuple of Flag
        Flags of the result, the most important first.
    numbers : dict
        The statistics of the decision, of types that JSON supports.
    """

    accepted: bool
    flags: tuple[Flag, ...] = ()
    numbers: Mapping = field(default_factory=dict)

    @property
    def text(self) -> str:
        """The flags as one line of text."""
        return " ".join(str(flag) for flag in self.flags)

    def has(self, *names: str) -> bool:
        """Return whether any of these flags is raised.

        Parameters
        ----------
        *names : str
            Names of flags.

        Returns
        -------
        bool
            True if at least one is raised.
        """
        return has_flag(self.flags, *names)


def has_flag(flags, *names: str) -> bool:
    """Return whether flags include one with any of the given names.

    Parameters
    ----------
    flags : iterable of Flag
        Flags that were raised.
    *names : str
        Names to look for.

    Returns
    -------
    bool
        True if at least one is there.
    """
    return any(flag.name in names for flag in flags)


def _listed(items):
    """Names, numbers, or positions as (row, column), as text; "none" for an empty list."""
    words = (f"({item[0]}, {item[1]})" if isinstance(item, list | tuple) else str(item) for item in items)
    return ", ".join(words) or "none"


def worst_severity(flags) -> str:
    """Return the highest severity of flags.

    Parameters
    ----------
    flags : iterable of Flag
        Flags that were raised.

    Returns
    -------
    str
        "info", "warning" or "refusal"; "info" without any flag.
    """
    return SEVERITIES[max((SEVERITIES.index(flag.severity) for flag in flags), default=0)]


_STAGES = {  # in the order of docs/flags.md
    "detector": DETECTOR_FLAGS, "origin": ORIGIN_FLAGS, "descan": DESCAN_FLAGS, "ellipse": ELLIPSE_FLAGS,
    "pixel_size": PIXEL_SIZE_FLAGS, "rotation": ROTATION_FLAGS, "probe": PROBE_FLAGS, "calibration": CALIBRATION_FLAGS,
    "transfer": TRANSFER_FLAGS, "denoising": DENOISING_FLAGS, "files": FILES_FLAGS, "live": LIVE_FLAGS,
    "summary": SUMMARY_FLAGS}
FLAGS: dict[str, FlagKind] = {
    row[0]: FlagKind(row[0], stage, *row[1:]) for stage, rows in _STAGES.items() for row in rows}
