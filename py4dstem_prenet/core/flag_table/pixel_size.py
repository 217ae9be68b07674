"""Flags of the pixel size."""

PIXEL_SIZE_FLAGS = (
    ("pixel_size_determined", "info",
     "The pixel size is determined from the {evidence} of {standard}, with a sigma of {percent:.2g} %; {rings} {kind} "
     "agree within {scatter:.2g} % (rms)."),
    ("pixel_size_no_rings", "refusal",
     "The pixel size is not determined: fewer than two rings of {standard} fit the pattern outside the direct beam.",
     "Check whether the specimen is {standard}, and whether at least two of its rings lie on the detector."),
    ("pixel_size_ambiguous", "refusal",
     "The pixel size is not determined: the rings of {standard} fit with {first:.5f} and with {second:.5f} 1/Å per "
     "pixel. The first has a probability of {posterior:.1f} % ({needed:.0f} % is needed).",
     "A single crystal shows few rings. If you know the pixel size within 10 %, call "
     "measure_pixel_size(\"{standard}\", approximate=...). Otherwise carry a pixel size over from a scan of many "
     "grains with calibrate(like=...)."),
    ("pixel_size_zones", "refusal",
     "The pixel size is not determined: several zone axes of {standard} fit the lattice of the disks, with {results}. "
     "The first has a probability of {posterior:.1f} % ({needed:.0f} % is needed).",
     "If you know the pixel size within 10 %, call measure_pixel_size(\"{standard}\", approximate=...). Otherwise "
     "carry the ellipse over from a powder at the same camera length (calibrate(like=...)), or set it: "
     "calibrate(ellipse=(a, b, theta))."),
    ("pixel_size_no_zone", "refusal",
     "The pixel size is not determined: the disks lie on the lattice of one crystal, and no zone axis of {standard} "
     "fits it with an ellipse of a few percent and the approximate pixel size, if one was stated.",
     "Check the approximate pixel size, and whether the specimen is {standard}."),
    ("pixel_size_other_lattice", "refusal",
     "The pixel size is not determined: other lattices fit the data as well as that of {standard} does, for example "
     "that of {other} with another lattice parameter. The probability of {standard} is {posterior:.2g} % "
     "({needed:.0f} % is needed).",
     "A single crystal shows too few reflections to tell its lattice from others. If you know the crystal, and the "
     "pixel size within 10 %, call measure_pixel_size(\"{standard}\", approximate=...). Otherwise carry a pixel "
     "size over from a scan of many grains with calibrate(like=...). If only a part of the scan is {standard}, "
     "select this part with region=."),
    ("pixel_size_without_ellipse", "refusal",
     "The pixel size is not determined: the ellipse is not known, and the disks are those of few grains, but not of "
     "one crystal near a zone axis.",
     "Carry the ellipse over from a powder at the same camera length (calibrate(like=...)), or set it: "
     "calibrate(ellipse=(a, b, theta))."),
    ("pixel_size_inconsistent", "refusal",
     "The pixel size is not determined: the rings differ from those of {standard} by {scatter:.2g} % (rms), beyond "
     "their noise.",
     "Check whether the specimen is {standard}."),
    ("pixel_size_off_rings", "refusal",
     "The pixel size is not determined: only {percent:.0f} % of the reflections lie on rings of {standard} at a "
     "pixel size near the approximate one.",
     "Check the approximate pixel size, and whether the specimen is {standard}."),
    ("pixel_size_uncertain", "refusal",
     "The pixel size is not determined: it is uncertain by {percent:.2g} % (at most {needed:.2g} % is allowed).",
     "Use a scan with a higher dose or with more grains."),
    ("pixel_size_other_crystal", "refusal",
     "The pixel size is not determined: {other} fits the lattice of the disks far better than {standard} does, at a "
     "pixel size near the approximate one. The probability of {standard} is {posterior:.2g} %.",
     "Check the approximate pixel size, and whether the specimen is {standard}."),
    ("crystal_not_tested", "info",
     "It was assumed, as you stated, that the crystal is {standard} and that the approximate pixel size is right. "
     "The reflections of a single crystal do not test this. Other crystals of the table that fit them as well, near "
     "this pixel size: {others}. Their pixel sizes differ from this one by up to {spread:.1f} %."),
    ("ellipse_of_crystal", "info",
     "The disks of the crystal also determine the ellipse, a/b = {ratio:.4f} with a sigma of {sigma:.2g}, if the "
     "crystal is unstrained {standard}. If the pixel size is written, this ellipse is written with it, "
     "unless the calibration has an ellipse or ellipse=False is set.",
     "A mean strain of the specimen is part of this ellipse."),
    ("lattice_varies", "warning",
     "The lattice varies over the measured positions by {percent:.2g} % (rms), beyond the errors of the disks. The "
     "pixel size is right if the mean lattice is that of unstrained {standard}; its sigma includes the variation.",
     "If a smaller part is unstrained {standard}, measure there: state it as standard_region= of calibrate, or call "
     "measure_pixel_size(\"{standard}\", region=..., write=True), with the same approximate= if you set one."),
    ("radial_distortion", "warning",
     "Radial distortion: at {radius:.0f} px, the radius of rings differs by {percent:+.2f} ± {sigma:.2f} % from that "
     "of an undistorted pattern. The pixel size is that at the center of the pattern.",
     "datacube.prenet.corrected() removes the distortion."),
    ("threefold_distortion", "warning",
     "Rings have a threefold distortion of {percent:.2f} ± {sigma:.2f} % at {radius:.0f} px.",
     "datacube.prenet.corrected() removes the distortion."),
)
