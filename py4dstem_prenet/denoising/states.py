"""Differences between the patterns of a tile: displacements of the disks, and intensities.

Both are linear functionals of a pattern. They are measured in each pattern in units of their noise. Smooth maps of them
(`scanmaps.py`) resolve differences between neighbors that are far smaller than the noise of a single pattern.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from . import derivatives, mean_of_three, robust_derivatives

FIELDS_PER_AXIS = 3  # number of displacement fields of each axis: constant, proportional to x, proportional to y
RINGS_PER_SIDE = 16  # number of rings along the longer side of a pattern; their electrons and dipoles are functionals
RING_MAPS = 8  # number of principal components of the rings, and of their dipoles, whose maps are smoothed
MIN_SUMMED_ELECTRONS = 4.0  # electrons; smallest sum over all patterns of a ring, or a low-pass sample, that is used
INFORMATIVE_FRACTION = 0.98  # fraction of the information on displacement in the pixels that are used, for speed
MIN_EIGENVALUE = 1e-3  # smallest eigenvalue of the correlation of rings that determines a combination of them
SIGNAL_MARGIN = 1.1  # units of the largest energy of noise; smallest energy of a principal component that is signal
BACKGROUND_FRACTION = 0.1  # fraction of the mean over the pattern; variance added to that of each pixel
MAX_INTENSITY_FACTOR = 2.0  # factor; largest increase or decrease of intensities
STATE_RIDGE = 1e-3  # ridge added to the normalized information matrix of the displacement, which may be singular


def variance_of(means, readout: float = 0.0):
    """Compute the variance of the counts of expected patterns.

    Parameters
    ----------
    means : torch.Tensor
        Expected electrons, (n, H, W).
    readout : float
        Read-out noise, rms electrons.

    Returns
    -------
    torch.Tensor
        Variance (n, H, W), electrons squared, positive.
    """
    smooth = mean_of_three(mean_of_three(means, 1), 2).clamp_min(0)
    background = BACKGROUND_FRACTION * means.mean((1, 2), keepdim=True).clamp_min(0)
    return (smooth + readout**2 + background).clamp_min(1e-12)


class Displacements:
    """Affine displacements of patterns relative to references.

    Parameters
    ----------
    patterns : torch.Tensor
        Recentered patterns of the tile, (n, H, W), electrons.
    origin : torch.Tensor
        Common origin of the patterns, (2,), pixels.
    readout : float
        Read-out noise, rms electrons.

    Notes
    -----
    To first order, a displaced pattern differs from the reference by the gradient of the reference times the
    displacement of each pixel. Six parameters, constant and linear displacements along both axes, are estimated with
    the optimum weights for Poisson noise (Fisher 1925). The reference is a mean with noise, which would bias the
    estimates toward zero: gradients are reduced where they are mostly noise, and the remaining bias is subtracted.
    """

    def __init__(self, patterns, origin, readout: float = 0.0):
        height, width = patterns.shape[1:]
        self.readout = readout
        self.fields = displacement_fields(origin, height, width)
        flat = self.fields.flatten(1)
        mean = patterns.mean(0, keepdim=True)
        self.pixels = _informative_pixels(robust_derivatives(mean), variance_of(mean, readout), flat)
        self.fields_used = flat[:, self.pixels]
        self.products = (self.fields_used[:, None] * self.fields_used).flatten(0, 1).T.contiguous()
        self.used = patterns.flatten(1)[:, self.pixels].T.contiguous()

    def measure(self, references, slopes, count):
        """Measure the displacement of every pattern of the tile relative to references.

        Parameters
        ----------
        references : torch.Tensor
            Mean patterns, (m, H, W), electrons.
        slopes : torch.Tensor
            `derivatives` of the references, (m, 2, H, W).
        count : torch.Tensor
            Effective number of patterns in each mean, (m,).

        Returns
        -------
        Displacement
            Displacements of n patterns relative to m references.
        """
        # One more count is added to the variance of a mean, which matters if it has few counts.
        variance = variance_of(references, self.readout) + 1 / count[:, None, None]
        level = variance / count[:, None, None]  # variance of the noise of the references themselves
        robust = robust_derivatives(references)
        power = _mean_of_nine(robust.square().mean(1))
        kept = (1 - _mean_of_nine(level) * ROBUST_NOISE / power.clamp_min(1e-20)).clamp(0, 1)
        weight, level = ((values.flatten(1)[:, self.pixels]) for values in (kept / variance, level))
        robust, slope = (values.flatten(2)[..., self.pixels] for values in (robust, slopes))
        variance = variance.flatten(1)[:, self.pixels]
        scores_by = -robust * weight[:, None]
        information = self._matrix(-scores_by[:, :, None] * slope[:, None])
        noise = weight * level * CROSS_NOISE
        information -= self._matrix(noise[:, None, None] * torch.eye(2).to(noise)[..., None])
        covariance = self._matrix(scores_by[:, :, None] * scores_by[:, None] * variance[:, None, None])
        filters = (scores_by[:, :, None] * self.fields_used).flatten(1, 2)
        own = references.flatten(1)[:, self.pixels]
        scores = (filters.flatten(0, 1) @ self.used).view(len(references), 2 * FIELDS_PER_AXIS, -1)
        scores = scores - filters @ own[:, :, None]
        scale = covariance.diagonal(dim1=1, dim2=2).clamp_min(1e-20).rsqrt()
        normal = scale[:, :, None] * information * scale[:, None]
        inverse = torch.linalg.inv(normal + STATE_RIDGE * torch.eye(normal.shape[1]).to(normal))
        spread = inverse @ (scale[:, :, None] * covariance * scale[:, None]) @ inverse.transpose(1, 2)
        sigma = spread.diagonal(dim1=1, dim2=2).clamp_min(1e-12).sqrt()
        values = inverse @ (scores * scale[:, :, None]) / sigma[:, :, None]
        return Displacement(values, sigma * scale, information)

    def displaced(self, references, parameters):
        """Displace patterns, to first order.

        Parameters
        ----------
        references : torch.Tensor
            (m, H, W).
        parameters : torch.Tensor
            Six parameters of each displacement, (m, 6).

        Returns
        -------
        torch.Tensor
            (m, H, W).
        """
        move = parameters.view(-1, 2, FIELDS_PER_AXIS) @ self.fields.flatten(1)
        return references - (move.view(len(references), 2, *references.shape[1:]) * derivatives(references)).sum(1)

    def _matrix(self, products):
        """Matrices (m, 6, 6): sums over pixels of products (m, 2, 2, p) of the axes, times pairs of fields."""
        sums = (products @ self.products).view(-1, 2, 2, FIELDS_PER_AXIS, FIELDS_PER_AXIS)
        return sums.transpose(2, 3).reshape(-1, 2 * FIELDS_PER_AXIS, 2 * FIELDS_PER_AXIS)


@dataclass(frozen=True)
class Displacement:
    """Displacements of n patterns relative to m references.

    Attributes
    ----------
    values : torch.Tensor
        Six parameters in units of their noise, (m, 6, n).
    sigma : torch.Tensor
        Noise of the parameters of a single pattern, (m, 6).
    information : torch.Tensor
        Fisher information of the parameters, (m, 6, 6).
    """

    values: torch.Tensor
    sigma: torch.Tensor
    information: torch.Tensor


class Profiles:
    """Intensities of patterns as functionals with independent noise of unit variance.

    Parameters
    ----------
    patterns : torch.Tensor
        Recentered patterns of the tile, (n, H, W), electrons.
    origin : torch.Tensor
        Common origin of the patterns, (2,), pixels.
    grid : ScanGrid
        Positions of the patterns in the scan.
    readout : float
        Read-out noise, rms electrons.

    Attributes
    ----------
    values : torch.Tensor
        Functionals of each pattern minus those of the mean pattern, (n, k).
    sigma : torch.Tensor
        Noise of the map of each functional, (k,): 1, or more for principal components that noise may have produced.

    Notes
    -----
    The functionals are the principal components of the electrons in rings, which change with the thickness, and of
    their dipoles, which change with the tilt. Components are computed from the slow variation over the scan.
    """

    def __init__(self, patterns, origin, grid, readout: float = 0.0):
        count, height, width = patterns.shape
        flat = patterns.flatten(1)
        self._mean, difference = flat.mean(0), flat - flat.mean(0)
        variance = self._mean.clamp_min(0) + readout**2
        filters, sigma, by_filters = flat[:0], flat.new_zeros(0), flat[:, :0]
        for functionals in ring_functionals(origin, height, width):
            new = _whitened(functionals, variance, count)
            shared = (filters * variance) @ new.T
            values = difference @ new.T - by_filters @ shared
            axes, noise = _principal(grid.slow_part(values.T))
            filters = torch.cat([filters, axes @ new - (shared @ axes.T).T @ filters])
            sigma, by_filters = torch.cat([sigma, noise]), torch.cat([by_filters, values @ axes.T], 1)
        self._filters, self.sigma = filters, sigma
        self._filters_by_fields = displacement_fields(origin, height, width).flatten(1)[:, None] * filters
        self.values = difference @ filters.T

    def measure_changes(self, slopes):
        """Measure the derivatives of the functionals with respect to the parameters of a displacement.

        Parameters
        ----------
        slopes : torch.Tensor
            `derivatives` of reference patterns, (m, 2, H, W).

        Returns
        -------
        torch.Tensor
            Derivatives, (m, k, 6), per unit of the parameters.
        """
        changes = slopes.flatten(2) @ self._filters_by_fields.flatten(0, 1).T
        return -changes.view(len(slopes), 2 * FIELDS_PER_AXIS, len(self._filters)).transpose(1, 2)

    def changed(self, patterns, change):
        """Change the intensities of patterns.

        Parameters
        ----------
        patterns : torch.Tensor
            (m, H, W), electrons.
        change : torch.Tensor
            Change of the functionals, (m, k).

        Returns
        -------
        torch.Tensor
            Patterns times smooth factors of at most `MAX_INTENSITY_FACTOR`, (m, H, W).
        """
        if not len(self._filters):
            return patterns
        positive = patterns.flatten(1).clamp_min(0)
        matrix = torch.stack([(self._filters * pattern) @ self._filters.T for pattern in positive])
        matrix = matrix + STATE_RIDGE * torch.eye(len(self._filters)).to(matrix)
        factor = torch.linalg.solve(matrix, change[:, :, None])[..., 0] @ self._filters
        factor = factor.clamp(1 / MAX_INTENSITY_FACTOR - 1, MAX_INTENSITY_FACTOR - 1)
        return (patterns.flatten(1) + positive * factor).view_as(patterns)


def displacement_fields(origin, height: int, width: int):
    """Compute the fields of an affine displacement.

    Parameters
    ----------
    origin : torch.Tensor
        Fixed point of the linear fields, (2,), pixels.
    height, width : int
        Size of the patterns, pixels.

    Returns
    -------
    torch.Tensor
        Constant, row and column from the origin in units of a quarter of the longer side, (3, height, width).
    """
    unit = max(height, width) / 4
    x = ((torch.arange(height).to(origin) - origin[0]) / unit)[:, None].expand(height, width)
    y = ((torch.arange(width).to(origin) - origin[1]) / unit).expand(height, width)
    return torch.stack([torch.ones_like(x), x, y])


def ring_functionals(origin, height: int, width: int):
    """Compute the weights of rings about the origin, and of their dipoles.

    Parameters
    ----------
    origin : torch.Tensor
        (2,), pixels.
    height, width : int
        Size of the patterns, pixels.

    Returns
    -------
    rings : torch.Tensor
        Weights, (k, height * width). The rings overlap, and their weights add up to 1.
    dipoles : torch.Tensor
        Rings times the cosine and the sine of the azimuth, (2 k, height * width).
    """
    x = (torch.arange(height).to(origin) - origin[0])[:, None].expand(height, width)
    y = (torch.arange(width).to(origin) - origin[1]).expand(height, width)
    radius = torch.hypot(x, y)
    step = radius / (max(height, width) / RINGS_PER_SIDE)
    rings = (1 - (step - torch.arange(int(step.max()) + 2).to(step)[:, None, None]).abs()).clamp_min(0)
    dipoles = torch.cat([rings * side / radius.clamp_min(1) for side in (x, y)])
    return rings.flatten(1), dipoles.flatten(1)


def _whitened(functionals, variance, count):
    """Combinations (k, p) of functionals (l, p) with independent noise of unit variance."""
    functionals = functionals[(functionals.square() @ variance) * count > MIN_SUMMED_ELECTRONS]
    covariance = (functionals * variance) @ functionals.T
    scale = covariance.diagonal().clamp_min(1e-20).rsqrt()
    values, axes = _eigh(scale[:, None] * covariance * scale)
    kept = values > MIN_EIGENVALUE
    return (axes[:, kept] / values[kept].sqrt()).T @ (scale[:, None] * functionals)


def _principal(coefficients):
    """Principal axes (k, l) of coefficients (l, c) with unit noise, and the noise (k,) of the values along them."""
    count = max(coefficients.shape[1], 1)
    energies, axes = _eigh(coefficients @ coefficients.T)
    energies, axes = energies.flip(0)[:RING_MAPS], axes.flip(1)[:, :RING_MAPS]
    aspect = len(coefficients) / count
    signal = energies > SIGNAL_MARGIN * count * (1 + aspect**0.5) ** 2
    # The largest components of noise exceed unit variance (Marchenko and Pastur 1967).
    return axes.T, torch.where(signal, 1.0, 1 + aspect**0.5).to(coefficients)


def _eigh(matrix):
    """Eigenvalues and eigenvectors of a small matrix, computed in float64 (for MPS on the CPU)."""
    values, axes = torch.linalg.eigh(matrix.cpu().double() if matrix.device.type == "mps" else matrix.double())
    return values.to(matrix), axes.to(matrix)


def _informative_pixels(slope, variance, fields):
    """Indices of the pixels, mostly at disk edges, with INFORMATIVE_FRACTION of the information on displacement."""
    shift_information = (slope.square().sum(1) / variance).flatten()
    strain_information = shift_information * fields[1:].square().sum(0)
    total = (shift_information / shift_information.sum().clamp_min(1e-20)
             + strain_information / strain_information.sum().clamp_min(1e-20))
    fraction, order = total.sort(descending=True)
    return order[: int((fraction.cumsum(0) < INFORMATIVE_FRACTION * fraction.sum()).sum()) + 1].sort()[0]


def _mean_of_nine(images):
    """Mean over 3 x 3 pixels of images (n, H, W)."""
    return mean_of_three(mean_of_three(images, 1), 2)


def _derivative_noise():
    """Variance of `robust_derivatives`, and its covariance with `derivatives`, for pixels of unit variance."""
    point = torch.zeros(1, 15, 15)
    point[0, 7, 7] = 1
    robust = robust_derivatives(point)[0, 0]
    return float((robust * robust).sum()), float((robust * derivatives(point)[0, 0]).sum())


ROBUST_NOISE, CROSS_NOISE = _derivative_noise()
