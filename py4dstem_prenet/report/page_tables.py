"""The tables of the HTML report: the numbers of a calibrated scan, and its provenance."""

from __future__ import annotations

import numpy as np

from ..core import shape_text, with_sigma
from . import ring_radius_px

MIN_SHOWN_PX = 1e-3  # pixels; smallest length that is written as a number


def number_rows(review):
    """List the numbers of a calibrated scan.

    Parameters
    ----------
    review : Review
        What `review.review` gathered from the scan.

    Yields
    ------
    tuple of str
        Quantity, and its value with unit.
    """
    yield "scan, positions", shape_text(review.shape[:2])
    yield "pattern, pixels", f"{shape_text(review.shape[2:])}, {review.dtype}"
    if review.origin is not None:
        yield from _origin_rows(review)
    yield from _ellipse_rows(review)
    yield from _pixel_size_rows(review)
    if review.rotflip is not None:
        degrees, flip = review.rotflip
        yield ("rotation of the pattern in the calibration",
               f"{degrees:.2f}{_sigma(review.quantities.get('rotation', {}).get('sigma', np.nan))}°, "
               f"{'flipped' if flip else 'not flipped'}")
    yield from _noise_rows(review.noise)
    if review.denoising is not None and review.denoising.valid:
        yield from _denoising_rows(review.denoising)


def _origin_rows(review):
    """Origin and descan."""
    origin, fit = review.origin, review.fit
    yield "positions with a beam", f"{int(origin.valid.sum())} of {origin.searched}"
    yield "radius of the direct disk", origin.radius_text
    if review.fitted is not None:
        by = f" (set by {review.fitted_by})" if review.fitted_by else ""
        yield "origin, mean over the scan", "({:.3f}, {:.3f}) px".format(*review.fitted.mean((1, 2))) + by
        yield "descan, peak to peak", "({:.3f}, {:.3f}) px".format(*np.ptp(review.fitted, axis=(1, 2)))
    yield "sigma of a measured position, per axis, median", length_text(fit.noise)
    if review.sigma_known:
        yield "the same, not exceeded in 95 % of the positions", length_text(origin.high_sigma)
    yield "scatter of the residuals without outliers, per axis", length_text(fit.test.scatter)
    yield "spatially correlated part of the residuals", (length_text(fit.test.shared) if fit.test.correlated
                                                                else "not significant")
    yield "positions that are outliers of the fit", f"{100 * fit.test.outliers:.1f} %"
    yield "sigma of the fitted origin, per axis", length_text(fit.uncertainty)
    if np.isfinite(fit.specimen):
        yield "residuals explained by virtual images", f"{100 * fit.specimen:.0f} % of their variance"


def _ellipse_rows(review):
    """Ellipse in the calibration, and as measured from each source."""
    if review.stored is not None:
        stored = review.stored_result
        yield "ellipse in the calibration", (f"a/b {stored.ratio}, a axis at {stored.angle} from +qx toward +qy "
                                             f"({review.stored_by})")
    if review.ellipse is not None:
        for name, e in review.ellipse.by_source().items():
            yield f"ellipse from {name}", f"a/b {e.ratio}, a axis at {e.angle}"


def _pixel_size_rows(review):
    """Pixel size, and the ring radii it was measured from."""
    if "pixel_size" in review.quantities:
        q = review.quantities["pixel_size"]
        yield "pixel size in the calibration", f"{q['value']:.6f} {q['unit'].replace('A^-1', 'Å⁻¹')} ({q['author']})"
    if review.pixel_size is not None:
        size = review.pixel_size
        if size.accepted:
            yield "pixel size without sqrt(a/b)", f"{size.value:.6f} ± {size.sigma:.6f} Å⁻¹ ({size.standard})"
        else:
            yield "pixel size of the best fit, refused", f"{size.value:.6f} Å⁻¹ ({size.standard}); do not use it"
        if size.accepted and np.isfinite(size.beam_radius):
            yield "radius of the direct beam, with this pixel size", size.beam_text
        for ring in size.rings:
            expected = ring_radius_px(size, ring)
            measured = "not found"
            if np.isfinite(ring.error):
                measured = (f"measured at {with_sigma(expected * (1 + ring.error), expected * ring.sigma)} px "
                            f"({with_sigma(100 * ring.error, 100 * ring.sigma)} %)")
            yield f"ring {ring.names}", f"expected at {expected:.2f} px, {measured}"


def _noise_rows(noise):
    """Noise model of the detector."""
    yield "gain", f"{noise.gain:.4g} detector units per electron"
    yield "offset", f"{noise.offset:.4g} detector units"
    yield "read-out noise", f"{noise.readout:.3g} detector units, {noise.readout / noise.gain:.3g} electrons"
    yield "electrons per pattern", _digits(noise.dose)
    yield "bad pixels, as (row, column)", _bad_pixels(noise)


def _denoising_rows(check):
    """Error of denoised patterns, and what they keep of each quantity."""
    error, sigma = (values["denoised"] for values in (check.errors, check.error_sigmas))
    yield "squared error of denoised patterns", f"{error:#.2g} ± {sigma:.1g} of that of the raw counts"
    slopes = check.slopes
    for name, slope in slopes.items():
        if np.isfinite(slope.value):
            yield f"slope of denoised patterns, {name}", f"{slope} ({slope.status})"
    if unknown := [name for name, slope in slopes.items() if not np.isfinite(slope.value)]:
        yield "slopes of denoised patterns that this scan does not determine", ", ".join(unknown)


def _digits(number):
    """Three digits without an exponent, such as 4,000."""
    return f"{float(f'{number:.3g}'):,.10g}"


def length_text(value) -> str:
    """Write a length in pixels; what is less than a thousandth of a pixel has no meaning.

    Parameters
    ----------
    value : float
        The length, pixels; NaN if it is unknown.

    Returns
    -------
    str
        The text.
    """
    if not np.isfinite(value):
        return "unknown"
    return f"below {MIN_SHOWN_PX:g} px" if abs(value) < MIN_SHOWN_PX else f"{value:.3g} px"


def _sigma(value):
    return f" ± {value:.2g}" if np.isfinite(value) else ""


def _bad_pixels(noise):
    """Number and first positions of the bad pixels."""
    flags = noise.bad_pixel_flags
    if not flags:
        return "none"
    numbers = flags[0].numbers
    listed = ", ".join(f"({row}, {column})" for row, column in numbers["positions"])
    return f"{numbers['count']}: {listed}{', ...' if numbers['count'] > len(numbers['positions']) else ''}"


def provenance_rows(record):
    """List the provenance of a calibration.

    Parameters
    ----------
    record : dict or None
        What `io.read_provenance` returned.

    Yields
    ------
    tuple of str
        Name and value.
    """
    if record is None:
        yield "calibrated by", "unknown: the scan has no record of this package"
        return
    yield "calibrated by", f"{record.get('package')} {record.get('version')}, py4DSTEM {record.get('py4DSTEM')}"
    yield "when", str(record.get("date"))
    if record.get("file"):
        yield "file when first calibrated", record["file"]
    kind = np.dtype(record["dtype"]).name if record.get("dtype") else "unknown type"
    yield "data when calibrated", f"{shape_text(record.get('shape', ()))}, {kind}"
    for name, digest in record.get("weights", {}).items():
        yield f"weights: {name}", str(digest)
    for name, value in record.get("settings", {}).items():
        yield f"setting: {name}", str(value)
    if record.get("transfer"):
        carried = record["transfer"]
        quantities = ", ".join(carried["quantities"]).replace("_", " ")
        yield f"carried over from {carried['source']}", f"{quantities}; sha256 of its values {carried['sha256']}"
    for flag in record.get("flags", ()):
        yield f"flag {flag.get('flag')}", str(flag.get("sentence"))
    if record.get("since"):
        yield "changes since then", ", ".join(map(str, record["since"]))
