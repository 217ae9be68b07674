"""Summary of a series as a CSV table and an HTML page."""

from __future__ import annotations

import csv
import io
from datetime import datetime, timezone
from pathlib import Path

from ..core import PrenetError
from . import COLUMNS, FileOutcome, drift_panels

_MARK = '<meta name="generator" content="py4dstem_prenet series">'
_SHOWN = (  # columns of the page, heading and format
    ("file", "file", "{}"), ("light", "", "{}"), ("qx0_px", "qx0, px", "{:.2f}"), ("qy0_px", "qy0, px", "{:.2f}"),
    ("sigma_px", "sigma, px", "{:.2g}"), ("descan", "descan", "{}"), ("span_qx_px", "span qx, px", "{:.2f}"),
    ("span_qy_px", "span qy, px", "{:.2f}"), ("ratio", "a/b", "{:.4f}"), ("ellipse_sigma", "sigma", "{:.4f}"),
    ("theta_rad", "theta, rad", "{:.3f}"), ("ellipse_by", "by", "{}"), ("pixel_size", "pixel size", "{:.5g}"),
    ("pixel_unit", "", "{}"), ("rotation_deg", "rotation, °", "{:.2f}"), ("seconds", "s", "{:.1f}"),
    ("flags", "warnings and refusals", "{}"), ("problem", "problem", "{}"))


def read_summary(table: Path, page: Path) -> list[FileOutcome]:
    """Read the rows of the summary of an earlier run.

    Parameters
    ----------
    table : pathlib.Path
        The CSV file.
    page : pathlib.Path
        The HTML file.

    Returns
    -------
    list of FileOutcome
        The files; empty if there is no summary.

    Raises
    ------
    PrenetError
        If a file with one of these names is not a summary.
    """
    for path, mark in ((table, ",".join(COLUMNS)), (page, _MARK)):
        if path.exists() and mark not in path.read_text(encoding="utf-8", errors="replace")[:4096]:
            raise PrenetError(f"{path} is not a summary of this version; choose another folder.")
    if not table.exists():
        return []
    with table.open(encoding="utf-8", newline="") as file:
        rows = [{name: _value(text) for name, text in row.items()} for row in csv.DictReader(file)]
    return [FileOutcome(Path(str(row["file"])), table.parent / str(row["output"]), row["state"], row) for row in rows]


def _value(text):
    """Convert text to a number if possible, and empty text to None."""
    try:
        return float(text) if text else None
    except ValueError:
        return text


def write_summaries(outcomes, table: Path, page: Path) -> None:
    """Write the table and the page of a series; those of an earlier run are replaced.

    Parameters
    ----------
    outcomes : sequence of FileOutcome
        The files so far.
    table : pathlib.Path
        The CSV file.
    page : pathlib.Path
        The HTML file.
    """
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: "" if value is None else value for name, value in outcome.row.items()}
                     for outcome in outcomes)
    _replace(table, text.getvalue())
    _replace(page, _page(outcomes, page.parent.resolve().name))


def _replace(path, text):
    """Write a file atomically."""
    part = path.with_name(path.name + ".part")
    part.write_text(text, encoding="utf-8")
    part.replace(path)


def _page(outcomes, name):
    from jinja2 import Environment, PackageLoader

    rows = [outcome.row for outcome in outcomes]
    shown = [column for column in _SHOWN if any(row.get(column[0]) not in (None, "") for row in rows)]
    cells = [[_cell(row, key, form) for key, _, form in shown] for row in rows]
    made = datetime.now(timezone.utc).isoformat(" ", "minutes").replace("+00:00", " UTC")
    saved = sum(outcome.saved for outcome in outcomes)
    template = Environment(loader=PackageLoader(__package__, ""), autoescape=True).get_template("summary.html")
    return template.render(name=name, made=made, mark=_MARK, count=len(rows), saved=saved, cells=cells,
                           headings=[heading for _, heading, _ in shown], panels=drift_panels(outcomes)) + "\n"


def _cell(row, key, form):
    value = row.get(key)
    if key == "light":
        return {"green": "● green", "amber": "▲ amber", "red": "■ red"}.get(value, "")
    if key == "flags" and value:
        return ", ".join(value.split())
    return "" if value is None or value == "" else form.format(value)
