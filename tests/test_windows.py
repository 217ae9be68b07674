"""Windows of patterns: what lies there, what lies outside, and in electrons."""

import numpy as np

from py4dstem_prenet.detector.estimate import estimate_noise
from py4dstem_prenet.fits.windows import cut_windows, electron_windows


def test_windows_hold_what_lies_there_and_say_what_lies_outside():
    images = np.arange(2 * 20 * 30).reshape(2, 20, 30)
    values, inside = cut_windows(images, np.array([[-2, 3], [15, 25]]), 8)
    assert np.array_equal(values[0][2:], images[0, :6, 3:11])
    assert np.array_equal(inside[0], np.arange(8)[:, None] >= np.full(8, 2))
    assert np.array_equal(values[1][:5, :5], images[1, 15:, 25:])
    assert inside[1].sum() == 25


def test_electrons_bins_and_middles():
    """Binned windows keep the electrons, know their middle, and mark what is bad."""
    rng = np.random.default_rng(0)
    patterns = rng.poisson(4.0, (3, 40, 40)).astype(np.uint16)
    noise = estimate_noise(np.broadcast_to(rng.poisson(4.0, (6, 6, 40, 40)).astype(np.uint16), (6, 6, 40, 40)))
    around = np.array([[20.2, 19.9], [3.0, 20.0], [20.0, 38.0]])
    for bins, side in ((1, 9), (2, 7), (3, 4)):
        electrons, good, middle = electron_windows(patterns, around, side, noise, bins)
        assert electrons.shape == good.shape == (3, side, side) and np.abs(middle - around).max() <= 0.5
        first = np.round(middle - (side * bins - 1) / 2).astype(int)
        inside = patterns[0][tuple(slice(k, k + side * bins) for k in first[0])]
        assert good[0].all() and float(electrons[0].sum()) == inside.sum()
    assert not good[1, 0].any() and not good[2, :, -1].any()
