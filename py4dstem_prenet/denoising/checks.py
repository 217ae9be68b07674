"""What is true of a data set, without any truth: split it into independent halves, and score one on the other.

If A and B are the halves of a scan (splitting.py), f an estimate made from A alone, and v the variance of B's noise,
then E[(f - B)**2] - v is the squared error of f, whatever f is; v is known without bias (Poisson: v is B itself). So
raw counts, any denoiser, the best Gaussian and the best truncated SVD can be scored on the user's own scan.

What this supposes of the noise is looked at first (assumptions.py); where it fails, no verdict is given.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import gaussian_filter

from ..core import Decided, Decision, Flag, NoiseModel, as_scan, jackknife
from ..detector import check_independence, of_part, places, read_block, split
from ..io import calibrations

POSITIONS = 256
SAMPLE_BYTES = 64 * 2**20  # of the sampled patterns as float32
SIGMAS = (0.3, 0.4, 0.5, 0.65, 0.8, 1.0, 1.3, 1.6, 2.0, 2.6, 3.3, 4.2)  # pixels, of the Gaussians that are tried
RANKS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32)
FLOOR = 0.01  # electrons that an estimate is taken to expect at least, where its deviance is asked
GROUPS = 16  # parts of the sample, left out in turn to tell how sure a figure is


@dataclass(frozen=True, eq=False, repr=False)
class DenoisingCheck(Decided):
    """How denoising changes the squared error on a scan, measured on its own counts.

    Attributes
    ----------
    worth, worth_sigma : float
        Raw measurements that would have to be averaged for the same squared error, at the dose of the scan, and one
        standard deviation of that. Not shown: squared error says nothing of flattened maps.
    worth_at_half : float
        The same at half the dose, as measured.
    errors, error_sigmas : dict
        {"raw", "denoised", "gaussian", "svd"} to the squared error as a part of the raw one at half the dose, and its
        standard deviation.
    deviances : dict
        The same keys to the Poisson deviance of the held-out half, per pixel.
    sigma : float
        Width of the best Gaussian, pixels.
    rank : int
        Rank of the best truncated SVD.
    positions : int
        Positions that were tested.
    valid : bool
        Whether the noise is what the check supposes; otherwise there are no figures.
    decision : Decision
        Accepted if the squared error at half the dose falls by more than two standard deviations.
    """

    worth: float
    worth_sigma: float
    worth_at_half: float
    errors: dict[str, float]
    error_sigmas: dict[str, float]
    deviances: dict[str, float]
    sigma: float
    rank: int
    positions: int
    valid: bool
    decision: Decision

    def rows(self):
        names = {"denoised": "denoised", "gaussian": f"best Gaussian ({self.sigma:g} px)",
                 "svd": f"best truncated SVD (rank {self.rank})"}
        return [*((f"squared error, {names[key]}", f"{error:.3g} ± {self.error_sigmas[key]:.1g} of raw")
                  for key, error in self.errors.items() if key in names),
                ("positions", f"{self.positions}, at half the dose"), ("flags", self.reason)]


def check_denoising(datacube, noise: NoiseModel | None = None, weights=None, device="auto", positions: int = POSITIONS,
                    seed: int = 0) -> DenoisingCheck:
    """What `denoise` does for this scan, against no denoising, the best Gaussian and the best truncated SVD.

    At most `positions` positions, in up to four blocks of neighbors, are split, and denoised at half and at a quarter
    of the dose. Half of the electrons are spent on the test, and denoising gains less the more electrons there are:
    `worth` is the gain at half the dose, continued to the whole by what it lost from a quarter to a half, which is at
    most a factor of two. Sigma and rank are chosen on the very half that scores them, which flatters them slightly.

    Args:
        datacube: DataCube or array (Rx, Ry, Qx, Qy). noise: the detector's noise; estimated from the scan by default.
        weights: as `denoise` takes them. device: "auto", "cpu", "cuda" or "mps". seed: of the split.

    Raises PrenetError where the data cannot be used.
    """
    scan = as_scan(datacube)
    noise = noise or calibrations.noise_of(datacube)
    parts = (1, 1) if scan.size <= positions else (2, 2)
    blocks = [read_block(scan, where) for where in places(scan.shape, positions, parts)]
    count = sum(block.shape[0] * block.shape[1] for block in blocks)
    problem, caveat = check_independence(blocks, noise)
    if problem:
        decision = Decision(False, (Flag("not_checked", {"check": "denoising"}), problem))
        return DenoisingCheck(np.nan, np.nan, np.nan, {}, {}, {}, np.nan, 0, count, False, decision)
    generator = np.random.default_rng(seed)
    options = dict(device=device, progress=False) | ({} if weights is None else dict(weights=weights))
    half, quarter = (Level(blocks, noise, fraction, generator) for fraction in (0.5, 0.25))
    estimates = {"raw": half.electrons, "denoised": half.denoised(options)}
    sigma, estimates["gaussian"] = half.best((s, gaussian_filter(half.electrons, (0, s, s))) for s in SIGMAS)
    rank, estimates["svd"] = half.best(truncated_svds(half.electrons, half.readout))
    ratios = {key: half.ratio(estimate) for key, estimate in estimates.items()}
    ratios["raw"] = np.ones(len(ratios["raw"]))  # by definition; its own noise says nothing
    errors = {key: float(parts[0]) for key, parts in ratios.items()}
    sigmas = {key: jackknife(parts) for key, parts in ratios.items()}
    at_half, at_quarter = (-np.log(ratio.clip(1e-3)) for ratio in (
        ratios["denoised"], quarter.ratio(quarter.denoised(options))))
    # Twice the electrons halve the error of the raw counts, and do not raise that of what is made of them.
    worth = np.exp(at_half + (at_half - at_quarter).clip(-np.log(2), 0))
    uncertainty = jackknife(worth)
    accepted, flags = _decide(float(worth[0]), errors, sigmas)
    decision = Decision(accepted, (*flags, caveat) if caveat else flags)
    deviances = {key: float(half.deviance(estimate)[0]) for key, estimate in estimates.items()}
    return DenoisingCheck(float(worth[0]), uncertainty, float(np.exp(at_half[0])), errors, sigmas, deviances, sigma,
                          rank, count, True, decision)


def _decide(worth, errors, sigmas):
    """(accepted, flags)."""
    ours, sigma = errors["denoised"], sigmas["denoised"]
    figures = {"error": ours, "sigma": sigma}
    if not (ours + 2 * sigma < 1 and worth > 1):
        return False, (Flag("denoising_harmful" if ours - 2 * sigma > 1 else "denoising_no_effect", figures),)
    flags = [Flag("denoising_lowers_error", figures)]
    name, best = min(((key, errors[key]) for key in ("gaussian", "svd")), key=lambda pair: pair[1])
    if best + 2 * sigmas[name] < ours - 2 * sigma:
        method = {"gaussian": "Gaussian", "svd": "truncated SVD"}[name]
        flags.append(Flag("rival_better", {"method": method, "error": best, "sigma": sigmas[name]}))
    return True, tuple(flags)


class Level:
    """A part of the electrons of blocks, to be estimated from, and the rest, to score estimates on.

    blocks: (rx, ry, Qx, Qy) each, detector units. `electrons` and estimates are (n, Qx, Qy). Scores are arrays: of all
    positions, then with each of GROUPS groups left out, for `jackknife`.
    """

    def __init__(self, blocks, noise: NoiseModel, fraction: float, generator):
        self.noise = of_part(noise, fraction)
        self.readout = self.noise.readout / noise.gain
        self.good = ~noise.bad_pixels
        self.parts, rest = zip(*(split(block, noise, generator, fraction) for block in blocks), strict=True)
        self.electrons = _flat(self.parts, self.noise)
        share = np.float32(fraction / (1 - fraction))
        self.target = _flat(rest, noise) * share  # expects what the estimate should be
        self._target_variance = self.target * share + self.readout**2 * share
        self._raw = self._sums(fraction * (self.electrons + self.target / share) + self.readout**2)

    def denoised(self, options):
        """What `denoise` expects, from nothing but these parts."""
        from py4DSTEM import DataCube

        from .denoiser import denoise

        return _flat([np.asarray(denoise(DataCube(part), self.noise, **options).data) for part in self.parts],
                     self.noise)

    def best(self, candidates):
        """(parameter, estimate) of the least squared error among (parameter, estimate) pairs."""
        return min(candidates, key=lambda pair: self.squared(pair[1])[0])

    def squared(self, estimate):
        """Squared error of an estimate, without bias."""
        return self._sums((estimate - self.target) ** 2 - self._target_variance)

    def ratio(self, estimate):
        """The same, as a part of the raw squared error."""
        return self.squared(estimate) / self._raw

    def deviance(self, estimate):
        """Poisson deviance of the held-out electrons, a pixel.

        Deviance = 2 (t log(t / f) - t + f); the variance of read-out noise is added to both (Snyder et al. 1995).
        """
        t = (self.target + self.readout**2).clip(min=0)
        f = estimate.clip(min=FLOOR) + self.readout**2
        return self._sums(2 * (t * np.log(np.maximum(t, 1e-30) / f) - t + f)) / self._sums(np.ones_like(t))

    def _sums(self, values):
        rows = (values * self.good).sum(2, dtype=np.float64)
        # Few patterns are cut into interleaved rows, so that there always are groups to leave out.
        cut = max(1, -(-GROUPS // len(rows)))
        rows = np.stack([rows[:, k::cut].sum(1) for k in range(cut)], 1).ravel()
        groups = np.array([group.sum() for group in np.array_split(rows, GROUPS)])
        return np.concatenate([[groups.sum()], groups.sum() - groups])


def _flat(blocks, noise):
    return np.concatenate([noise.electrons(block.reshape(-1, *block.shape[2:])) for block in blocks])


def truncated_svds(electrons, readout, ranks=RANKS):
    """Yield (rank, estimate) of patterns (n, Qx, Qy): the truncated SVD of the variance-stabilized scan.

    Stabilized as z = 2 sqrt(e + 3/8 + readout**2) with readout in electrons, the mean pattern subtracted, and back with
    the exact unbiased inverse, in its closed form (Makitalo and Foi 2011, doi 10.1109/TIP.2011.2121085).
    """
    n = len(electrons)
    z = 2 * np.sqrt((electrons + 0.375 + readout**2).clip(min=0)).reshape(n, -1)
    mean = z.mean(0)
    z = z - mean
    vectors = np.linalg.eigh(z @ z.T)[1][:, ::-1]
    for rank in (r for r in ranks if r < n or r == 1):
        u = vectors[:, :rank]
        yield rank, unstabilized(u @ (u.T @ z) + mean, readout).reshape(electrons.shape)


def unstabilized(z, readout):
    """Expected electrons from the mean of stabilized counts; readout in electrons."""
    z = np.maximum(z, 2 * 0.375**0.5)  # that of no electrons
    out = z**2 / 4 - 1 / 8 + 1.5**0.5 / 4 / z - 11 / 8 / z**2 + 5 / 8 * 1.5**0.5 / z**3
    return (out - readout**2).clip(min=0)
