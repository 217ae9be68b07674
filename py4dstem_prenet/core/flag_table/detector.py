"""Flags of the detector and its data."""

DETECTOR_FLAGS = (
    ("no_electrons", "refusal",
     "No electrons are detectable above the read-out noise; the dose is about zero.",
     "Check that the beam was on and that the right data set was read."),
    ("counting", "info",
     "The detector counts electrons: {dose:,.1f} per pattern."),
    ("integrating", "info",
     "The detector gives {gain:.4g} units per electron, offset {offset:.4g}, read-out noise {readout:.3g} units; "
     "{dose:,.1f} electrons per pattern."),
    ("bad_pixels", "info",
     "{listed} of {count} bad pixels, as (row, column): {positions}. Bad pixels have no weight in the "
     "fits, and stay in the counts; datacube.prenet.repaired() returns a scan without them.",
     "Call repaired() before find_Bragg_disks: a hot pixel displaces a disk or is taken for one."),
    ("offset_undetermined", "warning",
     "Offset and read-out noise cannot be separated; one of them is set to zero.",
     "Pass offset= or readout= to estimate_noise if one of them is known."),
    ("gain_undetermined", "warning",
     "The noise does not grow with the signal, so the gain cannot be measured. It was set as if the noise in dim "
     "regions were counting noise.",
     "Pass gain= to estimate_noise if it is known."),
    ("shared_noise", "warning",
     "Neighboring pixels share noise (the variance of fine detail is {ratio:.2f} of that of coarse detail); gain and "
     "read-out noise are lower bounds.",
     "Do not rely on the stated sigmas, and do not measure on denoised patterns."),
    ("saturated", "warning",
     "{count} sampled values equal the largest one, {value:g}: the data are saturated.",
     "Do not measure intensities of saturated disks. For the next scan, lower the dose."),
    ("clipped", "warning",
     "{percent:.0f} % of the values equal the smallest one, {value:g}: the data are clipped below."),
    ("inverted", "warning",
     "Most values are close to the maximum: the contrast may be inverted (bright regions have low values).",
     "If the contrast is inverted, use data.max() - data."),
    ("wrapped", "warning",
     "Dark pixels lie inside bright disks: values may have passed {limit} and started again at 0 (wrapped).",
     "Read or sum the data as wider integers."),
    ("nonlinear", "warning",
     "The noise grows far less than the signal: values are not proportional to electrons (gamma, logarithm or "
     "smoothing).",
     "Do not rely on the stated doses and sigmas, and do not measure on denoised patterns."),
    ("dead_lines", "warning",
     "Whole lines of the detector have a constant value although the lines beside them detect electrons, as in gaps "
     "between chips (rows: {rows}; columns: {columns}); these lines are masked."),
    ("dead_part", "warning",
     "At an edge of the detector, {percent:.0f} % of its pixels have the same level although the lines next to them "
     "detect electrons: a part of the detector is dead, or a straight beam stop covers it. These pixels are masked.",
     "Check the mask in report.noise.bad_pixels, True for masked pixels."),
    ("interpolated_lines", "warning",
     "The values in whole lines of the detector are interpolated from the neighboring lines, as in gaps between "
     "chips (rows: {rows}; columns: {columns}); these lines are masked."),
    ("wide_lines", "warning",
     "Whole lines of the detector count more than the lines beside them, like wide pixels between chips (rows: "
     "{rows}; columns: {columns}); these lines are masked.",
     "If a wide pixel covers the area of several pixels, insert the missing lines. Without them, the pattern is too "
     "narrow there, and origin and ellipse are wrong."),
    ("lost_frames", "warning",
     "{count} of {total} sampled frames were lost: large parts of them hold a single value. They were left out of the "
     "noise model."),
    ("hits", "warning",
     "{count} single pixels in {total} sampled patterns are too bright for electrons: X-rays or cosmic rays. They were "
     "left out of the noise model.",
     "These pixels stay in the counts; do not take them for Bragg disks."),
    ("repeated_frames", "warning",
     "{count} of {total} sampled patterns are exact copies of others: frames were repeated.",
     "Check whether the detector recorded a new frame at every position."),
    ("unresponsive", "warning",
     "Pixels around ({row}, {column}) have a constant value although pixels beside them detect electrons.",
     "Exclude dead chips, gaps, beam stops and scale bars with mask=."),
)
