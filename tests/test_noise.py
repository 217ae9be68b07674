from functools import cache

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from scans import others_slow, simulated

from py4dstem_prenet.core.errors import PrenetError
from py4dstem_prenet.core.flags import has_flag
from py4dstem_prenet.core.noise import NoiseModel, stabilize
from py4dstem_prenet.core.sampling import sample_positions
from py4dstem_prenet.detector.estimate import estimate_noise

SIDE = 64


@cache
def expected(radius=5.0, scan=(10, 10)):
    """(n, 64, 64) expected fractions of a pattern: disks on a lattice that turns, on a background."""
    rng = np.random.default_rng(7)
    x, y = np.mgrid[:SIDE, :SIDE]
    out = []
    for angle in rng.uniform(0, np.pi, scan[0] * scan[1]):
        cx, cy = 31.5 + rng.uniform(-2, 2, 2)
        q = np.hypot(x - cx, y - cy)
        pattern = 0.004 * np.exp(-q / 12)
        for h in (-1, 0, 1):
            for k in (-1, 0, 1):
                a = 17 * (h * np.cos(angle) - k * np.sin(angle))
                b = 17 * (h * np.sin(angle) + k * np.cos(angle))
                edge = np.hypot(x - cx - a, y - cy - b) - radius
                pattern += rng.uniform(0.05, 0.3) ** (abs(h) + abs(k)) / (1 + np.exp(edge / 0.4)) / 50
        out.append(pattern / pattern.sum())
    return np.array(out)


def measure(dose, gain=1.0, offset=0.0, readout=0.0, seed=0, radius=5.0):
    """A (10, 10, 64, 64) scan as a detector with these properties would give it: whole numbers."""
    rng = np.random.default_rng(seed)
    values = gain * rng.poisson(dose * expected(radius)) + offset
    if readout:
        values = values + rng.normal(0, readout, values.shape)
    return np.rint(values).astype(np.int32).reshape(10, 10, SIDE, SIDE)


def test_a_masked_gap_through_the_only_disk_leaves_counts_what_they_are():
    """At the edges of a disk that moves, the variance is below the mean; most groups of pixels have the right one."""
    rng = np.random.default_rng(21)
    x, y = np.mgrid[:128, :128]
    at = 62 + 2 * rng.random((100, 2))
    mean = np.stack([17 / (1 + np.exp(3 * (np.hypot(x - a, y - b) - 12))) + 2e-3 for a, b in at])
    mask = np.ones((128, 128), bool)
    mask[62:66] = False
    noise = estimate_noise(rng.poisson(mean).reshape(10, 10, 128, 128).astype(np.uint16), mask=mask)
    assert noise.counting and noise.gain == 1


@pytest.mark.parametrize("dose", [10, 100, 1e3, 1e4, 1e5])
def test_a_counting_detector_is_recognised_at_any_dose(dose):
    data = measure(dose).astype(np.uint16)
    model = estimate_noise(data)
    assert model.counting and (model.gain, model.offset, model.readout) == (1, 0, 0)
    assert model.dose == pytest.approx(data.sum() / 100)
    assert not model.bad_pixels.any() and model.flags == ()


@pytest.mark.parametrize("dose", others_slow([2e3, 2e4]))
@pytest.mark.parametrize("gain, offset, readout", others_slow([(12, 100, 4), (40, -30, 15), (6, 1000, 10)]))
def test_gain_offset_and_readout_of_a_ccd_are_recovered(gain, offset, readout, dose):
    """The mean over four exposures; each lies within its sigmas."""
    truth = np.array([gain, offset, readout, dose])
    models = [estimate_noise(measure(dose, gain, offset, readout, seed)) for seed in range(4)]
    assert not any(model.counting for model in models)
    found = np.array([[model.gain, model.offset, model.readout, model.dose] for model in models])
    off = np.abs(found.mean(0) - truth)
    assert (off < [0.08 * gain, 0.1 * gain, 0.1 * readout, 0.1 * dose]).all()
    pull = (found - truth) / [model.sigmas for model in models]
    assert np.abs(pull).max() < 5 and np.sqrt(np.mean(pull**2)) < 2


def test_what_a_caller_changes_in_a_noise_model_is_not_returned_to_the_next():
    counts = simulated().counts
    changed = estimate_noise(counts)
    changed.bad_pixels[:] = True
    assert estimate_noise(counts).bad_pixels.mean() < 0.01
    mask = np.ones(counts.shape[2:], bool)
    mask[:9] = False
    assert estimate_noise(counts, mask=mask).bad_pixels[:9].all()


@settings(max_examples=8, deadline=None)
@given(st.floats(1e-3, 1e3), st.booleans())
@pytest.mark.slow
def test_units_do_not_matter(scale, counting):
    data = measure(2e3) if counting else measure(2e3, 12, 100, 4)
    reference = estimate_noise(data.astype(np.float32))
    model = estimate_noise((data * scale).astype(np.float32))
    assert model.gain == pytest.approx(scale * reference.gain, rel=1e-2)
    assert model.offset == pytest.approx(scale * reference.offset, rel=1e-2, abs=1e-9)
    assert model.readout == pytest.approx(scale * reference.readout, rel=1e-2, abs=1e-9)
    assert model.dose == pytest.approx(reference.dose, rel=1e-2)
    assert model.counting == reference.counting == counting


def test_counts_divided_by_their_maximum_are_counts_again():
    data = measure(2e3)
    model = estimate_noise((data / data.max()).astype(np.float32))
    assert model.counting
    electrons = model.electrons((data[0] / data.max()).astype(np.float32))
    np.testing.assert_allclose(electrons, data[0], atol=1e-3)


def test_what_is_given_wins():
    data = measure(2e3, 12, 100, 4)
    model = estimate_noise(data, gain=12.0, offset=100.0, readout=4.0)
    assert (model.gain, model.offset, model.readout) == (12, 100, 4)
    assert estimate_noise(data, gain=12.0).offset == pytest.approx(100, abs=1)
    assert estimate_noise(data, offset=100.0).readout == pytest.approx(4, rel=0.1)
    assert estimate_noise(data, readout=4.0).offset == pytest.approx(100, abs=1)
    with pytest.raises(PrenetError):
        estimate_noise(data, gain=0.0)


@pytest.mark.parametrize("kind", ["counting", "ccd"])
@pytest.mark.parametrize("dose", [1e3, 2e4])
def test_known_bad_pixels_are_found_and_none_invented(kind, dose):
    gain, offset, readout = (1, 0, 0) if kind == "counting" else (12, 100, 4)
    data = measure(dose, gain, offset, readout)
    rng = np.random.default_rng(3)
    truth = np.zeros((SIDE, SIDE), bool)
    hot = [(3, 4), (3, 5), (50, 10), (20, 60), (0, 0), (63, 30)]
    dead = [(31, 31), (33, 27)]
    for x, y in hot:
        data[:, :, x, y] = gain * rng.poisson(60 if (x, y) != (50, 10) else 4, (10, 10)) + offset
        truth[x, y] = True
    data[:, :, 20, 60] = 3000  # stuck
    for x, y in dead:
        data[:, :, x, y] = offset
        truth[x, y] = True
    model = estimate_noise(data)
    np.testing.assert_array_equal(np.argwhere(model.bad_pixels), np.argwhere(truth))
    assert model.gain == pytest.approx(gain, rel=0.1) and model.offset == pytest.approx(offset, abs=1)


@pytest.mark.parametrize("radius", [1.0, 1.5, 2.0])
@pytest.mark.parametrize("n", [1, 4, 100])
@pytest.mark.parametrize("at", [(31, 31), (31.5, 31.5), (31.3, 30.8)])
def test_a_small_direct_beam_that_never_moves_is_not_a_hot_pixel(radius, n, at):
    fine = (np.mgrid[: SIDE * 5, : SIDE * 5] - 2) / 5
    disk = np.hypot(fine[0] - at[0], fine[1] - at[1]) < radius
    beam = disk.reshape(SIDE, 5, SIDE, 5).mean((1, 3))
    data = np.random.default_rng(0).poisson(500 * beam + 0.05, (1, n, SIDE, SIDE))
    assert not estimate_noise(data).bad_pixels.any()


def test_electrons_keep_counts_on_good_pixels_and_fill_bad_ones():
    rng = np.random.default_rng(1)
    bad = np.zeros((SIDE, SIDE), bool)
    bad[10, 10] = bad[0, 0] = bad[30:35, 40:44] = bad[:, 50] = True
    model = NoiseModel(12.0, 100.0, 4.0, bad, False, 0.0)
    counts = rng.integers(0, 50, (3, SIDE, SIDE))
    counts[:, bad] = 10**6
    block = (12 * counts + 100).astype(np.uint32)
    before = block.copy()
    electrons = model.electrons(block)
    np.testing.assert_array_equal(block, before)
    assert electrons.dtype == np.float32 and electrons.shape == block.shape
    np.testing.assert_allclose(electrons[:, ~bad], counts[:, ~bad], atol=1e-3)
    around = counts[:, 9:12, 9:12].reshape(3, 9)[:, [0, 1, 2, 3, 5, 6, 7, 8]]
    np.testing.assert_allclose(electrons[:, 10, 10], np.median(around, axis=1), atol=1e-3)
    assert (electrons[:, bad] <= 50).all()  # nothing of the bad pixels' own values, in wide holes either


def test_stabilized_poisson_counts_have_unit_variance_whatever_their_mean():
    rng = np.random.default_rng(2)
    for mean in (3, 10, 300):
        for readout in (0, 0.5, 2):
            e = rng.poisson(mean, 200_000) + rng.normal(0, readout, 200_000)
            assert stabilize(e, readout).std() == pytest.approx(1, abs=0.06)
    e = torch.tensor([-5.0, 0.0, 4.0])
    np.testing.assert_allclose(stabilize(e, 0.5).numpy(), stabilize(e.numpy(), 0.5), rtol=1e-6)


def test_variance_predicts_the_scatter_of_electrons():
    rng = np.random.default_rng(4)
    model = NoiseModel(12.0, 100.0, 6.0, np.zeros((SIDE, SIDE), bool), False, 0.0)
    mean = np.linspace(0, 20, SIDE) * np.ones((SIDE, 1))
    block = 12 * rng.poisson(mean, (2000, SIDE, SIDE)) + 100 + rng.normal(0, 6, (2000, SIDE, SIDE))
    scatter = model.electrons(block).var(axis=0).mean(axis=0)
    np.testing.assert_allclose(scatter, model.variance(mean)[0], rtol=0.05)


@pytest.mark.parametrize("value", [0, 7])
def test_data_without_a_pattern_are_refused(value):
    with pytest.raises(PrenetError):
        estimate_noise(np.full((2, 2, 64, 64), value, np.uint16))


def test_a_blanked_beam_is_said_to_be_one():
    data = np.rint(np.random.default_rng(5).normal(20, 9, (4, 4, 64, 64))).astype(np.int32)
    model = estimate_noise(data)
    assert model.dose < 0.01 * data.size / 16
    assert model.offset == pytest.approx(20, abs=0.5) and model.readout == pytest.approx(9, rel=0.1)
    assert has_flag(model.flags, "no_electrons")


def test_one_pattern_is_enough():
    model = estimate_noise(measure(2e4)[:1, :1])
    assert model.counting and not model.bad_pixels.any()
    model = estimate_noise(measure(2e4, 12, 100, 4)[:1, :1])
    assert model.gain == pytest.approx(12, rel=0.5) and model.offset == pytest.approx(100, abs=6)


@pytest.mark.slow
def test_shared_noise_and_saturation_are_reported():
    rng = np.random.default_rng(6)
    data = 12.0 * rng.poisson(2e4 * expected()) + rng.normal(100, 4, expected().shape)
    data = data.reshape(10, 10, SIDE, SIDE)
    assert estimate_noise(data).flags == ()
    blurred = sum(np.roll(data, s, (2, 3)) for s in ((0, 0), (0, 1), (1, 0), (1, 1))) / 4
    assert has_flag(estimate_noise(blurred).flags, "shared_noise")
    assert has_flag(estimate_noise(np.minimum(data, 100 + 12 * 60)).flags, "saturated")


def test_pixels_that_are_stuck_at_high_values_are_bad_and_do_not_saturate_the_others():
    data = measure(4000)
    data[..., 5, 40], data[..., 50, 9] = 4095, 2900
    noise = estimate_noise(data)
    assert noise.bad_pixels[5, 40] and noise.bad_pixels[50, 9]
    assert not has_flag(noise.flags, "saturated")


def test_repeated_frames_are_told_from_a_few_electrons_that_fell_alike():
    few = measure(1)
    assert len({pattern.tobytes() for pattern in few.reshape(100, -1)}) < 95  # by chance
    assert not has_flag(estimate_noise(few).flags, "repeated_frames")
    repeated = measure(100)
    repeated[4] = repeated[3]
    flag, = (flag for flag in estimate_noise(repeated).flags if flag.name == "repeated_frames")
    assert flag.numbers == {"count": 10, "total": 100}


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 300), st.integers(1, 300), st.integers(1, 256))
def test_sampled_positions_are_distinct_in_range_and_spread_over_both_axes(rx, ry, count):
    at = sample_positions((rx, ry), count)
    assert 1 <= len(at) <= count and (np.diff(at) > 0).all() and at[0] >= 0 and at[-1] < rx * ry
    if rx >= 4 and ry >= 4 and count >= 16 and rx < 4 * ry < 16 * rx:
        assert len(np.unique(at // ry)) >= 2 and len(np.unique(at % ry)) >= 2


@pytest.mark.parametrize("scan", [(64, 64), (128, 128), (256, 256), (512, 512), (256, 64)])
def test_a_sample_sees_rows_scanned_backward_and_every_phase_of_what_is_periodic(scan):
    rows, columns = np.divmod(sample_positions(scan, 256), scan[1])
    for at in (rows, columns):
        for period in (2, 4):
            seen = np.bincount(at % period, minlength=period)
            assert seen.min() > 0.6 * seen.mean()


@pytest.mark.slow
@pytest.mark.parametrize("options", [dict(scan=(4, 5), shape=(96, 80), dose=10_000.0, ratio=1.05, theta=0.5, seed=3),
                                     dict(scan=(6, 6), shape=(64, 64), radius=5.0, dose=1e5, amplitude=0.0, seed=6)])
def test_a_hot_pixel_inside_the_direct_beam_is_found(options):
    """One that adds as much as the disk is bright moved origins by .3 px; descan or none, it is found, and it alone."""
    made = simulated(**options)
    assert not estimate_noise(made.counts).bad_pixels.any()
    radius = made.truth["radius"]
    middle = [made.truth[q].mean() for q in ("qx0", "qy0")]
    rng = np.random.default_rng(0)
    for u, v in ((0, 0), (0.5, 0.3), (-0.6, 0.6), (0.9, 0.3), (0, -1.0)):
        x, y = (round(float(m + radius * w)) for m, w in zip(middle, (u, v), strict=True))
        counts = made.counts.astype(np.uint32)
        counts[:, :, x, y] += rng.poisson(made.truth["dose"] / (np.pi * radius**2), counts.shape[:2]).astype(np.uint32)
        assert np.argwhere(estimate_noise(counts).bad_pixels).tolist() == [[x, y]]


@pytest.mark.parametrize("radius", [0.8, 1.2])
def test_spots_that_the_edge_of_the_frame_cuts_are_good_and_hot_pixels_on_it_are_bad(radius):
    rng = np.random.default_rng(6)
    x, y = np.mgrid[:SIDE, :SIDE]
    mean = np.full((SIDE, SIDE), 0.5)
    for at in ((0.3, 20.6), (-0.2, 41.0), (30.4, 63.2), (63.1, 10.5), (31.0, 31.5), (50.5, 0.2)):
        mean += 300 / (1 + np.exp((np.hypot(x - at[0], y - at[1]) - radius) / 0.2))
    hot = [(0, 52), (20, 0), (63, 40), (45, 63)]
    for pixel in hot:
        mean[pixel] += 200
    noise = estimate_noise(rng.poisson(mean, (8, 8, SIDE, SIDE)).astype(np.uint16))
    assert sorted(map(tuple, np.argwhere(noise.bad_pixels).tolist())) == sorted(hot)


@pytest.mark.parametrize("descan", [0.0, 2.0])
@pytest.mark.parametrize("electrons", [1000, 3000, 10000])
def test_an_empty_probe_on_a_counting_detector_counts(electrons, descan):
    """Nothing but one disk with a blurred edge, which moves with the descan: there are hardly groups of pixels."""
    rng = np.random.default_rng(8)
    x, y = np.mgrid[:128, :128]
    at = 62 + descan * np.linspace(-1, 1, 8)
    mean = np.stack([1 / (1 + np.exp((np.hypot(x - a, y - b) - 6) / 0.35)) for a in at for b in at])
    data = rng.poisson(electrons * mean / mean.sum((1, 2), keepdims=True)).reshape(8, 8, 128, 128)
    noise = estimate_noise(data.astype(np.uint8))
    assert noise.counting and noise.gain == 1 and abs(noise.dose / electrons - 1) < 0.02


def spots_of_precession(seed=0, side=128):
    """(144, side, side) electrons: sharp spots of four grains that move with the descan, on dim diffuse scattering."""
    rng = np.random.default_rng(seed)
    x, y = np.mgrid[:side, :side] - (side - 1) / 2
    axis = np.arange(side)
    grains = [(rng.uniform(4, side - 4, (60, 2)), rng.gamma(0.5, 40.0, 60)) for _ in range(4)]
    mean = np.empty((144, side, side))
    for k in range(144):
        at, electrons = grains[k // 36]
        rows, columns = (np.exp(-2 * (axis[:, None] - c - k % 12 / 6) ** 2) for c in at.T)
        mean[k] = 0.015 + 1.5 * np.exp(-(x**2 + y**2) / 500) + (rows * electrons / 1.57) @ columns.T
    return rng.poisson(mean)


def test_sharp_spots_on_rare_electrons_are_counted():
    electrons = spots_of_precession()
    noise = estimate_noise(electrons.astype(np.uint16).reshape(12, 12, 128, 128))
    assert noise.counting and noise.gain == 1
    assert noise.dose == pytest.approx(electrons.sum() / 144, rel=1e-3)


def test_readout_noise_cut_at_zero_is_not_counted():
    """The read-out noise of a camera whose dark level was subtracted, and more: most values are zero."""
    electrons = spots_of_precession(1)
    noise = np.random.default_rng(2).normal(-3.0, 2.5, electrons.shape)
    values = np.rint(8 * electrons + noise).clip(0).astype(np.uint16)
    assert not estimate_noise(values.reshape(12, 12, 128, 128)).counting
