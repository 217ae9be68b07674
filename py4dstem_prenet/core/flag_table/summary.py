"""Flags of the first paragraph of a report."""

SUMMARY_FLAGS = (
    ("summary_no_origin", "refusal",
     "No origin was found, so nothing was calibrated and nothing was written."),
    ("summary_origin", "info",
     "The {feature} was found at {count} of {total} positions. Its median position is qx0 = {qx0:.2f} px (row, "
     "downward) and qy0 = {qy0:.2f} px (column, to the right). A single position is known to {sigma:.2g} px along each "
     "axis (median; {high:.2g} px or better in 95 % of the positions)."),
    ("summary_origin_unsure", "warning",
     "The {feature} was found at {count} of {total} positions. Its median position is qx0 = {qx0:.2f} px (row, "
     "downward) and qy0 = {qy0:.2f} px (column, to the right), without a stated uncertainty."),
    ("summary_single", "info",
     "The {feature} of the pattern is at qx0 = {qx0:.2f} px (row, downward) and qy0 = {qy0:.2f} px (column, to the "
     "right), with an uncertainty of {sigma:.2g} px along each axis. A single pattern has no descan."),
    ("summary_single_unsure", "warning",
     "The {feature} of the pattern is at qx0 = {qx0:.2f} px (row, downward) and qy0 = {qy0:.2f} px (column, to the "
     "right), without a stated uncertainty. A single pattern has no descan."),
    ("summary_descan", "info",
     "The descan is a {model} that moves the origin by {span_x:.2f} px (qx0) and {span_y:.2f} px (qy0) over the scan, "
     "and the fitted origin is known to {sigma:.2g} px along each axis, including errors that all positions share."),
    ("summary_constant", "info",
     "The same origin holds for the whole scan; it is known to {sigma:.2g} px along each axis."),
    ("summary_descan_unsure", "warning",
     "The descan is a {model} that moves the origin by {span_x:.2f} px (qx0) and {span_y:.2f} px (qy0) over the scan, "
     "without a stated uncertainty."),
    ("summary_no_descan", "refusal",
     "No fitted origin was accepted, because no surface describes the measured positions."),
    ("summary_ellipse", "info",
     "Patterns are elliptical: a/b = {ratio:.4f} ± {sigma:.4f}, with the a axis at {degrees:.1f} ± "
     "{degrees_sigma:.1f}° from +qx toward +qy."),
    ("summary_ellipse_unsure", "warning",
     "The ellipse that was set (a/b = {ratio:.4f}, a axis at {degrees:.1f}° from +qx toward +qy) has no stated "
     "uncertainty."),
    ("summary_round", "info",
     "The ellipticity is not significant: a/b = {ratio:.4f} ± {sigma:.4f}."),
    ("summary_no_ellipse", "warning",
     "The elliptical distortion is not known."),
    ("summary_pixel_size", "info",
     "A detector pixel is {value:.6f} ± {sigma:.6f} {unit}."),
    ("summary_pixel_size_unsure", "warning",
     "The pixel size that was set, {value:.6g} {unit}, has no stated uncertainty."),
    ("summary_pixel_size_corrected", "info",
     "This is the value in the calibration: the pixel size along the mean radius, times sqrt(a/b) of the ellipse, by "
     "which py4DSTEM's correction makes radii smaller."),
    ("summary_rotation", "info",
     "The pattern is rotated against the scan by {degrees:.2f} ± {sigma:.2f}° and {flipped}."),
    ("summary_rotation_unsure", "warning",
     "The rotation between pattern and scan that was set ({degrees:.2f}°, {flipped}) has no stated uncertainty."),
    ("next_use", "info",
     "Next: save the calibration, or find Bragg disks (datacube.prenet.bragg_disks()) and map strain or "
     "orientation. py4DSTEM reads the calibration from the cube."),
    ("next_read", "info",
     "First look at the figures (datacube.prenet.show(), or prenet report in a shell) and read the warnings and "
     "refusals ({count}; marked ! or x in text, amber or red on a page)."),
    ("next_map", "info",
     "Next: save the calibration, or map strain or orientation from the Bragg disks that the cube holds "
     "(datacube.tree('{name}')). py4DSTEM reads the calibration from the cube."),
    ("next_rings", "info",
     "Next: save the calibration, or carry it over to other scans of the session (calibrate(like=...))."),
    ("next_single", "info",
     "Next: save the calibration, or apply it to a scan recorded with the same settings (calibrate(like=...))."),
    ("next_refusals", "refusal",
     "Next: read the refusals ({count}; marked x in text, red on a page), do what they say, and calibrate again."),
    ("next_repair", "info",
     "Bad pixels in the counts: {count}. Call datacube.prenet.repaired() before py4DSTEM's find_Bragg_disks; "
     "bragg_disks() of prenet leaves them out."),
    ("avoid_direct_beam", "warning",
     "Do not take this center for the direct beam: it is the {feature}, which can lie pixels from the direct beam."),
    ("avoid_center", "warning",
     "Do not use this origin before you have looked at a few patterns: a search without the given center finds another "
     "beam, at ({qx:.1f}, {qy:.1f}) px."),
    ("avoid_denoised", "warning",
     "Do not use denoised patterns to measure quantities that denoising changes (see the denoising verdict); use "
     "the raw counts."),
    ("avoid_denoised_unknown", "warning",
     "Do not map strain from denoised patterns: this scan does not show whether denoising keeps it."),
    ("avoid_richer_model", "warning",
     "Do not replace the fitted origin by the measured one or by a more flexible surface: both follow the specimen."),
    ("avoid_lengths", "info",
     "Do not state lattice spacings in Å: the pixel size is not known, so lengths are in pixels. To calibrate the "
     "pixel size, call calibrate(standard=...) or calibrate(like=...)."),
    ("avoid_lengths_refused", "info",
     "Do not state lattice spacings in Å: the pixel size was refused, so lengths are in pixels."),
    ("avoid_directions", "info",
     "Do not compare strain along different directions without a reference region of the same scan: an unknown "
     "ellipse looks like strain. calibrate(like=...) uses the ellipse of a standard."),
    ("avoid_frame", "info",
     "Do not take the axes of strain maps for those of the scan: they are those of the pattern, since the rotation "
     "between scan and pattern is not known. To calibrate the rotation, call calibrate(rotation=True) or "
     "calibrate(like=...)."),
    ("avoid_sign", "info",
     "Do not use the sign of electric or magnetic fields: the rotation is known up to half a turn only."),
)
