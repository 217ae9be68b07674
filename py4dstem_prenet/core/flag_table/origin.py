"""Flags of the origin, the direct beam of every pattern."""

ORIGIN_FLAGS = (
    ("beam_found", "info",
     "The direct beam was found at every position that was searched."),
    ("beam_missing", "warning",
     "{count} of {total} positions show no beam (False in datacube.calibration.get_origin_meas_mask()); they take no "
     "part in the fit.",
     "Check in datacube.prenet.view() that the beam was on at these positions."),
    ("beam_missing_few", "info",
     "{count} of {total} positions show no beam (False in datacube.calibration.get_origin_meas_mask()); they get the "
     "origin of their neighbors and take no part in the fit."),
    ("no_beam", "refusal",
     "No beam was found: the patterns, summed over parts of the scan, look like noise.",
     "Check that the beam was on and on the detector, and that the right data set was read; if the mean pattern shows "
     "the direct beam, pass center=(qx, qy)."),
    ("smoothly_lit", "refusal",
     "No beam was found: the mean pattern is smooth, like that of a detector that is unevenly lit.",
     "Check that the beam was on and on the detector, and that the right data set was read; if the mean pattern shows "
     "the direct beam, pass center=(qx, qy)."),
    ("nothing_located", "refusal",
     "No position shows a beam that can be located.",
     "Look at single patterns with datacube.prenet.view(); if they show the direct beam, pass center= and radius=."),
    ("beam_elsewhere", "refusal",
     "{count} of {total} patterns show no direct beam although they hold {ratio:.2f} times the electrons of the "
     "others, so the positions found in the remaining patterns are unreliable.",
     "The beam may lie behind a beam stop or off the detector, or be no brighter than its surroundings in a thick "
     "crystal: pass mask=, or choose a thinner region."),
    ("center_given", "info",
     "The search started at the given position; the direct beam lies {distance:.2g} px from it (median)."),
    ("center_elsewhere", "warning",
     "A search of the whole pattern, without the given position, finds a beam at ({qx:.1f}, {qy:.1f}) px, "
     "{distance:.3g} px from the given position.",
     "Check with datacube.prenet.view() which of the two is the direct beam."),
    ("center_searched", "info",
     "Only the surroundings of the given position were searched.",
     "Check that the center, or the origin in the calibration, is (row, column) of the direct beam; replace=True "
     "without center searches the whole pattern."),
    ("center_not_confirmed", "refusal",
     "No direct beam was found at the given position: the nearest disk lies {nearest:.3g} px from it (at most "
     "{reach:.3g} px is allowed).",
     "Check that the center, or the origin in the calibration, is (row, column) of the direct beam; replace=True "
     "without center searches the whole pattern."),
    ("radius_given", "info",
     "The given radius of the direct disk is {given:.3g} px, the fitted one {radius:.3g} px."),
    ("position_uncertain", "warning",
     "The position of the beam in a single pattern is uncertain by {sigma:.2g} px; counting statistics alone would "
     "give {counting:.1g} px.",
     "The dose is low, disks overlap, or the crystal is thick. Look at the residual maps in datacube.prenet.show(), "
     "because the error of the fitted origin may be as large."),
    ("sigma_known", "info",
     "A single position is known to {sigma:.2g} px along each axis."),
    ("sigma_poor", "warning",
     "A single position is known only to {sigma:.2g} px along each axis; the fit averages over the scan.",
     "Use the fitted origin. The dose is low, or the direct beam has no sharp edge."),
    ("sigma_unknown", "warning",
     "No uncertainties of the origin are stored.",
     "Call datacube.prenet.measure_origin()."),
    ("afterglow", "warning",
     "Every frame holds {percent:.2g} % of the previous frame (afterglow of the detector), so the measured position "
     "lags behind the beam; this adds {sigma:.2g} px to the sigma of all positions together.",
     "Reduce the descan, or scan more slowly."),
    ("quadrants_swapped", "refusal",
     "The pattern continues across opposite edges of the detector: its quadrants are swapped.",
     "Swap the quadrants: numpy.fft.fftshift(data, axes=(2, 3))."),
    ("outline_elsewhere", "refusal",
     "The positions of the direct beam scatter, and the outline of its disk has its center {distance:.1f} px away "
     "from them: a part of the disk may be off the detector.",
     "Move the pattern onto the detector, or give center= and radius=."),
    ("beam_cut_off", "refusal",
     "{percent:.0f} % of the direct disk is off the detector, so its position and its radius cannot both be "
     "determined.",
     "Move the pattern onto the detector."),
    ("beam_cut", "warning",
     "{percent:.0f} % of the direct disk is off the detector; this adds {sigma:.2g} px to the sigma of all "
     "positions together.",
     "For the next scan, move the pattern onto the detector."),
    ("outline_not_round", "refusal",
     "The outline of the located object differs from a circle by {percent:.0f} % of its area: it is not the direct "
     "disk, or most of the disk is covered.",
     "If bands cross there in a thick crystal, choose a thinner region; if you know the direct beam, pass center=."),
    ("disk_clipped", "warning",
     "A part of the direct disk is missing: the round part of its outline is centered {distance:.2g} px away from the "
     "located positions; this adds {sigma:.2g} px to the sigma of all positions together.",
     "Check the alignment of the condenser aperture; if a stop covers the disk, pass mask=."),
    ("beam_covered", "warning",
     "A beam stop covers a part of the direct beam; this adds {sigma:.2g} px to the sigma of all positions together.",
     "If you know the stop, pass mask=."),
    ("pooled_positions", "warning",
     "Single patterns hold only {dose:,.1f} electrons, so the direct beam was located in sums over {side} x {side} "
     "positions."),
    ("beam_hidden", "warning",
     "The direct beam is hidden; the reported origin is the center of the rings, which can lie pixels from the direct "
     "beam."),
    ("other_center", "warning",
     "The direct beam is hidden; the reported origin is the {feature}, which can lie pixels from the direct beam."),
    ("stop_found", "info",
     "A beam stop covers {pixels} pixels that are not in the mask; these pixels are not used.",
     "Check it in datacube.prenet.show(). report.origin.stop is the mask (True behind the stop), which the "
     "calibration keeps as \"prenet_stop\". To make it the detector mask, call calibrate(mask=~report.origin.stop)."),
    ("stray_light", "warning",
     "A blurred spot of {pixels} pixels, beside a sharper and brighter one, is taken for stray light and is not "
     "used.",
     "If the blurred spot is the direct beam, pass center=."),
    ("pattern_cropped", "info",
     "A round aperture crops the pattern; the {percent:.0f} % of the pixels outside it are not used."),
    ("inversion_used", "warning",
     "The direct beam is hidden; the reported origin is the center of inversion of the mean pattern (symmetry "
     "{symmetry:.2f}). The descan was not fitted to single patterns; it is a first estimate from sums of patterns."),
    ("halo_used", "warning",
     "The direct beam is hidden; the reported origin is the center of the diffuse scattering of the mean pattern. "
     "The distance from this center explains {explained:.0%} of the variation of the diffuse scattering. The descan "
     "was not fitted to single patterns; it is a first estimate from sums of patterns."),
    ("hidden_by_stop", "refusal",
     "The direct beam is hidden behind a beam stop or lies off the detector.",
     "Pass mask= with the beam stop, or set the origin by hand."),
    ("beam_ambiguous", "refusal",
     "Several positions in the pattern may be the direct beam; the most likely one has a probability of only "
     "{probability:.2f}.",
     "If you know which disk is the direct beam, pass center=; if a beam stop hides it, pass mask=."),
    ("diffuse_elsewhere", "refusal",
     "The diffuse scattering is not centered on the disk that was found but {distance:.0f} px away, near "
     "({qx0:.0f}, {qy0:.0f}): the disk is a Bragg disk, and the direct beam is hidden, dim or off the detector.",
     "If a beam stop hides the direct beam, pass mask=; if you know its position, pass center=."),
    ("hidden_undetermined", "refusal",
     "Neither rings nor inversion symmetry determine the origin. It is probably near ({qx0:.0f}, {qy0:.0f}), within "
     "{sigma:.2g} px.",
     "Pass mask= with the beam stop, or set the origin by hand."),
    ("rings_missing", "warning",
     "{count} of {total} positions show no rings."),
    ("rings_empty", "refusal",
     "No rings were found: the pattern is empty."),
    ("rings_no_room", "refusal",
     "No rings can be measured: they need a range of radii of {needed:.0f} px on the detector."),
    ("rings_disagree", "refusal",
     "No rings were found: the radial profiles of {sectors} sectors have a correlation of {agreement:.2f} (at least "
     "{needed:.2f} is needed)."),
    ("rings_flat", "refusal",
     "No rings were found: the radial profile rises by only {rise:.1f} standard errors (at least {needed:.0f} are "
     "needed)."),
    ("rings_no_center", "refusal",
     "No rings were found: the pattern is not a function of the radius about any center."),
    ("rings_uncertain", "refusal",
     "The center of the rings is uncertain by {sigma:.1f} px (at most {needed:.1f} px is allowed)."),
    ("rings_found", "info",
     "The center was found from the rings."),
    ("stored_origin", "info",
     "The origin was read from the calibration."),
    ("nothing_learned", "info",
     "Nothing has been learned yet."),
    ("input_refused", "refusal",
     "{message}"),
    ("origin_sigma_checked", "info",
     "With half of the electrons, the origin scatters by {scatter:.3f} px along each axis; that is {ratio:.2f} ± "
     "{sigma:.2f} times what its sigma predicts ({positions} positions)."),
    ("origin_sigma_understated", "warning",
     "With half of the electrons, the origin scatters by {scatter:.3f} px along each axis; that is {ratio:.2f} ± "
     "{sigma:.2f} times what its sigma predicts ({positions} positions).",
     "Multiply the stated sigma by this factor."),
    ("half_without_beam", "warning",
     "The sigma of the origin was not checked: no direct beam can be located with half of the electrons."),
)
