"""The command `prenet`: the same functions as `DataCube.prenet`, for files.

Whatever is slow to import (py4DSTEM, torch) is imported by the command that needs it.
"""

import json
import sys
from contextlib import redirect_stdout
from enum import Enum
from pathlib import Path
from typing import Annotated

import typer
from typer.core import TyperGroup

from .core import PrenetError


class _Commands(TyperGroup):
    def invoke(self, ctx):
        """Bad input is answered with its one sentence, not with a traceback."""
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
    help="""Origin, ellipse and denoising of 4D-STEM scans with trained networks.

A first scan:  prenet calibrate scan.h5 -o calibrated.h5
Can I go on?   prenet report calibrated.h5 -o report.html
Denoise it:    prenet denoise calibrated.h5 -o denoised.h5

Exit codes: 0 done; 1 refused or failed, the reason is on stderr and no file is left; 2 wrong usage.
With --json, results are one JSON object on stdout, and all else goes to stderr.""",
)

Scan = Annotated[Path, typer.Argument(metavar="FILE", help="EMD, HDF5, .npy, or a detector's file.")]
Output = Annotated[Path, typer.Option("--output", "-o", help="The new file.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")]
Shape = Annotated[str | None, typer.Option(metavar="RX,RY", help="The scan's shape, if the file lacks it.")]
Cube = Annotated[str | None, typer.Option(help="Which DataCube, if the file holds several.")]
Scheduler = Annotated[str | None, typer.Option(metavar="ADDRESS", help="Of a Dask cluster, to work there.")]


Json = Annotated[bool, typer.Option("--json", help="One JSON object on stdout, all else on stderr.")]


class Task(str, Enum):
    denoise = "denoise"
    center = "center"
    ellipse = "ellipse"


@app.command()
def demo(out: Annotated[Path, typer.Option(help="The folder for what it makes.")] = Path("demo")):
    """Calibrate the scan that comes with the package; print truth beside result, save file and figures."""
    from .demo import run

    run(out)


@app.command()
def calibrate(
    file: Scan,
    output: Output,
    calibration_only: Annotated[bool, typer.Option("--calibration-only", help="No patterns.")] = False,
    mask: Annotated[Path | None, typer.Option(help="A .npy file, bool (Qx, Qy): True where a pixel is good.")] = None,
    device: Device = "auto",
    scan: Shape = None,
    cube: Cube = None,
    scheduler: Scheduler = None,
    as_json: Json = False,
):
    """Measure origin and ellipse, and save the calibrated scan as an EMD file.

    JSON: saved (the file, or null), found, detector, origin, descan, ellipse, verdicts; px and radians.
    """
    from .io import check_output, load_mask

    check_output(output)
    good = None if mask is None else load_mask(mask)
    datacube = _open(file, scan, cube)
    from .compute import use_cluster
    from .io import save
    from .pipeline import calibrate

    with redirect_stdout(sys.stderr if as_json else sys.stdout):
        with use_cluster(scheduler):
            report = calibrate(datacube, mask=good, device=device)
        typer.echo(str(report))
        if report.origin.found:
            save(datacube, output, data=not calibration_only)
            typer.echo(f"Saved {output}.")
    if as_json:
        from .report import of_calibration

        _echo_json({"saved": str(output) if report.origin.found else None} | of_calibration(report))
    if not report.origin.found:
        typer.echo(f"prenet: {output} was not written, because no direct beam was found.", err=True)
        raise typer.Exit(1)


@app.command()
def denoise(
    file: Scan,
    output: Output,
    weights: Annotated[str, typer.Option(help="Weights to use: a name, or a file from finetune.")] = "denoise",
    device: Device = "auto",
    scan: Shape = None,
    cube: Cube = None,
    scheduler: Scheduler = None,
):
    """Denoise a scan, and save it as an EMD file.

    Do not measure strain or rotation on denoised patterns: smooth variation over the scan is flattened.
    """
    from .io import check_output

    check_output(output)
    datacube = _open(file, scan, cube)
    from .compute import use_cluster
    from .denoising import denoise

    with use_cluster(scheduler):
        denoise(datacube, out=output, weights=weights, device=device)
    typer.echo(f"Saved {output}.")


@app.command()
def correct(file: Scan, output: Output, scan: Shape = None, cube: Cube = None, scheduler: Scheduler = None):
    """Resample a calibrated scan to one center and round rings, and save it as an EMD file."""
    from .io import check_output

    check_output(output)
    datacube = _open(file, scan, cube)
    from .compute import use_cluster
    from .resampling import corrected

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
    """Adapt the denoising network to a scan; its weights are saved if they are better on held-out electrons."""
    from .io import check_output

    check_output(output, (".safetensors",))
    datacube = _open(file, scan, cube)
    from .denoising import finetune

    result = finetune(datacube, out=output, minutes=minutes, device=device)
    typer.echo(str(result))
    if not result.accepted:
        raise typer.Exit(1)


@app.command()
def report(
    file: Scan,
    out: Annotated[Path, typer.Option("--out", "-o", help="The new .html file.")],
    device: Device = "auto",
    scan: Shape = None,
    cube: Cube = None,
    as_json: Json = False,
):
    """Write a web page about a calibrated scan: can I go on with it, and why.

    JSON: saved, light (green, amber or red), answer, verdicts (question, light, answer and why of each).
    """
    from .io import check_output

    check_output(out, (".html", ".htm"))
    datacube = _open(file, scan, cube)
    from .review import report

    with redirect_stdout(sys.stderr if as_json else sys.stdout):
        found = report(datacube, out, device=device)
    from .report import of_verdicts

    told = {"saved": str(out)} | of_verdicts(found)
    if as_json:
        _echo_json(told)
    else:
        typer.echo(f"Can I go on? {told['answer']}\nSaved {out}.")


@app.command()
def info(
    file: Annotated[Path | None, typer.Argument(help="Tell what this file holds.")] = None,
    as_json: Json = False,
):
    """Versions and device; or what a file holds and what was done to it.

    JSON: versions by package, python, platform, device; or file and contents (path, kind, shape, dtype, record).
    """
    from .report import of_file, of_versions

    with redirect_stdout(sys.stderr if as_json else sys.stdout):
        told = of_versions() if file is None else of_file(file)
    if as_json:
        _echo_json(told)
    elif file is None:
        typer.echo("\n".join(f"{name}: {value}" for name, value in told.items()))
    else:
        for part in told["contents"]:
            what = "a scan" if part["kind"] == "scan" else part["kind"]
            shape = "" if part["shape"] is None else f" of shape {tuple(part['shape'])}, {part['dtype']}"
            typer.echo(f"{part['path'] or told['file']}: {what}{shape}")
            if part["record"]:
                typer.echo(json.dumps(part["record"], indent=2, ensure_ascii=False))


@app.command()
def weights(
    adopt: Annotated[Path | None, typer.Option("--import", metavar="FILE", help="Take a .safetensors file into the "
                                               "folder that PY4DSTEM_PRENET_WEIGHTS names.")] = None,
):
    """List the weights that can be found, each verified; or import a file of them."""
    from .networks import weights

    if adopt is not None:
        typer.echo(f"Imported {weights.adopt(adopt)}.")
        return
    wrong = 0
    for name in weights.names():
        try:
            digest, card = weights.verify(name), weights.card(name)
            typer.echo(f"{name}  {card['task']}, sha256 {digest}, verified, {weights.find(name)}")
        except PrenetError as error:
            wrong += 1
            typer.echo(f"{name}  {error}")
    if wrong:
        raise typer.Exit(1)


@app.command()
def train(
    task: Task,
    minutes: Annotated[float | None, typer.Option(min=0, help="Stop after so long.")] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Stop after so many steps.")] = None,
    seed: Annotated[int, typer.Option(help="Everything random follows from it.")] = 0,
    resume: Annotated[bool, typer.Option("--resume", help="Go on where the run in --out stopped.")] = False,
    start: Annotated[str | None, typer.Option(help="Weights to begin from: a name, or a file.")] = None,
    out: Annotated[Path | None, typer.Option(help="The run's folder; runs/TASK if not given.")] = None,
):
    """Train a network on simulated patterns; leaves weights and their card in the run's folder."""
    out = Path("runs") / task.value if out is None else out
    if resume and not out.is_dir():
        raise PrenetError(f"There is no run in {out} to resume; leave --resume out to start one.")
    if not resume and out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise PrenetError(f"{out} is in use already; go on with --resume, or choose another --out.")
    from .training import train
    from .training.export import export

    length = " ".join(f"--{name} {value}" for name, value in (("minutes", minutes), ("steps", steps)) if value)
    train(task.value, minutes=minutes, steps=steps, seed=seed, resume=resume, out=out, start=start)
    typer.echo(f"Saved {export(out, out, f'prenet train {task.value} {length} --seed {seed}')}.")


@app.command()
def simulate(
    output: Output,
    scan: Annotated[str, typer.Option(metavar="RX,RY", help="Probe positions.")] = "16,16",
    shape: Annotated[str, typer.Option(metavar="QX,QY", help="Pixels of a pattern.")] = "128,128",
    dose: Annotated[float, typer.Option(min=0, help="Electrons in a pattern.")] = 10_000,
    seed: Annotated[int, typer.Option(help="Everything random follows from it.")] = 0,
    acquire: Annotated[bool, typer.Option("--acquire", help="Let the file grow, as a detector does.")] = False,
    rate: Annotated[float, typer.Option(min=0, help="With --acquire: patterns a second.")] = 1000,
    fault: Annotated[str | None, typer.Option(help="With --acquire: beam-loss, jump or saturation.")] = None,
):
    """Simulate a scan with known origin and ellipse, and save it with its truth as an EMD file.

    With --acquire it is written pattern after pattern at a given rate, for `prenet watch` to look at: as a growing HDF5
    file (.h5), or as nothing but patterns (.raw).
    """
    scan, shape = _pair(scan, "--scan"), _pair(shape, "--shape")
    if acquire:
        from .simulation import Acquisition, acquire

        held = acquire(output, Acquisition(scan, shape, dose, seed, fault=fault), rate)
        typer.echo(f"Wrote {output} at {held:.0f} patterns a second.")
        return
    from .io import check_output, save_scan

    check_output(output)
    from .simulation import simulate

    simulated = simulate(scan, shape, dose=dose, seed=seed)
    save_scan(output, simulated.counts, simulated.truth)
    typer.echo(f"Saved {output}.")


@app.command()
def watch(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="HDF5 in SWMR mode, or raw patterns; it may yet come.")],
    scan: Annotated[str, typer.Option(metavar="RX,RY", help="The scan's shape.")],
    output: Annotated[Path | None, typer.Option("--output", "-o", help="A new file for the calibration.")] = None,
    shape: Annotated[str | None, typer.Option(metavar="QX,QY", help="A raw file's pattern.")] = None,
    dtype: Annotated[str, typer.Option(help="A raw file's numbers, such as uint16, or >u2.")] = "uint16",
    header: Annotated[int, typer.Option(help="Bytes before a raw file's first pattern.")] = 0,
    gap: Annotated[int, typer.Option(help="Bytes after each pattern of a raw file.")] = 0,
    dataset: Annotated[str | None, typer.Option(help="Which data set, if an HDF5 file holds several.")] = None,
    mask: Annotated[Path | None, typer.Option(help="A .npy file, bool (Qx, Qy): True where a pixel is good.")] = None,
    strain: Annotated[float | None, typer.Option(help="Strain that each position shall tell, such as 0.002.")] = None,
    timeout: Annotated[float, typer.Option(help="Seconds without a pattern until the writer counts as gone.")] = 30,
    serve: Annotated[int | None, typer.Option(metavar="PORT", help="Show a page on this machine; 0: any port.")] = None,
    device: Device = "auto",
):
    """Calibrate a scan while it is being written; say what goes wrong. Started again, it goes on from the file."""
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
        typer.echo("prenet: stopped by hand, and nothing was saved; started again, it goes on from the file.", err=True)
        raise typer.Exit(130) from None
    if report is None:
        typer.echo("prenet: the file holds no whole row of the scan; nothing was calibrated.", err=True)
        raise typer.Exit(1)
    typer.echo(str(report))
    if output is not None and report.origin.found:
        typer.echo(f"Saved {output}.")


def _pair(text, option):
    try:
        first, second = (int(part) for part in text.replace("x", ",").split(","))
    except ValueError:
        first = 0
    if first < 1 or second < 1:
        raise PrenetError(f"{option} takes two positive whole numbers such as 16,16, not {text!r}.")
    return first, second


def _open(file, scan, cube):
    from .io import opening

    return opening.open(file, None if scan is None else _pair(scan, "--scan"), cube)


def _echo_json(told):
    typer.echo(json.dumps(told, ensure_ascii=False, allow_nan=False))


def main():
    app()


if __name__ == "__main__":
    main()
