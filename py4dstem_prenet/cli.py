"""The command `prenet`: the functions of `DataCube.prenet`, for files.

Each command imports py4DSTEM and torch only when it needs them, because both take seconds to load. The docstring of a
command is its help text.
"""

import json
import sys
import warnings
from contextlib import contextmanager, redirect_stdout
from enum import Enum
from pathlib import Path
from typing import Annotated

import typer
from typer.core import TyperGroup

from ._version import __version__
from .core import PrenetError


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
    help="""Measure the origin and ellipse of 4D-STEM scans, and denoise them, with trained networks.

Calibrate a scan:       prenet calibrate scan.h5 -o calibrated.h5
Calibrate a session:    prenet calibrate *.h5 -o folder --like gold_calibrated.h5
Check the calibration:  prenet report calibrated.h5 -o report.html
Find its Bragg disks:   prenet disks calibrated.h5 -o disks.h5
Denoise the scan:       prenet denoise calibrated.h5 -o denoised.h5

Exit codes: 0 success, where the report may refuse single quantities; 1 refused as a whole or failed, with the reason on
stderr and no output file; 2 wrong usage.
With --json, the result is one JSON object on stdout, and all other text goes to stderr.""",
)

Scan = Annotated[Path, typer.Argument(metavar="FILE", help="EMD, HDF5, .npy, or a detector file.")]
Output = Annotated[Path, typer.Option("--output", "-o", help="The new file.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")]
Shape = Annotated[str | None, typer.Option(metavar="RX,RY", help="Shape of the scan, if the file does not store it.")]
Cube = Annotated[str | None, typer.Option(help="Name of the DataCube, if the file holds several.")]
Scheduler = Annotated[str | None, typer.Option(metavar="ADDRESS", help="Address of a Dask cluster to compute on.")]
Mask = Annotated[Path | None, typer.Option(help="A .npy file, bool (Qx, Qy): True where a pixel is good.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout, all other text on stderr.")]

_ACCEPTS_OUT = {"token_normalize_func": lambda name: "output" if name == "out" else name}  # --out, the former name


class Task(str, Enum):
    """The networks that can be trained."""

    denoise = "denoise"
    center = "center"
    ellipse = "ellipse"


def _print_version(wanted: bool):
    if wanted:
        typer.echo(f"prenet {__version__}")
        raise typer.Exit


@app.callback()
def _options(version: Annotated[bool, typer.Option("--version", callback=_print_version, is_eager=True,
                                                   help="Print the version and exit.")] = False):
    pass


@app.command(context_settings=_ACCEPTS_OUT)
def demo(output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the results.")] = Path("demo")):
    """Calibrate the scan that comes with the package; print the results beside the truth, save a file and figures."""
    from .demo import run

    run(output)


@app.command()
def calibrate(
    files: Annotated[list[Path], typer.Argument(metavar="FILES...", help="EMD, HDF5, .npy, or detector files.")],
    output: Annotated[Path | None, typer.Option("--output", "-o", help="The new file; of several files, the "
                                                "folder.")] = None,
    calibration_only: Annotated[bool, typer.Option("--calibration-only", help="Leave the patterns out.")] = False,
    center: Annotated[str | None, typer.Option(metavar="QX,QY", help="Where the search for the direct beam starts, "
                                               "px.")] = None,
    radius: Annotated[float | None, typer.Option(help="Radius of the direct disk, px, where its fit starts.")] = None,
    model: Annotated[str, typer.Option(help="Descan: auto, constant, plane, parabola or spline.")] = "auto",
    region: Annotated[str | None, typer.Option(metavar="R0,R1,C0,C1", help="Scan rows R0 to R1 - 1 and columns C0 to "
                                               "C1 - 1, from which descan and ellipse are determined.")] = None,
    ellipse: Annotated[str, typer.Option(metavar="on|off|A,B,THETA", help="Measure it, leave it, or set it "
                                         "(radians).")] = "on",
    like: Annotated[Path | None, typer.Option(help="A calibrated standard, whose ellipse, pixel size and rotation are "
                                              "carried over.")] = None,
    transfer: Annotated[str | None, typer.Option(metavar="NAMES", help="What is carried over: of ellipse, pixel_size, "
                                                 "rotation, descan.")] = None,
    binning: Annotated[float | None, typer.Option(help="Pixels of the standard along the side of a pixel.")] = None,
    replace: Annotated[bool, typer.Option("--replace", help="Replace an origin and ellipse in the file that others "
                                          "set.")] = False,
    write: Annotated[bool, typer.Option(help="Save the file; --no-write prints the report only.")] = True,
    mask: Mask = None,
    rotation: Annotated[bool, typer.Option("--rotation", help="Measure also the rotation of the pattern.")] = False,
    probe: Annotated[bool, typer.Option("--probe", help="Save also the probe, a template for disk detection.")] = False,
    device: Device = "auto",
    scan: Shape = None,
    cube: Cube = None,
    scheduler: Scheduler = None,
    as_json: Json = False,
    standard: Annotated[str | None, typer.Option(help="Known crystal, such as Au, or a CIF file: measures the pixel "
                                                      "size.")] = None,
):
    """Measure origin and ellipse, and save the calibrated scan as an EMD file.

    Several files are calibrated into a folder, with summary.csv and summary.html, and one file if --output is such a
    folder. Files that are done are skipped; one that fails does not stop the others, and the exit code is 1.

    JSON: saved (the file, or null), found, detector, origin, descan, ellipse, pixel_size, rotation, transfer, flags,
    probe (null without --probe); px, 1/Å and radians, the rotation in degrees. Of several files: saved (the folder),
    complete, files (the rows of summary.csv).
    """
    from .io import check_output, load_mask

    series = len(files) > 1 or (output is not None and (output / "summary.csv").exists())
    if write and output is None:
        raise typer.BadParameter("Name the new file or folder, or leave it out with --no-write.", param_hint="--output")
    if series and (not write or cube is not None):
        raise PrenetError("--no-write and --cube are for a single file.")
    if write and not series:
        check_output(output)
    options = {
        "mask": None if mask is None else load_mask(mask), "device": device, "radius": radius, "model": model,
        "center": None if center is None else _numbers(center, 2, "--center"), "replace": replace,
        "region": None if region is None else _region(region),
        "like": like, "transfer": None if transfer is None else transfer.split(","), "binning": binning,
        "standard": standard, "rotation": rotation,
        "ellipse": ellipse == "on" if ellipse in ("on", "off") else _numbers(ellipse, 3, "--ellipse", "on, off, or ")}
    if series:
        _calibrate_series(files, output, options, not calibration_only, scan, scheduler, as_json)
        return
    options["write"] = write
    with _all_to_stderr(as_json):
        datacube = _open(files[0], scan, cube)
        from . import calibrate, save, use_cluster

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
        from .report import of_calibration

        _echo_json({"saved": saved} | of_calibration(report) | {"probe": made})
    if not report.origin.found:
        _fail(f"{output} was not written, because no direct beam was found." if write else "No direct beam was found.")


def _calibrate_series(files, folder, options, data, scan, scheduler, as_json):
    """Calibrate several files into a folder."""
    with _all_to_stderr(as_json):
        from . import calibrate_files, use_cluster

        with use_cluster(scheduler):
            series = calibrate_files(files, folder, data=data, scan_shape=None if scan is None else _pair(
                scan, "--scan"), **options)
        typer.echo(str(series))
    if as_json:
        _echo_json({"saved": str(series.folder), "complete": series.complete,
                    "files": [outcome.row for outcome in series.files]})
    if not series.complete:
        failed = sum(not outcome.saved for outcome in series.files)
        _fail(f"{failed} of {len(series.files)} files were not calibrated; see {series.table}.")


def _make_probe(datacube):
    """Attach the probe to a cube, or say why there is none; return what was measured, for JSON."""
    from .report import of_probe

    try:
        probe = datacube.prenet.probe()
    except PrenetError as error:
        typer.echo(str(error))
        return {"accepted": False, "reason": str(error)}
    typer.echo("Probe: in the tree of the file as \"probe\".")
    return of_probe(probe)


@app.command()
def denoise(
    file: Scan,
    output: Output,
    weights: Annotated[str, typer.Option(help="Name of the weights, or a file that finetune wrote.")] = "denoise",
    device: Device = "auto",
    scan: Shape = None,
    cube: Cube = None,
    scheduler: Scheduler = None,
):
    """Denoise a scan and save it as an EMD file.

    Strain, rotation and intensities that vary smoothly over the scan are kept; steps that are weaker than the noise of
    a single pattern are attenuated. The report says what is kept; measure the rest on the raw counts.
    """
    from .io import check_output

    check_output(output)
    datacube = _open(file, scan, cube)
    from . import denoise, use_cluster

    with use_cluster(scheduler):
        denoise(datacube, out=output, weights=weights, device=device)
    typer.echo(f"Saved {output}.")


@app.command()
def disks(
    file: Scan,
    output: Output,
    false_alarm: Annotated[float, typer.Option(help="Mean number of false disks in a pattern.")] = 0.1,
    weights: Annotated[str, typer.Option(help="What stands for the intensity of a disk: intensity or precision.")]
    = "intensity",
    mask: Mask = None,
    device: Device = "auto",
    scan: Shape = None,
    cube: Cube = None,
    scheduler: Scheduler = None,
):
    """Find the Bragg disks of a calibrated scan, and save them as py4DSTEM's BraggVectors in an EMD file.

    py4DSTEM's strain map weights disks by their intensity: give --weights precision for strain.
    """
    from .io import check_output, load_mask, save_bragg_vectors

    check_output(output)
    datacube = _open(file, scan, cube)
    from . import bragg_disks, use_cluster

    with use_cluster(scheduler), _warnings_to_stderr():
        vectors = bragg_disks(datacube, false_alarm, weights, None if mask is None else load_mask(mask), device)
    save_bragg_vectors(vectors, output)
    counts = [len(vectors.raw[x, y].qx) for x in range(vectors.Rshape[0]) for y in range(vectors.Rshape[1])]
    typer.echo(f"Saved {output}: {sum(counts):,} disks in {len(counts):,} patterns.")


@app.command()
def correct(file: Scan, output: Output, scan: Shape = None, cube: Cube = None, scheduler: Scheduler = None):
    """Resample a calibrated scan to a common center and round rings, and save it as an EMD file."""
    from .io import check_output

    check_output(output)
    datacube = _open(file, scan, cube)
    from . import corrected, use_cluster

    with use_cluster(scheduler):
        corrected(datacube, out=output)
    typer.echo(f"Saved {output}.")


@app.command()
def finetune(
    file: Scan,
    output: Annotated[Path, typer.Option("--output", "-o", help="The new weights, .safetensors.")],
    minutes: Annotated[float, typer.Option(min=0, help="How long to train.")] = 5.0,
    device: Device = "auto",
    scan: Shape = None,
    cube: Cube = None,
):
    """Fine-tune the denoising network on a scan; save the weights if they are better on held-out electrons."""
    from .io import check_output

    check_output(output, (".safetensors",))
    datacube = _open(file, scan, cube)
    from . import finetune

    result = finetune(datacube, out=output, minutes=minutes, device=device)
    if not result.accepted:
        _fail(str(result))
    typer.echo(str(result))


@app.command(context_settings=_ACCEPTS_OUT)
def report(
    file: Scan,
    output: Annotated[Path, typer.Option("--output", "-o", help="The new .html file.")],
    device: Device = "auto",
    scan: Shape = None,
    cube: Cube = None,
    fast: Annotated[bool, typer.Option(help="Leave out denoising and the checks on halves of the electrons.")] = False,
    as_json: Json = False,
):
    """Write a web page that says whether the calibration of a scan can be used, and why.

    JSON: saved, light (green, amber or red), answer, verdicts (topic, question, light, answer and flags of each).
    """
    from .io import check_output

    check_output(output, (".html", ".htm"))
    with _all_to_stderr(as_json):
        datacube = _open(file, scan, cube)
        from .review import report

        verdicts = report(datacube, output, device=device, fast=fast)
    from .report import of_verdicts

    summary = {"saved": str(output)} | of_verdicts(verdicts)
    if as_json:
        _echo_json(summary)
    else:
        typer.echo(f"Can I go on? {summary['answer']}\nSaved {output}.")


@app.command()
def info(
    file: Annotated[Path | None, typer.Argument(help="File to describe.")] = None,
    as_json: Json = False,
):
    """Print versions and device, or what a file is and holds, and how it was processed; --json prints all details.

    JSON: versions by package, python, platform, device; or file, kind, contents (path, kind, shape, dtype, compression,
    record), scan_shape, possible_scan_shapes, pixel_sizes, calibration, flags.
    """
    with _all_to_stderr(as_json):
        if file is None:
            from .report import of_versions

            described = of_versions()
        else:
            from .io import describe_file

            described = describe_file(file)
    if as_json:
        _echo_json(described)
    elif file is None:
        typer.echo("\n".join(f"{name}: {value}" for name, value in described.items()))
    else:
        _echo_contents(described)


def _echo_contents(described):
    """Print what `describe_file` returned: a line for each object, and lines for what is known of the scan."""
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


@app.command()
def weights(
    adopt: Annotated[Path | None, typer.Option("--import", metavar="FILE", help="Copy a .safetensors file into the "
                                               "folder that PY4DSTEM_PRENET_WEIGHTS names.")] = None,
):
    """List and verify the weights that are installed, or import a file of weights."""
    from .networks import weights

    if adopt is not None:
        typer.echo(f"Imported {weights.adopt(adopt)}.")
        return
    n_failed = 0
    for name in weights.names():
        try:
            digest, card = weights.verify(name), weights.card(name)
            typer.echo(f"{name}  {card['task']}, sha256 {digest}, verified, {weights.find(name)}")
        except PrenetError as error:
            n_failed += 1
            typer.echo(f"{name}  {error}")
    if n_failed:
        raise typer.Exit(1)


@app.command(context_settings=_ACCEPTS_OUT)
def train(
    task: Task,
    minutes: Annotated[float | None, typer.Option(min=0, help="Stop after this time.")] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Stop after this number of steps.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of all random numbers.")] = 0,
    resume: Annotated[bool, typer.Option("--resume", help="Continue the run in the --output folder.")] = False,
    start: Annotated[str | None, typer.Option(help="Initial weights: a name, or a file.")] = None,
    part: Annotated[str | None, typer.Option(help="Train only this part: coarse or fine, rings or disk.")] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Folder of the run; default runs/TASK.")] = None,
    device: Device = "cpu",
):
    """Train a network on simulated patterns; write its weights and model card to the folder of the run."""
    folder = Path("runs") / task.value if output is None else output
    if resume and not folder.is_dir():
        raise PrenetError(f"There is no run in {folder} to resume; leave --resume out to start one.")
    if not resume and folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise PrenetError(f"{folder} is in use already; continue it with --resume, or choose another --output.")
    from .training import export, train

    given = {"part": part, "minutes": minutes, "steps": steps}
    options = " ".join(f"--{name} {value}" for name, value in given.items() if value)
    train(task.value, minutes=minutes, steps=steps, seed=seed, resume=resume, out=folder, start=start, part=part,
          device=device)
    typer.echo(f"Saved {export(folder, folder, f'prenet train {task.value} {options} --seed {seed}')}.")


@app.command()
def simulate(
    output: Output,
    scan: Annotated[str, typer.Option(metavar="RX,RY", help="Number of probe positions.")] = "16,16",
    shape: Annotated[str, typer.Option(metavar="QX,QY", help="Pixels of each pattern.")] = "128,128",
    dose: Annotated[float, typer.Option(min=0, help="Electrons per pattern.")] = 10_000,
    seed: Annotated[int, typer.Option(help="Seed of all random numbers.")] = 0,
    acquire: Annotated[bool, typer.Option("--acquire", help="Write pattern after pattern, like a detector.")] = False,
    rate: Annotated[float, typer.Option(min=0, help="With --acquire: patterns per second.")] = 1000,
    fault: Annotated[str | None, typer.Option(help="With --acquire: beam-loss, jump or saturation.")] = None,
):
    """Simulate a scan with known origin and ellipse, and save it with the truth as an EMD file.

    With --acquire the patterns are written one after another at a given rate, as input for `prenet watch`, to a growing
    HDF5 file (.h5) or to a file of raw patterns (.raw).
    """
    scan, shape = _pair(scan, "--scan"), _pair(shape, "--shape")
    if fault is not None and not acquire:
        raise typer.BadParameter("Faults are simulated with --acquire only.", param_hint="--fault")
    if acquire:
        from .simulation import Acquisition, acquire

        achieved = acquire(output, Acquisition(scan, shape, dose, seed, fault=fault), rate)
        typer.echo(f"Wrote {output} at {achieved:.0f} patterns per second.")
        return
    from .io import check_output, save_scan

    check_output(output)
    from .simulation import simulate

    simulated = simulate(scan, shape, dose=dose, seed=seed)
    save_scan(output, simulated.counts, simulated.truth)
    typer.echo(f"Saved {output}.")


@app.command()
def watch(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="HDF5 in SWMR mode, or raw patterns; need not exist "
                                         "yet.")],
    scan: Annotated[str, typer.Option(metavar="RX,RY", help="Shape of the scan.")],
    output: Annotated[Path | None, typer.Option("--output", "-o", help="A new file for the calibration.")] = None,
    shape: Annotated[str | None, typer.Option(metavar="QX,QY", help="Raw file: pixels of each pattern.")] = None,
    dtype: Annotated[str, typer.Option(help="Raw file: numpy type of the values, such as uint16 or >u2.")] = "uint16",
    header: Annotated[int, typer.Option(help="Raw file: bytes before the first pattern.")] = 0,
    gap: Annotated[int, typer.Option(help="Raw file: bytes after each pattern.")] = 0,
    dataset: Annotated[str | None, typer.Option(help="Name of the data set, if an HDF5 file holds several.")] = None,
    mask: Mask = None,
    strain: Annotated[float | None, typer.Option(help="Strain precision needed per position, such as 0.002.")] = None,
    timeout: Annotated[float, typer.Option(help="Seconds without a new pattern after which the scan is over.")] = 30,
    serve: Annotated[int | None, typer.Option(metavar="PORT", help="Serve a web page locally; 0: any port.")] = None,
    device: Device = "auto",
):
    """Calibrate a scan while it is being written, and warn of problems. A restarted watch continues from the file."""
    from .io import check_output, load_mask

    scan, shape = _pair(scan, "--scan"), None if shape is None else _pair(shape, "--shape")
    if output is not None:
        check_output(output)
    good = None if mask is None else load_mask(mask)
    from .live import watch_file

    layout = dict(shape=shape, dtype=dtype, header=header, gap=gap, name=dataset)
    try:
        report = watch_file(file, scan, layout, mask=good, device=device, output=output, strain=strain, timeout=timeout,
                            port=serve)
    except KeyboardInterrupt:
        _fail("interrupted, and nothing was saved; a restarted watch continues from the file.", 130)
    if report is None:
        _fail("the file does not contain a complete row of the scan; nothing was calibrated.")
    typer.echo(str(report))
    if not report.origin.found:
        _fail("nothing was calibrated or saved, because no direct beam was found.")
    if output is not None:
        typer.echo(f"Saved {output}.")


def _pair(text, option):
    """Two positive integers from text such as "16,16" or "16x16"."""
    try:
        first, second = (int(part) for part in text.replace("x", ",").split(","))
    except ValueError:
        first = 0
    if first < 1 or second < 1:
        raise PrenetError(f"{option} takes two positive whole numbers such as 16,16, not {text!r}.")
    return first, second


def _numbers(text, count, option, otherwise=""):
    """Numbers from text such as "61,64.5"."""
    try:
        values = tuple(float(part) for part in text.split(","))
    except ValueError:
        values = ()
    if len(values) != count:
        raise PrenetError(f"{option} takes {otherwise}{count} numbers with commas between them, not {text!r}.")
    return values


def _region(text):
    """Two slices from text such as "0,10,5,20"."""
    numbers = _numbers(text, 4, "--region")
    if any(n != int(n) for n in numbers):
        raise PrenetError(f"--region takes whole numbers, not {text!r}.")
    first, last, left, right = map(int, numbers)
    return slice(first, last), slice(left, right)


def _open(file, scan, cube):
    """The DataCube in a file; what `open` warns of goes to stderr."""
    from .io import open as open_scan

    with _warnings_to_stderr():
        return open_scan(file, None if scan is None else _pair(scan, "--scan"), cube)


@contextmanager
def _warnings_to_stderr():
    """Print the user warnings of the block on stderr, without file and line."""
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always", UserWarning)
        yield
    for warning in told:
        if warning.category is UserWarning:
            typer.echo(f"prenet: {warning.message}", err=True)


@contextmanager
def _all_to_stderr(wanted):
    """Keep stdout for the JSON object: all that is printed meanwhile goes to stderr."""
    with redirect_stdout(sys.stderr if wanted else sys.stdout):
        yield


def _fail(reason, code=1):
    """Print a reason on stderr and exit."""
    typer.echo(f"prenet: {reason}", err=True)
    raise typer.Exit(code) from None


def _echo_json(result):
    typer.echo(json.dumps(result, ensure_ascii=False, allow_nan=False))


def main():
    """Run the command `prenet`."""
    app()


if __name__ == "__main__":
    main()
