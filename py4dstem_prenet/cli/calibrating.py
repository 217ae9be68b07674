"""Commands that calibrate: `demo` and `calibrate`."""

from pathlib import Path
from typing import Annotated

import typer

from ..core import PrenetError
from .common import (
    Cube,
    Device,
    Json,
    Mask,
    Scheduler,
    Shape,
    all_to_stderr,
    echo_json,
    fail,
    open_cube,
    pair,
    parse_numbers,
    region_of,
)


def demo(output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the results.")] = Path("demo")):
    """Calibrate and denoise the scan that comes with the package, and print the truth beside the results.

    The folder also gets the calibrated scan and figures.
    """
    from ..demo import run

    run(output)


def calibrate(
    files: Annotated[list[Path], typer.Argument(metavar="FILES...", help="EMD, HDF5, .npy, or detector files.")],
    output: Annotated[Path | None, typer.Option("--output", "-o", help="The new file; for several files, "
                                                "the folder.")] = None,
    calibration_only: Annotated[bool, typer.Option("--calibration-only", help="Save without the patterns.")] = False,
    center: Annotated[str | None, typer.Option(metavar="QX,QY", help="Position of the direct beam, px; the search "
                                               "starts there.")] = None,
    radius: Annotated[float | None, typer.Option(help="Approximate radius of the direct disk, px.")] = None,
    model: Annotated[str, typer.Option(help="Descan: auto, constant, plane, parabola or spline.")] = "auto",
    region: Annotated[str | None, typer.Option(metavar="R0,R1,C0,C1", help="Use only rows R0 to R1 - 1 and "
                                               "columns C0 to C1 - 1, for origin, descan, ellipse and pixel size; the "
                                               "descan is extrapolated outside.")] = None,
    ellipse: Annotated[str, typer.Option(metavar="on|off|A,B,THETA", help="on: measure the ellipse; off: keep "
                                         "that of the file; A,B,THETA: set it (radians).")] = "on",
    like: Annotated[Path | None, typer.Option(help="A calibrated standard; its ellipse, pixel size and rotation are "
                                              "carried over.")] = None,
    transfer: Annotated[str | None, typer.Option(metavar="NAMES", help="Quantities to carry over, with commas: "
                                                 "ellipse, pixel_size, rotation, descan.")] = None,
    binning: Annotated[float | None, typer.Option(help="Pixels of the standard across one pixel of this scan.")] = None,
    replace: Annotated[bool, typer.Option("--replace", help="Replace an origin and ellipse that were set by hand."
                                          )] = False,
    write: Annotated[bool, typer.Option(help="Save the file; --no-write prints the report only.")] = True,
    mask: Mask = None,
    rotation: Annotated[bool, typer.Option("--rotation", help="Also measure rotation and flip.")] = False,
    probe: Annotated[bool, typer.Option("--probe", help="Also save the probe, a template for disk detection.")] = False,
    device: Device = "auto",
    scan: Shape = None,
    cube: Cube = None,
    scheduler: Scheduler = None,
    as_json: Json = False,
    standard: Annotated[str | None, typer.Option(help="Known crystal, such as Au, or a CIF file: measures the pixel "
                                                      "size.")] = None,
    approximate: Annotated[float | None, typer.Option(help="Pixel size in 1/Å, known within 10 %; a single crystal "
                                                           "needs it.")] = None,
    standard_region: Annotated[str | None, typer.Option(
        metavar="R0,R1,C0,C1", help="Rows R0 to R1 - 1 and columns C0 to C1 - 1 show the known crystal, for example an "
        "unstrained substrate; origin, descan and the ellipse of the beam still use the whole scan.")] = None,
):
    """Measure origin and ellipse, and save the calibrated scan as an EMD file.

    For several files, --output is a folder, which also gets summary.csv and
    summary.html. More files can be added to it later. Files that are done are
    skipped. If a file fails, the others are still calibrated, and the exit code is 1.

    JSON: saved (the file, or null), found, detector, origin, descan, ellipse,
    pixel_size, rotation, transfer, flags (for each: flag, which is its name,
    stage, severity, numbers, sentence, action), probe (null without --probe).
    Units: px, 1/Å and radians; the rotation is in degrees. For several files:
    saved (the folder), complete, files (the rows of summary.csv).
    """
    from ..io import check_output, load_mask

    series = len(files) > 1 or (output is not None and (output / "summary.csv").exists())
    if write and output is None:
        raise typer.BadParameter("Name the new file or folder; only --no-write needs none.", param_hint="--output")
    if series and (not write or cube is not None):
        raise PrenetError("--no-write and --cube can be used for a single file only.")
    if write and not series:
        check_output(output)
    options = {
        "mask": None if mask is None else load_mask(mask), "device": device, "radius": radius, "model": model,
        "center": None if center is None else parse_numbers(center, 2, "--center"), "replace": replace,
        "region": None if region is None else region_of(region),
        "like": like, "transfer": None if transfer is None else transfer.split(","), "binning": binning,
        "standard": standard, "approximate": approximate, "rotation": rotation,
        "standard_region": None if standard_region is None else region_of(standard_region, "--standard-region"),
        "ellipse": {"on": True, "off": False}.get(ellipse)}
    if options["ellipse"] is None:
        options["ellipse"] = parse_numbers(ellipse, 3, "--ellipse", "on, off, or ")
    if series:
        _calibrate_series(files, output, options, not calibration_only, scan, scheduler, as_json)
        return
    options["write"] = write
    with all_to_stderr(as_json):
        datacube = open_cube(files[0], scan, cube)
        from .. import calibrate, save, use_cluster

        with use_cluster(scheduler):
            report = calibrate(datacube, **options)
        typer.echo(str(report))
        saved = str(output) if report.origin.found and write else None
        made = None
        if saved:
            made = _make_probe(datacube) if probe else None
            save(datacube, output, data=not calibration_only)
            typer.echo(f"Saved {output}.")
    if as_json:
        from ..report import of_calibration

        echo_json({"saved": saved} | of_calibration(report) | {"probe": made})
    if not report.origin.found:
        fail(f"{output} was not written, because no direct beam was found." if write else "No direct beam was found.")


def _calibrate_series(files, folder, options, data, scan, scheduler, as_json):
    """Calibrate several files into a folder."""
    with all_to_stderr(as_json):
        from .. import calibrate_files, use_cluster

        with use_cluster(scheduler):
            series = calibrate_files(files, folder, data=data, scan_shape=None if scan is None else pair(
                scan, "--scan"), **options)
        typer.echo(str(series))
    if as_json:
        echo_json({"saved": str(series.folder), "complete": series.complete,
                    "files": [outcome.row for outcome in series.files]})
    if not series.complete:
        failed = sum(not outcome.saved for outcome in series.files)
        fail(f"{failed} of {len(series.files)} files were not calibrated; see {series.table}.")


def _make_probe(datacube):
    """Attach the probe to a cube, or print the reason why there is none; return the result for JSON."""
    from ..report import of_probe

    try:
        probe = datacube.prenet.probe()
    except PrenetError as error:
        typer.echo(str(error))
        return {"accepted": False, "reason": str(error)}
    typer.echo("Probe: in the tree of the file as \"probe\".")
    return of_probe(probe)
