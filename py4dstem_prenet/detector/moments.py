"""Moments of a detector's noise in groups of pixels of similar brightness.

Two local filters cancel the pattern where it is smooth. Fine detail that does not move passes the filters; it is
canceled by subtracting its mean over the patterns. The remainder is noise.
"""

from itertools import pairwise

import numpy as np
from scipy.ndimage import binary_dilation

from . import MIN_MEAN_PATTERNS

MAX_FILTERED_PIXELS = 1_600_000  # pixels; most in all patterns that are filtered: more take time but add no accuracy
MAX_FILTERED_SIDE = 1024  # pixels; largest side of the filtered part of a pattern
NOISE_PARTS = 8  # number of consecutive parts of the sample, each left out in turn for the uncertainty


def group_moments(sample, bad, clip=0.0):
    """Compute moments of groups of pixels with similar surroundings, dimmest first.

    Pixels are sorted by the mean of the 40 pixels around their 3 x 3 block, and the half whose 40 pixels are rougher is
    left out. Both choices are independent of the measured noise, so that they do not bias it.

    Parameters
    ----------
    sample : numpy.ndarray, shape (n, Qx, Qy)
        Patterns in detector units.
    bad : numpy.ndarray of bool, shape (Qx, Qy)
        Bad pixels.
    clip : float, optional
        Fraction of the largest deviations in each group that is clipped; 0 to clip nothing.

    Returns
    -------
    dict
        Arrays with a value for each group: mean m, variance v, third cumulant k3, standard errors v_error and
        k3_error, and v_wide, the variance after the wider filter, which noise shared by neighbors reduces less. The
        entry "fano" is the ratio of variance to mean from pattern to pattern, for the dim pixels that contain half of
        all electrons and for the bright pixels. The entries "m_parts", "v_parts" and "k3_parts", (groups, parts), are
        sums over parts of the patterns, and "count_parts" the numbers of their terms.

    Examples
    --------
    >>> import numpy as np
    >>> from py4dstem_prenet.detector import group_moments
    >>> counts = np.random.default_rng(0).poisson(9.0, (16, 48, 48))
    >>> moments = group_moments(counts, np.zeros((48, 48), bool))
    >>> round(np.median(moments["m"])), round(np.median(moments["v"]))
    (9, 9)
    """
    n = max(1, MAX_FILTERED_PIXELS // (sample.shape[1] * sample.shape[2]))
    starts = (max(0, (side - MAX_FILTERED_SIDE) // 2) for side in sample.shape[1:])
    crop = tuple(slice(start, start + MAX_FILTERED_SIDE) for start in starts)
    picked = np.unique(np.linspace(0, len(sample) - 1, n).astype(int))
    x = sample[(picked, *crop)].astype(np.float32)
    reference = float(np.median(x[:, ::5, ::7]))
    x -= np.float32(reference)
    inner = slice(2, -2)
    block = _window_sum(x, 3)
    center = x[:, 1:-1, 1:-1] - (block - x[:, 1:-1, 1:-1]) / 8
    second = x[:, :-2] - 2 * x[:, 1:-1] + x[:, 2:]
    second = (second[:, :, :-2] - 2 * second[:, :, 1:-1] + second[:, :, 2:]) / 6
    ring = (_window_sum(x, 7) - block[:, inner, inner]) / 40
    rough = (_window_sum(x * x, 7) - _window_sum(x * x, 3)[:, inner, inner]) / 40 - ring**2
    # Two variants: the filtered values, and the filtered values minus their mean over the patterns. The second is
    # better where detail does not move, and worse where it moves. Subtracting the mean of n values reduces their
    # variance and third cumulant by these factors.
    count = len(picked)
    variants = [(center, second, 1.0, 1 - 1 / 64)]
    if count >= MIN_MEAN_PATTERNS:
        variants.append((center - center.mean(0), second - second.mean(0), (count - 1) / count,
                         (1 - 1 / 64) * (count - 1) * (count - 2) / count**2))

    good = ~binary_dilation(bad[crop], np.ones((7, 7)))[3:-3, 3:-3]
    if not good.any():
        good[:] = True
    part = np.repeat(np.arange(count) * NOISE_PARTS // count, np.count_nonzero(good))
    ring, rough = ring[:, good], rough[:, good]
    block = block[:, inner, inner][:, good].ravel()
    variants = [(*(a[:, inner, inner][:, good].ravel() for a in v[:2]), *v[2:]) for v in variants]
    ring, rough = ring.ravel(), rough.ravel()

    edges, tail = list(np.linspace(0, 0.5, 9)), 0.5
    while tail * len(ring) > 3000:
        tail /= 1.5
        edges.append(1 - tail)
    edges = np.unique((np.array([*edges, 1.0]) * len(ring)).astype(int))
    order = np.argsort(ring, kind="stable")
    rows, parts = [], []
    for start, stop in pairwise(edges):
        group = order[start:stop]
        group = group[np.argsort(rough[group], kind="stable")[: max(len(group) // 2, 16)]]
        v, k3, wide = min((_powers(c[group], s[group], *factors, clip) for c, s, *factors in variants),
                          key=lambda powers: powers[0].mean())
        independent = np.sqrt(max(len(group) / 2, 1))  # filters of neighboring pixels overlap
        m = block[group].mean(dtype=np.float64) / 9 + reference
        rows.append((m, v.mean(), v.std() / independent, k3.mean(), k3.std() / independent, wide))
        sums = [np.bincount(part[group], a, NOISE_PARTS) for a in (block[group] / 9.0 + reference, v, k3)]
        parts.append([*sums, np.bincount(part[group], minlength=NOISE_PARTS)])
    fano = _fano(sample[(picked, *crop)], bad[crop])
    names = ("m", "v", "v_error", "k3", "k3_error", "v_wide")
    parts = np.array(parts, float).transpose(1, 0, 2)
    return {"fano": fano, **dict(zip(names, np.array(rows).T, strict=True)),
            **dict(zip(("m_parts", "v_parts", "k3_parts", "count_parts"), parts, strict=True))}


def leave_one_out(moments):
    """Compute the moments with each part of the patterns left out in turn.

    Parameters
    ----------
    moments : dict
        Moments from `group_moments`.

    Returns
    -------
    list of dict
        For each part, `moments` with m, v and k3 computed without it; empty if there are too few patterns.
    """
    count = moments["count_parts"]
    used = np.flatnonzero(count.sum(0) > 0)
    if len(used) < 3:
        return []
    estimates = []
    for k in used:
        rest_count = (count.sum(1) - count[:, k]).clip(1)
        estimates.append({**moments, **{
            name: (moments[f"{name}_parts"].sum(1) - moments[f"{name}_parts"][:, k]) / rest_count
            for name in ("m", "v", "k3")}})
    return estimates


def _fano(sample, bad):
    """Ratio of variance to mean from pattern to pattern, (2,) for dim and bright pixels; NaN for few patterns."""
    if len(sample) < MIN_MEAN_PATTERNS or bad.all():
        return np.full(2, np.nan)
    mean, square = (sum(power(pattern[~bad].astype(np.float64)) for pattern in sample) / len(sample)
                    for power in (np.positive, np.square))
    variance = (square - mean**2) * len(sample) / (len(sample) - 1)
    order = np.argsort(mean, kind="stable")
    total = np.cumsum(mean[order])
    halves = np.split(order, [int(np.searchsorted(total, total[-1] / 2))])
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.array([variance[half].sum() / mean[half].sum() for half in halves])


def _powers(center, second, v_factor, k3_factor, clip):
    """Corrected squares and cubes of filtered values, and the corrected mean square after the wider filter."""
    c, s = center.astype(np.float64), second.astype(np.float64)
    if clip:
        c, s = (np.clip(a, *np.quantile(a, [clip / 2, 1 - clip / 2])) for a in (c, s))
    return s**2 / v_factor, c**3 / k3_factor, (c**2).mean() * 8 / 9 / v_factor


def _window_sum(x, side):
    """Sums over side x side windows inside the patterns, (n, Qx - side + 1, Qy - side + 1)."""
    rows, columns = x.shape[1] - side + 1, x.shape[2] - side + 1
    y = x[:, :rows].copy()
    for i in range(1, side):
        y += x[:, i : i + rows]
    z = y[:, :, :columns].copy()
    for i in range(1, side):
        z += y[:, :, i : i + columns]
    return z
