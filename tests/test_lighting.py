"""Frames without a beam that are unevenly lit have no origin, and patterns with little contrast are no such frames."""

import numpy as np
import pytest

from py4dstem_prenet.origin import is_smoothly_lit, measure_origin

SIDE = 192
GOOD = np.ones((SIDE, SIDE), bool)


def hill(form, rng):
    """Counts of a camera that is lit from behind lenses, with dust."""
    x, y = np.indices((SIDE, SIDE)) / SIDE - 0.5 - rng.normal(0, 0.1, (2, 1, 1))
    squared = x**2 + y**2
    lit = {"gaussian": np.exp(-squared / 0.5), "cosine": 1 / (1 + squared / 0.35) ** 2, "slope": 1 + 0.6 * x + 0.3 * y,
           "elongated": np.exp(-(x + y) ** 2 / 1.2 - (x - y) ** 2 / 0.4)}[form]
    u, v = np.indices((SIDE, SIDE)) - rng.uniform(20, SIDE - 20, (2, 1, 1))
    return rng.poisson(400 * lit * (1 - 0.2 * np.exp(-(u**2 + v**2) / 4)))


def as_picture(counts):
    """Eight bits, stretched."""
    low, high = np.percentile(counts, (0.5, 99.9))
    return (255 * ((counts - low) / (high - low)).clip(0, 1)).astype(np.uint8)


@pytest.mark.parametrize("form", ["gaussian", "cosine", "slope", "elongated"])
@pytest.mark.parametrize("stored", [np.uint16, as_picture])
def test_an_unevenly_lit_camera_shows_no_pattern(form, stored):
    assert is_smoothly_lit(stored(hill(form, np.random.default_rng(1))), GOOD)


def test_no_origin_is_written_for_a_flat_field():
    """The maximum of the hill was given as the center of diffuse scattering, or as the direct beam."""
    for form in ("gaussian", "cosine"):
        origin = measure_origin(hill(form, np.random.default_rng(2)).astype(np.uint16)[None, None], progress=False)
        assert not origin.found


@pytest.mark.parametrize("feature", ["beam", "spots", "cusp", "stop", "wide disk"])
def test_a_pattern_is_not_smooth(feature):
    """On a background as wide as the frame, one feature of a pattern suffices."""
    rng = np.random.default_rng(3)
    x, y = np.indices((SIDE, SIDE)) - 90.0
    r = np.hypot(x, y)
    image = 200 * np.exp(-(r**2) / 2e4)
    if feature == "beam":
        image += 500 * (r < 5)
    elif feature == "spots":
        for u, v in rng.uniform(-60, 60, (12, 2)):
            image += 400 * np.exp(-((x - u) ** 2 + (y - v) ** 2) / 5)
    elif feature == "cusp":
        image += 400 / (1 + r / 10)
    elif feature == "stop":
        image *= np.where((np.abs(y) < 6) & (x < 5), 0.05, 1)
    else:
        image = 200.0 * (r < 80)
    assert not is_smoothly_lit(as_picture(rng.poisson(image)), GOOD)


def test_noise_hides_whether_a_frame_is_smooth():
    """Few electrons of a beam must not be taken for those of a hill."""
    x, y = np.indices((SIDE, SIDE)) - 90.0
    sparse = np.random.default_rng(4).poisson(0.002 + 1.0 * (np.hypot(x, y) < 3))
    assert not is_smoothly_lit(sparse, GOOD)
    assert not is_smoothly_lit(np.random.default_rng(5).poisson(3.0, (SIDE, SIDE)), GOOD)
