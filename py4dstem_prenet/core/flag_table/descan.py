"""Flags of the descan fit and the order of the frames."""

DESCAN_FLAGS = (
    ("no_surface", "refusal",
     "The descan was not fitted: only {count} of {total} positions can be used.",
     "Check with datacube.prenet.view() whether the patterns show the direct beam."),
    ("most_positions_off", "refusal",
     "{percent:.0f} % of the measured positions disagree with the {model}.",
     "Look at datacube.prenet.show(). If other disks were taken for the direct beam, pass center=; if the descan "
     "has another shape, choose a model."),
    ("two_surfaces", "refusal",
     "A connected part of the scan, {percent:.0f} % of the measured positions, follows another descan surface than "
     "the rest.",
     "Crop the scan at the border of this part with datacube.prenet.crop_R, and calibrate the two parts separately."),
    ("too_few_positions", "refusal",
     "{count} positions are too few to tell whether deviations of {deviation:.2g} px are descan or errors.",
     "Use the measured origin, calibration.set_origin(calibration.get_origin_meas()), or choose a model: "
     "datacube.prenet.fit_origin('{model}')."),
    ("single_position", "info",
     "The scan has only one usable position."),
    ("residuals_white", "info",
     "The residuals are noise: their scatter is {scale:.2f} times the stated sigma, without spatial correlation."),
    ("residuals_uncorrelated", "info",
     "The residuals show no spatial correlation. Their size was not tested, because the positions have no stated "
     "uncertainty."),
    ("residuals_correlated", "warning",
     "The residuals are spatially correlated ({shared:.2g} px rms, {sigmas:.1f} standard errors), probably because the "
     "specimen deflects the beam or changes the contrast inside its disk.",
     "Use the fitted origin. The measured origins contain the same error, and a model with more terms would "
     "follow the specimen."),
    ("fit_follows_specimen", "warning",
     "The fitted surface has a structure ({shared:.2g} px rms along each axis) that neither descan nor drift explains. "
     "Probably the specimen deflects the beam, changes the contrast inside its disk, or hides it in a part of the "
     "scan. The sigma of the fit includes this structure.",
     "Choose a simpler model, datacube.prenet.fit_origin('parabola'), or take the descan from a scan of vacuum with "
     "the same settings: calibrate(like=..., transfer=\"descan\")."),
    ("residuals_oscillate", "warning",
     "The residuals of neighboring positions have opposite signs ({shared:.2g} px rms along each axis): the beam "
     "probably oscillates during the scan, for example in a stray field at mains frequency. The fit averages over "
     "the oscillation, and its sigma includes it.",
     "If the sigma of single positions is smaller than the oscillation, use the measured origin: "
     "calibration.set_origin(calibration.get_origin_meas())."),
    ("position_in_pixel", "info",
     "The measured position has an error that depends on where the beam lies within a pixel ({phase:.2g} px rms "
     "along each axis). This occurs for disks with a hard edge. The fit averages over this error, and its sigma "
     "includes it."),
    ("model_too_simple", "warning",
     "A {model} does not describe the descan: positions scatter by {scatter:.2g} px about it, and by {left:.2g} px "
     "about a {better}.",
     "Call datacube.prenet.fit_origin() without a model."),
    ("residuals_large", "warning",
     "The residuals scatter by {scatter:.2g} px, {scale:.1f} times the stated sigma, without spatial correlation.",
     "Use the fitted origin: this scatter averages out in the fit."),
    ("few_positions", "warning",
     "{count} positions are too few to test the residuals."),
    ("outliers", "warning",
     "{percent:.0f} % of the measured positions are outliers and were left out of the fit."),
    ("model_undetermined", "warning",
     "The positions do not determine a {asked}; a {model} was fitted instead."),
    ("extrapolated", "warning",
     "No beam was measured outside scan rows {first_row} to {last_row} and columns {first_column} to {last_column}; "
     "there, the descan is extrapolated as a {model}, and the fitted origin is known to {sigma:.2g} px (rms).",
     "Calibrate without region=, or use only the measured part of the scan."),
    ("jump", "warning",
     "The beam jumps by {step:+.2f} px in {coordinate} ({sigmas:.0f} sigma) between scan rows {row} and {next_row}; "
     "the fit includes this jump."),
    ("more_jumps", "warning",
     "The beam jumps {count} more times in {coordinate}."),
    ("too_many_jumps", "warning",
     "The beam jumps {count} times between scan rows; these are too many jumps for a fit with steps.",
     "Crop the scan between the jumps with datacube.prenet.crop_R, and calibrate the parts separately."),
    ("segments", "warning",
     "The descan changes at scan {places}, as in joined scans; it is fitted in {count} parts."),
    ("rows_reversed", "warning",
     "Every second scan row is reversed, as in a snake scan that was read as a raster scan; the fit takes this into "
     "account.",
     "Reverse these rows of the scan (data[1::2] = data[1::2, ::-1]) and calibrate again, because virtual images "
     "are wrong as well."),
    ("columns_reversed", "warning",
     "Every second scan column is reversed, as in a snake scan along columns that was read as a raster scan; the "
     "fit takes this into account.",
     "Reverse these columns of the scan (data[:, 1::2] = data[::-1, 1::2]) and calibrate again, because virtual "
     "images are wrong as well."),
    ("frames_shifted", "warning",
     "All frames lie {count} positions too late in the scan, as with extra triggers at its start (negative: too "
     "early); the fit takes this into account.",
     "Move the frames back and calibrate again, because virtual images are wrong as well."),
    ("frames_missing", "warning",
     "Frames are missing or in excess at {times} places, the first at scan row {row}, column {column}. The last "
     "frames lie {count} positions too early, as after missing triggers (negative: too late); the fit takes this "
     "into account.",
     "Move the frames to their positions and calibrate again, because virtual images are wrong as well."),
    ("row_length_wrong", "warning",
     "Scan rows have {length} frames, not {columns}; the fit takes this into account.",
     "Open the file again with the right scan shape, because virtual images are wrong as well."),
    ("row_steps", "warning",
     "The beam jumps with each scan row (typically by {step:.2g} px); the fit includes these jumps."),
    ("column_steps", "warning",
     "The beam jumps with each scan column (typically by {step:.2g} px); the fit includes these jumps."),
    ("lines_elsewhere", "warning",
     "Some lines of the scan deviate from the descan of the others, like frames recorded during flyback (rows: {rows}; "
     "columns: {columns}). In these lines, the fitted origin is the measured origin.",
     "If these lines were recorded during flyback, crop them off: datacube.prenet.crop_R((first row, end row, first "
     "column, end column))."),
    ("centered_before", "warning",
     "The patterns had already been shifted to a common center by whole pixels; the fit describes the remaining "
     "fractions of a pixel."),
    ("beam_jumps", "refusal",
     "The beam jumps {count} times between frames (typically by {step:.2g} px), so no surface describes the descan.",
     "Use the measured origin: calibration.set_origin(calibration.get_origin_meas())."),
    ("order_unknown", "refusal",
     "{percent:.0f} % of the positions deviate from the descan surface but agree with the frames before or after "
     "them: frames are missing or misplaced, or the beam jumped.",
     "Check the order of the frames. The measured origin can be used: "
     "calibration.set_origin(calibration.get_origin_meas())."),
    ("positions_jump", "refusal",
     "The direct beam jumps by {scatter:.2g} px (rms) from position to position, {ratio:.0f} times the scatter "
     "expected from counting statistics, so no surface describes the descan.",
     "Use the measured origin: calibration.set_origin(calibration.get_origin_meas())."),
    ("positions_scatter", "refusal",
     "The positions scatter by {scatter:.2g} px about any descan surface, {ratio:.0f} times the scatter expected "
     "from counting statistics, and few of them lie near a surface: the beam jumps from frame to frame, or other "
     "disks were taken for the direct beam.",
     "Look at single patterns with datacube.prenet.view(). If the positions are right, use the measured origin: "
     "calibration.set_origin(calibration.get_origin_meas())."),
    ("origin_moved", "warning",
     "The origin in the calibration differs by {moved:.2f} px (rms) from the best fit, a {model}.",
     "To use the best fit, call datacube.prenet.fit_origin()."),
    ("origin_far_off", "refusal",
     "The origin in the calibration differs by {moved:.2f} px (rms) from the best fit, a {model}.",
     "To use the best fit, call datacube.prenet.fit_origin()."),
    ("fit_not_accepted", "refusal",
     "The calibration holds no descan fit.",
     "Call datacube.prenet.fit_origin(); if the fit is refused, its flags say why."),
    ("specimen_explains", "info",
     "Virtual images and their gradients explain {percent:.0f} % of the variance of the residuals: the specimen "
     "deflects the beam or changes the brightness inside its disk."),
    ("origin_error", "info",
     "Where it was measured, the fitted origin has an uncertainty of {uncertainty:.3f} px along each axis (noise, and "
     "errors that many positions share), and a model with more terms would move it by {choice:.3f} px (rms along each "
     "axis). For a Bragg disk at a distance of {distance:.0f} px, an origin error of {error:.2g} px causes a strain "
     "error of {strain:.2g} %."),
)
