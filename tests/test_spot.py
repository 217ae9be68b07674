"""The fit of sharp beams whose radial profile is free."""

import numpy as np
import pytest
import torch

from py4dstem_prenet.core import NoiseModel
from py4dstem_prenet.fits import Aperture, SpotModel, electron_windows
from py4dstem_prenet.origin import measure_origin

PROFILES = {
    "gaussian": lambda r: np.exp(-np.log(2) * (r / 2.5) ** 2),
    "lorentzian": lambda r: 1 / (1 + (r / 2.0) ** 2),
    "core and tail": lambda r: np.exp(-np.log(2) * (r / 1.2) ** 2) + 0.1 / (1 + (r / 4) ** 2),
}


def drawn(profile, at, side=48, peak=300.0):
    """Expected electrons, (side, side), averaged over pixels."""
    axes = [(np.arange(5 * side) + 0.5) / 5 - 0.5 - c for c in at]
    fine = profile(np.hypot(axes[0][:, None], axes[1]))
    return peak * fine.reshape(side, 5, side, 5).mean((1, 3)) + 1.0


def fitted(counts, start, radius):
    """Positions and sigmas, (n, 2) each, pixels."""
    noise = NoiseModel(1.0, 0.0, 0.0, np.zeros(counts.shape[1:], bool), counting=True, dose=1e4)
    model = SpotModel(Aperture(radius, 0.5, (0.0, 0.0)))
    electrons, good, middle = electron_windows(counts, start, model.side, noise)
    found = model.fit(electrons, good, torch.from_numpy(start - middle), 0.0)
    shape = model.shape(electrons, good, found.position)
    return found.position.numpy() + middle, found.covariance.diagonal(dim1=1, dim2=2).sqrt().numpy(), shape


@pytest.mark.parametrize("name", PROFILES)
def test_positions_are_right_within_their_sigma(name):
    rng = np.random.default_rng(3)
    at = 24 + rng.uniform(-0.5, 0.5, (60, 2))
    counts = rng.poisson([drawn(PROFILES[name], q) for q in at]).astype(np.float32)
    position, sigma, (_, softness) = fitted(counts, at + rng.uniform(-0.6, 0.6, at.shape), 2.0)
    pull = (position - at) / sigma
    assert np.abs(position - at).max() < 0.3 and np.median(sigma) < 0.15
    assert 0.5 < np.sqrt(np.mean(pull**2)) < 1.3
    assert softness > 0.7


def test_a_neighboring_spot_moves_it_little():
    """A tenth as bright, 6 px away: the center of mass moves by half a pixel."""
    at = np.array([[24.2, 23.7]])
    image = drawn(PROFILES["gaussian"], at[0], peak=1e4) + drawn(PROFILES["gaussian"], at[0] + (6, 0), peak=1e3)
    position, sigma, _ = fitted(np.random.default_rng(0).poisson(image[None]).astype(np.float32), at + 0.3, 2.5)
    assert np.abs(position - at).max() < max(0.1, 3 * sigma.max()) and sigma.max() < 0.2


def test_a_beam_that_wrapped_in_the_middle_is_where_its_rim_is():
    at = np.array([[24.2, 23.7]])
    image = np.random.default_rng(0).poisson(drawn(PROFILES["gaussian"], at[0], peak=4e4)[None]).astype(np.float32)
    image[image > 2**15] -= 2**15
    position, _, _ = fitted(image, at + 0.4, 2.5)
    assert np.abs(position - at).max() < 0.1


def test_a_hard_disk_is_no_spot():
    image = drawn(lambda r: 1.0 * (r < 4), (24.2, 23.7))[None].astype(np.float32)
    radius, softness = fitted(image, np.array([[24.2, 23.7]]), 4.0)[2]
    assert radius == pytest.approx(4.0, abs=0.15) and softness < 0.35


@pytest.mark.slow
def test_the_origin_of_a_sharp_beam_with_a_tail_cut_by_the_frame():
    at = np.array([6.3, 60.8])
    image = drawn(PROFILES["core and tail"], at, side=128, peak=5e3)
    origin = measure_origin(np.random.default_rng(1).poisson(image)[None, None].astype(np.uint16), progress=False)
    assert origin.found and np.hypot(origin.qx0 - at[0], origin.qy0 - at[1]).max() < 0.15
