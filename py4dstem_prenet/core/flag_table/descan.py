"""Flags of the descan fit and the order of the frames."""

DESCAN_FLAGS = (
    ("no_surface", "refusal",
     "No descan: only {count} of {total} positions can be used."),
    ("most_positions_off", "refusal",
     "{percent:.0f} % of the measured positions disagree with the {model}.",
     "Look at datacube.prenet.show(). If other disks were taken for the direct beam, pass center=; if the descan "
     "has another shape, choose a model."),
    ("two_surfaces", "refusal",
     "A connected part of the scan, {percent:.0f} % of the measured positions, lies on another surface.",
     "Crop the scan at its border with datacube.prenet.crop_R, and calibrate the parts."),
    ("too_few_positions", "refusal",
     "{count} positions are too few to tell whether deviations of {deviation:.2g} px are descan or errors.",
     "Write the measured origin, calibration.set_origin(calibration.get_origin_meas()), or choose a model: "
     "datacube.prenet.fit_origin('{model}')."),
    ("single_position", "info",
     "The scan has one usable position."),
    ("residuals_white", "info",
     "The residuals are noise: {scale:.2f} times the stated sigma, without spatial correlation."),
    ("residuals_correlated", "warning",
     "The residuals are spatially correlated ({shared:.2g} px rms, {sigmas:.1f} standard errors), probably because the "
     "specimen deflects the beam or changes the contrast inside its disk.",
     "Use the fitted origin. The measured origins contain the same error, and a model with more terms would "
     "follow the specimen."),
    ("residuals_oscillate", "warning",
     "The residuals of neighboring positions have opposite signs ({shared:.2g} px rms along each axis): the beam "
     "probably oscillates while it is scanned, as in stray fields of the mains. The fit is the mean; its sigma "
     "includes this.",
     "If single positions are known better than that, use the measured origin."),
    ("position_in_pixel", "info",
     "The measured position depends on where the beam lies within a pixel ({phase:.2g} px rms along each axis). "
     "This occurs for disks with a hard edge. The fit is the mean over the scan; its sigma includes this."),
    ("model_too_simple", "warning",
     "A {model} does not describe the descan: positions scatter by {scatter:.2g} px about it, and by {left:.2g} px "
     "about a {better}.",
     "Call datacube.prenet.fit_origin() without a model."),
    ("residuals_large", "warning",
     "The residuals scatter by {scatter:.2g} px, {scale:.1f} times the stated sigma, without spatial correlation.",
     "This averages out in the fit."),
    ("few_positions", "warning",
     "{count} positions are too few to test the residuals."),
    ("outliers", "warning",
     "{percent:.0f} % of the measured positions are outliers and were ignored."),
    ("model_undetermined", "warning",
     "The positions do not determine a {asked}; a {model} was fitted instead."),
    ("extrapolated", "warning",
     "No beam was measured outside scan rows {first_row} to {last_row} and columns {first_column} to {last_column}; "
     "the surface continues there as a {model}."),
    ("jump", "warning",
     "The beam jumps by {step:+.2f} px in {coordinate} ({sigmas:.0f} sigma) between scan rows {row} and {next_row}; "
     "the fit follows."),
    ("more_jumps", "warning",
     "The beam jumps {count} more times in {coordinate}."),
    ("too_many_jumps", "warning",
     "{count} jumps are too many for a surface with steps.",
     "Crop the scan between them with datacube.prenet.crop_R, and calibrate the parts."),
    ("segments", "warning",
     "The descan changes at scan {places}, as in joined scans; it is fitted in {count} parts."),
    ("rows_reversed", "warning",
     "Every second scan row is reversed, as in a snake scan that was read as a raster; the fit follows.",
     "Reverse these rows of the scan (data[1::2] = data[1::2, ::-1]) and calibrate again: images are wrong as well."),
    ("columns_reversed", "warning",
     "Every second scan column is reversed, as in a snake scan along columns that was read as a raster; the fit "
     "follows.",
     "Reverse these columns of the scan (data[:, 1::2] = data[::-1, 1::2]) and calibrate again: images are wrong as "
     "well."),
    ("frames_shifted", "warning",
     "All frames lie {count} positions too late in the scan, as with extra triggers at its start (negative: too "
     "early); the fit follows.",
     "Move the frames back and calibrate again: images are wrong as well."),
    ("frames_missing", "warning",
     "Frames are missing or in excess at {times} places, the first at scan row {row}, column {column}. The last "
     "frames lie {count} positions too early, as after missing triggers (negative: too late); the fit follows.",
     "Move the frames and calibrate again: images are wrong as well."),
    ("row_length_wrong", "warning",
     "Scan rows have {length} frames, not {columns}; the fit follows.",
     "Open the file again with the right scan shape: images are wrong as well."),
    ("row_steps", "warning",
     "The beam jumps with each scan row (typically by {step:.2g} px); the fit follows."),
    ("column_steps", "warning",
     "The beam jumps with each scan column (typically by {step:.2g} px); the fit follows."),
    ("lines_elsewhere", "warning",
     "Whole scan rows ({rows}) or columns ({columns}) lie off the surface of the others, like frames recorded "
     "during flyback; there, the fitted origin is the measured one.",
     "Crop them with datacube.prenet.crop_R if they do not belong to the scan."),
    ("centered_before", "warning",
     "The patterns had been centered to whole pixels; the fit follows the fractions of a pixel that are left."),
    ("beam_jumps", "refusal",
     "The beam jumps {count} times between frames (typically by {step:.2g} px), so no surface describes the descan.",
     "Use the measured origin: calibration.set_origin(calibration.get_origin_meas())."),
    ("order_unknown", "refusal",
     "{percent:.0f} % of the positions lie off the surface but agree with the frames before or after: frames are "
     "missing or misplaced, or the beam jumped.",
     "Check the order of the frames; the measured origin can be used."),
    ("positions_jump", "refusal",
     "The direct beam jumps by {scatter:.2g} px (rms) from position to position, {ratio:.0f} times what counting "
     "allows, so no surface describes the descan.",
     "Use the measured origin: calibration.set_origin(calibration.get_origin_meas())."),
    ("positions_scatter", "refusal",
     "Positions scatter by {scatter:.2g} px about any surface, {ratio:.0f} times what counting allows, and few of "
     "them lie near it: the beam jumps from frame to frame, or other disks were taken for it.",
     "Look at single patterns; if the positions are right, use the measured origin."),
    ("origin_moved", "warning",
     "The origin in the calibration is {moved:.2f} px (rms) from the best fit, a {model}.",
     "datacube.prenet.fit_origin() writes the best fit."),
    ("origin_far_off", "refusal",
     "The origin in the calibration is {moved:.2f} px (rms) from the best fit, a {model}.",
     "datacube.prenet.fit_origin() writes the best fit."),
    ("fit_not_accepted", "refusal",
     "The calibration holds no descan fit.",
     "Call datacube.prenet.fit_origin(); if the fit is refused, its flags say why."),
    ("specimen_explains", "info",
     "{percent:.0f} % of the variance of the residuals follows virtual images and their gradients: the specimen "
     "deflects the beam or shades the disk."),
    ("origin_error", "info",
     "Along each axis, the fitted origin is uncertain by {uncertainty:.3f} px (noise, and errors that many "
     "positions share), and a richer model would move it by {choice:.3f} px (rms). At a Bragg disk {distance:.0f} px "
     "away, an error of {error:.2g} px is {strain:.2g} % of strain."),
)
