"""Flags of the elliptical distortion."""

ELLIPSE_FLAGS = (
    ("ellipse_determined", "info",
     "The ellipse is determined from the {sources}, with a sigma of {sigma:.4f} in a/b."),
    ("ellipse_of_aperture", "info",
     "The ellipse is the shape of the direct beam, which shows the distortion only if the aperture is round.",
     "Compare it with the rings of a powder at the same camera length: calibrate(like=...)."),
    ("ellipse_no_evidence", "refusal",
     "The ellipse is not determined: the patterns show neither rings nor the image of a round aperture.",
     "Carry over the ellipse of a standard: calibrate(like=...)."),
    ("ellipse_sources_disagree", "refusal",
     "The ellipse is refused: the estimates from the {sources} disagree by {sigmas:.1f} sigma.",
     "Carry over the ellipse of a standard: calibrate(like=...)."),
    ("ellipse_uncertain", "refusal",
     "The ellipse is not determined: a/b is uncertain by {sigma:.3f} (at most {needed:.3f} is allowed).",
     "Carry over the ellipse of a standard: calibrate(like=...)."),
    ("spots_only", "warning",
     "No continuous ring was found; Bragg spots cannot separate strain from distortion.",
     "If the specimen is a known, unstrained crystal near a zone axis, its lattice gives the ellipse with the pixel "
     "size: calibrate(standard=..., approximate=...)."),
    ("beam_shape_left_out", "warning",
     "The shape of the direct beam disagrees with the rings by {sigmas:.1f} sigma and was left out; the aperture may "
     "not be round."),
    ("rings_off_center", "warning",
     "The center of the rings lies ({dx:+.2f}, {dy:+.2f}) px from the direct beam (sigma {sigma_x:.2f}, "
     "{sigma_y:.2f}); the reported origin is the direct beam."),
    ("symmetric_elsewhere", "warning",
     "The mean pattern is more symmetric about a point ({dx:+.0f}, {dy:+.0f}) px from the origin (inversion "
     "symmetry {there:.2f}) than about the origin ({here:.2f}).",
     "Check whether the origin lies in a diffracted disk."),
    ("region_without_beam", "refusal",
     "No position of this region shows a direct beam."),
    ("radius_unknown", "info",
     "No disk was found at the origin in the calibration, so the shape of the direct beam was not used for the "
     "ellipse.",
     "If the direct beam is visible, check the origin, or set the radius with calibration.set_probe_semiangle."),
    ("ellipse_given", "info",
     "The ellipse was set by hand: a/b {ratio:.4f}, a axis at {degrees:.1f}° from +qx toward +qy."),
    ("ellipse_agrees", "info",
     "The ellipse that was set agrees with that of this scan: the difference is {difference:.4f} in a/b, "
     "{sigmas:.1f} sigma."),
    ("ellipse_untested", "info",
     "The ellipse that was set was not tested, since the ellipse cannot be measured in this scan."),
    ("given_ellipse_differs", "warning",
     "The given ellipse differs from that of this scan by {difference:.4f} in a/b, {sigmas:.1f} sigma.",
     "To use the ellipse of this scan, leave out ellipse=."),
    ("ellipse_not_set", "warning",
     "The calibration holds no ellipse: the elliptical distortion is not corrected, and it looks like strain.",
     "Measure strain against a reference region of the same scan, or set the ellipse of a standard."),
    ("ellipse_unconfirmed", "warning",
     "This scan does not confirm the ellipse in the calibration (set by {author})."),
    ("ellipse_confirmed", "info",
     "The ellipse in the calibration (set by {author}) agrees with this scan: a/b {ratio:.4f} ± {sigma:.4f}, a axis "
     "at {degrees:.1f}° from +qx toward +qy.",
     "To remove it, call calibration.set_ellipse((None, None, None))."),
    ("ellipse_differs", "refusal",
     "The ellipse in the calibration (set by {author}) differs from that of this scan by {difference:.4f} in a/b, "
     "{sigmas:.0f} sigma.",
     "To use the ellipse of this scan, call datacube.prenet.measure_ellipse()."),
    ("ellipse_halves_agree", "info",
     "Two halves of the electrons give ellipses that differ by {difference:.4f} in a/b, {sigmas:.1f} times the stated "
     "sigma ({positions} positions)."),
    ("ellipse_halves_differ", "warning",
     "Two halves of the electrons give ellipses that differ by {difference:.4f} in a/b, {sigmas:.1f} times the stated "
     "sigma ({positions} positions).",
     "Multiply the stated sigma by this factor."),
    ("half_without_ellipse", "warning",
     "The sigma of the ellipse was not checked: no ellipse can be measured with half of the electrons."),
)
