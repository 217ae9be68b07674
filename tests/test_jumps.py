"""Jumps of the beam: found where they are, told, followed by the fitted origin, and not seen where there are none."""

import numpy as np
import pytest
from scans import numbers_of, origin_map

from py4dstem_prenet.descan.fit import fit_origin
from py4dstem_prenet.descan.jumps import find_jumps, jump_flags, merged, step_at

SHAPE, SIGMA = (24, 20), 0.05


def descan():
    x, y = np.meshgrid(*(np.linspace(-1, 1, n) for n in SHAPE), indexing="ij")
    return 60 + 2 * x + 0.5 * y - 0.4 * x * y, 50 - y + 0.3 * x**2


def measured(frame=None, step=(1.0, 0.0), seed=0, outliers=0.0):
    """An OriginMap whose beam lies `step` elsewhere from a frame on, and its truth."""
    rng = np.random.default_rng(seed)
    truth = np.stack(descan())
    if frame is not None:
        truth.reshape(2, -1)[:, frame:] += np.array(step)[:, None]
    maps = truth + rng.normal(0, SIGMA, truth.shape)
    maps += 9.0 * (rng.random(SHAPE) < outliers)
    sigma = np.full(SHAPE, SIGMA)
    return origin_map(*maps, sigma, sigma, np.ones(SHAPE, bool)), truth


def test_steps_far_from_one_another_have_no_like_to_compare_with(recwarn):
    maps, _ = measured()
    known = np.zeros(SHAPE, bool)
    for row in (0, 1, 9, 10, 20, 21):
        known[row] = True
    assert find_jumps(maps.qx0, maps.sigma_qx0, known) == () and not len(recwarn)


@pytest.mark.parametrize(("frame", "outliers"), [(200, 0.0), (209, 0.0), (77, 0.0), (200, 0.15), (302, 0.15)])
def test_a_jump_is_found_where_it_is(frame, outliers):
    origin, _ = measured(frame, outliers=outliers)
    (jump,) = find_jumps(origin.qx0, origin.sigma_qx0, origin.valid)
    assert abs(jump.frame - frame) <= (1 if not outliers else 3)
    assert jump.step == pytest.approx(1, abs=5 * jump.sigma) and jump.sigma < 0.12
    assert jump.row <= jump.frame // SHAPE[1] <= jump.row + 1
    assert find_jumps(origin.qy0, origin.sigma_qy0, origin.valid) == ()


def test_no_jump_no_word():
    for seed in range(10):
        origin, _ = measured(seed=seed, outliers=0.2)
        assert find_jumps(origin.qx0, origin.sigma_qx0, origin.valid) == ()
    assert find_jumps(origin.qx0[:2], SIGMA, True) == ()
    assert find_jumps(origin.qx0, SIGMA, np.zeros(SHAPE, bool)) == ()


@pytest.mark.parametrize(("frame", "step"), [(200, (1.0, 0.0)), (209, (-0.6, 2.0)), (345, (0.0, -4.0))])
def test_the_fitted_origin_follows_a_jump(frame, step):
    """Without that, a parabola is up to a pixel off on both sides of it."""
    origin, truth = measured(frame, step)
    fit = fit_origin(origin)
    error = np.hypot(fit.qx0 - truth[0], fit.qy0 - truth[1]).ravel()
    assert fit.accepted and np.delete(error, slice(frame - 1, frame + 1)).max() < 0.06
    assert np.allclose(fit.residual_qx0, origin.qx0 - fit.qx0, atol=1e-9)
    told = {flag.numbers["coordinate"]: flag.numbers for flag in fit.flags if flag.name == "jump"}
    name, size = ("qx0", step[0]) if abs(step[0]) > abs(step[1]) else ("qy0", step[1])
    assert told[name]["step"] == pytest.approx(size, abs=0.15)
    assert set(told) <= {name for name, size in zip(("qx0", "qy0"), step, strict=True) if size}


def test_frames_steps_and_flags():
    jumps = find_jumps(measured(200)[0].qx0, SIGMA, True)
    assert merged(jumps * 2, SHAPE[1]) == [jumps[0].frame]
    assert step_at(measured(200)[0].qx0, SIGMA, True, 200) == pytest.approx(1, abs=0.05)
    assert numbers_of(jump_flags(jumps, "qx0"), "jump")["step"] == jumps[0].step
    flags = jump_flags(jumps * 9, "qx0")
    assert [flag.name for flag in flags] == ["jump"] * 8 + ["more_jumps"]
    assert flags[-1].numbers == {"coordinate": "qx0", "count": 9 - 8}
