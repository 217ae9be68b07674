"""Invalid pixels at full scale: such a pixel never changes and is far above all values of the other pixels."""

import numpy as np
from scipy.ndimage import binary_dilation

FULL_SCALE_RATIO = 4.0  # ratio; smallest full scale over the largest other value: a saturated beam fills this gap
SMALL_FULL_SCALE_RATIO = 16.0  # FULL_SCALE_RATIO below 16 bits, where beams saturate often
# Number; most distinct negative values that mark invalid pixels: in a single dark-subtracted pattern all values differ.
MAX_NEGATIVE_MARKS = 2
MIN_LINE_PART = 0.9  # fraction of a line's pixels; with more at full scale, the line is invalid in any case
MIN_MARKED_PATTERNS = 0.02  # fraction of the patterns; fewest that mark an invalid pixel: fewer marks are hits


def full_scale_pixels(sample):
    """Find invalid pixels, which files mark by the largest value of their type or by -1.

    Parameters
    ----------
    sample : numpy.ndarray, shape (n, Qx, Qy)
        Patterns in detector units.

    Returns
    -------
    numpy.ndarray of bool, shape (Qx, Qy)
        True where a pixel has such a value in every pattern, or in part of the patterns while no other value near it
        is large, as where a detector marks pixels that overflowed.

    Examples
    --------
    >>> import numpy as np
    >>> from py4dstem_prenet.detector import full_scale_pixels
    >>> sample = np.random.default_rng(0).poisson(20.0, (4, 8, 8)).astype(np.uint16)
    >>> sample[:, 3] = 65535
    >>> np.unique(np.nonzero(full_scale_pixels(sample))[0]).tolist()
    [3]
    """
    low, high = sample.min(0), sample.max(0)
    constant = low == high
    invalid = np.zeros(constant.shape, bool)
    while constant.any():
        valid = ~invalid
        varying = valid & ~constant
        values = high[valid & constant]
        top, bottom = float(values.max()), float(values.min())
        # Omit the largest value of each pixel, since an X-ray hit must not hide invalid pixels.
        largest = float(_second_largest(sample)[varying].max()) if varying.any() else 0.0
        unmarked = next((float(value) for value in np.unique(values)[-2::-1] if not _full_scale(value)), largest)
        largest = max(largest, unmarked)
        smallest = float(low[varying].min()) if varying.any() else 0.0
        if _full_scale(top) and _stands_out(top, largest):
            marked = valid & constant & (high == values.max())
        elif bottom < 0 <= smallest and len(np.unique(values[values < 0])) <= MAX_NEGATIVE_MARKS:
            marked = valid & constant & (high == values.min())
        elif _full_scale(top):  # a beam may be this bright, but it does not fill a whole line
            marked = _whole_lines(valid & constant & (high == values.max()))
        else:
            break
        if not marked.any():
            break
        invalid |= marked
        constant &= ~marked
    invalid |= _marked_pixels(sample)
    return invalid if 2 * invalid.sum() < invalid.size else np.zeros_like(invalid)  # most pixels are valid


def _marked_pixels(sample):
    """Find pixels at full scale in part of the patterns; otherwise neither they nor their neighbors come near it."""
    top = sample.max()
    if not _full_scale(float(top)):
        return np.zeros(sample.shape[1:], bool)
    marks = sample == top
    recorded = 2 * marks.sum((1, 2)) < marks[0].size  # the other frames are saturated
    marked = marks[recorded].mean(0) > MIN_MARKED_PATTERNS if recorded.any() else np.zeros(sample.shape[1:], bool)
    if not marked.any():
        return marked
    near_marks = binary_dilation(marked, np.ones((3, 3)))
    values = np.where(marks[recorded][:, near_marks], sample.min(), sample[recorded][:, near_marks])
    largest = float(_second_largest(values).max())  # one hit must not hide marks
    return marked if _stands_out(top, largest) else np.zeros_like(marked)


def _second_largest(sample):
    """Second largest value of each pixel over the patterns, (Qx, Qy); for a single pattern, its value."""
    first = second = sample[0]
    for number, pattern in enumerate(sample[1:]):
        second = np.minimum(first, pattern) if number == 0 else np.maximum(second, np.minimum(first, pattern))
        first = np.maximum(first, pattern)
    return second


def _whole_lines(pixels):
    """Restrict a mask (Qx, Qy) to rows and columns that are marked nearly completely."""
    rows, columns = (pixels.mean(axis) > MIN_LINE_PART for axis in (1, 0))
    return pixels & (rows[:, None] | columns)


def _stands_out(top, largest) -> bool:
    """Return whether a full-scale value is too far above the largest other value to be that of a saturated beam."""
    return top > (FULL_SCALE_RATIO if top >= 2**15 - 2 else SMALL_FULL_SCALE_RATIO) * max(largest, 1.0)


def _full_scale(value) -> bool:
    """Return whether a value is the largest of an integer type, or smaller by one."""
    return any(float(value) in (2.0**bits - 1, 2.0**bits - 2, float(np.float32(2.0**bits - 1)))
               for bits in range(7, 33))
