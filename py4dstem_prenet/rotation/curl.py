"""Angle and flip that leave no curl in a field of deflections.

The deflection is the gradient of a potential. Of its divergence D and curl C, q = D + i C is multiplied by
exp(i theta) if the field is rotated by theta, so that

    Z = sum of q^2 = sum of (D^2 - C^2) + 2 i sum of D C

is multiplied by exp(2 i theta). The curl is least, and the divergence largest, for theta = -arg(Z) / 2, up to half a
turn. With flip, the components of the field are exchanged before.

D and C are local derivatives of a Gaussian, so the field of a potential has no curl at the edges of the scan either.
The sum is taken over the Fourier transform of q over the scan, with the weight of maximum likelihood for a signal of
the measured power in white noise. It is a sum over scan positions, too (Parseval), and its scatter over regions of the
scan and over sectors of directions of the wave vector gives standard errors: regions show noise and a specimen that
varies; sectors show a scan that is distorted or a field that is no gradient. The null hypothesis, a field whose
direction has nothing to do with the direction of the wave vector, is drawn by rotating the field of each sector at
random.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import gaussian_filter
from scipy.signal.windows import tukey

DIRECTION_SECTORS = 12  # of directions of k over half a turn
REGIONS_ALONG = 6  # regions along each side of the scan, at most
MIN_REGION = 3  # positions along each side of a region
DRAWS = 4095  # random fields of the null hypothesis
TAPER = 0.4  # fraction of the scan's sides that is tapered
DERIVATIVE_SIGMA = 0.8  # scan positions, 1 sigma of the Gaussian that is differentiated
DERIVATIVE_REACH = 3  # scan positions along each edge, whose derivatives are not used
SPECTRUM_BLUR = 1.5  # samples of the spectrum, 1 sigma, over which its power is averaged
SHARED_CURL = 0.003  # power of the curl that sampling causes, as a fraction of the signal's power
SPREAD_CURL = 0.05  # the same, as a fraction of the mean power over all waves
MIN_PERIODS = 1.5  # periods of a wave over the scan along its fast axis, and over all: below are descan and line noise
MAX_FREQUENCY = 0.4  # waves per scan position; the derivatives of shorter waves are not isotropic


@dataclass(frozen=True)
class Alignment:
    """Angle and flip of a field against its scan.

    Attributes
    ----------
    angle : tuple of float
        Angle without and with flip that leaves the least curl, radians in (-pi/2, pi/2].
    strength : tuple of float
        |Z| for both, as a fraction of the largest possible one: (divergence^2 - curl^2) / (divergence^2 + curl^2) at
        this angle.
    sigma : tuple of float
        Standard error of both angles, radians: the larger one of those from regions and from sectors.
    flip : bool
        Whether the flip leaves less curl.
    flip_sigmas : float
        Difference of the two strengths in standard errors over regions of the scan.
    probability : float
        Probability that a field without relation to the scan reaches the larger strength.
    curl : float
        Power of the curl in that of curl and divergence at the angle that was found, counting noise subtracted.
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
    """Fourier transforms over the scan, (Rx, Ry), of divergence and curl without and with flip, each (2, 2, Rx, Ry).

    `sector` numbers the direction of each wave, `weight` weighs its power, `noise` is the power of noise in it.
    """

    derivatives: np.ndarray
    sector: np.ndarray
    weight: np.ndarray
    noise: float


def align(field, noise: float) -> Alignment:
    """Find the rotation of a field against its scan, with and without flip.

    Parameters
    ----------
    field : numpy.ndarray, shape (2, Rx, Ry)
        Deflection along qx and qy, without mean and slope over the scan.
    noise : float
        Variance of either component by white noise.

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
    certain = _lead(by_region, total) * (-1 if flip else 1)
    noise_power = 2 * spectrum.noise * float(weight.sum())
    rest = 0.5 * (1 - max(strength)) * power - 0.5 * noise_power
    return Alignment(tuple(angle), tuple(map(float, strength)), tuple(sigma), flip, float(certain),
                     _chance(by_sector, max(np.abs(total))),
                     float(np.clip(rest / max(power - noise_power, 1e-300), 0, 1)))


def sign_of_field(field, noise: float, angle: float, flip: bool, dark) -> tuple[float, float]:
    """Compare the potential of a field with the dark-field signal, which is bright at atoms.

    Parameters
    ----------
    field : numpy.ndarray, shape (2, Rx, Ry)
        Deflection along qx and qy.
    noise : float
        Variance of either component by white noise.
    angle : float
        Rotation, radians.
    flip : bool
        Flip.
    dark : numpy.ndarray, shape (Rx, Ry)
        The dark-field signal, without slope over the scan.

    Returns
    -------
    sigmas : float
        Correlation of both in standard errors over regions of the scan; positive if the deflection points toward
        bright places.
    agreement : float
        Sum over sectors of directions of the correlation, over the sum of its absolute values, -1 to 1.
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
    """Fourier transforms of divergence and curl over those of the derivative's length, and the weight of each wave."""
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
    rest = level + SHARED_CURL * signal + SPREAD_CURL * mean  # power of the curl
    weight = np.where(usable, signal / (rest * (signal + level) + 1e-300), 0.0)
    sector = np.minimum((np.arctan2(ky, kx) % np.pi / np.pi * DIRECTION_SECTORS).astype(int), DIRECTION_SECTORS - 1)
    return _Spectrum(derivatives, sector, weight, level)


def _window(shape):
    """Window over the scan, zero where derivatives are not used."""
    inner = [max(n - 2 * DERIVATIVE_REACH, 1) for n in shape]
    return np.outer(*(np.pad(tukey(m + 2, TAPER)[1:-1], DERIVATIVE_REACH)[:n]
                      for m, n in zip(inner, shape, strict=True)))


def _blurred(power):
    return gaussian_filter(power, SPECTRUM_BLUR, mode="wrap")


def _sums(values, label, count):
    """Sums of complex values over labels."""
    label = label.ravel()
    count = int(label.max()) + 1 if count is None else count
    return (np.bincount(label, values.real.ravel(), count)
            + 1j * np.bincount(label, values.imag.ravel(), count))


def _half_turn(angle):
    """An angle in (-pi/2, pi/2]."""
    return np.pi / 2 - (np.pi / 2 - angle) % np.pi


def _angle_sigma(parts, total):
    """Standard error of -arg(total) / 2, the sum of independent parts (infinitesimal jackknife), radians."""
    if not abs(total) > 0:
        return np.inf
    size = np.abs(parts)
    number = size.sum() ** 2 / (size**2).sum()  # effective number of parts
    if number < 2:
        return np.inf
    aside = 0.5 * (parts * np.conj(total)).imag / abs(total) ** 2
    return float(np.sqrt((aside**2).sum() * number / (number - 1)))


def _lead(parts, total):
    """Difference |Z| without flip less |Z| with flip, in standard errors over parts."""
    along = [(p * np.conj(z)).real / max(abs(z), 1e-300) for p, z in zip(parts, total, strict=True)]
    difference = along[0] - along[1]
    spread = np.sqrt(len(difference) * difference.var(ddof=1)) if len(difference) > 1 else 0.0
    return float(difference.sum() / spread) if spread > 0 else 0.0


def _chance(by_sector, found):
    """Probability that sectors with random directions reach |Z| with or without flip."""
    turns = np.exp(2j * np.pi * np.random.default_rng(0).random((DRAWS, DIRECTION_SECTORS)))
    drawn = np.maximum(np.abs(turns @ by_sector[0]), np.abs(np.conj(turns) @ by_sector[1]))
    return float((1 + np.count_nonzero(drawn >= found * (1 - 1e-9))) / (DRAWS + 1))
