"""Simulated scans of a known lattice: disks lie where the frames say, and strain has py4DSTEM's signs."""

import numpy as np
import pytest
from py4DSTEM.process.diffraction import Crystal
from scipy.spatial.transform import Rotation

from py4dstem_prenet.core.errors import PrenetError
from py4dstem_prenet.core.geometry import ellipse_matrix, ellipse_vector
from py4dstem_prenet.simulation.known import (
    GOLD,
    OPTICS,
    SILICON,
    deformation,
    misorientation,
    simulate_known,
    strain_of,
    zone_axis,
)

FRAME = zone_axis([1, 1, 0], [0, 0, 1])


def test_a_frame_is_a_rotation_with_its_zone_toward_the_source():
    assert FRAME @ FRAME.T == pytest.approx(np.eye(3)) and np.linalg.det(FRAME) == pytest.approx(1)
    assert FRAME @ [1, 1, 0] == pytest.approx([0, 0, np.sqrt(2)])
    with pytest.raises(PrenetError):
        zone_axis([1, 1, 0], [2, 2, 0])


def test_strain_has_the_signs_of_py4dstem():
    """A lattice that is wider has reciprocal vectors that are shorter."""
    wider, turned = deformation(exx=0.02) @ FRAME, deformation(turn=0.01) @ FRAME
    assert strain_of(wider, FRAME) == pytest.approx([1 - 1 / 1.02, 0, 0, 0])
    assert strain_of(turned, FRAME)[3] == pytest.approx(-0.01, abs=1e-4)


def test_disks_lie_where_the_frame_says():
    frames = np.stack([FRAME, deformation(0.05, 0.0, 0.0, 0.1) @ FRAME])[None]
    known = simulate_known(SILICON, frames, thickness=60, ratio=1.04, theta=0.5, amplitude=0.0)
    truth = known.truth
    assert known.expected.shape == (1, 2, 128, 128) and 0.8 < known.expected.sum((2, 3)).min() <= 1.0
    matrix = ellipse_matrix(ellipse_vector(1.04, 1.0, 0.5))
    x, y = np.meshgrid(*map(np.arange, (128, 128)), indexing="ij")
    for k, hkl in ((0, (2, -2, 0)), (1, (2, -2, 0)), (0, (0, 0, 4)), (1, (0, 0, 4))):
        g = np.linalg.inv(frames[0, k]).T @ hkl / SILICON.edge  # 1/angstrom
        at = matrix @ g[:2] / truth["sampling"] + [truth["qx0"][0, k], truth["qy0"][0, k]]
        near = np.hypot(x - at[0], y - at[1]) < truth["radius"] + 1
        weight = known.expected[0, k] * near
        middle = np.array([(weight * x).sum(), (weight * y).sum()]) / weight.sum()
        # contrast inside a disk moves its center of mass, but no disk by what strain or rotation do (1.7, 3.5 px)
        assert np.hypot(*(middle - at)) < 0.8
    assert known.counts(1000).sum((2, 3)).mean() == pytest.approx(1000 * known.expected.sum((2, 3)).mean(), rel=0.1)


def tilted(frame, x, y, turn=0.0):
    """A frame turned about the beam and then tilted about the rows and columns, degrees."""
    return (Rotation.from_euler("xyz", [x, y, 0], degrees=True).as_matrix()
            @ Rotation.from_euler("z", turn, degrees=True).as_matrix() @ frame)


def test_misorientation_is_the_least_over_the_cube():
    frame = tilted(FRAME, 3, -2, 40)
    quarter = Rotation.from_euler("y", 90, degrees=True).as_matrix()
    assert misorientation(frame @ quarter, frame) == pytest.approx(0, abs=1e-4)
    assert misorientation(tilted(np.eye(3), 2.5, 0) @ frame @ quarter, frame) == pytest.approx(2.5)
    random = Rotation.random(300, random_state=0).as_matrix()
    assert 60 < misorientation(random, frame).max() < 62.81  # no two cubes are further apart
    assert np.isnan(misorientation(np.zeros((3, 3)), frame))  # what py4DSTEM leaves where it found nothing
    assert not np.isnan(misorientation(random[0], frame))


@pytest.fixture(scope="module")
def gold():
    crystal = Crystal(GOLD.sites, GOLD.number, GOLD.edge)
    crystal.setup_diffraction(OPTICS.volts)
    crystal.calculate_structure_factors(1.2)
    return crystal


@pytest.mark.parametrize("zone", [(0, 0, 1), (0, 1, 1), (1, 1, 1)])
def test_tilts_have_the_signs_of_py4dstem(gold, zone):
    """Disks are as bright as in py4DSTEM's kinematic pattern of this orientation, and of no other sign."""
    frame = tilted(zone_axis(zone, (2, -1, 0)), 2.5, 1.5, 25)
    known = simulate_known(GOLD, frame[None, None], thickness=24, ratio=1.0, amplitude=0.0)
    truth, pattern = known.truth, known.expected[0, 0]
    x, y = np.meshgrid(*map(np.arange, pattern.shape), indexing="ij")

    def likeness(orientation):
        spots = gold.generate_diffraction_pattern(orientation_matrix=orientation.T, sigma_excitation_error=0.01).data
        image = np.zeros(pattern.shape)
        for qx, qy, intensity in zip(spots["qx"], spots["qy"], spots["intensity"], strict=True):
            at = np.array([qx, qy]) / truth["sampling"] + [truth["qx0"][0, 0], truth["qy0"][0, 0]]
            image += intensity * (np.hypot(x - at[0], y - at[1]) < truth["radius"])
        around = np.hypot(x - truth["qx0"][0, 0], y - truth["qy0"][0, 0])
        used = (around > 10) & (around < 55)  # the direct beam says nothing
        return np.corrcoef(np.sqrt(image[used]), np.sqrt(pattern[used]))[0, 1]

    right = likeness(frame)
    turned = [np.diag(signs) @ frame for signs in ((-1, -1, 1), (1, -1, -1), (-1, 1, -1))]
    assert right > 0.85 and right > max(map(likeness, [*turned, frame.T])) + 0.05
