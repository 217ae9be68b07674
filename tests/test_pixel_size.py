"""Pixel size from a standard: truth, refusals, and what is written into the calibration."""

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from py4DSTEM import BraggVectors, DataCube

import py4dstem_prenet
from py4dstem_prenet import bin_Q, check_calibration, corrected, measure_pixel_size
from py4dstem_prenet.core import (
    Decision,
    Ellipse,
    Flag,
    NoiseModel,
    PixelSize,
    PrenetError,
    ellipse_axes,
    ellipse_matrix,
)
from py4dstem_prenet.io import WRITTEN, read_pixel_size, signatures, undoable, write_pixel_size
from py4dstem_prenet.pixel_size import (
    STANDARDS,
    find_standard,
    ring_profiles,
)
from py4dstem_prenet.simulation.grains import simulate_grains
from py4dstem_prenet.simulation.known import Cubic

NIOBIUM = Cubic("bcc", 3.3004, 41)


def size_of(value=0.02, **facts):
    return PixelSize(value, 1e-5, "Au", Decision(True, ()), "rings", **{"reference": 60.0, **facts})


def cube(vector=(0.03, 0.0), side=128):
    datacube = DataCube(np.ones((2, 2, side, side), np.float32))
    datacube.calibration.set_origin((np.full((2, 2), 63.0), np.full((2, 2), 64.0)))
    datacube.calibration.set_ellipse(ellipse_axes(vector))
    return datacube


@pytest.fixture(scope="module")
def powder():
    return simulate_grains(NIOBIUM, (6, 6), grains=72, in_pattern=2, seed=11, ratio=1.02)


def measured(scan, standard, dose):
    counts, truth = scan.counts(dose), scan.truth
    noise = NoiseModel(1.0, 0.0, 0.0, np.zeros(counts.shape[2:], bool), counting=True, dose=float(dose))
    return measure_pixel_size(counts, truth["qx0"], truth["qy0"], truth["radius"], noise, standard, progress=False)


@pytest.fixture(scope="module")
def sizes(powder):
    """Pixel sizes by the right and by a wrong standard; the disks are searched once."""
    from py4dstem_prenet.pixel_size import measure

    spots, original = [], measure.measure_spots

    def search(*arguments):
        if not spots:
            spots.append(original(*arguments))
        return spots[0]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(measure, "measure_spots", search)
        return {name: measured(powder, name, 20_000) for name in ("Nb", "Ni")}


@pytest.mark.slow
def test_a_powder_gives_its_pixel_size_with_a_sigma_and_another_standard_none(powder, sizes):
    size = sizes["Nb"]
    error = size.value / powder.truth["sampling"] - 1
    assert size.accepted
    assert abs(error) < 0.004 and abs(error) < 4 * size.relative_sigma < 0.02
    assert not sizes["Ni"].accepted


@pytest.mark.slow
def test_noise_has_no_pixel_size():
    counts = np.random.default_rng(0).poisson(2.0, (4, 4, 64, 64))
    noise = NoiseModel(1.0, 0.0, 0.0, np.zeros((64, 64), bool), counting=True, dose=8192.0)
    assert not measure_pixel_size(counts, 31.5, 32.0, 3.0, noise, "Au", progress=False).accepted


def test_rings_of_the_table():
    gold = find_standard("Au")
    assert np.allclose(gold.g[:4] * 4.07825, np.sqrt([3, 4, 8, 11]))
    silicon = find_standard("Si")
    assert silicon.hkl[:5] == ("1 1 1", "2 0 0", "2 2 0", "3 1 1", "2 2 2")
    assert (silicon.intensity[:5] > 0).tolist() == [True, False, True, True, False]  # 2 0 0, 2 2 2: double diffraction
    # Sums of two reflections of bcc or fcc are allowed; a screw axis forbids 0 0 1 of hcp, which 1 0 1 - 1 0 0 makes.
    assert find_standard("Au").intensity.min() > 0 and find_standard("Fe").intensity.min() > 0
    assert find_standard("Ti").hkl[0] == "0 0 1" and find_standard("Ti").intensity[0] == 0
    assert all(len(find_standard(name).g) > 10 for name in STANDARDS)


def test_a_crystal_and_a_cif_file_give_the_same_rings(tmp_path):
    pytest.importorskip("gemmi")
    from py4DSTEM.process.diffraction import Crystal

    path = tmp_path / "copper.cif"
    path.write_text("""data_Cu
_cell_length_a 3.61496
_cell_length_b 3.61496
_cell_length_c 3.61496
_cell_angle_alpha 90
_cell_angle_beta 90
_cell_angle_gamma 90
_symmetry_space_group_name_H-M 'F m -3 m'
loop_
_atom_site_label
_atom_site_type_symbol
_atom_site_fract_x
_atom_site_fract_y
_atom_site_fract_z
Cu1 Cu 0 0 0
""")
    sites = [[0, 0, 0], [0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]]
    for other in (find_standard(path), find_standard(Crystal(np.array(sites), 29, 3.61496))):
        assert np.allclose(other.g, find_standard("Cu").g)


@pytest.mark.parametrize("standard", ["Unobtainium", "missing.cif", 4.078])
def test_an_unknown_standard_is_refused_in_one_sentence(standard):
    with pytest.raises(PrenetError):
        find_standard(standard)


def test_the_profile_of_a_ring_is_the_mean_over_disks_on_a_circle():
    distance, disk = 20.0, 6.0
    radii = np.arange(8.0, 32.0, 0.5)
    azimuth = np.linspace(0, 2 * np.pi, 20_000, endpoint=False)
    inside = np.hypot(radii[:, None] * np.cos(azimuth) - distance, radii[:, None] * np.sin(azimuth)) < disk
    profile, _ = ring_profiles(radii, np.array([distance]), disk, 0.05)
    assert np.abs(profile[:, 0] - inside.mean(1)).max() < 0.02


# --- what is written ----------------------------------------------------------------------------------------
def test_a_ring_lands_at_its_length_in_braggvectors():
    """py4DSTEM's correction and pixel size turn an elliptical ring of radius g / value into a circle of radius g."""
    vector, value, g = (0.03, 0.02), 0.02, 0.6935
    datacube = cube(vector)
    assert write_pixel_size(datacube, size_of(value))
    azimuth = np.linspace(0, 2 * np.pi, 60)
    ideal = g / value * np.stack([np.cos(azimuth), np.sin(azimuth)])
    x, y = ellipse_matrix(vector) @ ideal + [[63.0], [64.0]]
    vectors = BraggVectors((2, 2), (128, 128))
    vectors.calibration = datacube.calibration
    for row in range(2):
        for column in range(2):
            vectors._v_uncal[row, column].add_data_by_field((x, y, np.ones(60)), ("qx", "qy", "intensity"))
    vectors.setcal(center=True, ellipse=True, pixel=True, rotate=False)
    found = vectors.cal[0, 0]
    assert datacube.calibration.get_Q_pixel_units() == "A^-1"
    assert np.allclose(np.hypot(found.qx, found.qy), g, rtol=1e-6)


def test_binning_keeps_the_pixel_size():
    datacube = cube()
    write_pixel_size(datacube, size_of())
    before = datacube.calibration.get_Q_pixel_size()
    binned = bin_Q(datacube, 2)
    entry = signatures(binned)["pixel_size"]
    assert binned.calibration.get_Q_pixel_size() == pytest.approx(2 * before)
    assert entry["unchanged"] and entry["reference"] == pytest.approx(30)


def test_an_ellipse_that_changes_makes_the_pixel_size_stale():
    datacube = cube()
    write_pixel_size(datacube, size_of())
    assert "pixel size" not in check_calibration(datacube).stale
    datacube.calibration.set_ellipse((1.1, 1.0, 0.0))
    assert "pixel size" in check_calibration(datacube).stale


def test_a_pixel_size_by_hand_in_place_of_the_measured_one_is_told():
    datacube = cube()
    assert write_pixel_size(datacube, size_of())
    assert "pixel_size_by_hand" not in [flag.name for flag in check_calibration(datacube).flags]
    measured = datacube.calibration.get_Q_pixel_size()
    datacube.calibration.set_Q_pixel_size(0.03)
    flag = check_calibration(datacube).flags[-1]
    assert flag.name == "pixel_size_by_hand" and flag.numbers["value"] == 0.03
    assert flag.numbers["measured"] == measured


def test_a_refused_pixel_size_writes_nothing():
    datacube = cube()
    datacube.calibration.set_Q_pixel_size(0.5)
    refused = PixelSize(0.02, 1e-5, "Au", Decision(False, ()))
    assert not write_pixel_size(datacube, refused)
    assert datacube.calibration.get_Q_pixel_size() == 0.5 and "pixel_size" not in signatures(datacube)


@pytest.mark.parametrize("facts", [{"barrel": 0.02}, {"threefold": np.array([0.015, -0.01])}])
def test_corrected_removes_distortions_beyond_the_ellipse(facts):
    """A ring that the camera distorts is round afterward, at its undistorted radius, with its electrons."""
    barrel, three = facts.get("barrel", 0.0), facts.get("threefold", np.zeros(2))
    x, y = np.indices((128, 128)) - np.array([63.0, 64.0])[:, None, None]
    rho, phi = np.hypot(x, y), np.arctan2(y, x)
    ideal = 40.0
    threefold = three[0] * np.cos(3 * phi) + three[1] * np.sin(3 * phi)
    at = ideal * (1 + barrel * (ideal / 60) ** 2 + ideal / 60 * threefold)
    datacube = cube((0.0, 0.0))
    datacube.data = np.broadcast_to(100 * np.exp(-0.5 * ((rho - at) / 1.5) ** 2), (2, 2, 128, 128)).astype(np.float32)
    write_pixel_size(datacube, size_of(**facts))
    noise = NoiseModel(1.0, 0.0, 0.0, np.zeros((128, 128), bool), counting=False, dose=1e5)
    new = corrected(datacube, noise, progress=False)
    image = new.data[0, 0]
    sector = ((phi + np.pi) / (2 * np.pi) * 24).astype(int) % 24
    weight = np.where(abs(rho - ideal) < 8, image, 0)
    radius = np.bincount(sector.ravel(), (weight * rho).ravel()) / np.bincount(sector.ravel(), weight.ravel())
    assert np.abs(radius - ideal).max() < 0.1
    assert image.sum() == pytest.approx(datacube.data[0, 0].sum(), rel=0.01)
    assert signatures(new)["pixel_size"]["barrel"] == 0


def test_the_report_shows_the_pixel_size():
    from py4dstem_prenet.core import CalibrationReport
    from py4dstem_prenet.report import of_calibration

    origin = SimpleNamespace(found=False, flags=(), rows=list)
    noise = NoiseModel(1.0, 0.0, 0.0, np.zeros((4, 4), bool), counting=True, dose=1.0)
    data = of_calibration(CalibrationReport(origin, None, None, noise, pixel_size=size_of()))
    assert data["pixel_size"]["value"] == 0.02 and data["pixel_size"]["accepted"]


def test_an_ellipse_for_machines_has_the_sigma_of_its_angle():
    from py4dstem_prenet.report.summary import _ellipse

    vector = 0.04 * np.array([np.cos(0.8), np.sin(0.8)])  # a/b of 1.04 at 0.4 rad
    data = _ellipse(Ellipse(*ellipse_axes(vector), vector, 0.002**2 * np.eye(2), Decision(True, ())))
    assert data["ratio"] == pytest.approx(1.04) and data["theta"] == pytest.approx(0.4)
    assert data["sigma"] == pytest.approx(0.002) and data["theta_sigma"] == pytest.approx(0.5 * 0.002 / 0.04)


def test_rings_that_blend_are_one_entry():
    size = size_of(hkl=("1 1 1", "2 0 0", "2 2 0", "3 1 1"), g=np.array([0.42, 0.49, 0.69, 0.81]),
                   ring_errors=np.array([1e-3, 1e-3, np.nan, 2e-3]), ring_sigmas=np.full(4, 1e-3))
    assert [ring.names for ring in size.rings] == ["1 1 1 and 2 0 0", "2 2 0", "3 1 1"]
    assert size.rings[0].g == pytest.approx(0.455) and np.isnan(size.rings[1].error)


def test_a_pixel_size_is_read_back_with_its_rings():
    datacube = cube()
    size = size_of(hkl=("1 1 1",), g=np.array([0.42]), ring_errors=np.array([1e-3]), ring_sigmas=np.array([2e-3]),
                   profile=np.arange(30.0).reshape(3, 10))
    write_pixel_size(datacube, size)
    assert read_pixel_size(datacube) == size
    binned = read_pixel_size(bin_Q(datacube, 2))
    assert binned.value == 0.04 and np.allclose(binned.profile[0], size.profile[0] / 2) and binned.hkl == size.hkl
    datacube.calibration.set_Q_pixel_size(0.03)
    assert read_pixel_size(datacube) is None


def test_flags_of_another_version_are_left_out():
    datacube, known = cube(), Flag("lattice_varies", {"percent": 0.1, "standard": "Au"})
    write_pixel_size(datacube, replace(size_of(), decision=Decision(True, (known,))))
    written = json.loads(datacube.calibration[WRITTEN])
    flags = written["pixel_size"]["result"]["decision"]["flags"]
    flags += [{"name": "radial_distortion", "numbers": {}}, {"name": "of_the_future", "numbers": {}}]
    datacube.calibration[WRITTEN] = json.dumps(written)
    assert read_pixel_size(datacube).flags == (known,)


def test_undo_after_the_pixel_size_leaves_the_rest(monkeypatch):
    datacube = cube()
    datacube.data = np.random.default_rng(0).poisson(2.0, datacube.data.shape).astype(np.float32)
    datacube.calibration.set_Q_pixel_size(0.03)
    with undoable(datacube):
        datacube.calibration.set_origin((np.full((2, 2), 60.0), np.full((2, 2), 61.0)))
    monkeypatch.setattr(py4dstem_prenet, "measure_pixel_size", lambda *args, **options: size_of())
    datacube.prenet.measure_pixel_size("Au")
    assert datacube.calibration.get_Q_pixel_units() == "A^-1"
    restored = datacube.prenet.undo()
    assert "Q_pixel_size" in restored and "qx0" not in restored
    assert datacube.calibration.get_Q_pixel_size() == 0.03 and "pixel_size" not in signatures(datacube)
    assert datacube.calibration.get_qx0()[0, 0] == 60.0


@pytest.mark.slow
def test_an_ellipse_that_is_set_by_hand_is_where_the_fit_starts(powder):
    truth = powder.truth
    datacube = DataCube(powder.counts(20_000))
    given = (truth["a"], truth["b"], truth["theta"])
    report = py4dstem_prenet.calibrate(datacube, standard="Nb", ellipse=given, progress=False)
    assert report.pixel_size.accepted and abs(report.pixel_size.value / truth["sampling"] - 1) < 0.005
