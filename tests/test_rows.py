"""Rows of the scan whose beam jumps to another disk's place are located anew."""

import numpy as np
import pytest
from scipy.special import erfc

from py4dstem_prenet.origin import measure_origin


def scan(jump, seed=0, rows=10, side=80, radius=3.0):
    """Counts and truth: one row jumps so that its Bragg disk lies where the direct beam was."""
    rng = np.random.default_rng(seed)
    q = 40 + np.stack(np.meshgrid(np.linspace(-0.4, 0.4, rows), np.linspace(0.3, -0.3, rows), indexing="ij"))
    q += rng.uniform(-2, 2, (2, rows, 1)) * bool(jump)  # with every row, and far with one
    q[1, 6] += jump
    x, y = np.indices((side, side))
    out = np.zeros((rows, rows, side, side))
    for i, j in np.ndindex(rows, rows):
        for h, share in ((-1, 0.15), (0, 0.6), (1, 0.15)):
            rho = np.hypot(x - q[0, i, j], y - q[1, i, j] - 8.5 * h)
            out[i, j] += share * 0.5 * erfc((rho - radius) / 0.6) / (np.pi * radius**2)
    return rng.poisson(3000 * out + 0.01).astype(np.uint16), q


@pytest.mark.slow
@pytest.mark.parametrize("jump", [6.0, -6.0, 0.0])
def test_a_row_that_jumps_to_the_place_of_a_bragg_disk_is_followed(jump):
    counts, truth = scan(jump)
    origin = measure_origin(counts, progress=False)
    assert origin.valid.mean() > 0.95
    assert np.hypot(origin.qx0 - truth[0], origin.qy0 - truth[1])[origin.valid].max() < 0.3
