"""What commands read and print: a scan, JSON on stdout, all other text on stderr."""

import json
import sys
import warnings
from contextlib import contextmanager, redirect_stdout

import typer

from .options import pair


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
