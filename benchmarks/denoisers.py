"""The denoisers that the benchmarks compare, each in one place.

A rival is a generator `rival(scan, at)` of pairs (parameter, estimate): for each value of what a user would have to
choose, the expected electrons (len(at), Qx, Qy) at the flat scan positions `at`. `best` keeps the pair that is best by
the truth, as each benchmark scores it. The networks Noise2Void and Noise2Noise are trained on the scan itself and have
no parameter here; nor has BM3D, since the noise of stabilized counts is known. Rivals from packages in the extra
"benchmark" are left out if their package is missing.

Networks are those of autoden. CAREamics 0.3.5 cannot be installed beside the extra "formats", since it needs zarr 3 and
RosettaSciIO needs zarr 2, and it needs torch 2.11 or older.
"""

import contextlib
import io
import time
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from py4DSTEM import DataCube
from scipy.ndimage import gaussian_filter

from py4dstem_prenet.core import NoiseModel
from py4dstem_prenet.denoising import SVD_RANKS, truncated_svds, unstabilized
from py4dstem_prenet.denoising.checks import GAUSSIAN_SIGMAS_PX
from py4dstem_prenet.denoising.denoiser import denoise
from py4dstem_prenet.detector import of_part, split

STRENGTHS = (0.2, 0.4, 0.6, 0.8, 1.0, 1.3)  # of non-local means, in standard deviations of the noise
RANKS = (*SVD_RANKS, 64, 128, 256)  # of SVD and PCA, and of the patterns in the tensor SVD
SIDE_RANKS = (2, 3, 4, 6, 8, 12, 16)  # of the tensor SVD along each side of the scan
RADII = (3, 4, 5, 6, 8, 11)  # of the local regression, scan positions
N2V_PATTERNS, N2V_STEPS, N2V_RATE, N2V_BLIND = 8, 400, 5e-3, 0.1  # trained on; steps; rate; fraction of blind pixels
N2V_PITCH = 4  # px between blind pixels when the network is applied, in as many passes as the square of this
N2N_PATTERNS, N2N_BATCH, N2N_EPOCHS, N2N_RATE = 50, 4, 12, 2e-3  # trained on; patterns a step; epochs; learning rate
FEATURES, LEVELS = 8, 3  # of the U-Net of both networks: 31,000 weights, chosen for speed on two cores
INFERRED = 20  # patterns a network is applied to at a time: for memory


@dataclass(frozen=True)
class Measured:
    """A measured scan: counts (Rx, Ry, Qx, Qy) in detector units, and what was learned of their noise."""

    counts: np.ndarray
    noise: NoiseModel

    @cached_property
    def electrons(self):
        """(n, Qx, Qy), float32."""
        return self.noise.electrons(self.counts.reshape(-1, *self.counts.shape[2:]))

    @property
    def readout(self):
        """Electrons rms."""
        return self.noise.readout / self.noise.gain


def stabilized(electrons, readout):
    """Counts whose noise is 1; `unstabilized` is the way back (Makitalo and Foi 2011)."""
    return 2 * np.sqrt((electrons + 0.375 + readout**2).clip(min=0))


def gaussian(scan, at):
    for sigma in GAUSSIAN_SIGMAS_PX:
        yield f"{sigma} px", gaussian_filter(scan.electrons[at], (0, sigma, sigma))


def non_local_means(scan, at):
    """Buades et al. 2005, of stabilized counts."""
    from skimage.restoration import denoise_nl_means

    z = stabilized(scan.electrons[at], scan.readout)
    for strength in STRENGTHS:
        images = [denoise_nl_means(image, 5, 6, h=strength, sigma=1.0, fast_mode=True) for image in z]
        yield f"{strength} sigma", unstabilized(np.stack(images), scan.readout)


def bm3d(scan, at):
    """Dabov et al. 2007, of stabilized counts."""
    from bm3d import bm3d

    z = stabilized(scan.electrons[at], scan.readout).astype(np.float64)
    yield "", unstabilized(np.stack([bm3d(image, 1.0) for image in z]), scan.readout)


def truncated_svd(scan, at):
    """SVD of stabilized counts, as in `check_denoising`."""
    for rank, estimate in truncated_svds(scan.electrons, scan.readout, RANKS):
        yield f"rank {rank}", estimate[at]


def poisson_pca(scan, at):
    """SVD of counts divided by their standard deviation (Keenan and Kotula 2004, doi 10.1002/sia.1657).

    The variance is that of counts whose expectation is a product of a mean pattern and a mean image.
    """
    flat = scan.electrons.reshape(len(scan.electrons), -1)
    image = np.sqrt((flat.mean(1) / flat.mean()).clip(min=0))[:, None]
    pattern = np.sqrt(flat.mean(0).clip(min=0) + scan.readout**2)
    sigma = image * pattern
    scaled = np.divide(flat, sigma, out=np.zeros_like(flat), where=sigma > 0)
    vectors = np.linalg.eigh(scaled @ scaled.T)[1][:, ::-1]
    for rank in (rank for rank in RANKS if rank < len(flat)):
        u = vectors[:, :rank]
        yield f"rank {rank}", (u[at] @ (u.T @ scaled) * sigma[at]).reshape(-1, *scan.counts.shape[2:])


def tensor_svd(scan, at):
    """Higher-order orthogonal iteration of the counts (Zhang et al. 2020, doi 10.1016/j.ultramic.2020.113123).

    As there, the tensor is rows x columns x pixels. One rank along both sides of the scan, another of the patterns.
    """
    from tensorly import tucker_to_tensor
    from tensorly.decomposition import tucker

    flat = scan.electrons.reshape(len(scan.electrons), -1)
    u, values, patterns = np.linalg.svd(flat, full_matrices=False)  # patterns span all pixels: exact, and smaller
    tensor = (u * values).reshape(*scan.counts.shape[:2], -1)
    for side in (rank for rank in SIDE_RANKS if rank <= min(tensor.shape[:2])):
        for rank in (rank for rank in RANKS if rank <= side**2):
            estimate = tucker_to_tensor(tucker(tensor, rank=(side, side, rank))).reshape(len(flat), -1)
            yield f"ranks {side}, {side}, {rank}", (estimate[at] @ patterns).reshape(-1, *scan.counts.shape[2:])


def local_regression(scan, at):
    """A quadratic in the two scan coordinates, fitted to the counts of each pixel in a round neighborhood.

    Weights (1 - r^2 / radius^2)^2. Nothing else is known of patterns.
    """
    flat = scan.electrons.reshape(len(scan.electrons), -1)
    positions = np.indices(scan.counts.shape[:2]).reshape(2, -1).T
    x, y = np.moveaxis(positions - positions[at][:, None], -1, 0)
    terms = np.stack([np.ones_like(x), x, y, x * x, x * y, y * y], -1).astype(float)
    for radius in RADII:
        weighted = terms * ((1 - (x**2 + y**2) / radius**2).clip(min=0) ** 2)[..., None]
        first = np.linalg.inv(np.swapaxes(weighted, 1, 2) @ terms)[:, :1]  # row of the constant term
        smoother = (first @ np.swapaxes(weighted, 1, 2))[:, 0].astype(np.float32)
        yield f"{radius} positions", (smoother @ flat).reshape(-1, *scan.counts.shape[2:])


def noise2void(scan, at):
    """Krull et al. 2019: a network that predicts a pixel of a stabilized pattern from those around it (autoden).

    autoden replaces blind pixels by random values, which the network recognizes in bright disks; it is undefined for
    pixels that are not blind. So every pixel is estimated while it is blind (Noise2Self, Batson and Royer 2019).
    """
    from autoden import N2V

    z = stabilized(scan.electrons, scan.readout)
    model, rng = _network(N2V, z), np.random.default_rng(0)
    estimate = np.empty_like(z[at])
    with _reproducible():
        inputs, held_out = model.prepare_data(z[_spread(len(z), N2V_PATTERNS)])
        model.train(inputs, held_out, epochs=N2V_STEPS, ratio_blind_spot=N2V_BLIND, learning_rate=N2V_RATE)
        for first in np.ndindex(N2V_PITCH, N2V_PITCH):
            blind = np.s_[:, first[0]::N2V_PITCH, first[1]::N2V_PITCH]
            blinded = z[at]
            blinded[blind] = rng.normal(z.mean(), z.std(), blinded[blind].shape)
            estimate[blind] = _inferred(model, blinded)[blind]
    yield "", unstabilized(estimate, scan.readout)


def noise2noise(scan, at):
    """Lehtinen et al. 2018: a network that predicts one half of a pattern's electrons from the other half (autoden)."""
    from autoden import N2N

    noise = of_part(scan.noise)
    halves = split(scan.counts.reshape(-1, *scan.counts.shape[2:]), scan.noise, np.random.default_rng(0))
    readout = noise.readout / noise.gain
    z = stabilized(np.stack([noise.electrons(half) for half in halves]), readout)
    model = _network(N2N, z, batch_size=N2N_BATCH)
    with _reproducible():
        model.train(*model.prepare_data(z[:, _spread(z.shape[1], N2N_PATTERNS)]), epochs=N2N_EPOCHS,
                    learning_rate=N2N_RATE)
        model.batch_size = None
        estimates = [_inferred(model, half[at], average_splits=False) for half in z]
    yield "", 2 * unstabilized(np.mean(estimates, 0), readout)


def _network(kind, z, **options):
    """An untrained network for stabilized counts z, whose scale it gets."""
    from autoden.algorithms.denoiser import DataScaleBias
    from autoden.models.config import NetworkParamsUNet

    scale, bias = 1 / z.std(), z.mean() / z.std()
    known = DataScaleBias()
    known.scale_inp = known.scale_tgt = known.scale_out = scale
    known.bias_inp = known.bias_tgt = known.bias_out = bias
    with _reproducible():
        return kind(NetworkParamsUNet(n_features=FEATURES, n_levels=LEVELS), data_scale_bias=known, device="cpu",
                    verbose=False, **options)


@contextlib.contextmanager
def _reproducible():
    """autoden draws from the global generators and prints."""
    with torch.random.fork_rng(devices=[]), contextlib.redirect_stdout(io.StringIO()), \
            contextlib.redirect_stderr(io.StringIO()):
        state = np.random.get_state()  # noqa: NPY002
        torch.manual_seed(0)
        np.random.seed(0)  # noqa: NPY002
        try:
            yield
        finally:
            np.random.set_state(state)  # noqa: NPY002


def _spread(count, wanted):
    """At most `wanted` of `count` positions, spread evenly."""
    return np.unique(np.linspace(0, count - 1, wanted).astype(int))


def _inferred(model, z, **options):
    return np.concatenate([model.infer(z[k:k + INFERRED], **options).reshape(-1, *z.shape[1:])
                           for k in range(0, len(z), INFERRED)])


RIVALS = {"best Gaussian": gaussian, "best non-local means": non_local_means, "BM3D": bm3d,
          "best truncated SVD": truncated_svd, "best Poisson-weighted PCA": poisson_pca, "best tensor SVD": tensor_svd,
          "best local regression": local_regression, "Noise2Void": noise2void, "Noise2Noise, split counts": noise2noise}
OURS = {"prenet, single patterns": False, "prenet, scan-aware": True}


def best(name, scan, at, score):
    """The pair (parameter, estimate) of a rival with the lowest score(estimate); None if its package is missing."""
    try:
        return min(RIVALS[name](scan, at), key=lambda pair: score(pair[1]))
    except ModuleNotFoundError:
        return None


def ours(scan, scan_aware):
    """(electrons (n, Qx, Qy), patterns per second) of prenet."""
    start = time.perf_counter()
    clean = np.asarray(denoise(DataCube(scan.counts), scan.noise, scan_aware=scan_aware, progress=False).data)
    seconds = time.perf_counter() - start
    clean = (clean.reshape(-1, *clean.shape[2:]) - scan.noise.offset) / scan.noise.gain
    return clean, len(clean) / seconds
