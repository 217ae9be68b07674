"""What benchmarks/slopes.py reads from patterns, and rivals of benchmarks/denoisers.py where the answer is known."""

import importlib
from pathlib import Path

import numpy as np
import pytest

from py4dstem_prenet.core import NoiseModel


@pytest.fixture
def imported(monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parents[1] / "benchmarks")
    return importlib.import_module


def scan_of(denoisers, electrons):
    noise = NoiseModel(1.0, 0.0, 0.0, np.zeros(electrons.shape[2:], bool), counting=True, dose=1.0)
    return denoisers.Measured(electrons.astype(np.float32), noise)


@pytest.mark.slow
def test_the_reader_keeps_slopes_and_sees_attenuation(imported):
    slopes = imported("slopes")
    crystal, put_in = slopes.Crystal(), slopes.fields()[:, ::4, ::4].reshape(4, -1)
    deformations = np.einsum("kn,kij->nij", put_in[:3], slopes.PARTS[:3])
    clean = np.stack([crystal.pattern(*both) for both in zip(deformations, put_in[3], strict=True)])
    read = slopes.reader(crystal)
    assert slopes.compared(read(clean), put_in)[0] == pytest.approx(np.ones(4), abs=0.02)
    half = (clean + clean.mean(0)) / 2  # every pattern half replaced by the mean of the scan
    assert slopes.compared(read(half), read(clean))[0] == pytest.approx(np.full(4, 0.5), abs=0.02)


def test_local_regression_keeps_what_is_quadratic_over_the_scan(imported):
    denoisers = imported("denoisers")
    x, y = np.indices((9, 8))[..., None, None] / 8
    pattern = np.random.default_rng(0).random((3, 4, 5))
    scan = scan_of(denoisers, 10 + pattern[0] * x * y + pattern[1] * y**2 - pattern[2] * x)
    at = np.arange(0, 72, 7)
    for _, estimate in denoisers.local_regression(scan, at):
        assert estimate == pytest.approx(scan.electrons[at], rel=1e-4)


def test_poisson_weighted_pca_keeps_a_pattern_of_varying_intensity(imported):
    denoisers = imported("denoisers")
    pattern, image = np.random.default_rng(0).random((4, 5)), np.random.default_rng(1).random((3, 4, 1, 1)) + 0.1
    pattern[0] = 0  # pixels without electrons
    scan = scan_of(denoisers, 100 * image * pattern)
    at = np.arange(12)
    for _, estimate in denoisers.poisson_pca(scan, at):
        assert estimate == pytest.approx(scan.electrons, abs=1e-3)
