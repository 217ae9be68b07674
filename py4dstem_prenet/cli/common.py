"""What commands share: options, the scan that they open, and what goes to stdout and stderr."""

import json
import sys
import warnings
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Annotated

import typer

from ..core import PrenetError

Scan = Annotated[Path, typer.Argument(metavar="FILE", help="EMD, HDF5, .npy, or a detector file.")]
Output = Annotated[Path, typer.Option("--output", "-o", help="The new file.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")]
Shape = Annotated[str | None, typer.Option(metavar="RX,RY", help="Shape of the scan, if the file does not store it.")]
Cube = Annotated[str | None, typer.Option(help="Name of the DataCube, if the file holds several.")]
Scheduler = Annotated[str | None, typer.Option(metavar="ADDRESS", help="Address of a Dask cluster to compute on.")]
Mask = Annotated[Path | None, typer.Option(help="Detector mask: a .npy file, bool (Qx, Qy), True for good pixels.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout, all other text on stderr.")]


def pair(text, option):
    """Two positive integers from text such as "16,16" or "16x16"."""
    try:
        first, second = (int(part) for part in text.replace("x", ",").split(","))
    except ValueError:
        first = 0
    if first < 1 or second < 1:
        raise PrenetError(f"{option} takes two positive whole numbers such as 16,16, not {text!r}.")
    return first, second


def parse_numbers(text, count, option, otherwise=""):
    """Numbers from text such as "61,64.5"."""
    try:
        values = tuple(float(part) for part in text.split(","))
    except ValueError:
        values = ()
    if len(values) != count:
        raise PrenetError(f"{option} takes {otherwise}{count} numbers with commas between them, not {text!r}.")
    return values


def region_of(text, name="--region"):
    """Two slices from text such as "0,10,5,20", the value of the option `name`."""
    numbers = parse_numbers(text, 4, name)
    if any(n != int(n) for n in numbers):
        raise PrenetError(f"{name} takes whole numbers, not {text!r}.")
    first, last, left, right = map(int, numbers)
    return slice(first, last), slice(left, right)


def open_cube(file, scan, cube):
    """The DataCube in a file; what `open` warns of goes to stderr."""
    from ..io import open as open_scan

    with warnings_to_stderr():
        return open_scan(file, None if scan is None else pair(scan, "--scan"), cube)


@contextmanager
def warnings_to_stderr():
    """Print the user warnings of the block on stderr, without file and line."""
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always", UserWarning)
        yield
    for warning in told:
        if warning.category is UserWarning:
            typer.echo(f"prenet: {warning.message}", err=True)


@contextmanager
def all_to_stderr(wanted):
    """Keep stdout for the JSON object: all that is printed meanwhile goes to stderr."""
    with redirect_stdout(sys.stderr if wanted else sys.stdout):
        yield


def fail(reason, code=1):
    """Print a reason on stderr and exit."""
    typer.echo(f"prenet: {reason}", err=True)
    raise typer.Exit(code) from None


def echo_json(result):
    typer.echo(json.dumps(result, ensure_ascii=False, allow_nan=False))
