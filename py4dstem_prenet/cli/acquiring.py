"""Commands for acquisitions: `simulate` and `watch`."""

from pathlib import Path
from typing import Annotated

import typer

from .common import Device, Mask, Output, fail, pair


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

    With --acquire, patterns are written one after another at a given rate, to a
    growing HDF5 file (.h5) or a file of raw patterns (.raw). `prenet watch` reads
    both.
    """
    scan, shape = pair(scan, "--scan"), pair(shape, "--shape")
    if fault is not None and not acquire:
        raise typer.BadParameter("Faults are simulated with --acquire only.", param_hint="--fault")
    if acquire:
        from ..simulation import Acquisition, acquire

        achieved = acquire(output, Acquisition(scan, shape, dose, seed, fault=fault), rate)
        typer.echo(f"Wrote {output} at {achieved:.0f} patterns per second.")
        return
    from ..io import check_output, save_scan

    check_output(output)
    from ..simulation import simulate

    simulated = simulate(scan, shape, dose=dose, seed=seed)
    save_scan(output, simulated.counts, simulated.truth)
    typer.echo(f"Saved {output}.")


def watch(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="HDF5 file in SWMR mode, or raw patterns. The "
                                         "file need not exist yet.")],
    scan: Annotated[str, typer.Option(metavar="RX,RY", help="Shape of the scan.")],
    output: Annotated[Path | None, typer.Option("--output", "-o", help="A new file for the calibration.")] = None,
    shape: Annotated[str | None, typer.Option(metavar="QX,QY", help="Raw file: pixels of each pattern.")] = None,
    dtype: Annotated[str, typer.Option(help="Raw file: numpy type of the values, such as uint16 or >u2.")] = "uint16",
    header: Annotated[int, typer.Option(help="Raw file: bytes before the first pattern.")] = 0,
    gap: Annotated[int, typer.Option(help="Raw file: bytes after each pattern.")] = 0,
    dataset: Annotated[str | None, typer.Option(help="Name of the data set, if an HDF5 file holds several.")] = None,
    mask: Mask = None,
    strain: Annotated[float | None, typer.Option(help="Needed precision of strain per position, e.g. 0.002.")] = None,
    timeout: Annotated[float, typer.Option(help="Seconds without a new pattern after which the scan is over.")] = 30,
    serve: Annotated[int | None, typer.Option(metavar="PORT", help="Serve a web page locally; 0: any port.")] = None,
    device: Device = "auto",
):
    """Calibrate a scan while it is written, and warn of problems. A restart reads the file from the start."""
    from ..io import check_output, load_mask

    scan, shape = pair(scan, "--scan"), None if shape is None else pair(shape, "--shape")
    if output is not None:
        check_output(output)
    good = None if mask is None else load_mask(mask)
    from ..live import watch_file

    layout = dict(shape=shape, dtype=dtype, header=header, gap=gap, name=dataset)
    try:
        report = watch_file(file, scan, layout, mask=good, device=device, output=output, strain=strain, timeout=timeout,
                            port=serve)
    except KeyboardInterrupt:
        fail("interrupted, and nothing was saved; a restarted watch reads the file again.", 130)
    if report is None:
        fail("the file does not contain a complete row of the scan; nothing was calibrated.")
    typer.echo(str(report))
    if not report.origin.found:
        fail("nothing was calibrated or saved, because no direct beam was found.")
    if output is not None:
        typer.echo(f"Saved {output}.")
