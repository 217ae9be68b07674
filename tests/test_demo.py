"""The demonstration: its results are near the truth, and its files are read back."""

import numpy as np
import py4DSTEM
import pytest

from py4dstem_prenet import demo

ROWS, COLUMNS = slice(8, 18), slice(0, 10)  # of the scan that is demonstrated, for speed


def part_of_the_scan():
    """A part of the scan, with all positions whose truth is known, and its truth."""
    datacube, truth = demo.load_scan()
    truth |= {q: truth[q][ROWS, COLUMNS] for q in ("qx0", "qy0")}
    truth["positions"] = truth["positions"] - [ROWS.start, COLUMNS.start]
    return py4DSTEM.DataCube(datacube.data[ROWS, COLUMNS]), truth


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The folder after a run, with files of an earlier one, and what was printed."""
    import contextlib
    import io

    part = part_of_the_scan()
    out = tmp_path_factory.mktemp("demo")
    for name in (*demo._FILES, "mine.txt"):
        (out / name).write_text("keep")
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), pytest.MonkeyPatch.context() as patch:
        patch.setattr(demo, "load_scan", lambda: part)
        demo.run(out)
    return out, printed.getvalue()


def row(printed, name):
    line = next(line for line in printed.splitlines() if line.startswith(name))
    return line[len(name):].split()


@pytest.mark.slow
def test_result_is_near_the_truth(made):
    _, printed = made
    assert float(row(printed, "fitted origin, rms error per axis, px")[1]) < 0.15
    truth, result = map(float, row(printed, "ellipse a/b"))
    assert abs(result - truth) < 0.01
    truth, result = map(float, row(printed, "ellipse theta, degrees"))
    assert abs((result - truth + 90) % 180 - 90) < 6


@pytest.mark.slow
def test_denoising_helps_in_every_region(made):
    for region in ("amorphous", "crystal", "mixed"):
        noisy, _, denoised, _ = row(made[1], f"relative squared error, {region}")
        assert float(denoised) < 0.5 * float(noisy)


@pytest.mark.slow
def test_electrons_are_kept(made):
    true, denoised, _ = row(made[1], "electrons in the scan")
    assert float(denoised.replace(",", "")) == pytest.approx(float(true.replace(",", "")), rel=0.01)


@pytest.mark.slow
def test_files(made):
    out, _ = made
    assert {p.name for p in out.iterdir()} == {*demo._FILES, "mine.txt"}
    assert [name for name in (*demo._FILES, "mine.txt") if (out / name).read_bytes() == b"keep"] == ["mine.txt"]
    cube = py4DSTEM.read(out / demo._FILES[0])  # without this package: test_emd
    assert cube.data.shape == (10, 10, 128, 128) and cube.calibration.get_origin()[0].shape == (10, 10)
    assert cube.calibration.get_ellipse() is not None


def test_scan_and_truth_belong_together():
    datacube, truth = demo.load_scan()
    for at, clean in zip(truth["positions"], truth["clean"].astype(float), strict=True):
        # Poisson: chi squared of the strong pixels is their number within a few of its standard deviations
        strong = clean > 5
        chi = ((datacube.data[tuple(at)][strong] - clean[strong]) ** 2 / clean[strong]).sum()
        assert chi == pytest.approx(strong.sum(), abs=6 * np.sqrt(2 * strong.sum()))
