"""Standard errors of strain maps and of regions, beside the errors on a lattice with known noise and known contrast."""

import matplotlib
import numpy as np
import pytest
from py4DSTEM import DataCube
from py4DSTEM.process.strain import StrainMap

from py4dstem_prenet.core import BraggDisks, PrenetError
from py4dstem_prenet.disks import region_strain, strain_sigma
from py4dstem_prenet.io import calibrations, to_bragg_vectors

SCAN, PATTERN = (16, 18), (96, 96)
TOP, BOTTOM = np.s_[:8, :], np.s_[8:, :]
CENTER = 47.3, 48.9
BASIS = np.array([[13.0, 1.5], [-4.0, 15.0]])  # rows g1 and g2, pixels; not orthogonal


def strain_of(weights="precision", rotation=0.0, seed=0, contrast=0.0):
    """A StrainMap of disks with noise, on a lattice without strain; contrast (pixels) displaces those of `TOP`."""
    matplotlib.use("Agg")
    rng = np.random.default_rng(seed)
    orders = np.array([(h, k) for h in range(-2, 3) for k in range(-2, 3) if (h, k) != (0, 0)])
    count = int(np.prod(SCAN))
    table = np.zeros(count * len(orders), BraggDisks.DTYPE)
    table["position"] = np.repeat(np.arange(count), len(orders))
    sigma = np.tile(np.geomspace(0.03, 0.3, len(orders)), count)
    at = np.tile(orders @ BASIS + CENTER, (count, 1)) + sigma[:, None] * rng.normal(size=(len(table), 2))
    displaced = contrast * rng.normal(size=(1, 1, len(orders), 2))
    at.reshape(*SCAN, len(orders), 2)[TOP] += displaced - displaced[:, :, ::-1]  # opposite for opposite reflections
    table["qx"], table["qy"] = at.T
    table["sigma_qx"] = table["sigma_qy"] = sigma
    table["intensity"], table["significance"], table["probability"] = 100, 20, 1
    cube = DataCube(np.zeros((*SCAN, *PATTERN), np.uint8))
    calibration = calibrations.calibration_of(cube)
    calibration.set_origin(tuple(np.full(SCAN, q) for q in CENTER))
    strain = StrainMap(to_bragg_vectors(cube, BraggDisks(table, SCAN, PATTERN, 5.0, 0.1), weights))
    strain.g1, strain.g2 = BASIS
    strain.choose_basis_vectors(minAbsoluteIntensity=0, minRelativeIntensity=0, minSpacing=4, edgeBoundary=1,
                                vis_params={"returnfig": False})
    strain.fit_basis_vectors(max_peak_spacing=2)
    strain.get_strain(coordinate_rotation=rotation)
    return strain


@pytest.mark.parametrize("rotation", [0.0, 33.0])
def test_errors_of_strain_are_as_large_as_stated(rotation):
    strain = strain_of(rotation=rotation)
    sigma = strain_sigma(strain)
    assert sigma.shape == (4, *SCAN)
    scaled = np.sqrt(np.mean((strain.data[:4] / sigma) ** 2, axis=(1, 2)))
    assert scaled == pytest.approx(np.ones(4), abs=0.15)  # each is known to 0.042


def test_disks_in_one_row_have_no_sigma():
    strain = strain_of()
    strain.bragg_vectors_indexed[2, 3].data["g2_ind"] = 0
    unknown = np.isnan(strain_sigma(strain))
    assert unknown[:, 2, 3].all() and unknown.sum() == 4


def test_disks_without_precision_are_refused():
    with pytest.raises(PrenetError):
        strain_sigma(strain_of("intensity"))


def test_a_region_has_the_values_of_the_map():
    strain = strain_of(rotation=33.0)
    found = region_strain(strain, TOP, BOTTOM)
    of_map = strain.data[:4][(slice(None), *TOP)].mean((1, 2)) - strain.data[:4][(slice(None), *BOTTOM)].mean((1, 2))
    assert found.value == pytest.approx(of_map, abs=3e-6)  # terms of second order
    assert (found.positions, found.reference_positions) == (144, 144)


@pytest.mark.parametrize("contrast", [0.0, pytest.param(0.1, marks=pytest.mark.slow)])
def test_errors_of_regions_are_as_large_as_stated(contrast):
    """Displacements by contrast do not average out: the errors are many times those of independent positions."""
    ratios, alone = [], []
    for seed in range(6 if contrast else 3):
        strain = strain_of(seed=seed, contrast=contrast)
        found = region_strain(strain, TOP, BOTTOM)
        independent = np.sqrt((strain_sigma(strain) ** 2).mean((1, 2)) * 2 / found.positions)
        ratios.append(found.value / found.sigma)
        alone.append(found.value / independent)
    assert 0.4 < np.sqrt(np.mean(np.square(ratios))) < 2.0  # 12 or more correlated values
    assert (np.sqrt(np.mean(np.square(alone))) > 3) == bool(contrast)


def test_regions_without_a_lattice_are_refused():
    strain = strain_of()
    strain.g1g2_map["mask"].data[TOP] = 0
    with pytest.raises(PrenetError):
        region_strain(strain, TOP, BOTTOM)
    assert region_strain(strain, np.arange(16)[:, None] + np.zeros(18) > 9, BOTTOM).positions == 6 * 18
