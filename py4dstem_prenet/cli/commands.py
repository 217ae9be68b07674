"""The command `prenet` and its list of commands."""

from typing import Annotated

import typer
from typer.core import TyperGroup

from .._version import __version__
from ..core import PrenetError
from .acquiring import simulate, watch
from .calibrating import calibrate, demo
from .learning import train, weights
from .patterns import correct, denoise, disks, finetune
from .reviewing import info, report

_ACCEPTS_OUT = {"token_normalize_func": lambda name: "output" if name == "out" else name}  # --out, the former name


class _Commands(TyperGroup):
    """Commands that print the sentence of a `PrenetError` instead of a traceback, and exit with code 1."""

    def invoke(self, ctx):
        try:
            return super().invoke(ctx)
        except PrenetError as error:
            typer.echo(f"prenet: {error}", err=True)
            raise typer.Exit(1) from None


app = typer.Typer(
    cls=_Commands,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="""Calibrate 4D-STEM scans (origin, descan, ellipse, pixel size), find Bragg disks, and denoise patterns.

Calibrate a scan:       prenet calibrate scan.h5 -o calibrated.h5
Calibrate a standard:   prenet calibrate gold.h5 --standard Au -o gold_cal.h5
Calibrate many scans:   prenet calibrate day/*.h5 -o out --like gold_cal.h5
Check the calibration:  prenet report calibrated.h5 -o report.html
Find its Bragg disks:   prenet disks calibrated.h5 -o disks.h5
Denoise the scan:       prenet denoise calibrated.h5 -o denoised.h5

Exit codes: 0 success (single quantities may be refused, see the report);
1 refused or failed, with the reason on stderr and no output file; 2 bad usage.
With --json, stdout holds one JSON object, and all other text goes to stderr.""",
)


for _command in (demo, calibrate, denoise, disks, correct, finetune, report, info, weights, train, simulate, watch):
    app.command(context_settings=_ACCEPTS_OUT if _command in (demo, report, train) else None)(_command)


def _print_version(wanted: bool):
    if wanted:
        typer.echo(f"prenet {__version__}")
        raise typer.Exit


@app.callback()
def _options(version: Annotated[bool, typer.Option("--version", callback=_print_version, is_eager=True,
                                                   help="Print the version and exit.")] = False):
    pass


def main():
    """Run the command `prenet`."""
    app()
