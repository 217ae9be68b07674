"""Faults of the data themselves: shapes, types, values, detectors, scans, masks."""

import numpy as np
from scipy.ndimage import gaussian_filter

from py4dstem_prenet.core.noise import NoiseModel

from .bench import bright, into, scan, truth_of

CASES = []
case = into(CASES)


def counts(dtype=np.uint16):
    return scan().counts.astype(dtype)


def refused(group, name, made, make):
    """Data that every stage refuses: calibrate, denoise and denoise(out=) raise the same error."""
    case(group, name, "refused", made)(lambda bench: bench.refused_data(make()))


def answered(group, name, make, made, flag="beam_found", pixels=0.12, truth=None, clean=None, **options):
    """Data from which the right origin follows nevertheless. flag: the warning that they get."""
    def run(bench):
        known = truth() if truth else scan().truth
        return bench.answered(make(), known, pixels, clean=None if clean is None else clean(), **options)
    case(group, name, "answered" if flag == "beam_found" else "warned", made, flag)(run)


def nothing(group, name, flag, made, make):
    """Data without a beam: the calibration is refused with a flag, and writes nothing."""
    case(group, name, "refused", made, flag)(lambda bench: bench.nothing_found(make()))


# --- shapes and types ---------------------------------------------------------------------------------------

for dtype, shown in (("complex64", "complex64"), ("object", "object"), ("M8[s]", "datetime64[s]"),
                     ("U5", "<U5")):
    refused("Type", shown.lstrip("<"), f"counts as {dtype}",
            lambda dtype=dtype: counts(np.int64)[:2, :2].astype(dtype))
for dtype, name in ((">u2", "big-endian integers"), (">f4", "big-endian floats"), ("f2", "float16"), ("u8", "uint64"),
                    ("i1", "int8")):
    answered("Type", name, lambda dtype=dtype: np.minimum(counts(), 127).astype(dtype), f"counts as {dtype}",
             clean=(lambda: scan().clean) if dtype in ("f2", "u8") else None)
answered("Type", "boolean values", lambda: counts() > 0, "counts > 0")
case("Type", "a masked array", "refused", "numpy.ma around the counts")(
    lambda bench: bench.refused_data(np.ma.masked_array(counts())))
answered("Type", "axes in Fortran order", lambda: np.asfortranarray(counts()), "numpy.asfortranarray")

refused("Shape", "five axes", "counts[None]", lambda: counts()[None])


@case("Shape", "three axes", "refused", "one row of the scan, given as an array")
def _(bench):
    import py4dstem_prenet

    return bench.refuse(lambda: py4dstem_prenet.measure_origin(counts()[0]))


@case("Shape", "no scan positions", "refused", "counts[:0], as an array")
def _(bench):
    import py4dstem_prenet

    return bench.refuse(lambda: py4dstem_prenet.measure_origin(counts()[:0]))


refused("Shape", "31 pixels", "counts[..., :31, :]", lambda: counts()[..., :31, :])
refused("Shape", "axes exchanged", "patterns first, positions last",
        lambda: counts().transpose(2, 3, 0, 1))
for name, part in (("a 1 x 1 scan", np.s_[:1, :1]), ("one row", np.s_[:1]), ("one column", np.s_[:, :1])):
    answered("Shape", name, lambda part=part: counts()[part], "a part of the scan", ellipse=False, pixels=0.2,
             truth=lambda part=part: truth_of(part))
answered("Shape", "100 x 300 pixels", lambda: wide().counts, "a scan of such patterns", ellipse=False, pixels=0.3,
         truth=lambda: wide().truth, sigmas=5.0)


def wide():
    return scan(shape=(100, 300), scan=(3, 3), amplitude=0.5)


@case("Shape", "2048 x 2048 pixels", "answered", "a pattern of a disk with 200,000 electrons, Poisson", "beam_found")
def _(bench):
    x, y = np.mgrid[:2048, :2048]
    disk = np.clip(60.5 - np.hypot(x - 1000.3, y - 1100.6), 0, 1)
    data = np.random.default_rng(0).poisson(disk * 2e5 / disk.sum(), (1, 1, 2048, 2048)).astype(np.uint16)
    from py4dstem_prenet import measure_origin

    found = measure_origin(data, progress=False)
    assert np.hypot(found.qx0 - 1000.3, found.qy0 - 1100.6).max() < 0.5
    return list(found.flags)


# --- values -------------------------------------------------------------------------------------------------


def with_value(value, where=(2, 3, 5, 7)):
    data = counts(np.float32)
    data[where] = value
    return data


for value, name in ((np.nan, "NaN in one pixel"), (np.inf, "infinity in one pixel"), (-np.inf, "minus infinity")):
    refused("Values", name, "one value of one pattern", lambda value=value: with_value(value))
refused("Values", "a pattern that is NaN throughout", "one position", lambda: with_value(np.nan, (2, 3)))
answered("Values", "pixels of NaN", lambda: with_value(np.nan, np.s_[..., 20:23, 60:66]),
         "the same pixels of all patterns", "bad_pixels")
refused("Values", "all zero", "every value is 0", lambda: np.zeros_like(counts()))
refused("Values", "constant", "every value is 7", lambda: np.full_like(counts(), 7))
refused("Values", "a pixel at 1e30", "one pixel of the detector",
        lambda: with_value(1e30, np.s_[..., 10, 10]))
refused("Values", "numbers of 1e300", "counts times 1e300", lambda: counts(float) * 1e300)
refused("Values", "numbers of 1e-300", "counts times 1e-300", lambda: counts(float) * 1e-300)
answered("Values", "an unknown unit", lambda: counts(np.float32) * np.float32(3e-9), "counts times 3e-9",
         clean=lambda: scan().clean * 3e-9)
answered("Values", "a constant subtracted", lambda: counts(np.float32) - 1000, "counts - 1000, all negative")
answered("Values", "each pattern divided by its maximum", lambda: counts() / counts().max((2, 3), keepdims=True),
         "as many viewers export it")
for name, made, make in (("inverted contrast", "100 - counts", lambda: 100 - counts(np.float32)),
                         ("inverted sign", "-counts", lambda: -counts(np.int16)),
                         ("saturated nearly everywhere", "17.3 counts + 211 + N(0, 9), clipped at 211",
                               lambda: np.minimum(camera(), 211))):
    refused("Values", name, made, make)
case("Values", "no electrons, denoised", "refused", "a noise model that finds none")(
    lambda bench: bench.refuse(lambda: denoised(counts())))
nothing("Values", "noise alone", "no_beam", "Poisson, 0.1 electrons per pixel",
        lambda: np.random.default_rng(0).poisson(0.1, counts().shape))


def denoised(data):
    from py4dstem_prenet.denoising.denoiser import denoise

    from .bench import cube_of

    none = NoiseModel(1.0, 0.0, 1.0, np.zeros(data.shape[2:], bool), False, 0.0)
    denoise(cube_of(data), none, progress=False)


QUADRANT = np.s_[..., :32, :32]


def outside(part):
    mask = np.ones((64, 64), bool)
    mask[part] = False
    return mask


# --- detectors ----------------------------------------------------------------------------------------------


def recorded(gain):
    """The bright scan with so many units per electron, as whole numbers."""
    return np.rint(bright().counts * gain).astype(np.int64)


def wrapped(bits):
    return (recorded(2.5 * 2**bits / bright().counts.max()) % 2**bits).astype(f"u{bits // 8}")


answered("Detector", "wrapped at 16 bits", lambda: wrapped(16), "2.5 times what uint16 holds, modulo 65536",
         "wrapped", ellipse=False, pixels=0.3)
answered("Detector", "wrapped at 8 bits", lambda: wrapped(8), "2.5 times what uint8 holds, modulo 256",
         "wrapped", ellipse=False, pixels=0.3)
refused("Detector", "unsigned numbers read as signed", "view('int16')",
        lambda: recorded(60000 / bright().counts.max()).astype(np.uint16).view(np.int16))
answered("Detector", "saturated", lambda: np.minimum(bright().counts, 250), "clipped at 250 counts",
         "saturated")
answered("Detector", "gamma correction", lambda: np.sqrt(bright().counts).astype(np.float32),
         "square root of the counts", "nonlinear")
answered("Detector", "logarithm of the counts", lambda: np.log1p(bright().counts).astype(np.float32), "log(1 + counts)",
         "nonlinear")
answered("Detector", "gain, offset and read-out noise unknown", lambda: camera(), "17.3 counts + 211 + N(0, 9)",
         clean=lambda: scan().clean * 17.3 + 211)
answered("Detector", "correlated noise", lambda: gaussian_filter(counts(np.float32), (0, 0, 0.8, 0.8)),
         "smoothed by 0.8 px", "shared_noise", pixels=0.2)
answered("Detector", "hot rows", lambda: hot(), "50 and 20 counts added to two rows")
answered("Detector", "a hot pixel on the edge of the beam", lambda: hot_edge(),
         "a third of the beam's brightness added", truth=lambda: bright().truth, pixels=0.03)
answered("Detector", "a burnt-in scale bar", lambda: changed(np.s_[..., 60:62, 40:60], 33), "40 pixels at one "
         "value", "unresponsive")
answered("Detector", "a dead quadrant, without a mask", lambda: changed(QUADRANT, 0),
         "the first 32 rows and columns set to zero", "unresponsive", pixels=1.0, sigmas=9.0)
answered("Detector", "a dead quadrant, with a mask", lambda: changed(QUADRANT, 0), "the same, with mask=",
      mask=outside(QUADRANT),
         pixels=0.2)
answered("Detector", "a gap between chips", lambda: changed(np.s_[..., 30:32, :], 0),
         "two rows through the beam set to zero", "dead_lines", pixels=0.4, sigmas=5.0)
nothing("Detector", "half of the beam off the detector", "beam_cut_off", "the first rows cut off",
        lambda: np.ascontiguousarray(counts()[:, :, 30:]))
nothing("Detector", "the beam off the detector", "no_beam", "only the first 32 of 128 columns",
        lambda: np.ascontiguousarray(scan(shape=(64, 128)).counts[..., :32]))
nothing("Detector", "a beam stop", "beam_ambiguous", "all pixels within 11 px of the beam set to zero",
        lambda: stopped())


def camera():
    noise = np.random.default_rng(0).normal(0, 9, counts().shape)
    return np.rint(counts() * 17.3 + 211 + noise).astype(np.uint16)


def changed(part, value):
    data = counts()
    data[part] = value
    return data


def hot_edge():
    data, truth = bright().counts.astype(np.int64), bright().truth
    x, y = (round(float(truth[q].mean() + truth["radius"] * w)) for q, w in (("qx0", 0.7), ("qy0", 0.8)))
    level = data.max((2, 3)).mean() / 3
    data[:, :, x, y] += np.random.default_rng(0).poisson(level, data.shape[:2])
    return data.astype(np.uint16)


def hot():
    data = counts()
    data[:, :, 12] = 50
    data[:, :, 50] += 20
    return data


def stopped():
    x, y = np.mgrid[:64, :64]
    return counts() * (np.hypot(x - scan().truth["qx0"].mean(), y - scan().truth["qy0"].mean()) > 11).astype(np.uint16)


# --- scans --------------------------------------------------------------------------------------------------

answered("Scan", "blanked frames in the middle", lambda: changed(np.s_[2, 2:5], 0), "three patterns set to zero",
         "beam_missing")
answered("Scan", "an aborted scan", lambda: changed(np.s_[4:], 0), "the last two rows set to zero",
         "beam_missing")
answered("Scan", "repeated frames", lambda: repeated(), "every fifth pattern is a copy of the one before",
         "repeated_frames", pixels=0.3, ellipse=False, sigmas=9.0)


def repeated():
    data = counts().reshape(36, 64, 64)
    data[5::5] = data[4:-1:5]
    return data.reshape(counts().shape)


# --- masks and options --------------------------------------------------------------------------------------

for name, mask in (("a mask of another shape", np.ones((32, 32), bool)), ("a mask of numbers", np.ones((64, 64))),
                   ("a single boolean", True)):
    case("Mask", name, "refused", "given as mask=")(
        lambda bench, mask=mask: bench.refused_mask(mask))
