"""Commands that look at a scan or a file: `report` and `info`."""

from pathlib import Path
from typing import Annotated

import typer

from .common import Cube, Device, Json, Scan, Shape, all_to_stderr, echo_json, open_cube


def report(
    file: Scan,
    output: Annotated[Path, typer.Option("--output", "-o", help="The new .html file.")],
    device: Device = "auto",
    scan: Shape = None,
    cube: Cube = None,
    fast: Annotated[bool, typer.Option(help="Leave out denoising, and the checks on halves of the electrons.")] = False,
    as_json: Json = False,
):
    """Write a web page that says whether the calibration of a scan can be used, and why.

    JSON: saved, light (green, amber or red), answer, verdicts (topic, question,
    light, answer and flags of each).
    """
    from ..io import check_output

    check_output(output, (".html", ".htm"))
    with all_to_stderr(as_json):
        datacube = open_cube(file, scan, cube)
        from ..review import report

        verdicts = report(datacube, output, device=device, fast=fast)
    from ..report import of_verdicts

    summary = {"saved": str(output)} | of_verdicts(verdicts)
    if as_json:
        echo_json(summary)
    else:
        typer.echo(f"Can I go on? {summary['answer']}\nSaved {output}.")


def info(
    file: Annotated[Path | None, typer.Argument(metavar="FILE", help="File to describe.")] = None,
    as_json: Json = False,
):
    """Print versions and device; for a file, print its type, its contents and how it was processed.

    JSON: versions by package, python, platform, device; or file, kind, contents
    (path, kind, shape, dtype, compression, record), scan_shape,
    possible_scan_shapes, pixel_sizes, calibration, flags.
    """
    with all_to_stderr(as_json):
        if file is None:
            from ..report import of_versions

            described = of_versions()
        else:
            from ..io import describe_file

            described = describe_file(file)
    if as_json:
        echo_json(described)
    elif file is None:
        typer.echo("\n".join(f"{name}: {value}" for name, value in described.items()))
    else:
        _echo_contents(described)


def _echo_contents(described):
    """Print the result of `describe_file`: a line for each object, and lines on the scan."""
    if all(part["path"] for part in described["contents"]):
        typer.echo(f"{described['file']} ({described['kind']})")
    for part in described["contents"]:
        kind = "a scan" if part["kind"] == "scan" else part["kind"]
        shape = "" if part["shape"] is None else f" of shape {tuple(part['shape'])}, {part['dtype']}"
        compression = f", compressed ({part['compression']})" if part["compression"] else ""
        where = part["path"] or f"{described['file']} ({described['kind']})"
        typer.echo(f"{where}: {kind}{shape}{compression}")
        if part["record"]:
            _echo_record(part["record"])
    if described["possible_scan_shapes"]:
        shapes = ", ".join(f"{rows},{columns}" for rows, columns in described["possible_scan_shapes"])
        typer.echo(f"The shape of the scan is not certain; --scan takes one of {shapes}.")
    elif described["scan_shape"] and any(part["kind"] == "stack of patterns" for part in described["contents"]):
        typer.echo(f"The scan is {described['scan_shape'][0]} x {described['scan_shape'][1]}.")
    for space, (size, unit) in sorted(described["pixel_sizes"].items()):
        typer.echo(f"{space} pixel size: {size:.6g} {unit}")
    if described["calibration"]:
        typer.echo(f"Calibrated: {', '.join(described['calibration'])}.")
    for flag in described["flags"]:
        typer.echo(f"{flag['sentence']} {flag['action']}".strip())


def _echo_record(record):
    """Print who processed a scan, when and how, and the warnings at that time; --json prints all of it."""
    typer.echo(f"  processed by {record.get('package')} {record.get('version')}, {record.get('date')}")
    for name, value in (record.get("settings") or {}).items():
        typer.echo(f"  {name}: {value}")
    for flag in record.get("flags") or ():
        if flag.get("severity") != "info":
            typer.echo(f"  {flag.get('severity')}: {flag.get('sentence')}")
