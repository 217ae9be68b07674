"""Bragg disks: rate of false disks, positions and sigmas against truth, and the `BraggVectors` made of them."""

from contextlib import contextmanager, nullcontext

import numpy as np
import py4DSTEM
import pytest
import torch
from scipy.ndimage import gaussian_filter
from scipy.special import erfc
from typer.testing import CliRunner

import py4dstem_prenet  # noqa: F401
from py4dstem_prenet import cli
from py4dstem_prenet.core import PrenetError, as_scan
from py4dstem_prenet.disks import (
    DiskFilter,
    DiskFinder,
    find_bragg_disks,
    measure_background,
    measure_structure,
    speckle_fields,
)
from py4dstem_prenet.fits import Aperture
from py4dstem_prenet.origin import BeamLocator, kept_locator

SIDE, RADIUS, SPACING = 96, 5.0, 17.0
HKL = np.array([(h, k) for h in range(-2, 3) for k in range(-2, 3) if (h, k) != (0, 0)])


def disk(at, side=SIDE, radius=RADIUS, edge=0.5):
    x, y = np.arange(side)[:, None] - at[0], np.arange(side) - at[1]
    return 0.5 * erfc((np.hypot(x, y) - radius) / edge)


def scan_of(shape=(8, 10), direct=3000.0, brightness=(40.0, 400.0), level=0.05, slope=0.0, seed=0, lattice=True,
            speckle=0.0, spacing=SPACING):
    """Counts, and true positions (Rx * Ry, 1 + disks, 2), of a lattice of disks on a smooth background.

    `brightness` are the limits of the electrons in a disk; with `slope`, a disk is brighter toward its outer side. With
    `speckle`, the background has speckles of the size of a disk and that relative rms.
    """
    rng = np.random.default_rng(seed)
    x, y = np.indices((SIDE, SIDE))
    area = disk((SIDE / 2, SIDE / 2)).sum()
    electrons = np.exp(rng.uniform(*np.log(brightness), len(HKL)))
    counts, truth = [], []
    for _ in range(np.prod(shape)):
        origin = SIDE / 2 + rng.uniform(-1, 1, 2)
        angle = 0.2
        turn = spacing * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        at = np.vstack([origin, origin + (HKL if lattice else HKL[:0]) @ turn.T])
        image = level + 20 * level * np.exp(-np.hypot(x - origin[0], y - origin[1]) / 12)
        if speckle:
            field = gaussian_filter(rng.normal(size=image.shape), RADIUS / 2)
            image = image * np.exp(speckle * field / field.std() - speckle**2 / 2)
        image = image + direct / area * disk(origin)
        for place, total in zip(at[1:], electrons, strict=False):
            away = (place - origin) / np.hypot(*(place - origin))
            along = ((x - place[0]) * away[0] + (y - place[1]) * away[1]) / RADIUS
            image += total / area * disk(place) * (1 + slope * along).clip(0)
        counts.append(rng.poisson(image))
        truth.append(at)
    return np.array(counts, np.uint16).reshape(*shape, SIDE, SIDE), np.array(truth)


@contextmanager
def learned_once():
    """Let `DiskFinder.learn` return its first finder again: of one scan, learning takes most of the time."""
    finders, original = [], DiskFinder.learn

    def learn(*arguments, **options):
        if not finders:
            finders.append(original(*arguments, **options))
        return finders[0]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(DiskFinder, "learn", learn)
        yield


def matched(found, truth, reach=3.0):
    """Errors and sigmas (k, 2) of the Bragg disks near a true one, how many are not, and the recall."""
    table = found.table[np.isfinite(found.table["significance"])]
    place = np.stack([table["qx"], table["qy"]], 1)
    sigma = np.stack([table["sigma_qx"], table["sigma_qy"]], 1)
    away = np.hypot(*(place[:, None] - truth[table["position"]][:, 1:]).transpose(2, 0, 1))
    nearest = away.argmin(1)
    near = away[np.arange(len(away)), nearest] < reach
    error = place[near] - truth[table["position"][near], 1 + nearest[near]]
    return error, sigma[near], int((~near).sum()), near.sum() / truth[:, 1:, 0].size


class TestFalseDisks:
    @pytest.mark.slow
    def test_noise_gives_the_stated_rate(self):
        counts, _ = scan_of((16, 20), lattice=False, seed=1)
        scan = as_scan(counts)
        with learned_once():
            significance = find_bragg_disks(scan, false_alarm=0.5, progress=False).table["significance"]
            finder = DiskFinder.learn(scan, false_alarm=0.5)
        significance = significance[np.isfinite(significance)]
        for rate, limits in ((0.1, (0.04, 0.18)), (0.5, (0.33, 0.72))):  # four standard errors of 320 patterns
            false = (significance > finder.alarms.threshold(rate)).sum() / 320
            assert limits[0] < false < limits[1]

    @pytest.mark.slow
    def test_probability_tells_false_disks(self):
        counts, truth = scan_of((6, 8), brightness=(10.0, 200.0), seed=2)
        found = find_bragg_disks(counts, false_alarm=1.0, progress=False)
        bragg = found.table[np.isfinite(found.table["significance"])]
        expected = (1 - bragg["probability"]).sum() / len(truth)
        assert 0.5 < expected < 1.5
        assert (bragg["probability"][bragg["significance"] > 8] > 0.99).all()

    @pytest.mark.slow
    @pytest.mark.parametrize("dose", [2, 20])
    def test_speckles_beyond_those_of_thin_films_are_measured(self, dose):
        """The relative rms over an aperture, within a fifth; four scans were within 4 %."""
        rng, shape = np.random.default_rng(1), (60, 60)
        disks = DiskFilter(Aperture(4.9, 0.3, (0.0, 0.0)), shape)
        fields = speckle_fields(rng, 48, shape, disks, 2.2)
        over = (disks.sums(torch.from_numpy(fields.astype(np.float32)), 0) / disks.area)[:, 5:-5, 5:-5].std()
        level = dose * np.exp(-np.hypot(*(np.indices(shape) - 29.5)) / 20)
        electrons = torch.from_numpy(rng.poisson(level * fields).astype(np.float32))
        good, direct = torch.ones(shape, dtype=torch.bool), np.full((48, 2), 29.5)
        background = measure_background(electrons, good, 0.0, disks, direct)
        structure = measure_structure(electrons, background, good, 0.0, disks, direct)
        assert structure.relative == pytest.approx(float(over), rel=0.2)

    @pytest.mark.slow
    def test_speckles_of_the_background_are_not_disks(self):
        """Each scan has a rate near the stated one, not only their mean; without regard to speckles, it is 3.

        The standard error of a rate of 0.5 is 0.07 in one scan of 96 patterns, and 0.05 in the mean of two.
        """
        rates = []
        for seed in (11, 12):
            counts, _ = scan_of((8, 12), lattice=False, level=0.3, speckle=0.6, seed=seed)
            found = find_bragg_disks(counts, false_alarm=0.5, progress=False)
            rates.append(np.isfinite(found.table["significance"]).sum() / 96)
        assert 0.25 < np.mean(rates) < 0.8
        assert min(rates) > 0.15 and max(rates) < 1.05  # 3 standard errors of one rate about the mean

    @pytest.mark.slow
    def test_thick_contrast_on_a_diffuse_background(self):
        counts, truth = scan_of((6, 8), brightness=(200.0, 3000.0), slope=0.9, level=0.2, speckle=0.3, seed=12)
        _, _, false, recall = matched(find_bragg_disks(counts, progress=False), truth)
        assert recall > 0.97 and false / len(truth) < 0.25

    @pytest.mark.slow
    def test_weak_disks_with_a_dark_half_are_found_once_and_where_stated(self):
        counts, truth = scan_of((6, 8), direct=300.0, brightness=(6.0, 12.0), slope=2.5, level=0.001, seed=15)
        error, sigma, false, recall = matched(find_bragg_disks(counts, progress=False), truth, reach=RADIUS)
        assert recall > 0.85 and false / len(truth) < 0.25
        assert np.sqrt(np.mean((error / sigma) ** 2)) < 1.3

    @pytest.mark.slow
    def test_light_of_disks_outside_the_pattern_is_no_disk_inside(self):
        counts, truth = scan_of((6, 8), brightness=(100.0, 1000.0), spacing=25.0, seed=13)
        found = find_bragg_disks(counts, progress=False)
        outside = ((truth[:, 1:] < -1) | (truth[:, 1:] > SIDE)).any(2).sum()
        assert outside > 400
        _, _, false, _ = matched(found, truth)
        assert false / len(truth) < 0.25


class TestPositions:
    @pytest.mark.slow
    def test_errors_are_those_stated(self):
        counts, truth = scan_of((6, 8), seed=3)
        error, sigma, false, recall = matched(find_bragg_disks(counts, progress=False), truth)
        assert recall > 0.98 and false / len(truth) < 0.25
        pull = error / sigma
        assert 0.8 < np.sqrt(np.mean(pull**2)) < 1.25
        assert np.abs(pull.mean(0)).max() < 4 / np.sqrt(len(pull))

    @pytest.mark.slow
    def test_half_lit_disks_are_not_displaced_toward_the_light(self):
        counts, truth = scan_of((7, 8), brightness=(400.0, 800.0), slope=0.8, seed=4)
        found = find_bragg_disks(counts, progress=False)
        error, _, _, recall = matched(found, truth)
        table = found.table[np.isfinite(found.table["significance"])]
        away = np.stack([table["qx"], table["qy"]], 1)[:, None] - truth[table["position"]][:, 1:]
        nearest = np.hypot(*away.transpose(2, 0, 1)).argmin(1)
        near = np.hypot(*away[np.arange(len(table)), nearest].T) < 3.0
        outward = (truth[table["position"], 1 + nearest] - truth[table["position"], 0])[near]
        outward = (error * outward / np.hypot(*outward.T)[:, None]).sum(1)
        assert recall > 0.98
        assert abs(outward.mean()) < 0.06  # the center of mass of such a disk is 1 px off

    def test_cut_and_masked_disks_are_fitted_with_what_is_seen(self):
        counts, truth = scan_of((3, 4), brightness=(600.0, 900.0), seed=5)
        mask = np.ones((SIDE, SIDE), bool)
        mask[:, 66:70] = False  # a gap through a column of disks
        counts[..., ~mask] = 0
        found = find_bragg_disks(counts, mask=mask, progress=False)
        error, sigma, _, _ = matched(found, truth)
        pull = error / sigma
        assert np.sqrt(np.mean(pull**2)) < 1.4 and np.abs(error).max() < 1.5


class TestVectors:
    @pytest.fixture(scope="class")
    def both(self):
        """Of a cube with the true origin: with intensities, and with precisions as weights."""
        counts, truth = scan_of((4, 5), seed=6)
        datacube = py4DSTEM.DataCube(counts)
        datacube.calibration.set_origin((truth[:, 0, 0].reshape(4, 5), truth[:, 0, 1].reshape(4, 5)))
        with learned_once():
            return [datacube.prenet.bragg_disks(weights=kind, progress=False) for kind in ("intensity", "precision")]

    @pytest.fixture
    def vectors(self, both):
        return both[0]

    @pytest.mark.slow
    def test_consumers_read_them(self, vectors):
        assert vectors.calstate["center"] and vectors.Rshape == (4, 5)
        points = vectors.cal[3, 4]
        radius = np.hypot(points.qx, points.qy)
        assert radius.min() < 0.5 and abs(np.median(np.sort(radius)[1:5]) - SPACING) < 0.5
        assert vectors.histogram(mode="cal").data.max() > 0
        details = vectors.tree("prenet_disks")[3, 4].data
        assert len(details) == len(points.qx) and (details["sigma_qx"] > 0).all()

    @pytest.mark.slow
    def test_the_beam_that_calibrate_learned_is_used_for_the_same_data_alone(self):
        counts, _ = scan_of((4, 5), seed=6)
        datacube = py4DSTEM.DataCube(counts)
        datacube.prenet.calibrate(progress=False)
        scan, mask = as_scan(datacube), np.ones((SIDE, SIDE), bool)
        mask[0, 0] = False
        locator = kept_locator(datacube, scan, None, "auto")
        assert locator.beam is not None
        anew = BeamLocator.learn(scan)
        assert locator.beam.aperture == anew.beam.aperture and np.array_equal(locator.guess, anew.guess)
        assert kept_locator(py4DSTEM.DataCube(counts), scan, None, "auto") is None
        assert kept_locator(datacube, scan, mask, "auto") is None
        datacube.data[1, 2, 3, 4] += 1
        assert kept_locator(datacube, scan, None, "auto") is None

    @pytest.mark.slow
    def test_weights_are_precisions(self, both):
        vectors = both[1]
        details = vectors.tree("prenet_disks")[0, 0].data
        sigma = np.sqrt(0.5 * (details["sigma_qx"] ** 2 + details["sigma_qy"] ** 2))
        assert np.allclose(vectors.raw[0, 0].I, 1 / sigma)

    @pytest.mark.slow
    def test_they_are_saved_and_read_by_py4dstem(self, vectors, tmp_path):
        py4DSTEM.save(tmp_path / "disks.h5", vectors)
        again = py4DSTEM.read(tmp_path / "disks.h5")
        assert np.array_equal(again.raw[1, 2].qx, vectors.raw[1, 2].qx)

    @pytest.mark.slow
    def test_the_command_saves_them(self, tmp_path):
        counts, truth = scan_of((3, 4), seed=9)
        np.save(tmp_path / "scan.npy", counts)
        done = CliRunner().invoke(cli.app, ["disks", str(tmp_path / "scan.npy"), "-o", str(tmp_path / "disks.h5")])
        assert done.exit_code == 0, done.output
        points = py4DSTEM.read(tmp_path / "disks.h5").raw[2, 3]
        assert np.hypot(points.qx - truth[-1, 0, 0], points.qy - truth[-1, 0, 1]).min() < 0.5


class TestOverlap:
    @pytest.mark.slow
    def test_overlapping_disks_are_fitted_together(self):
        places = np.array([[48.0, 48.0], [30.2, 30.4], [36.9, 34.0], [65.3, 60.1], [70.6, 66.2], [30.5, 64.8]])
        rng = np.random.default_rng(10)
        shifts = rng.uniform(-0.5, 0.5, (48, 1, 2))
        image = [0.1 + sum(n / 79 * disk(at) for n, at in zip((3000, 900, 500, 400, 700, 800), places + shift,
                                                              strict=True)) for shift in shifts]
        counts = rng.poisson(image).astype(np.uint16).reshape(6, 8, SIDE, SIDE)
        truth = places + shifts
        found = find_bragg_disks(counts, progress=False, origin=tuple(truth[:, 0].T.reshape(2, 6, 8)))
        error, sigma, _, recall = matched(found, truth)
        assert recall > 0.9
        assert 0.8 < np.sqrt(np.mean((error / sigma) ** 2)) < 1.25


class TestRefusals:
    @pytest.mark.parametrize("rate", [0, -1, 2, np.nan])
    def test_the_rate_is_checked(self, rate):
        with pytest.raises(PrenetError):
            find_bragg_disks(np.ones((2, 2, 32, 32), np.uint16), false_alarm=rate)

    def test_the_weights_are_checked(self):
        with pytest.raises(PrenetError):
            py4DSTEM.DataCube(np.ones((2, 2, 32, 32), np.uint16)).prenet.bragg_disks(weights="mass")

    def test_a_scan_without_beam_is_refused(self):
        with pytest.raises(PrenetError):
            find_bragg_disks(np.zeros((4, 4, 64, 64), np.uint16), progress=False)

    def test_a_scan_that_is_not_calibrated_is_warned_of(self):
        """Its vectors are not centered; this one has no disks either."""
        with pytest.warns(UserWarning), pytest.raises(PrenetError):
            py4DSTEM.DataCube(np.zeros((4, 4, 64, 64), np.uint16)).prenet.bragg_disks(progress=False)


@pytest.mark.slow
def test_a_given_origin_tells_which_of_similar_disks_is_the_direct_beam():
    """Without it, the most probable of four equal disks has 0.63 of the 0.70 needed. All four are found."""
    x, y = np.indices((SIDE, SIDE))
    places = (30, 39), (48, 39), (66, 39), (48, 57)
    mean = 0.02 + sum(20 / (1 + np.exp(4 * (np.hypot(x - row, y - column) - 5))) for row, column in places)
    counts = np.random.default_rng(3).poisson(mean, (6, 6, SIDE, SIDE)).astype(np.uint16)
    for origin in (None, (30.0, 39.0)):
        with pytest.warns(UserWarning) if origin is None else nullcontext():
            table = find_bragg_disks(counts, origin=origin, neighbors=False, progress=False).table
        assert [np.sum(np.hypot(table["qx"] - row, table["qy"] - column) < 1) for row, column in places] == [36] * 4
        direct = table[np.isinf(table["significance"])]
        assert len(direct) == 36 and (origin is None or (np.hypot(direct["qx"] - 30, direct["qy"] - 39) < 1).all())
