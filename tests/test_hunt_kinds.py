"""Kinds of silent failure that the hunt found, each by what decides it; scans through the whole are marked slow."""

import numpy as np
import pytest
from scipy.special import erfc

from py4dstem_prenet.core import Decision, NoiseModel, OriginMap, as_scan
from py4dstem_prenet.descan import fit_origin, fit_pair
from py4dstem_prenet.detector import estimate_noise
from py4dstem_prenet.detector.bad_pixels import quiet_pixels
from py4dstem_prenet.origin import block_sums, continues_across_edges, measure_origin, sharper_spot
from py4dstem_prenet.simulation import draw_descan


def disk(shape, center, radius, edge=0.6):
    x, y = np.indices(shape)
    return 0.5 * erfc((np.hypot(x - center[0], y - center[1]) - radius) / edge)


def gaussian(shape, center, width):
    x, y = np.indices(shape)
    return np.exp(-((x - center[0]) ** 2 + (y - center[1]) ** 2) / (2 * width**2))


# --- stray light -----------------------------------------------------------------------------------
@pytest.mark.parametrize("seed", range(4))
def test_only_a_soft_spot_beside_a_sharper_and_brighter_one_is_stray_light(seed):
    rng = np.random.default_rng(seed)
    shape, good = (96, 96), np.ones((96, 96), bool)
    beam, stray = disk(shape, (35, 40), rng.uniform(2, 4)), gaussian(shape, (66, 62), rng.uniform(6, 8))
    sharp = gaussian(shape, (35, 40), 3.0)
    assert sharper_spot(rng.poisson(300 * beam + 100 * stray + 1), good, (66, 62)) is not None
    assert sharper_spot(rng.poisson(300 * beam + 100 * stray + 1), good, (35, 40)) is None
    # a sharp beam with tails beside a brighter Bragg spot of the same kind, and a disk beside hot pixels
    assert sharper_spot(rng.poisson(300 * sharp + 500 * np.roll(sharp, 20, 1) + 1), good, (35, 40)) is None
    assert sharper_spot(rng.poisson(300 * disk(shape, (35, 40), 8.0) + 900 * (disk(shape, (70, 70), 1.5))), good,
                        (35, 40)) is None


@pytest.mark.slow
def test_the_beam_is_found_beside_stray_light_with_more_electrons():
    rng = np.random.default_rng(1)
    rows, columns = np.meshgrid(np.linspace(-2, 2, 8), np.linspace(-2, 2, 8), indexing="ij")
    truth = np.stack([36 + rows, 44 - columns])
    x = np.indices((80, 80))
    halo = 1 / (1 + (np.hypot(x[0] - 36, x[1] - 44) / 10) ** 2) ** 1.5
    expected = np.stack([[1500 * disk((80, 80), truth[:, i, j], 2.6) / 21 + 400 * halo / halo.sum() for j in range(8)]
                         for i in range(8)]) + 2500 * gaussian((80, 80), (60, 20), 7.0) / 308
    origin = measure_origin(rng.poisson(expected).astype(np.uint16), progress=False)
    assert not origin.found or np.median(np.hypot(origin.qx0 - truth[0], origin.qy0 - truth[1])) < 0.2
    assert origin.found and origin.decision.has("stray_light")


# --- the detector ----------------------------------------------------------------------------------
def test_a_cluster_that_does_not_scatter_is_bad_and_a_beam_is_not():
    rng = np.random.default_rng(0)
    expected = 40 * disk((64, 64), (30, 32), 5.0) + 0.2
    sample = rng.poisson(np.broadcast_to(expected, (80, 64, 64)))
    none = np.zeros((64, 64), bool)
    assert not quiet_pixels(sample, none, 1.0, 0.0, 0.0).any()
    saturated = np.minimum(sample, 25)
    assert not quiet_pixels(saturated, none, 1.0, 0.0, 0.0).any()
    sample[:, 10:14, 40:44] += rng.integers(20, 90, (4, 4))
    bad = estimate_noise(sample.reshape(8, 10, 64, 64)).bad_pixels
    assert bad[10:14, 40:44].all() and bad.sum() <= 18


def test_cut_frames_are_left_out_of_sums():
    rng = np.random.default_rng(0)
    data = 5.0 * rng.poisson(3.0, (6, 6, 32, 32)) + 500 + rng.normal(0, 2, (6, 6, 32, 32))
    data[2, 3, 16:] = 0
    data[4, 1] = 0
    sums, counts, _ = block_sums(as_scan(data), NoiseModel(5.0, 500.0, 2.0, np.zeros((32, 32), bool), False, 3000.0), 6)
    assert counts.sum() == 34 and sums.min() > -3


def test_a_ring_that_is_wider_than_the_frame_is_not_a_beam_across_its_edges():
    x, y = np.indices((112, 96))
    rho = np.hypot(x - 55.5, y - 47.5)
    pattern = 1000 * disk((112, 96), (55.5, 47.5), 19.0) + 1100 * np.exp(-(((rho - 73) / 14) ** 2) / 2) + 5
    good = np.ones(pattern.shape, bool)
    assert not continues_across_edges(np.random.default_rng(0).poisson(pattern), good)
    beam = 1000 * disk((112, 96), (55.5, 47.5), 9.0) + 5
    assert continues_across_edges(np.random.default_rng(0).poisson(np.fft.ifftshift(beam)), good)


# --- the fit ---------------------------------------------------------------------------------------
@pytest.mark.slow
def test_sigma_of_a_fit_counts_terms_that_are_too_small_to_be_chosen():
    """Descans about as large as the noise: the model that is chosen is often too simple. Without them it is 1.3."""
    rng = np.random.default_rng(4)
    squared = []
    for _ in range(60):
        truth = np.stack([draw_descan(rng, (10, 10), 1.0) for _ in range(2)])
        sigma = rng.uniform(0.3, 0.8)
        fits = fit_pair(*(truth + rng.normal(0, sigma, truth.shape)), sigma, sigma, np.ones((10, 10), bool))
        squared.append(np.mean([((fit.values - q) / fit.sigma) ** 2 for fit, q in zip(fits, truth, strict=True)]))
    assert 0.8 < np.sqrt(np.mean(squared)) < 1.25


def test_the_fit_of_a_copied_frame_is_that_of_the_frame_it_shows():
    rng = np.random.default_rng(0)
    truth = 50 + np.stack(np.meshgrid(np.linspace(-3, 3, 10), np.linspace(-3, 3, 10), indexing="ij"))
    copied = np.zeros((10, 10), bool)
    copied[4, 5] = copied[4, 6] = copied[7, 1] = True
    flat = truth.reshape(2, -1)
    for frame in np.flatnonzero(copied.ravel()):
        flat[:, frame] = flat[:, frame - 1]
    sigma, valid = np.full((10, 10), 0.03), np.ones((10, 10), bool)
    origin = OriginMap(*(truth + rng.normal(0, 0.03, truth.shape)), sigma, sigma, valid, 6.0, Decision(True),
                       copied=copied)
    fit = fit_origin(origin)
    error = np.hypot(fit.qx0 - truth[0], fit.qy0 - truth[1])
    assert fit.accepted and error.max() < 0.1


@pytest.mark.slow
def test_copies_are_found_in_the_scan():
    rng = np.random.default_rng(2)
    at = np.linspace(-2, 2, 8)
    counts = np.stack([[rng.poisson(30 * disk((64, 64), (32 + a, 30 + b), 5.0) + 0.05) for b in at] for a in at])
    counts[3, 4] = counts[3, 3]
    counts[6, 0] = counts[5, 7]
    origin = measure_origin(counts.astype(np.uint16), progress=False)
    assert np.argwhere(origin.copied).tolist() == [[3, 4], [6, 0]]


def test_the_sigma_of_a_refused_fit_covers_the_positions():
    rng = np.random.default_rng(0)
    q = 48 + np.repeat(rng.uniform(-5, 5, (2, 48)), 3, 1).reshape(2, 12, 12)
    sigma = np.full((12, 12), 0.05)
    fit = fit_origin(OriginMap(*(q + rng.normal(0, 0.05, q.shape)), sigma, sigma, np.ones((12, 12), bool), 6.0,
                               Decision(True)))
    assert not fit.accepted
    assert np.mean(np.abs(fit.qx0 - q[0]) < 3 * fit.sigma_qx0) > 0.95
