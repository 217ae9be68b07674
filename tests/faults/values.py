"""Faults of the data themselves: shapes, types, values, detectors, scans, masks."""

import numpy as np
from scipy.ndimage import gaussian_filter

from py4dstem_prenet.core.noise import NoiseModel

from .bench import bright, into, scan, truth_of

CASES = []
case = into(CASES)
TYPE = "The data are of type {}, but intensities must be integer or floating-point numbers; convert them first (for " \
       "example data.astype('float32'))."
NAN = "The data contain NaN or infinite values at scan position (2, 3); replace them first, or leave the position out."
SIDES = "The patterns are {} px, and at least 32 x 32 are needed; use less binning, or check that the axes are " \
        "(Rx, Ry, Qx, Qy)."
EMPTY = "there is no pattern to calibrate; check that the right data set was read and that the beam was not blanked."
HUGE = "The data hold values as large as {}, which no detector gives; replace them, or divide the data by a constant."
WRAPPED = "The data may have wrapped at {}: inside bright disks there are dark pixels, whose electrons are missing; " \
          "read or sum the data as wider numbers."
BENT = "The noise grows far less than the signal, so values are not proportional to electrons (gamma, a logarithm, " \
       "or smoothing); doses, sigmas and denoising suppose that they are."
STUCK = "Pixels around (…, …) give one value throughout, beside others that see electrons (a dead chip, a gap, a " \
        "stop, a scale bar); exclude them with mask=."
EVERYWHERE = "The direct beam was found everywhere."
MASK = "The mask must be a boolean array of the pattern's shape (64, 64), True where a pixel is good; this one has " \
       "shape {} and type {}."
HIDDEN = "Many patterns show no direct beam, though their electrons are there, so what was located in the others is " \
         "none: it may lie behind a beam stop or off the detector, or be as dark as what surrounds it, in a thick " \
         "crystal."


def counts(dtype=np.uint16):
    return scan().counts.astype(dtype)


def refused(group, name, told, made, make):
    """Data that no stage takes: calibrate, denoise and denoise(out=) say the same sentence."""
    case(group, name, "refused", told, made)(lambda bench: bench.refused_data(make()))


def answered(group, name, make, made, told=EVERYWHERE, outcome="answered", pixels=0.12, truth=None, clean=None,
      **options):
    """Data from which the right origin follows all the same."""
    def run(bench):
        known = truth() if truth else scan().truth
        return bench.answered(make(), known, pixels, clean=None if clean is None else clean(), **options)
    case(group, name, outcome, told, made)(run)


def nothing(group, name, told, made, make):
    """Data without a beam: the calibration says so and writes nothing."""
    case(group, name, "refused", told, made)(lambda bench: bench.nothing_found(make()))


# --- shapes and types ---------------------------------------------------------------------------------------

for dtype, shown in (("bool", "bool"), ("complex64", "complex64"), ("object", "object"), ("M8[s]", "datetime64[s]"),
                     ("U5", "<U5")):
    refused("Type", shown.lstrip("<"), TYPE.format(shown), f"counts as {dtype}",
            lambda dtype=dtype: counts(np.int64)[:2, :2].astype(dtype))
for dtype, name in ((">u2", "big-endian integers"), (">f4", "big-endian floats"), ("f2", "float16"), ("u8", "uint64"),
                    ("i1", "int8")):
    answered("Type", name, lambda dtype=dtype: np.minimum(counts(), 127).astype(dtype), f"counts as {dtype}",
             clean=(lambda: scan().clean) if dtype in ("f2", "u8") else None)
case("Type", "a masked array", "refused",
     "The data are a masked array, whose mask would be lost; give a plain array.", "numpy.ma around the counts")(
    lambda bench: bench.refused_data(np.ma.masked_array(counts())))
answered("Type", "axes in reverse order of memory", lambda: np.asfortranarray(counts()), "numpy.asfortranarray")

refused("Shape", "five axes", "A 4D-STEM scan with axes (Rx, Ry, Qx, Qy) is needed, not an array of shape "
        "(1, 6, 6, 64, 64); give a single pattern as pattern[None, None].", "counts[None]", lambda: counts()[None])


@case("Shape", "three axes", "refused", "A 4D-STEM scan with axes (Rx, Ry, Qx, Qy) is needed, not an array of shape "
      "(6, 64, 64); give a single pattern as pattern[None, None].", "one row of the scan, given as an array")
def _(bench):
    import py4dstem_prenet

    return bench.refuse(lambda: py4dstem_prenet.measure_origin(counts()[0]))


@case("Shape", "no scan positions", "refused", "The scan is empty: its shape is (0, 6).", "counts[:0], as an array")
def _(bench):
    import py4dstem_prenet

    return bench.refuse(lambda: py4dstem_prenet.measure_origin(counts()[:0]))


refused("Shape", "31 pixels", SIDES.format("31 x 64"), "counts[..., :31, :]", lambda: counts()[..., :31, :])
refused("Shape", "axes exchanged", SIDES.format("6 x 6"), "patterns first, positions last",
        lambda: counts().transpose(2, 3, 0, 1))
for name, part in (("a 1 x 1 scan", np.s_[:1, :1]), ("one row", np.s_[:1]), ("one column", np.s_[:, :1])):
    answered("Shape", name, lambda part=part: counts()[part], "a part of the scan", ellipse=False, pixels=0.2,
             truth=lambda part=part: truth_of(part))
answered("Shape", "100 x 300 pixels", lambda: wide().counts, "a scan of such patterns", ellipse=False, pixels=0.3,
         truth=lambda: wide().truth, sigmas=5.0)


def wide():
    return scan(shape=(100, 300), scan=(3, 3), amplitude=0.5)


@case("Shape", "2048 x 2048 pixels", "answered", EVERYWHERE, "two patterns of a disk with 200,000 electrons, Poisson")
def _(bench):
    x, y = np.mgrid[:2048, :2048]
    disk = np.clip(60.5 - np.hypot(x - 1000.3, y - 1100.6), 0, 1)
    data = np.random.default_rng(0).poisson(disk * 2e5 / disk.sum(), (2, 1, 2048, 2048)).astype(np.uint16)
    from py4dstem_prenet import measure_origin

    found = measure_origin(data, progress=False)
    assert np.hypot(found.qx0 - 1000.3, found.qy0 - 1100.6).max() < 0.5
    return [found.reason]


# --- values -------------------------------------------------------------------------------------------------


def with_value(value, where=(2, 3, 5, 7)):
    data = counts(np.float32)
    data[where] = value
    return data


for value, name in ((np.nan, "NaN in one pixel"), (np.inf, "infinity in one pixel"), (-np.inf, "minus infinity")):
    refused("Values", name, NAN, "one value of one pattern", lambda value=value: with_value(value))
refused("Values", "a pattern of NaN", NAN, "one position", lambda: with_value(np.nan, (2, 3)))
refused("Values", "all zero", f"The data are all zero: {EMPTY}", "zeros", lambda: np.zeros_like(counts()))
refused("Values", "constant", f"The data are constant (every value is 7): {EMPTY}", "sevens",
        lambda: np.full_like(counts(), 7))
refused("Values", "a pixel at 1e30", HUGE.format("1e+30"), "one pixel of the detector",
        lambda: with_value(1e30, np.s_[..., 10, 10]))
refused("Values", "numbers of 1e300", HUGE.format("…e+30…"), "counts times 1e300", lambda: counts(float) * 1e300)
refused("Values", "numbers of 1e-300", "The data differ by …e-29… at most, too little for single precision; multiply "
        "them by a constant.", "counts times 1e-300", lambda: counts(float) * 1e-300)
answered("Values", "an unknown unit", lambda: counts(np.float32) * np.float32(3e-9), "counts times 3e-9",
         clean=lambda: scan().clean * 3e-9)
answered("Values", "a constant subtracted", lambda: counts(np.float32) - 1000, "counts - 1000, all negative")
answered("Values", "each pattern divided by its maximum", lambda: counts() / counts().max((2, 3), keepdims=True),
         "as many viewers export it")
for name, made, make in (("bright is low", "100 - counts", lambda: 100 - counts(np.float32)),
                         ("the sign turned over", "-counts", lambda: -counts(np.int16)),
                         ("saturated nearly everywhere", "17.3 counts + 211 + N(0, 9), clipped at 211",
                               lambda: np.minimum(camera(), 211))):
    refused("Values", name, "… % of the values are at the largest one, …: either all is saturated, or bright is low "
          "in these data; turn them over, then (data.max() - data).", made, make)
case("Values", "no electrons, denoised", "refused", "No electrons are seen above the read-out noise, so there is "
     "nothing to denoise; where bright is low in these data, turn them over.", "a noise model that finds none")(
    lambda bench: bench.refuse(lambda: denoised(counts())))
nothing("Values", "noise alone", "No beam was found in this scan: the sums over its blocks look like noise alone. "
      "Nor do "
        "rings: …", "Poisson, 0.1 electrons a pixel", lambda: np.random.default_rng(0).poisson(0.1, counts().shape))


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
    """The bright scan with so many units an electron, as whole numbers."""
    return np.rint(bright().counts * gain).astype(np.int64)


def wrapped(bits):
    return (recorded(2.5 * 2**bits / bright().counts.max()) % 2**bits).astype(f"u{bits // 8}")


answered("Detector", "wrapped at 16 bits", lambda: wrapped(16), "2.5 times what uint16 holds, modulo 65536",
         WRAPPED.format(65536), "warned", ellipse=False, pixels=0.3)
answered("Detector", "wrapped at 8 bits", lambda: wrapped(8), "2.5 times what uint8 holds, modulo 256",
         WRAPPED.format(256), "warned", ellipse=False, pixels=0.3)
refused("Detector", "unsigned numbers read as signed", "The data run from … to … and wrap from one to the other: "
      "unsigned numbers were read as signed ones; give data.view('uint16').", "view('int16')",
        lambda: recorded(60000 / bright().counts.max()).astype(np.uint16).view(np.int16))
answered("Detector", "saturated", lambda: np.minimum(bright().counts, 250), "clipped at 250 counts",
         "The data are saturated: … sampled values are at the largest one, 250.", "warned")
answered("Detector", "gamma-adjusted", lambda: np.sqrt(bright().counts).astype(np.float32), "square root of the counts",
         BENT, "warned")
answered("Detector", "a logarithm", lambda: np.log1p(bright().counts).astype(np.float32), "log(1 + counts)", BENT,
         "warned")
answered("Detector", "gain, offset and read-out noise unknown", lambda: camera(), "17.3 counts + 211 + N(0, 9)",
         clean=lambda: scan().clean * 17.3 + 211)
answered("Detector", "correlated noise", lambda: gaussian_filter(counts(np.float32), (0, 0, 0.8, 0.8)),
         "smoothed by 0.8 px", "Neighboring pixels share noise (spread in the scintillator, column structure or "
         "resampling), so gain and read-out noise are lower bounds.", "warned", pixels=0.2)
answered("Detector", "hot rows", lambda: hot(), "two rows of 50 and 20 counts more")
answered("Detector", "a hot pixel on the edge of the beam", lambda: hot_edge(), "a third of the beam's brightness more",
         truth=lambda: bright().truth, pixels=0.03)
answered("Detector", "a burnt-in scale bar", lambda: changed(np.s_[..., 60:62, 40:60], 33), "40 pixels at one "
      "value", STUCK,
         "warned")
answered("Detector", "a dead quadrant, told", lambda: changed(QUADRANT, 0), "the first 32 rows and columns zero", STUCK,
         "warned", pixels=1.0, sigmas=9.0)
answered("Detector", "a dead quadrant, masked", lambda: changed(QUADRANT, 0), "the same, with mask=",
      mask=outside(QUADRANT),
         pixels=0.2)
answered("Detector", "a gap between chips", lambda: changed(np.s_[..., 30:32, :], 0), "two rows zero through the beam",
         STUCK, "warned", pixels=0.4, sigmas=5.0)
answered("Detector", "half of the beam off the detector", lambda: np.ascontiguousarray(counts()[:, :, 30:]),
         "the first rows cut off", ellipse=False, pixels=0.5,
         truth=lambda: scan().truth | dict(qx0=scan().truth["qx0"] - 30))
nothing("Detector", "the beam off the detector", "No beam was found in this scan: …", "24 columns without it",
        lambda: np.ascontiguousarray(scan(shape=(64, 128)).counts[..., :32]))
nothing("Detector", "a beam stop", HIDDEN, "all within 11 px of the beam zero", lambda: stopped())


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

answered("Scan", "blanked frames in the middle", lambda: changed(np.s_[2, 2:5], 0), "three patterns zero",
         "3 of 36 positions show no beam.", "warned")
answered("Scan", "an aborted scan", lambda: changed(np.s_[4:], 0), "the last two rows zero",
         "12 of 36 positions show no beam.", "warned")
answered("Scan", "repeated frames", lambda: repeated(), "every fifth pattern is a copy of the one before",
         "7 of 36 sampled patterns are exact copies of others: frames were repeated, so there is less in these data "
         "than it seems.", "warned", pixels=0.3, ellipse=False, sigmas=9.0)


def repeated():
    data = counts().reshape(36, 64, 64)
    data[5::5] = data[4:-1:5]
    return data.reshape(counts().shape)


# --- masks and options --------------------------------------------------------------------------------------

for name, mask, shape, dtype in (("of another shape", np.ones((32, 32), bool), (32, 32), "bool"),
                                 ("of numbers", np.ones((64, 64)), (64, 64), "float64"),
                                 ("True alone", True, (), "bool")):
    case("Mask", name, "refused", MASK.format(shape, dtype), "given as mask=")(
        lambda bench, mask=mask: bench.refused_mask(mask))
