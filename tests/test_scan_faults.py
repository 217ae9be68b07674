"""Scans from public bug reports, re-created: each comes out right within its sigmas, or is refused with its cause."""

import warnings

import numpy as np
import py4DSTEM
import pytest
from scans import others_slow
from scipy.special import erf

from py4dstem_prenet.core import Decision, Flag, NoiseModel, OriginMap, PrenetError, as_scan
from py4dstem_prenet.core.flags import has_flag
from py4dstem_prenet.detector import bad_lines, estimate_noise, full_scale_pixels, lost_frames
from py4dstem_prenet.fits import disk_outline
from py4dstem_prenet.origin import check_edges, continues_across_edges
from py4dstem_prenet.pipeline import calibrate

SIDE = 128
X, Y = np.indices((SIDE, SIDE))


def disk(x, y, radius=6.0):
    return np.hypot(X - x, Y - y) < radius


def counted(mean, scan, seed=0):
    return np.random.default_rng(seed).poisson(np.broadcast_to(mean, (*scan, SIDE, SIDE)))


def calibrated(data, **options):
    return calibrate(py4DSTEM.DataCube(data), progress=False, **{"ellipse": False} | options)


def centroid(mask):
    return np.array([X[mask].mean(), Y[mask].mean()])


def within(noise, *, gain, offset, readout, dose, sigmas=4.0):
    """Whether all that the noise model states is within so many of its own sigmas."""
    pull = np.subtract((noise.gain, noise.offset, noise.readout, noise.dose), (gain, offset, readout, dose))
    return bool((np.abs(pull) < sigmas * np.array(noise.sigmas)).all())


# --- lost frames and hits -----------------------------------------------------------------------------
@pytest.mark.slow
@pytest.mark.parametrize("offset", [0, 500])
@pytest.mark.parametrize("blank", [0, 1, 4])
def test_blank_frames_do_not_change_the_noise_model(offset, blank):
    clean = 3000 / 113 * disk(63, 66) + 0.05
    for x, y in ((25, 8), (-25, -8), (8, -25), (-8, 25)):
        clean = clean + 250 / 113 * disk(63 + x, 66 + y)
    rng = np.random.default_rng(0)
    data = 30.0 * rng.poisson(np.broadcast_to(clean, (64, SIDE, SIDE))) + offset + rng.normal(0, 10, (64, SIDE, SIDE))
    data[28 : 28 + blank] = 0
    noise = estimate_noise(data.reshape(8, 8, SIDE, SIDE).astype(np.float32))
    assert within(noise, gain=30, offset=offset, readout=10, dose=clean.sum())
    assert noise.sigmas[0] < 2 and noise.sigmas[1] < 1 and noise.sigmas[2] < 1  # and they are no excuse
    assert has_flag(noise.flags, "lost_frames") == (blank > 0)


def test_frames_that_are_dark_by_nature_are_not_lost():
    rng = np.random.default_rng(0)
    counts = rng.poisson(40 * disk(60, 60)[None] * np.ones((30, 1, 1)))
    counts[:20] += rng.poisson(2.0, (20, SIDE, SIDE))  # the others are vacuum
    assert not lost_frames(counts).any()
    counts[3] = 0
    assert np.flatnonzero(lost_frames(counts)).tolist() == [3]
    assert not lost_frames(rng.poisson(2 / SIDE**2, (30, SIDE, SIDE))).any()  # hardly an electron each


@pytest.mark.parametrize("count", others_slow([0, 64]))
def test_x_ray_hits_do_not_change_the_noise_model(count):
    clean = 3000 / 113 * disk(63, 66) + 300 / 113 * (disk(90, 60) + disk(36, 72)) + 0.05
    rng = np.random.default_rng(0)
    data = 20.0 * rng.poisson(np.broadcast_to(clean, (64, SIDE, SIDE))) + rng.normal(0, 10, (64, SIDE, SIDE))
    for _ in range(count):
        data[tuple(rng.integers(2, n - 2) for n in data.shape)] += rng.uniform(3000, 20000)
    noise = estimate_noise(data.reshape(8, 8, SIDE, SIDE).astype(np.float32))
    assert within(noise, gain=20, offset=0, readout=10, dose=clean.sum())
    found = [flag for flag in noise.flags if flag.name == "hits"]
    assert len(found) == (count > 0) and all(0.9 * count <= flag.numbers["count"] <= count for flag in found)


@pytest.mark.slow
def test_tracks_do_not_change_gain_offset_and_readout():
    """Thin tracks of charged particles in half of the patterns; offset and read-out noise look like those of counts."""
    clean = 4000 / 113 * disk(63, 66) + 300 / 113 * (disk(90, 60) + disk(36, 72)) + 0.05
    rng = np.random.default_rng(3)
    data = 20.0 * rng.poisson(np.broadcast_to(clean, (64, SIDE, SIDE))) + 100 + rng.normal(0, 10, (64, SIDE, SIDE))
    for frame in data[::2]:
        angle, middle = rng.uniform(0, np.pi), rng.uniform(12, 116, 2)
        along = np.linspace(-8, 8, 40)
        frame[tuple(np.rint(middle[k] + along * f(angle)).astype(int) for k, f in enumerate((np.cos, np.sin)))] += 9000
    noise = estimate_noise(data.round().clip(0, 65535).reshape(8, 8, SIDE, SIDE).astype(np.uint16))
    assert not noise.counting and has_flag(noise.flags, "hits")
    assert abs(noise.gain / 20 - 1) < 0.08 and abs(noise.offset - 100) < 1 and abs(noise.readout - 10) < 0.5
    assert abs(noise.dose / clean.sum() - 1) < 0.5  # with the tracks about twice as much


# --- bad pixels ---------------------------------------------------------------------------------------
@pytest.mark.slow
@pytest.mark.parametrize("rows, value, kind", [
    (slice(120, 122), 2**32 - 1, np.uint32), (slice(60, 62), 65535, np.uint16), (slice(60, 61), -1, np.int32)])
def test_pixels_at_full_scale_are_bad_and_never_the_beam(rows, value, kind):
    data = counted(3000 / 113 * disk(65.3, 61.7) + 0.02, (6, 6)).astype(kind)
    data[:, :, rows] = value
    bad = np.zeros((SIDE, SIDE), bool)
    bad[rows] = True
    report = calibrated(data)
    np.testing.assert_array_equal(report.noise.bad_pixels, bad)
    assert report.noise.counting and report.noise.dose < 3500
    found = np.median([report.origin.qx0, report.origin.qy0], axis=(1, 2))
    assert np.hypot(*(found - centroid(disk(65.3, 61.7)))) < 0.1


def test_pixels_that_are_marked_in_part_of_the_patterns_are_bad():
    clean = 3000 / 113 * disk(65.3, 61.7) + 0.02
    data = counted(clean, (6, 6)).astype(np.uint16)
    data[::2, :, 40:44] = 65535
    data[3, 3] = 65535  # a lost frame
    bad = np.zeros((SIDE, SIDE), bool)
    bad[40:44] = True
    noise = estimate_noise(data)
    np.testing.assert_array_equal(noise.bad_pixels, bad)
    assert noise.counting and abs(noise.dose - clean[~bad].sum()) < 0.02 * clean.sum()


@pytest.mark.slow
def test_pixels_that_are_never_finite_are_bad():
    data = counted(3000 / 113 * disk(65.3, 61.7) + 0.02, (6, 6)).astype(np.float32)
    data[:, :, 63:66, 50:60] = np.nan
    data[:, :, 20, 20] = np.inf
    bad = ~np.isfinite(data[0, 0])
    report = calibrated(data)
    np.testing.assert_array_equal(report.noise.bad_pixels, bad)
    found = np.median([report.origin.qx0, report.origin.qy0], axis=(1, 2))
    assert np.hypot(*(found - centroid(disk(65.3, 61.7)))) < 0.1
    data[2, 3, 90, 90] = np.nan  # in one pattern only
    with pytest.raises(PrenetError):
        calibrated(data)


def test_a_saturated_beam_that_moves_is_not_invalid():
    at = 60 + 4 * np.random.default_rng(1).random((8, 2))
    soft = np.stack([4e5 / (1 + np.exp(2 * np.hypot(X - x, Y - y) - 4)) + 5 for x, y in at])
    data = np.random.default_rng(0).poisson(soft).clip(max=65535).astype(np.uint16)
    assert (data == 65535).any() and not full_scale_pixels(data).any()


def test_a_saturated_beam_is_not_a_block_of_invalid_pixels():
    soft = 4e5 / (1 + np.exp(np.hypot(X - 64, Y - 60) - 6)) + 5
    assert not full_scale_pixels(counted(soft, (8,)).clip(max=65535).astype(np.uint16)).any()
    assert not full_scale_pixels(counted(soft / 100, (8,)).clip(max=255).astype(np.uint8)).any()


@pytest.mark.parametrize("seed", range(3))
def test_spots_that_do_not_move_are_no_bad_pixels(seed):
    rng, turn = np.random.default_rng(seed), np.radians(11)
    mean = 0.5 / (1 + ((X - 64) ** 2 + (Y - 64) ** 2) / 200) ** 1.5
    for h in range(-3, 4):
        for k in range(-3, 4):
            g = 17.3 * np.array([h * np.cos(turn) - k * np.sin(turn), h * np.sin(turn) + k * np.cos(turn)])
            spot = 0.5 * (1 - erf((np.hypot(X - 64 - g[0], Y - 64 - g[1]) - 0.8) / 0.57)) / 2.0
            mean = mean + (140 * np.exp(-(g @ g) / 1250) * rng.uniform(0.3, 1) if h or k else 1600) * spot
    noise = estimate_noise(counted(mean, (8, 8), seed).astype(np.uint16))
    assert not noise.bad_pixels.any() and noise.counting and noise.gain == 1


@pytest.mark.parametrize("kind", ["none", "interpolated", "dead", "wide"])
def test_lines_of_gaps_are_found_and_told(kind):
    q = np.stack(np.meshgrid(np.linspace(63.8, 66.8, 6), np.linspace(60.7, 62.7, 6), indexing="ij")).reshape(2, -1)
    mean = np.stack([3000 / 113 * disk(*at) + 0.02 for at in q.T])
    data = np.random.default_rng(0).poisson(mean).astype(np.float32)
    t = np.linspace(0, 1, 6)[1:5, None]
    if kind == "interpolated":
        data[:, 61:65] = data[:, 60:61] * (1 - t) + data[:, 65:66] * t
    elif kind == "dead":
        data[:, 61:65] = 0
    elif kind == "wide":
        data = np.concatenate([data[:, :62], data[:, 62:65].sum(1, keepdims=True), data[:, 65:68].sum(1, keepdims=True),
                               data[:, 68:]], 1)
    rows, columns = bad_lines(data, np.zeros(data.shape[1:], bool), 1.0)
    expected = {"interpolated": [61, 62, 63, 64], "dead": [61, 62, 63, 64], "wide": [62, 63]}.get(kind, [])
    assert {name: getattr(rows, name).tolist() for name in rows._fields if len(getattr(rows, name))} == (
        {kind: expected} if expected else {})
    assert not any(len(lines) for lines in columns)
    noise = estimate_noise(data.reshape(6, 6, *data.shape[1:]))
    assert has_flag(noise.flags, f"{kind}_lines") == bool(expected) and noise.bad_pixels.sum() == SIDE * len(expected)


def test_an_inverted_mask_is_refused_before_any_work():
    bad = np.random.default_rng(0).random((SIDE, SIDE)) < 0.01
    data = counted(np.where(bad, 40, 26 * disk(65, 62) + 0.02), (4, 4)).astype(np.uint16)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(PrenetError):
            calibrated(data, mask=bad)


# --- the beam -----------------------------------------------------------------------------------------
@pytest.mark.slow
def test_swapped_quadrants_are_refused():
    mean = 1500 / 201 * disk(64, 64, 8) + 0.01
    for x, y in ((26, 0), (-26, 0), (0, 26), (0, -26)):
        mean = mean + 300 / 201 * disk(64 + x, 64 + y, 8)
    good = np.ones(mean.shape, bool)
    assert not continues_across_edges(64 * mean, good)
    report = calibrated(counted(np.fft.ifftshift(mean), (6, 6)).astype(np.uint16))
    assert not report.origin.found and has_flag(report.flags, "quadrants_swapped")


@pytest.mark.parametrize("top", [15.0, 5.0])
def test_a_circle_through_the_edge_finds_a_disk_that_is_cut(top):
    rho = np.hypot(X - top, Y - 101.0)
    phases = np.random.default_rng(0).random(36)
    fringes = np.mean([1 + 0.5 * np.cos(2 * np.pi * (rho**2 / 300 + phase)) for phase in phases], 0)
    pattern = counted(200 * (rho < 26) * fringes + 0.3, ()).astype(float)
    start = top + 4, 101.5
    found = start + disk_outline(pattern, np.ones(pattern.shape, bool), start, 21.0).offset
    assert np.hypot(*(found - (top, 101.0))) < 0.5


@pytest.mark.parametrize(("vague", "found"), [(True, False), (False, True)])
def test_a_vague_position_in_a_disk_at_the_edge_is_refused_if_the_outline_is_elsewhere(vague, found):
    """The outline of a disk of 26 px radius is some 8 px from the located fringe, 1.7 times the limit."""
    pattern = counted(200 * (np.hypot(X - 10, Y - 101) < 26) + 0.3, (6, 6)).astype(np.uint16)
    scatter = np.random.default_rng(0).normal(0, 1.5, (2, 6, 6))
    flags = (Flag("position_uncertain", {"sigma": 1.6, "counting": 0.04 if vague else 1.6}),)
    sigma = np.full((6, 6), 1.5)
    origin = OriginMap(*(np.reshape([14.0, 107.5], (2, 1, 1)) + scatter), sigma, sigma, np.ones((6, 6), bool), 12.0,
                       Decision(True, flags))
    noise = NoiseModel(1.0, 0.0, 0.0, np.zeros((SIDE, SIDE), bool), counting=True, dose=4e5)
    checked = check_edges(as_scan(pattern), noise, origin)
    assert checked.found == found and has_flag(checked.flags, "outline_elsewhere") == vague


@pytest.mark.slow
@pytest.mark.parametrize("top", [30, 15, 5])
def test_a_disk_that_is_cut_is_right_within_its_sigmas_or_refused(top):
    q = np.stack(np.meshgrid(np.linspace(top - 1, top + 1, 6), np.linspace(100.3, 101.7, 6), indexing="ij"))
    rho = [np.hypot(X - a, Y - b) for a, b in q.reshape(2, -1).T]
    mean = np.stack([18000 / (np.pi * 676) * (r < 26) * (1 + 0.5 * np.cos(2 * np.pi * (r**2 / 300 + 0.3)))
                     + 0.25 / (1 + (r / 30) ** 2) for r in rho]).reshape(6, 6, SIDE, SIDE)
    report = calibrated(np.random.default_rng(0).poisson(mean).astype(np.uint16))
    assert report.origin.found == (top > 5)
    if report.fit is not None:
        off = np.hypot(report.fit.qx0 - q[0], report.fit.qy0 - q[1]).mean()
        assert off < 3 * np.hypot(report.fit.sigma_qx0, report.fit.sigma_qy0).mean()


@pytest.mark.slow
def test_the_beam_of_a_few_electrons_is_found_in_sums():
    halo = 0.3  # of the electrons
    q = np.stack(np.meshgrid(np.linspace(61.5, 64.5, 16), np.linspace(65, 67, 16), indexing="ij"))
    rho = np.stack([np.hypot(X - a, Y - b) for a, b in q.reshape(2, -1).T])
    mean = 12 * ((1 - halo) / 78 * (rho < 5) + halo / 2080 * np.exp(-(((rho - 33) / 4) ** 2) / 2))
    report = calibrated(np.random.default_rng(0).poisson(mean).reshape(16, 16, SIDE, SIDE).astype(np.uint8))
    origin, fit = report.origin, report.fit
    assert origin.feature == "direct beam" and not has_flag(report.flags, "beam_hidden") and fit.accepted
    off, sigma = np.hypot(fit.qx0 - q[0], fit.qy0 - q[1]), np.hypot(fit.sigma_qx0, fit.sigma_qy0)
    assert np.median(off) < 0.25 and np.median(off / sigma) < 3


@pytest.mark.slow
@pytest.mark.parametrize("width, background", [(4.0, 0.0), (1.5, 0.3)])
def test_rings_about_another_point_are_told(width, background):
    r, rho = np.hypot(X - 65, Y - 64), np.hypot(X - 62, Y - 66)
    ring = np.exp(-(((r - 28) / width) ** 2) / 2) + 0.6 * np.exp(-(((r - 45) / width) ** 2) / 2)
    mean = 4000 / 78 * (rho < 5) + 4000 * ring / ring.sum() + background / (1 + (rho / 20) ** 2)
    report = calibrated(counted(mean, (8, 8)).astype(np.uint16), ellipse=True)
    flag, = (flag for flag in report.flags if flag.name == "rings_off_center")
    assert abs(flag.numbers["dx"] - 3) < 0.3 and abs(flag.numbers["dy"] + 2) < 0.3


@pytest.mark.slow
def test_a_beam_that_toggles_keeps_the_sigma_of_single_positions():
    """Between two places at random, with nothing but the direct beam: each position is known, a descan is not."""
    rng = np.random.default_rng(0)
    toggled = rng.random((10, 10)) < 0.5
    qx, qy = 63.2 + 4 * toggled + 0.05 * np.arange(10)[:, None], 61.4 - 3 * toggled
    places = zip(qx.ravel(), qy.ravel(), strict=True)
    mean = np.stack([1 / (1 + np.exp(2.5 * (np.hypot(X - x, Y - y) - 6))) for x, y in places])
    data = rng.poisson(mean * 3000 / mean[0].sum() + 1e-4).astype(np.uint16).reshape(10, 10, SIDE, SIDE)
    report = calibrated(data)
    origin = report.origin
    off = np.stack([(origin.qx0 - qx) / origin.sigma_qx0, (origin.qy0 - qy) / origin.sigma_qy0])
    assert origin.valid.all() and 0.6 < np.sqrt(np.mean(off**2)) < 1.5
    assert not report.fit.accepted and report.fit.decision.has("positions_jump")


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["toggle", "whole pixels"])
def test_a_beam_that_jumps_in_part_of_the_patterns_is_not_fitted(kind):
    """The measured origin keeps its own sigma, and no surface that ignores the jumps is accepted."""
    rng = np.random.default_rng(5)
    n = 12
    steps = np.where(rng.random((n, n, 1)) < 0.3, 4, 0) * [1, 1] if kind == "toggle" else np.rint(
        rng.normal(0, 0.9, (n, n, 2))).astype(int)
    q = np.array([62.0, 65.0]) + steps
    data = np.stack([rng.poisson(3000 / 113 * disk(*at) + 0.05) for at in q.reshape(-1, 2)]).astype(np.uint16)
    report = calibrated(data.reshape(n, n, SIDE, SIDE))
    origin = report.origin
    error = np.hypot(origin.qx0 - q[..., 0], origin.qy0 - q[..., 1])
    sigma = np.hypot(origin.sigma_qx0, origin.sigma_qy0)
    assert origin.valid.all() and np.median(error) < 0.15 and np.median(sigma) < 0.15
    assert not report.fit.accepted and has_flag(report.flags, "positions_jump", "order_unknown", "beam_jumps")
