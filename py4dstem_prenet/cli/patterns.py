"""Commands that find disks in the patterns or make new patterns: `denoise`, `disks`, `correct` and `finetune`."""

from pathlib import Path
from typing import Annotated

import typer

from .common import Cube, Device, Mask, Output, Scan, Scheduler, Shape, fail, open_cube, warnings_to_stderr


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

    Smooth variations of strain, rotation and intensity over the scan are attenuated
    little. Steps that are weaker than the noise of a single pattern are attenuated
    strongly. `prenet report` tests which quantities are kept. Measure all others on
    the raw counts.
    """
    from ..io import check_output

    check_output(output)
    datacube = open_cube(file, scan, cube)
    from .. import denoise, use_cluster

    with use_cluster(scheduler):
        denoise(datacube, out=output, weights=weights, device=device)
    typer.echo(f"Saved {output}.")


def disks(
    file: Scan,
    output: Output,
    false_alarm: Annotated[float, typer.Option(help="Mean number of false disks per pattern.")] = 0.1,
    weights: Annotated[str, typer.Option(help="Stored weight of a disk: intensity, or precision (for strain).")]
    = "intensity",
    mask: Mask = None,
    device: Device = "auto",
    scan: Shape = None,
    cube: Cube = None,
    scheduler: Scheduler = None,
):
    """Find the Bragg disks of a calibrated scan, and save them as py4DSTEM's BraggVectors in an EMD file.

    StrainMap weights disks by their intensity. For strain, use --weights precision,
    which stores the precision of the position in place of the intensity.
    """
    from ..io import check_output, load_mask, save_bragg_vectors

    check_output(output)
    datacube = open_cube(file, scan, cube)
    from .. import bragg_disks, use_cluster

    with use_cluster(scheduler), warnings_to_stderr():
        vectors = bragg_disks(datacube, false_alarm, weights, None if mask is None else load_mask(mask), device)
    save_bragg_vectors(vectors, output)
    counts = [len(vectors.raw[x, y].qx) for x in range(vectors.Rshape[0]) for y in range(vectors.Rshape[1])]
    typer.echo(f"Saved {output}: {sum(counts):,} disks in {len(counts):,} patterns.")


def correct(file: Scan, output: Output, scan: Shape = None, cube: Cube = None, scheduler: Scheduler = None):
    """Resample a calibrated scan to a common center and round rings, and save it as an EMD file."""
    from ..io import check_output

    check_output(output)
    datacube = open_cube(file, scan, cube)
    from .. import corrected, use_cluster

    with use_cluster(scheduler):
        corrected(datacube, out=output)
    typer.echo(f"Saved {output}.")


def finetune(
    file: Scan,
    output: Annotated[Path, typer.Option("--output", "-o", help="The new weights, .safetensors.")],
    minutes: Annotated[float, typer.Option(min=0, help="How long to train.")] = 5.0,
    device: Device = "auto",
    scan: Shape = None,
    cube: Cube = None,
):
    """Fine-tune the denoising network on a scan; save the weights if they are better on held-out electrons."""
    from ..io import check_output

    check_output(output, (".safetensors",))
    datacube = open_cube(file, scan, cube)
    from .. import finetune

    result = finetune(datacube, out=output, minutes=minutes, device=device)
    if not result.accepted:
        fail(str(result))
    typer.echo(str(result))
