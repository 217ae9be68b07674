"""Slopes of what is measured from estimated patterns, against simulated crystals of known strain and intensities.

Distance from the limits of the decision: a slope of 0.7 lies 0.25 below the limit of 0.95, ten sigma at the dose used;
slopes of 1 lie 0.05 from both limits, three sigma, and an alarm takes three more.
"""

import types
from collections import Counter

import numpy as np
import py4DSTEM
import pytest
from scans import numbers_of
from scipy.signal import savgol_filter
from scipy.special import erf

from py4dstem_prenet import denoising
from py4dstem_prenet.core.noise import NoiseModel
from py4dstem_prenet.core.slopes import Slope, slope_of_halves
from py4dstem_prenet.denoising.checks import check_denoising
from py4dstem_prenet.denoising.functionals import QUANTITIES, measure_slopes, similar_groups
from py4dstem_prenet.report.verdicts import make_verdict

SIDE, RADIUS, EDGE = 64, 3.5, 0.7  # pixels
LATTICE = np.array([[12.1, 2.3], [-2.9, 11.3]])  # px, reciprocal lattice vectors as rows
TURNED = np.array([[8.9, 8.6], [-8.3, 9.2]])  # px, those of another grain
DOSE = 4000.0  # electrons per pattern in both halves
SCAN = 12  # positions a side
VARYING = ("strain along qx", "rotation", "pattern total", "dark-field image", "strongest disks")
INTENSITY = {"pattern total", "dark-field image", "strongest disks"}


def crystal(seed=0, strain=1.0, rotation=1.0, intensity=1.0, scan=SCAN, lattice=LATTICE):
    """Expected patterns (n, SIDE, SIDE) of one electron, and origins (n, 2), of a bent crystal of varying thickness.

    The arguments scale the fields: strain along qx of 1 % rms, rotation of 10 mrad rms, Bragg disks that vary by 25 %
    rms; phases of the fields depend on the seed.
    """
    rng = np.random.default_rng(seed)
    r, c = (axis.ravel() for axis in np.meshgrid(*[np.linspace(-1, 1, scan)] * 2, indexing="ij"))
    along = rng.uniform(0, 2 * np.pi, 3)
    exx = strain * 0.014 * np.sin(2.5 * c + along[0])
    turn = rotation * 0.014 * np.sin(2.5 * r + along[1])
    bragg = 1 + intensity * 0.35 * np.sin(3 * (r + c) + along[2])
    orders = [(h, k) for h in (-2, -1, 0, 1, 2) for k in (-2, -1, 0, 1, 2)]
    amplitudes = rng.uniform(0.15, 0.5, len(orders))
    origins = np.array([30.7, 32.4]) + 0.5 * np.stack([r + 0.3 * c, c], -1)
    axis = np.arange(SIDE)
    out = np.full((len(r), SIDE, SIDE), 2e-5)
    for order, amplitude in zip(orders, amplitudes, strict=True):
        g = np.array(order) @ lattice
        x = axis - (origins[:, :1] + (g[0] * (1 + exx) - turn * g[1])[:, None])
        y = axis - (origins[:, 1:] + (g[1] + turn * g[0])[:, None])
        away = (np.sqrt(x[:, :, None] ** 2 + y[:, None] ** 2) - RADIUS) / EDGE
        near = np.nonzero(away < 4)  # beyond, the disk has less than 1e-8 of its brightness
        weight = np.ones(len(r)) if order == (0, 0) else amplitude * bragg
        out[near] += weight[near[0]] * 0.5 * (1 - erf(away[near])) / (np.pi * RADIUS**2)
    return out / out.sum((1, 2)).mean(), origins


def of_half(dose=DOSE):
    return NoiseModel(1.0, 0.0, 0.0, np.zeros((SIDE, SIDE), bool), True, dose / 2)


def halves(clean, seed, dose=DOSE):
    return np.random.default_rng(1000 + seed).poisson(clean * dose / 2, (2, *clean.shape)).astype(np.float32)


def slopes_of(estimate, clean, origins, seed=0, dose=DOSE):
    """Slopes of an estimate: expected patterns of one electron, or a function of half A in electrons."""
    first, second = halves(clean, seed, dose)
    estimate = estimate(first) if callable(estimate) else estimate * dose / 2
    return measure_slopes(estimate, first, second, origins, of_half(dose))


def regression(first):
    """Quadratic regression over 5 x 5 positions: unbiased to second order, with the noise of half A."""
    scan = first.reshape(SCAN, SCAN, SIDE, SIDE)
    return savgol_filter(savgol_filter(scan, 5, 2, axis=0), 5, 2, axis=1).reshape(first.shape)


def statuses(slopes, *wanted):
    return {name for name, slope in slopes.items() if slope.status in wanted}


@pytest.mark.parametrize("estimate", [
    pytest.param(None, id="truth"), pytest.param(regression, id="regression", marks=pytest.mark.slow)])
def test_an_estimate_that_loses_nothing_has_slopes_of_one(estimate):
    clean, origins = crystal()
    slopes = slopes_of(clean if estimate is None else estimate, clean, origins)
    assert set(slopes) == set(QUANTITIES)
    assert statuses(slopes, "kept") == set(VARYING)
    assert statuses(slopes, "unknown") == set(QUANTITIES) - set(VARYING)  # they do not vary
    for name in VARYING:
        slope = slopes[name]
        assert abs(slope.value - 1) < 0.01 + 3 * slope.sigma and slope.sigma < 0.03 and slope.variation > 1


@pytest.mark.slow
def test_raw_counts_have_slopes_of_one():
    clean, origins = crystal()
    slopes = slopes_of(lambda first: first, clean, origins)
    assert statuses(slopes, "kept") == set(VARYING)
    assert all(abs(slopes[name].value - 1) < 1e-9 for name in VARYING)


@pytest.mark.slow
@pytest.mark.parametrize(("field", "factor", "wrong"), [
    ("strain", 0.7, {"strain along qx"}), ("rotation", 0.7, {"rotation"}), ("intensity", 0.7, INTENSITY),
    ("strain", 1.4, {"strain along qx"}),
], ids=["strain", "rotation", "intensity", "exaggerated strain"])
def test_what_is_flattened_is_named_and_nothing_else(field, factor, wrong):
    clean, origins = crystal(1)
    estimate, _ = crystal(1, **{field: factor})
    slopes = slopes_of(estimate, clean, origins, seed=1)
    assert statuses(slopes, "attenuated" if factor < 1 else "exaggerated") == wrong
    assert not statuses(slopes, "exaggerated" if factor < 1 else "attenuated")
    for name in VARYING:
        expected = factor if name in wrong else 1
        assert slopes[name].value == pytest.approx(expected, abs=0.04 + 3 * slopes[name].sigma)


@pytest.mark.slow
def test_a_homogeneous_specimen_tells_nothing():
    clean, origins = crystal(strain=0, rotation=0, intensity=0)
    slopes = slopes_of(clean, clean, origins)
    assert statuses(slopes, "unknown") == set(QUANTITIES)
    assert all(np.isnan(slope.value) for slope in slopes.values())


@pytest.mark.slow
def test_the_difference_of_grains_does_not_hide_flattened_strain():
    """Two grains side by side: their difference is kept, the strain inside each is flattened to half."""
    (one, origins), (other, _) = crystal(2), crystal(3, lattice=TURNED)
    (flat_one, _), (flat_other, _) = crystal(2, strain=0.5), crystal(3, strain=0.5, lattice=TURNED)
    right = np.arange(len(one)) % SCAN >= SCAN // 2
    clean = np.where(right[:, None, None], other, one)
    groups = list(similar_groups(*halves(clean, 2), origins, of_half()))
    assert sorted(len(members) for members, *_ in groups) == [len(one) // 2] * 2
    assert all(len(set(right[members])) == 1 for members, *_ in groups)
    slopes = slopes_of(np.where(right[:, None, None], flat_other, flat_one), clean, origins, seed=2)
    assert statuses(slopes, "attenuated") == {"strain along qx"}
    assert slopes["strain along qx"].value == pytest.approx(0.5, abs=0.15)


@pytest.mark.slow
def test_bad_pixels_and_one_position_do_no_harm():
    clean, origins = crystal()
    first, second = halves(clean, 0)
    noise = of_half()
    noise.bad_pixels[20:23, 40] = True
    broken = clean * DOSE / 2
    for values in (first, broken):
        values[:, 20:23, 40] = np.random.default_rng(0).normal(0, 1e4, (len(values), 3))
    first = noise.electrons(first)
    assert statuses(measure_slopes(broken, first, second, origins, noise), "kept") == set(VARYING)
    alone = measure_slopes(broken[:1], first[:1], second[:1], None, noise)
    assert statuses(alone, "unknown") == set(QUANTITIES)


@pytest.mark.slow
@pytest.mark.parametrize(("dose", "count"), [(400.0, 24), (DOSE, 12)])
def test_false_alarms_are_rare_and_sigma_is_true(dose, count):
    """At most 1.4 % of the scans may raise one; the other tests have the higher dose, too, and none may raise one."""
    alarms, pulls, kept = 0, [], Counter()
    for seed in range(count):
        clean, origins = crystal(seed, scan=10)
        slopes = slopes_of(clean, clean, origins, seed, dose)
        alarms += bool(statuses(slopes, "attenuated", "exaggerated"))
        kept.update(statuses(slopes, "kept"))
        # The intensities follow one another, so one of them counts.
        pulls += [(slopes[name].value - 1) / slopes[name].sigma for name in VARYING[:3] if slopes[name].sigma > 0]
    assert alarms == 0
    assert len(pulls) > 2.7 * count and 0.75 < np.sqrt(np.mean(np.square(pulls))) < 1.3 and abs(np.mean(pulls)) < 0.4
    assert kept["dark-field image"] >= 5 / 6 * count


@pytest.mark.parametrize("count", [100, 200])
def test_sigma_of_plain_numbers_is_true(count):
    """Of an estimate without noise, and of one that keeps 0.7 of the variation and a quarter of the noise."""
    rng = np.random.default_rng(count)
    truth = 4 * np.sin(np.linspace(0, 9, count))
    truth -= truth.mean()
    pulls = []
    for _ in range(500):
        first, second = truth + rng.normal(size=(2, count))
        for estimate, slope in ((truth, 1.0), (0.7 * truth + 0.25 * (first - truth), 0.7)):
            found = slope_of_halves(estimate, first, second, np.ones(count))
            pulls.append((found.value - slope) / found.sigma)
            assert (found.status == "attenuated") == (slope < 1) and found.status != "exaggerated"
    assert np.sqrt(np.mean(np.square(pulls))) == pytest.approx(1.0, abs=0.1)


def test_a_truth_that_hardly_varies_raises_no_alarm():
    """Where the truth hardly varies, a denominator that is high by chance raises no alarm."""
    rng = np.random.default_rng(0)
    alarms = Counter()
    for _ in range(2000):
        truth = rng.choice([0.3, 0.6, 1.2]) * rng.normal(size=100)
        first, second = truth + rng.normal(size=(2, 100))
        alarms[slope_of_halves(truth, first, second, np.ones(100)).status] += 1
    assert alarms["attenuated"] + alarms["exaggerated"] <= 6  # 2.8 are expected at the limits, and 1 lies inside


def test_the_stated_number_of_positions_decides():
    """Twice the extrapolated number of positions determines the slope; a quarter of it does not."""
    rng = np.random.default_rng(0)

    def measured(count):
        truth = rng.normal(size=count)
        first, second = truth + rng.normal(size=(2, count))
        return slope_of_halves(truth + 0.5 * rng.normal(size=count), first, second, np.ones(count))

    few = [measured(200) for _ in range(40)]
    assert all(slope.status == "unknown" for slope in few)
    needed = 200 * np.median([slope.more for slope in few])
    assert np.mean([measured(round(2 * needed)).status == "kept" for _ in range(40)]) > 0.9
    assert np.mean([measured(round(needed / 4)).status == "kept" for _ in range(40)]) < 0.1


def test_a_scan_that_determines_a_slope_is_not_given_up():
    """A sample may hide a variation that the scan shows: it is given up in less than 5 % of such samples."""
    rng = np.random.default_rng(0)
    given_up = []
    for _ in range(400):
        truth = 0.35 * rng.normal(size=1600)
        first, second = truth + rng.normal(size=(2, 1600))
        whole, sample = (slope_of_halves(truth[:n], first[:n], second[:n], np.ones(n)) for n in (1600, 200))
        if np.isfinite(whole.value) and not np.isfinite(sample.value):
            given_up.append(200 * sample.least > 1600)
    assert len(given_up) > 200 and np.mean(given_up) < 0.05


def test_more_positions_are_advised_only_where_the_scan_has_them(monkeypatch):
    counts = np.random.default_rng(0).poisson(1.0, (24, 24, SIDE, SIDE)).astype(np.uint16)
    monkeypatch.setattr(denoising, "denoise", lambda cube, noise, **_: types.SimpleNamespace(
        data=np.full(cube.data.shape, 0.5)))
    monkeypatch.setattr(denoising, "smooth_origins", lambda *_: None)
    monkeypatch.setattr(denoising, "measure_slopes", lambda *_: {
        "shear": Slope(1.0, 0.07, 1.0, "unknown", 2.0), "rotation": Slope(1.0, 0.3, 1.0, "unknown", 36.0)})
    noise = NoiseModel(1.0, 0.0, 0.0, np.zeros((SIDE, SIDE), bool), True, float(SIDE**2))
    check = check_denoising(py4DSTEM.DataCube(counts), noise, positions=144)
    advised = numbers_of(check, "attenuation_unknown")
    assert advised["quantities"] == ["shear"] and advised["checked"] == 144 and 288 <= advised["positions"] <= 290
    assert numbers_of(check, "attenuation_undetermined")["quantities"] == ["rotation"]


def denoised_as(monkeypatch, patterns):
    """Let `denoise` return expected patterns (n, SIDE, SIDE) of one electron at the dose that it is given."""
    monkeypatch.setattr(denoising, "denoise", lambda cube, noise, **_: types.SimpleNamespace(
        data=noise.dose * patterns.reshape(cube.data.shape)))


@pytest.mark.slow
@pytest.mark.parametrize(("strain", "light"), [(1.0, "amber"), (0.5, "red")], ids=["kept", "flattened"])
def test_the_verdict_is_by_slopes_first(monkeypatch, strain, light):
    clean, origins = crystal()
    counts = np.random.default_rng(0).poisson(DOSE * clean).reshape(SCAN, SCAN, SIDE, SIDE).astype(np.uint16)
    cube = py4DSTEM.DataCube(counts)
    cube.calibration.set_origin(tuple(origins.reshape(SCAN, SCAN, 2).transpose(2, 0, 1)))
    denoised_as(monkeypatch, crystal(strain=strain)[0])
    check = check_denoising(cube, NoiseModel(1.0, 0.0, 0.0, np.zeros((SIDE, SIDE), bool), True, DOSE))
    assert check.errors["denoised"] < 0.05  # the squared error sees nothing of it
    assert check.accepted == (light == "amber") and make_verdict("denoising", check.flags).light == light
    if light == "red":
        numbers = numbers_of(check, "denoising_attenuates")
        assert numbers["quantity"] == "strain along qx" and numbers["slope"] == pytest.approx(0.5, abs=0.1)
    else:
        assert set(numbers_of(check, "denoising_keeps_slopes")["quantities"]) == set(VARYING)
    # The whole scan was checked, so that no larger sample can decide.
    assert set(numbers_of(check, "attenuation_undetermined")["quantities"]) == set(QUANTITIES) - set(VARYING)
    assert np.isnan(check.worth) or (check.worth <= SCAN**2 and check.worth_sigma < check.worth / 2)


def test_green_takes_all_slopes(monkeypatch):
    clean, _ = crystal(scan=6)
    counts = np.random.default_rng(0).poisson(DOSE * clean).reshape(6, 6, SIDE, SIDE).astype(np.uint16)
    denoised_as(monkeypatch, clean)
    monkeypatch.setattr(denoising, "smooth_origins", lambda *_: None)
    monkeypatch.setattr(denoising, "measure_slopes",
                        lambda *_: dict.fromkeys(QUANTITIES, Slope(0.99, 0.01, 5.0, "kept")))
    noise = NoiseModel(1.0, 0.0, 0.0, np.zeros((SIDE, SIDE), bool), True, DOSE)
    check = check_denoising(py4DSTEM.DataCube(counts), noise)
    assert check.accepted and make_verdict("denoising", check.flags).light == "green"
