"""Among disks that may be the direct beam, the center of the diffuse scattering between them chooses."""

import numpy as np
import pytest

from py4dstem_prenet.core import as_scan
from py4dstem_prenet.detector import estimate_noise
from py4dstem_prenet.origin import FirstGuess, centered

SIDE, CENTER = 160, np.array([83.0, 74.0])
LATTICE = np.array([[21.0, 6.0], [-7.0, 24.0]])


def crystal(diffuse):
    """Counts of a crystal whose spots beside the direct beam are as bright as the beam, the brightest on one side."""
    rng = np.random.default_rng(0)
    x, y = np.indices((SIDE, SIDE)) - CENTER[:, None, None]
    image = 5.0 + diffuse / (1 + (np.hypot(x, y) / 12) ** 2)
    for h in range(-2, 3):
        for k in range(-2, 3):
            u, v = np.array([h, k]) @ LATTICE
            image += 400 * np.exp(0.4 * h - 0.3 * (h * h + k * k)) * np.exp(-((x - u) ** 2 + (y - v) ** 2) / 4.5)
    return rng.poisson(image).astype(np.uint16)[None, None]


def undecided():
    """A first guess at the brighter of two neighbors, with the direct beam the second choice."""
    wrong = CENTER + LATTICE[0]
    places = np.array([[*wrong, 0.42], [*CENTER, 0.4], [*(CENTER + LATTICE[1]), 0.18]])
    return FirstGuess(wrong[None], 2.5, np.ones(1, bool), 3.0, 5.0, 0.42, places)


@pytest.mark.parametrize("diffuse", [60.0, 200.0])
def test_the_disk_at_the_center_of_the_diffuse_scattering_is_chosen(diffuse):
    counts = crystal(diffuse)
    chosen = centered(as_scan(counts), estimate_noise(counts), undecided())
    assert np.hypot(*(chosen.position[0] - CENTER)) < 1.0
    assert chosen.probability > 0.8 and np.allclose(chosen.places[0, :2], CENTER)
    assert chosen.places[:, 2].sum() == pytest.approx(1.0)


def test_without_diffuse_scattering_nothing_is_chosen():
    """The disks themselves are left out: the brightest is the center of its own pixels."""
    counts = crystal(0.0)
    chosen = centered(as_scan(counts), estimate_noise(counts), undecided())
    assert chosen.probability < 0.7
