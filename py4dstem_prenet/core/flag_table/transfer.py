"""Flags of quantities carried over from a standard."""

TRANSFER_FLAGS = (
    ("carried_over", "info",
     "Carried over from {source}: {quantities}."),
    ("pixel_size_adapted", "info",
     "The pixel size was converted to the ellipse of this scan (a/b {ratio:.4f}; that of the standard is "
     "{standard:.4f})."),
    ("standard_lacks", "info",
     "{source} does not hold: {quantities}."),
    ("standard_bare", "warning",
     "{source} is a calibration without its scan and states no uncertainty. Shape of the patterns, camera length, "
     "voltage and date were not compared. It was assumed that one pixel of this scan is as wide as {binning:g} "
     "pixels of the standard.",
     "Check that both were recorded with the same camera length and binning."),
    ("standard_contradicted", "refusal",
     "The ellipse of this scan differs from that of the standard by {difference:.4f} in a/b, {sigmas:.1f} sigma, so "
     "these were not carried over: {quantities}.",
     "Check that both were recorded with the same camera length and alignment. If the ellipse of the standard is "
     "right, set it by hand: calibrate(ellipse=(a, b, theta))."),
    ("standard_differs", "warning",
     "The rings of this scan differ from the ellipse of the standard by {difference:.4f} in a/b, {sigmas:.1f} sigma, "
     "as uniform strain of the specimen would cause.",
     "If the specimen is not strained, check that both were recorded with the same camera length and alignment."),
    ("beam_shape_differs", "warning",
     "The shape of the direct beam differs from the ellipse of the standard by {difference:.4f} in a/b, {sigmas:.1f} "
     "sigma; the aperture may not be round.",
     "Check that both were recorded with the same camera length and alignment."),
    ("voltage_differs", "refusal",
     "Nothing was carried over: the standard was recorded at {theirs:g} V, this scan at {ours:g} V.",
     "Use a standard that was recorded at the voltage and camera length of this scan."),
    ("camera_length_differs", "refusal",
     "Nothing was carried over: the camera length of the standard is {theirs:g}, that of this scan {ours:g}.",
     "Use a standard that was recorded at the voltage and camera length of this scan."),
    ("standard_old", "warning",
     "The standard and this scan were recorded {days} days apart.",
     "Check that the alignment of the microscope did not change in between, or record the standard again."),
    ("frames_differ", "refusal",
     "The detector frame of the standard is {theirs} px and that of this scan {ours} px, so these were not carried "
     "over: {quantities}.",
     "If one of them was binned, set binning= to the number of pixels of the standard along one side of a pixel of "
     "this scan. If one was only cropped, set binning=1."),
    ("scale_differs", "refusal",
     "The pixel size of the standard, {theirs:.4g} {unit}, differs by more than 10 % from that of this scan, "
     "{ours:.4g} {unit}, so these were not carried over: {quantities}.",
     "Check the camera lengths and binning=. If the pixel size in this scan is wrong, remove it: "
     "datacube.calibration.set_Q_pixel_units(\"pixels\")."),
    ("scan_differs", "refusal",
     "The descan was not carried over: the standard was scanned with {theirs} positions and this scan with {ours}, "
     "or the steps differ.",
     "Use a scan with the same number of positions and the same step."),
    ("descan_agrees", "info",
     "The measured positions agree with the descan of the standard: they contain {amplitude:.3f} ± {sigma:.3f} times "
     "this descan (1 is expected)."),
    ("descan_untested", "info",
     "The descan of the standard was not tested, because the measured positions do not determine its size."),
    ("descan_contradicted", "refusal",
     "The descan was not carried over, because the measured positions contradict it: they contain {amplitude:.3f} ± "
     "{sigma:.3f} times this descan (1 is expected).",
     "Calibrate this scan without transfer=\"descan\"."),
)
