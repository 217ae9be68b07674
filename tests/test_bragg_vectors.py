"""Bragg disks in the tree of a cube: they and the strain that py4DSTEM maps on them are saved with the scan."""

import contextlib
import io
import warnings

import numpy as np
import py4DSTEM
import pytest
from py4DSTEM.process.strain import StrainMap

import py4dstem_prenet  # noqa: F401
from py4dstem_prenet.core import BraggDisks
from py4dstem_prenet.io import held_disks, to_bragg_vectors

CENTER, SPACING, STRAIN = 32.0, 12.0, 0.004

BRIGHT = {(0, 0): 400.0, (1, 0): 300.0, (0, 1): 200.0}  # electrons; the order in which py4DSTEM lists the disks


@pytest.fixture
def cube():
    """Of 4 x 5 positions, with an origin."""
    cube = py4DSTEM.DataCube(np.ones((4, 5, 64, 64), np.uint16))
    cube.calibration.set_origin((CENTER, CENTER))
    return cube


def lattice():
    """Disks of a square lattice that is strained along qx in the second half of the scan."""
    rows = []
    for position in range(20):
        stretch = 1 - STRAIN * (position >= 10)  # a strained lattice has shorter reciprocal vectors
        rows += [(position, CENTER + SPACING * h * stretch, CENTER + SPACING * k, 0.01, 0.01,
                  BRIGHT.get((h, k), 100.0), 1.0, 9.0, 1.0)
                 for h in (-2, -1, 0, 1, 2) for k in (-2, -1, 0, 1, 2)]
    return BraggDisks(np.array(rows, BraggDisks.DTYPE), (4, 5), (64, 64), 4.0, 0.1)


def strain_of(vectors):
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()), \
            warnings.catch_warnings():
        warnings.simplefilter("ignore")
        strain = StrainMap(vectors)
        strain.choose_basis_vectors(index_origin=0, index_g1=1, index_g2=2, minSpacing=4, minAbsoluteIntensity=0.1,
                                    maxNumPeaks=20, edgeBoundary=1, vis_params={"returnfig": True})
        strain.set_max_peak_spacing(3)
        strain.fit_basis_vectors()
        strain.get_strain()
    return strain


def test_vectors_and_strain_are_saved_with_the_scan(cube, tmp_path):
    vectors = to_bragg_vectors(cube, lattice())
    assert cube.tree("braggvectors") is vectors
    strain = strain_of(vectors)
    cube.prenet.save(tmp_path / "all.h5")
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        again = py4DSTEM.read(tmp_path / "all.h5")
    found = again.tree("braggvectors")
    assert np.array_equal(found.raw[3, 4].qx, vectors.raw[3, 4].qx)
    assert len(found.tree("prenet_disks")[0, 0].data) == 25
    saved = found.tree(strain.name)
    assert np.allclose(saved.get_slice("e_xx").data, strain.get_slice("e_xx").data, equal_nan=True)
    step = saved.get_slice("e_xx").data[3] - saved.get_slice("e_xx").data[0]
    assert np.allclose(np.abs(step), STRAIN, rtol=0.05)


def test_later_vectors_replace_earlier_ones(cube):
    to_bragg_vectors(cube, lattice())
    later = to_bragg_vectors(cube, lattice(), weights="precision")
    assert cube.tree("braggvectors") is later and len(list(cube.treekeys)) == 1
    assert later.calibration is cube.calibration and later.calstate["center"]


def test_vectors_of_another_author_are_kept(cube):
    from py4DSTEM.braggvectors import BraggVectors

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = BraggVectors((4, 5), (64, 64), name="braggvectors", calibration=cube.calibration)
    cube.attach(theirs)
    assert held_disks(cube) == "braggvectors"
    ours = to_bragg_vectors(cube, lattice())
    assert held_disks(cube) == ours.name
    assert cube.tree("braggvectors") is theirs and cube.tree(ours.name) is ours
