"""Angle and flip for which a field of deflections has no curl.

The deflection is the gradient of a potential. Let D be its divergence and C its curl. If the field is rotated by theta,
q = D + i C is multiplied by exp(i theta), so that

    Z = sum of q^2 = sum of (D^2 - C^2) + 2 i sum of D C

is multiplied by exp(2 i theta). The curl is smallest, and the divergence largest, for theta = -arg(Z) / 2; 180 degrees
remain undetermined. With flip, the components of the field are exchanged before the rotation.

D and C are computed with local derivatives of a Gaussian, so that the field of a potential has no curl at the edges of
the scan either. The sum is taken over the Fourier transform of q over the scan, with the weight of maximum likelihood
for a signal of the measured power in white noise. It is also a sum over scan positions (Parseval). Its scatter over
regions of the scan, and over sectors of the direction of the wave vector, gives standard errors: regions include noise
and variations of the specimen; sectors include distortions of the scan and fields that are not a gradient. The null
hypothesis is a field whose direction is independent of the direction of the wave vector; it is sampled by rotating the
field of each sector at random.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import gaussian_filter
from scipy.signal.windows import tukey

DIRECTION_SECTORS = 12  # number of sectors of the direction of the wave vector over 180 degrees
REGIONS_ALONG = 6  # largest number of regions along each side of the scan
MIN_REGION = 3  # positions; smallest side of a region
DRAWS = 4095  # number of random fields of the null hypothesis
TAPER = 0.4  # fraction of the scan's sides that is tapered
DERIVATIVE_SIGMA = 0.8  # scan positions, 1 sigma; width of the Gaussian that is differentiated
DERIVATIVE_REACH = 3  # scan positions; width of the margin along each edge whose derivatives are not used
SPECTRUM_BLUR = 1.5  # samples of the spectrum, 1 sigma; smoothing of its power
SHARED_CURL = 0.003  # fraction of the signal's power; power of the curl that sampling causes
SPREAD_CURL = 0.05  # fraction of the mean power over all waves; power of the curl that sampling causes
MIN_PERIODS = 1.5  # periods; fewest over the scan along its fast axis, and overall: below are descan and line noise
MAX_FREQUENCY = 0.4  # periods per scan position; largest frequency: derivatives of shorter waves are not isotropic


@dataclass(frozen=True)
class Alignment:
    """Angle and flip of a field relative to its scan.

    Attributes
    ----------
    angle : tuple of float
        Angle with the smallest curl, without and with flip, radians in (-pi/2, pi/2].
    strength : tuple of float
        |Z| for both, as a fraction of its largest possible value: (divergence^2 - curl^2) / (divergence^2 + curl^2) at
        this angle.
    sigma : tuple of float
        Standard error of both angles in radians, the larger of those from regions and from sectors.
    flip : bool
        Whether the curl is smaller with the flip.
    flip_sigmas : float
        Difference of the two strengths in standard errors over regions of the scan.
    probability : float
        Probability that a field independent of the scan reaches the larger strength.
    curl : float
        Power of the curl relative to that of curl and divergence at the measured angle, after subtraction of counting
        noise.
    """

    angle: tuple[float, float]
    strength: tuple[float, float]
    sigma: tuple[float, float]
    flip: bool
    flip_sigmas: float
    probability: float
    curl: float


@dataclass(frozen=True)
class _Spectrum:
    """Fourier transforms of the derivatives of a field over the scan."""

    derivatives: np.ndarray  # (2, 2, Rx, Ry), divergence and curl, without and with flip
    sector: np.ndarray  # (Rx, Ry), sector of the direction of each wave
    weight: np.ndarray  # (Rx, Ry), weight of the power of each wave
    noise: float  # power of the noise in each wave


def align(field, noise: float) -> Alignment:
    """Find the rotation of a field relative to its scan, with and without flip.

    Parameters
    ----------
    field : numpy.ndarray, shape (2, Rx, Ry)
        Deflection along qx and qy, without mean and slope over the scan.
    noise : float
        Variance of each component due to white noise.

    Returns
    -------
    Alignment
        The angles, their standard errors, and the statistics of the decision.

    Examples
    --------
    >>> from scipy.ndimage import gaussian_filter
    >>> potential = gaussian_filter(np.random.default_rng(0).normal(size=(32, 32)), 2)
    >>> gx, gy = np.gradient(potential)
    >>> turned = np.stack([0.8 * gx + 0.6 * gy, 0.8 * gy - 0.6 * gx])  # by -36.87 degrees
    >>> found = align(turned, noise=1e-8)
    >>> found.flip, round(float(np.degrees(found.angle[0])))
    (False, 37)
    """
    spectrum = _spectrum(field, noise)
    weight = spectrum.weight
    power = 0.5 * float((weight * (np.abs(spectrum.derivatives) ** 2)).sum())
    if not power > 0:
        return Alignment((0.0, 0.0), (0.0, 0.0), (np.inf, np.inf), False, 0.0, 1.0, 1.0)
    by_sector, by_region = [], []
    for divergence, curl in spectrum.derivatives:
        terms = weight * ((np.abs(divergence) ** 2 - np.abs(curl) ** 2) + 2j * (divergence * np.conj(curl)).real)
        by_sector.append(_sums(terms, spectrum.sector, DIRECTION_SECTORS))
        local = [np.fft.ifft2(np.sqrt(weight) * part).real for part in (divergence, curl)]
        density = (local[0] + 1j * local[1]) ** 2 * weight.size
        by_region.append(_sums(density, regions(weight.shape), None))
    total = [parts.sum() for parts in by_sector]
    strength = np.abs(total) / power
    angle = [float(_half_turn(-0.5 * np.angle(z))) for z in total]
    sigma = [max(_angle_sigma(parts, z) for parts in (by_sector[k], by_region[k])) for k, z in enumerate(total)]
    flip = bool(strength[1] > strength[0])
    flip_sigmas = _lead(by_region, total) * (-1 if flip else 1)
    noise_power = 2 * spectrum.noise * float(weight.sum())
    curl_power = 0.5 * (1 - max(strength)) * power - 0.5 * noise_power
    return Alignment(tuple(angle), tuple(map(float, strength)), tuple(sigma), flip, float(flip_sigmas),
                     _chance(by_sector, max(np.abs(total))),
                     float(np.clip(curl_power / max(power - noise_power, 1e-300), 0, 1)))


def sign_of_field(field, noise: float, angle: float, flip: bool, dark) -> tuple[float, float]:
    """Correlate the potential of a field with the dark-field signal, which is bright at atoms.

    Parameters
    ----------
    field : numpy.ndarray, shape (2, Rx, Ry)
        Deflection along qx and qy.
    noise : float
        Variance of each component due to white noise.
    angle : float
        Rotation, radians.
    flip : bool
        Flip.
    dark : numpy.ndarray, shape (Rx, Ry)
        The dark-field signal, without slope over the scan.

    Returns
    -------
    sigmas : float
        Correlation of the two in standard errors over regions of the scan; positive if the deflection points toward
        bright positions.
    agreement : float
        Sum of the correlation over sectors of directions, divided by the sum of its absolute values, -1 to 1.
    """
    spectrum = _spectrum(field, noise)
    divergence, curl = spectrum.derivatives[int(flip)]
    potential = np.sin(angle) * curl - np.cos(angle) * divergence  # times |k|, which whitening removes
    bright = np.fft.fft2(dark * _window(dark.shape))
    power = [_blurred(np.abs(part) ** 2) for part in (potential, bright)]
    signal = np.clip(power[0] - spectrum.noise, 0, None)
    used = spectrum.weight > 0
    first = np.where(used, signal * potential / np.maximum(power[0], 1e-150) ** 1.5, 0.0)
    second = np.where(used, bright / np.sqrt(np.maximum(power[1], 1e-300)), 0.0)
    by_sector = _sums((first * np.conj(second)).real, spectrum.sector, DIRECTION_SECTORS).real
    density = np.fft.ifft2(first).real * np.fft.ifft2(second).real
    by_region = _sums(density, regions(dark.shape), None).real
    spread = np.sqrt(len(by_region) * by_region.var(ddof=1)) if len(by_region) > 1 else np.inf
    scale = np.abs(by_sector).sum()
    return (float(by_region.sum() / spread) if spread > 0 else 0.0,
            float(by_sector.sum() / scale) if scale > 0 else 0.0)


def regions(shape) -> np.ndarray:
    """Divide a scan into regions.

    Parameters
    ----------
    shape : tuple of int
        (Rx, Ry).

    Returns
    -------
    numpy.ndarray of int, shape (Rx, Ry)
        Number of the region of each position.

    Examples
    --------
    >>> int(regions((32, 48)).max()) + 1
    36
    """
    along = []
    for n in shape:
        count = int(np.clip(n // MIN_REGION, 1, REGIONS_ALONG))
        along.append(np.arange(n) * count // n)
    return along[0][:, None] * (along[1].max() + 1) + along[1]


def _spectrum(field, noise):
    """Fourier transforms of divergence and curl, divided by the derivative's frequency response, and their weights."""
    shape = field.shape[1:]
    window = _window(shape)
    xx, xy, yx, yy = (gaussian_filter(part, DERIVATIVE_SIGMA, order, mode="nearest")
                      for part in field for order in ((1, 0), (0, 1)))
    kx, ky = (np.fft.fftfreq(n) for n in shape)
    kx, ky = np.broadcast_to(kx[:, None], shape), np.broadcast_to(ky[None, :], shape)
    k = np.hypot(kx, ky)
    periods = np.hypot(kx * shape[0], ky * shape[1])
    usable = (k <= MAX_FREQUENCY) & (periods > MIN_PERIODS) & (np.abs(ky) * shape[1] > MIN_PERIODS)
    length = np.where(usable, 2 * np.pi * k * np.exp(-2 * (np.pi * DERIVATIVE_SIGMA * k) ** 2), np.inf)
    derivatives = np.array([[np.fft.fft2(part * window) / length for part in pair]
                            for pair in ((xx + yy, yx - xy), (yx + xy, xx - yy))])
    level = max(noise, 1e-12 * float((field**2).mean())) * float((window**2).sum())
    power = 0.5 * (np.abs(derivatives) ** 2).sum((0, 1))
    signal = np.clip(_blurred(power) - 2 * level, 0, None)
    mean = float(signal[usable].mean()) if usable.any() else 0.0
    curl_power = level + SHARED_CURL * signal + SPREAD_CURL * mean  # expected power of the curl
    weight = np.where(usable, signal / (curl_power * (signal + level) + 1e-300), 0.0)
    sector = np.minimum((np.arctan2(ky, kx) % np.pi / np.pi * DIRECTION_SECTORS).astype(int), DIRECTION_SECTORS - 1)
    return _Spectrum(derivatives, sector, weight, level)


def _window(shape):
    """Window over the scan; zero where derivatives are not used."""
    inner = [max(n - 2 * DERIVATIVE_REACH, 1) for n in shape]
    return np.outer(*(np.pad(tukey(m + 2, TAPER)[1:-1], DERIVATIVE_REACH)[:n]
                      for m, n in zip(inner, shape, strict=True)))


def _blurred(power):
    return gaussian_filter(power, SPECTRUM_BLUR, mode="wrap")


def _sums(values, label, count):
    """Sum complex values by label."""
    label = label.ravel()
    count = int(label.max()) + 1 if count is None else count
    return (np.bincount(label, values.real.ravel(), count)
            + 1j * np.bincount(label, values.imag.ravel(), count))


def _half_turn(angle):
    """Reduce an angle to (-pi/2, pi/2] modulo pi."""
    return np.pi / 2 - (np.pi / 2 - angle) % np.pi


def _angle_sigma(parts, total):
    """Standard error in radians of -arg(total) / 2 for a sum of independent parts (infinitesimal jackknife)."""
    if not abs(total) > 0:
        return np.inf
    size = np.abs(parts)
    number = size.sum() ** 2 / (size**2).sum()  # effective number of parts
    if number < 2:
        return np.inf
    deviation = 0.5 * (parts * np.conj(total)).imag / abs(total) ** 2
    return float(np.sqrt((deviation**2).sum() * number / (number - 1)))


def _lead(parts, total):
    """Difference of |Z| without flip and |Z| with flip, in standard errors over parts."""
    along = [(p * np.conj(z)).real / max(abs(z), 1e-300) for p, z in zip(parts, total, strict=True)]
    difference = along[0] - along[1]
    spread = np.sqrt(len(difference) * difference.var(ddof=1)) if len(difference) > 1 else 0.0
    return float(difference.sum() / spread) if spread > 0 else 0.0


def _chance(by_sector, found):
    """Probability that sectors with random directions reach |Z| with or without flip."""
    turns = np.exp(2j * np.pi * np.random.default_rng(0).random((DRAWS, DIRECTION_SECTORS)))
    drawn = np.maximum(np.abs(turns @ by_sector[0]), np.abs(np.conj(turns) @ by_sector[1]))
    return float((1 + np.count_nonzero(drawn >= found * (1 - 1e-9))) / (DRAWS + 1))
