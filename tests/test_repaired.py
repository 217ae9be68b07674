"""Bad pixels replaced in the counts: good pixels untouched, counts stay counts, and disks are found as without them."""

import contextlib
import io
import json
import warnings
from dataclasses import replace

import dask.array
import h5py
import numpy as np
import py4DSTEM
import pytest
from py4DSTEM import DataCube
from py4DSTEM.braggvectors import Probe
from scans import numbers_of, others_slow, simulated
from scipy.special import expit

import py4dstem_prenet
from py4dstem_prenet.core import NoiseModel, PrenetError, reading
from py4dstem_prenet.detector import estimate_noise
from py4dstem_prenet.io import calibrations, provenance
from py4dstem_prenet.pipeline import calibrate
from py4dstem_prenet.report import of_calibration
from py4dstem_prenet.resampling import check_calibration, repaired, repairing
from py4dstem_prenet.review import noise_flags

SCAN, SHAPE = (6, 7), (64, 66)
HOT, DEAD, ROW = [(5, 7), (5, 8), (0, 0), (40, 20), (63, 30)], (31, 30), 50
TYPES = [np.uint8, np.uint16, np.int32, np.float32, np.float64]


def smooth():
    """Expected counts, the same at all positions: a bright disk on a slope of 0.3 to 3 counts."""
    x, y = np.mgrid[: SHAPE[0], : SHAPE[1]]
    return np.linspace(0.3, 3, SHAPE[1]) + 40 * expit((6 - np.hypot(x - 31, y - 33)) / 0.5)


def bad_pixels(*pixels, row=None):
    bad = np.zeros(SHAPE, bool)
    for pixel in pixels:
        bad[pixel] = True
    if row is not None:
        bad[row] = True
    return bad


def counts(dtype=np.uint16, seed=0, scan=SCAN):
    return np.random.default_rng(seed).poisson(smooth(), (*scan, *SHAPE)).clip(max=250).astype(dtype)


def spoiled(dtype=np.uint16, value=250):
    """Counts with hot pixels, a dead one, and a dead row; all of them are bad."""
    data = counts(dtype)
    for pixel in HOT:
        data[(..., *pixel)] = value
    data[(..., *DEAD)] = 0
    data[..., ROW, :] = 0
    return data, bad_pixels(*HOT, DEAD, row=ROW)


def noise(bad, gain=1.0, counting=True):
    return NoiseModel(gain, 0.0, 0.0, bad, counting, 5000.0)


@pytest.mark.parametrize("dtype", TYPES)
def test_good_pixels_are_the_same_and_bad_ones_lie_among_their_neighbors(dtype):
    data, bad = spoiled(dtype)
    before = data.copy()
    new = repaired(DataCube(data), noise(bad), progress=False).data
    assert new.dtype == dtype and new.shape == data.shape and np.array_equal(data, before)
    assert new[..., ~bad].tobytes() == data[..., ~bad].tobytes()
    assert np.array_equal(new, np.rint(new))
    for x, y in np.argwhere(bad):
        rows, columns = slice(max(x - 1, 0), x + 2), slice(max(y - 1, 0), y + 2)
        good = ~bad[rows, columns]
        around = data[..., rows, columns][..., good]
        assert (new[..., x, y] >= around.min(-1)).all() and (new[..., x, y] <= around.max(-1)).all()
    assert 35 < new[(..., *DEAD)].mean() < 45  # in the disk


def test_without_a_noise_model_it_is_estimated_and_nothing_bad_is_left():
    data, bad = spoiled()
    data[..., ROW, :] = counts()[..., ROW, :]  # of a dark dead row only parts are found: it is for the mask
    bad[ROW] = False
    new = DataCube(data).prenet.repaired(progress=False).data
    assert np.array_equal(np.argwhere((new != data).any((0, 1))), np.argwhere(bad))
    model = estimate_noise(new)
    assert not model.bad_pixels.any() and model.counting and model.flags == ()


def test_nothing_is_changed_where_no_pixel_is_bad():
    cube = DataCube(counts())
    new = cube.prenet.repaired(progress=False)
    assert np.array_equal(new.data, cube.data) and not np.shares_memory(new.data, cube.data)


@pytest.mark.parametrize("level", [0.02, 0.3, 2.0, 30.0])
def test_the_mean_over_patterns_is_that_of_the_neighbors_at_any_dose(level):
    """A median, or rounding, gives 0 for a mean of 0.3."""
    bad = np.zeros((32, 32), bool)
    bad[4::5, 4::5] = True
    rng = np.random.default_rng(1)
    data = rng.poisson(level, (40, 50, 32, 32)).astype(np.uint16)
    data[..., bad] = 5000
    new = repaired(DataCube(data), noise(bad), progress=False).data
    shift = [(i, j) for i in (-1, 0, 1) for j in (-1, 0, 1) if i or j]
    x, y = np.nonzero(bad)
    around = np.mean([data[..., x + i, y + j] for i, j in shift], axis=0)
    off = new[..., bad] - around
    assert np.abs(off).max() < 1
    # The scatter of a number between n and n + 1, rounded to one of them, is at most 1/2.
    assert abs(off.mean()) < 4 * 0.5 / np.sqrt(off.size)
    assert (np.abs(off.mean((0, 1))) < 4.5 * 0.5 / np.sqrt(2000)).all()  # of each pixel
    variance = new[..., bad].var()
    assert variance == pytest.approx(around.var() + np.mean(around % 1 * (1 - around % 1)), rel=0.05)
    pairs = np.corrcoef(off.reshape(2000, -1).T)
    assert np.abs(pairs[~np.eye(len(pairs), dtype=bool)]).max() < 6 / np.sqrt(2000)  # drawn one by one


@pytest.mark.parametrize(("dtype", "gain"), [(np.uint16, 4), (np.float32, 1 / 250), (np.float64, 12.5)])
def test_counts_in_units_of_an_electron_stay_such(dtype, gain):
    data, bad = spoiled(np.float64)
    bad[ROW], data[..., ROW, :] = False, counts()[..., ROW, :]
    new = DataCube((data * gain).astype(dtype)).prenet.repaired(progress=False).data
    assert np.abs(new / gain - np.rint(new / gain)).max() < 1e-3
    model = estimate_noise(new)
    assert model.counting and model.gain == pytest.approx(gain, rel=1e-5) and not model.bad_pixels.any()


def test_values_of_a_camera_are_not_rounded_unless_they_are_integers():
    rng = np.random.default_rng(2)
    data = 20.0 * counts(np.float64) + 100 + rng.normal(0, 5, (*SCAN, *SHAPE))
    bad = bad_pixels(*HOT, DEAD)
    camera = replace(noise(bad, 20.0, False), offset=100.0, readout=5.0)
    new = repaired(DataCube(data), camera, progress=False).data
    around = data[..., 39:42, 19:22].reshape(*SCAN, 9)[..., [0, 1, 2, 3, 5, 6, 7, 8]]
    np.testing.assert_allclose(new[..., 40, 20], around.mean(-1), rtol=1e-12)
    whole = np.rint(data).astype(np.int16)
    rounded = repaired(DataCube(whole), camera, progress=False).data
    assert rounded.dtype == np.int16 and np.abs(rounded[..., 40, 20] - new[..., 40, 20]).max() < 1.5


def test_wide_holes_are_filled_from_their_rim():
    data, bad = counts(), bad_pixels()
    bad[10:15, 20:26] = bad[:, 60:62] = True
    data[..., bad] = 9999
    new = repaired(DataCube(data), noise(bad), progress=False).data
    assert new[..., bad].max() < 15  # nothing of the bad pixels' own values
    assert new[..., bad].mean() == pytest.approx(np.broadcast_to(smooth(), data.shape)[..., bad].mean(), rel=0.1)


# --- disks ---------------------------------------------------------------------------------------------------

RADIUS, SIDE, DISK_SCAN = 6.0, 128, (3, 3)


@pytest.fixture(scope="module")
def disks():
    """Expected counts (Rx, Ry, 128, 128) of 25 disks, and their positions (Rx, Ry, 25, 2)."""
    rng = np.random.default_rng(5)
    orders = np.stack(np.meshgrid(*2 * [np.arange(-2, 3)], indexing="ij"), -1).reshape(-1, 2)
    strain = 1 + rng.normal(0, 0.003, (*DISK_SCAN, 1, 1))
    places = [63.4, 64.7] + rng.normal(0, 0.5, (*DISK_SCAN, 1, 2)) + orders @ [[22.0, 3.0], [-4.0, 21.0]] * strain
    axis = np.arange(SIDE)
    distance = np.hypot(axis[:, None] - places[..., 0, None, None], axis - places[..., 1, None, None])
    bright = np.where((orders == 0).all(1), 4, 1)[:, None, None]
    clean = 0.02 + (bright * expit((RADIUS - distance) / 0.5)).sum(2)
    return 20_000 * clean / clean[0, 0].sum(), places


def found(data, places):
    """Disks that py4DSTEM finds: (Rx, Ry, 25, 2) nearest to the true ones, NaN if none is within 2 px; how many more.
    """
    axis = np.arange(SIDE) - SIDE // 2
    probe = Probe(expit((RADIUS - np.hypot(axis[:, None], axis)) / 0.5).astype(np.float32))
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()), \
            warnings.catch_warnings():
        warnings.simplefilter("ignore")
        probe.get_kernel(mode="sigmoid", radii=(RADIUS, 2 * RADIUS), origin=[SIDE // 2, SIDE // 2])
        vectors = DataCube(data.astype(np.float32)).find_Bragg_disks(
            template=probe.kernel, corrPower=1, sigma_cc=1, subpixel="multicorr", upsample_factor=16,
            minRelativeIntensity=0.02, minPeakSpacing=1.5 * RADIUS, edgeBoundary=int(RADIUS) + 1)
    nearest, more = np.full_like(places, np.nan), 0
    for at in np.ndindex(DISK_SCAN):
        disks = np.stack([vectors.raw[at].data[name] for name in ("qx", "qy")], -1)
        apart = np.hypot(*(places[at][:, None] - disks).T).T
        within = apart.min(1) < 2
        nearest[at][within] = disks[apart.argmin(1)][within]
        more += np.count_nonzero(apart.min(0) >= 2)
    return nearest, more


@pytest.mark.slow
def test_hot_pixels_no_longer_disturb_bragg_disks(disks):
    """Five: in the direct beam, inside a disk, on the edges of two, and between disks."""
    clean, places = disks
    rng = np.random.default_rng(6)
    data = rng.poisson(clean).astype(np.uint16)
    steps = {12: (1, 2), 17: (2, -3), 6: (6, 0), 8: (0, 7), 13: (10, 10)}
    at = sorted({tuple(np.rint(places[1, 1, disk] + step).astype(int).tolist()) for disk, step in steps.items()})
    hot = data.copy()
    for pixel in at:
        hot[(..., *pixel)] = rng.poisson(1000, DISK_SCAN)
    new = DataCube(hot).prenet.repaired(progress=False)
    assert [tuple(p) for p in np.argwhere((new.data != hot).any((0, 1))).tolist()] == at
    (good, more), (spoiled, more_spoiled), (mended, more_mended) = (found(d, places) for d in (data, hot, new.data))
    error, error_spoiled, error_mended = (np.sqrt(np.nanmean(((seen - places) ** 2).sum(-1)))
                                          for seen in (good, spoiled, mended))
    assert more == 0 and np.isfinite(good).all() and error < 0.25
    assert error_spoiled > 1.3 * error and more_spoiled > 10 and np.isnan(spoiled).any(-1).sum() > 5
    assert more_mended == 0 and np.isfinite(mended).all() and error_mended == pytest.approx(error, rel=0.03)
    assert np.abs(mended - good).max() < 0.15  # px, at the disks that hold a hot pixel


# --- files, calibration, and what is refused -----------------------------------------------------------------


def lazy(data, folder, kind):
    if kind == "dask":
        return DataCube(dask.array.from_array(data, chunks=(4, 3, 64, 33)))
    with h5py.File(folder / "scan.h5", "w") as file:
        file.create_dataset("data", data=data, chunks=(2, 3, *SHAPE), compression="gzip")
    return py4dstem_prenet.open(folder / "scan.h5")


@pytest.mark.parametrize("kind", others_slow(["hdf5", "dask"]))
def test_in_memory_in_a_file_and_in_any_blocks_it_is_the_same(kind, tmp_path, monkeypatch):
    data, bad = spoiled()
    expected = repaired(DataCube(data), noise(bad), progress=False).data
    monkeypatch.setattr(reading, "BLOCK_BYTES", 4 * 4 * SHAPE[0] * SHAPE[1])  # four patterns
    cube = lazy(data, tmp_path, kind)
    assert np.array_equal(repaired(cube, noise(bad), progress=False).data, expected)
    there = repaired(cube, noise(bad), out=tmp_path / "new.h5", progress=False)
    assert isinstance(there.data, np.memmap) and there.data.dtype == np.uint16
    read = py4DSTEM.read(tmp_path / "new.h5")
    assert np.array_equal(there.data, expected) and np.array_equal(read.data, expected)


def test_an_interrupted_run_is_resumed_and_a_file_is_never_replaced(tmp_path, monkeypatch):
    data, bad = spoiled()
    monkeypatch.setattr(reading, "BLOCK_BYTES", 4 * 7 * SHAPE[0] * SHAPE[1])  # a row of the scan
    replace_bad, positions = NoiseModel.replace_bad, []

    def until(self, index, block):
        if len(positions) >= stop:
            raise KeyboardInterrupt
        positions.extend(index.tolist())
        return replace_bad(self, index, block)

    monkeypatch.setattr(NoiseModel, "replace_bad", until)
    path, stop = tmp_path / "new.h5", 14
    with pytest.raises(KeyboardInterrupt):
        repaired(DataCube(data), noise(bad), out=path, progress=False)
    assert not path.exists()
    stop = 42
    new = repaired(DataCube(data), noise(bad), out=path, progress=False)
    assert sorted(positions) == list(range(42))  # none twice
    stop = 100
    assert np.array_equal(new.data, repaired(DataCube(data), noise(bad), progress=False).data)
    kept = path.read_bytes()
    with pytest.raises(PrenetError):
        repaired(DataCube(data), noise(bad), out=path, progress=False)
    assert path.read_bytes() == kept and [p.name for p in tmp_path.iterdir()] == ["new.h5"]


@pytest.mark.slow
def test_the_calibration_is_carried_over_and_its_mask_says_what_is_bad(tmp_path):
    made = simulated(scan=(5, 5), shape=(64, 66), dose=5000.0, radius=4.0)
    cube = DataCube(made.counts.copy())
    mask = ~bad_pixels((12, 50), row=60)
    report = cube.prenet.calibrate(mask=mask, progress=False)
    here = cube.prenet.repaired(progress=False)
    cube.prenet.repaired(out=tmp_path / "new.h5", progress=False)
    for new in (here, py4DSTEM.read(tmp_path / "new.h5")):
        assert np.array_equal(new.data, here.data) and np.array_equal(new.data[..., mask], cube.data[..., mask])
        assert (new.data[..., 12, 50] != cube.data[..., 12, 50]).any()
        for key in ("qx0", "qy0_meas", "a", "probe_semiangle", calibrations.MASK):
            assert np.array_equal(new.calibration[key], cube.calibration[key])
        assert calibrations.sigma_is_current(new) and check_calibration(new).current
        assert provenance.read_provenance(new)["since"] == ["repaired()"]
    assert "since" not in provenance.read_provenance(cube)
    assert numbers_of(report, "bad_pixels")["count"] == np.count_nonzero(~mask)


@pytest.mark.parametrize(("wrong", "kind"), [
    (lambda: dict(datacube=counts()), "an array"),
    (lambda: dict(noise=noise(np.zeros((64, 64), bool))), "the noise of another detector"),
    (lambda: dict(noise=noise(np.ones(SHAPE, bool))), "no good pixel"),
    (lambda: dict(out="a.png"), "an ending of another kind of file"),
    (lambda: dict(datacube=DataCube(np.full((*SCAN, *SHAPE), np.nan, np.float32))), "values that are no numbers"),
    (lambda: dict(datacube=DataCube(np.zeros((*SCAN, *SHAPE), np.uint8))), "an empty scan"),
], ids=lambda value: value if isinstance(value, str) else "")
def test_refused_is(wrong, kind, monkeypatch):
    monkeypatch.setattr(repairing, "_repair", None)  # before any pattern is changed
    with pytest.raises(PrenetError) as refused:
        repaired(**dict(datacube=DataCube(counts()), progress=False) | wrong())
    assert str(refused.value).endswith(".") and "\n" not in str(refused.value)


# --- the report ----------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_reports_name_bad_pixels_and_what_to_do():
    made = simulated(scan=(5, 5), shape=(64, 66), dose=5000.0, radius=4.0)
    data = made.counts.copy()
    at = [[3, 60], [50, 10], [58, 44]]
    for x, y in at:
        data[..., x, y] = 400
    cube = DataCube(data)
    report = calibrate(cube, progress=False)
    assert numbers_of(report, "bad_pixels") == {"count": 3, "listed": 3, "positions": at}
    flags = json.loads(json.dumps(of_calibration(report)))["flags"]
    (told,) = (flag for flag in flags if flag["flag"] == "bad_pixels")
    assert told["numbers"] == {"count": 3, "listed": 3, "positions": at}
    assert "(3, 60), (50, 10), (58, 44)" in told["sentence"]
    assert "prenet.repaired()" in told["sentence"] and told["sentence"] in " ".join(str(report).split())
    assert numbers_of(noise_flags(report.noise), "bad_pixels")["positions"] == at
    assert not estimate_noise(cube.prenet.repaired(progress=False)).bad_pixel_flags


def test_of_many_bad_pixels_single_ones_are_listed_first():
    bad = bad_pixels((50, 40), (60, 3), (60, 4))
    bad[:30, 20:30] = True  # a beam stop
    (flag,) = noise(bad).bad_pixel_flags
    assert flag.numbers["count"] == 303 and flag.numbers["positions"][:3] == [[50, 40], [60, 3], [60, 4]]
    assert 3 < len(flag.numbers["positions"]) < 50 and len(str(flag)) < 600
    assert all(bad[x, y] for x, y in flag.numbers["positions"])
