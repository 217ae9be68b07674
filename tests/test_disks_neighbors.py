"""Weak disks that neighbors in the scan show: more of them, as few false ones, and their own electrons."""

import numpy as np
import pytest
from test_disks import learned_once, matched, scan_of

from py4dstem_prenet.core import as_scan
from py4dstem_prenet.disks import DiskFinder, find_bragg_disks

FAINT = {"direct": 300.0, "brightness": (1.5, 60.0), "level": 0.002}


@pytest.fixture(scope="module")
def grains():
    """Counts and true positions of a scan of two crystals, side by side."""
    left, right = (scan_of((6, 6), spacing=spacing, seed=seed, **FAINT) for spacing, seed in ((17.0, 1), (20.0, 2)))
    counts = np.concatenate([left[0], right[0]], 1)
    truth = np.concatenate([left[1].reshape(6, 6, -1, 2), right[1].reshape(6, 6, -1, 2)], 1)
    return counts, truth.reshape(72, -1, 2)


def both_ways(counts):
    """The disks of each pattern alone, those that neighbors show as well, and the finder."""
    with learned_once():
        found = [find_bragg_disks(counts, progress=False, neighbors=neighbors) for neighbors in (False, True)]
        return *found, DiskFinder.learn(as_scan(counts))


@pytest.fixture(scope="module")
def found(grains):
    return both_ways(grains[0])


def added(found):
    """The rows that neighbors added."""
    alone, both = (some.table for some in found[:2])
    new = ~np.isin(both, alone)
    assert np.array_equal(both[~new], alone)
    return both[new]


@pytest.mark.slow
class TestFaintDisks:
    def test_more_are_found_and_few_are_false(self, grains, found):
        truth = grains[1]
        _, _, _, before = matched(found[0], truth)
        error, sigma, false, after = matched(found[1], truth)
        assert after > before + 0.1
        assert false / len(truth) < 0.25
        assert 0.6 < np.sqrt(np.mean((error / sigma) ** 2)) < 1.25

    def test_those_of_another_crystal_are_not(self, grains, found):
        rows, truth = added(found), grains[1]
        column = rows["position"] % 12
        rows = rows[(column > 4) & (column < 7)]  # at the boundary
        away = np.hypot(*(np.stack([rows["qx"], rows["qy"]], 1)[:, None] - truth[rows["position"]][:, 1:])
                        .transpose(2, 0, 1)).min(1)
        assert len(rows) > 20 and (away > 5).mean() < 0.1

    def test_intensities_are_the_electrons_of_the_pattern(self, grains, found):
        rows, x = added(found), np.indices(grains[0].shape[2:])
        patterns = grains[0].reshape(-1, *grains[0].shape[2:])
        for row in rows[:: max(1, len(rows) // 20)]:
            near = np.hypot(x[0] - row["qx"], x[1] - row["qy"]) < 7
            assert 0.5 < row["intensity"] < patterns[row["position"]][near].sum() / 0.75 + 0.5
        assert (rows["significance"] < found[0].threshold).all()
        assert (rows["probability"] > 0.9).all()

    def test_they_do_not_depend_on_the_parts_of_the_scan(self, grains, found):
        scan = as_scan(grains[0])
        finder, rows, expected = found[2], found[0].table, added(found)
        for part in (np.arange(0, 17), np.array([5, 40, 41])):
            x, y = np.divmod(part, 12)
            every = np.unique([(x + a).clip(0, 5) * 12 + (y + b).clip(0, 11) for a in (-1, 0, 1) for b in (-1, 0, 1)])
            some = finder.find_faint(every, scan.read(every), rows[np.isin(rows["position"], every)], part, (6, 12))
            same = expected[np.isin(expected["position"], part)]
            assert len(some) == len(same)
            for name in ("qx", "qy", "intensity", "probability"):
                assert np.allclose(np.sort(some[name]), np.sort(same[name]), atol=1e-3)

    def test_noise_gives_few(self):
        counts, _ = scan_of((8, 10), lattice=False, seed=3, direct=300.0, level=0.02)
        assert len(added(both_ways(counts))) < 8


@pytest.mark.slow
def test_weights_of_strain_leave_neighbors_out(grains):
    import py4DSTEM

    cube = py4DSTEM.DataCube(grains[0][:3, :4])
    cube.calibration.set_origin((48.0, 48.0))
    counts = []
    with learned_once():
        for weights in ("intensity", "precision"):
            vectors = cube.prenet.bragg_disks(weights=weights, progress=False)
            counts.append(sum(len(vectors.raw[x, y].qx) for x in range(3) for y in range(4)))
    assert counts[0] > counts[1]
