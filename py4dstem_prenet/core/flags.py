"""Flags: everything that this package tells about a result, from one table.

A decision carries flags, each with its numbers. Reports, verdicts, JSON, pages and alarms are made from flags, and
`docs/flags.md` is written from the table; no code reads a sentence.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

INFO, WARNING, REFUSAL = "info", "warning", "refusal"
SEVERITIES = (INFO, WARNING, REFUSAL)


@dataclass(frozen=True)
class FlagKind:
    """One row of the table.

    Attributes
    ----------
    name : str
        Unique name, for programs.
    stage : str
        The stage that raises it.
    severity : str
        "info", "warning" or "refusal".
    sentence : str
        What it means, with places for its numbers.
    action : str
        What the user should do; empty if nothing.
    """

    name: str
    stage: str
    severity: str
    sentence: str
    action: str = ""


@dataclass(frozen=True)
class Flag:
    """One statement about one result.

    Attributes
    ----------
    name : str
        A name of the table `FLAGS`.
    numbers : dict
        Its numbers, as JSON can hold them.

    Examples
    --------
    >>> flag = Flag("beam_missing", {"count": 3, "total": 36})
    >>> flag.severity, flag.sentence
    ('warning', '3 of 36 positions show no beam.')
    """

    name: str
    numbers: Mapping = field(default_factory=dict)

    def __post_init__(self):
        if self.name not in FLAGS:
            raise KeyError(f"There is no flag {self.name!r}.")

    @property
    def kind(self) -> FlagKind:
        """The row of the table."""
        return FLAGS[self.name]

    @property
    def severity(self) -> str:
        """How serious it is: "info", "warning" or "refusal"."""
        return self.kind.severity

    @property
    def sentence(self) -> str:
        """The statement, with its numbers."""
        return self.kind.sentence.format(**self._words)

    @property
    def action(self) -> str:
        """What the user should do; empty if nothing."""
        return self.kind.action.format(**self._words)

    @property
    def _words(self):
        """The numbers as texts show them: lists of names, or of positions as (row, column), (row, column)."""
        return {name: ", ".join(item if isinstance(item, str) else f"({item[0]}, {item[1]})" for item in value)
                if isinstance(value, list) else value for name, value in self.numbers.items()}

    def to_json(self) -> dict:
        """Return the flag as plain data.

        Returns
        -------
        dict
            flag, stage, severity, numbers, sentence and action.
        """
        return {"flag": self.name, "stage": self.kind.stage, "severity": self.severity, "numbers": dict(self.numbers),
                "sentence": self.sentence, "action": self.action}

    def __str__(self):
        return f"{self.sentence} {self.action}".strip()


@dataclass(frozen=True)
class Decision:
    """Whether a result is fit to be used, and why.

    Attributes
    ----------
    accepted : bool
        Whether the result is fit to be used.
    flags : tuple of Flag
        What is to be known of it, the weightiest first.
    numbers : dict
        The statistics that decided, as JSON can hold them.
    """

    accepted: bool
    flags: tuple[Flag, ...] = ()
    numbers: Mapping = field(default_factory=dict)

    @property
    def text(self) -> str:
        """The flags as one line of text."""
        return " ".join(str(flag) for flag in self.flags)

    def has(self, *names: str) -> bool:
        """Return whether any of these flags is raised.

        Parameters
        ----------
        *names : str
            Names of flags.

        Returns
        -------
        bool
            True if at least one is raised.
        """
        return has_flag(self.flags, *names)


def has_flag(flags, *names: str) -> bool:
    """Return whether any of some flags is among others.

    Parameters
    ----------
    flags : iterable of Flag
        Flags that were raised.
    *names : str
        Names to look for.

    Returns
    -------
    bool
        True if at least one is there.
    """
    return any(flag.name in names for flag in flags)


def worst_severity(flags) -> str:
    """Return the highest severity of some flags.

    Parameters
    ----------
    flags : iterable of Flag
        Flags that were raised.

    Returns
    -------
    str
        "info", "warning" or "refusal"; "info" without any flag.
    """
    return SEVERITIES[max((SEVERITIES.index(flag.severity) for flag in flags), default=0)]


_DETECTOR = (
    ("no_electrons", REFUSAL,
     "No electrons are seen above the read-out noise; the dose is about zero.",
     "Check that the beam was on and that the right data set was read."),
    ("counting", INFO,
     "The detector counts electrons: {dose:,.1f} a pattern."),
    ("integrating", INFO,
     "The detector gives {gain:.4g} units an electron, offset {offset:.4g}, read-out noise {readout:.3g} units; "
     "{dose:,.1f} electrons a pattern."),
    ("bad_pixels", INFO,
     "Bad pixels, as (row, column): {positions}; {count} in all. They have no weight in the fits, and stay in the "
     "counts until datacube.prenet.repaired() is called.",
     "Call it before find_Bragg_disks: a hot pixel moves disks or is taken for one."),
    ("offset_undetermined", WARNING,
     "Offset and read-out noise cannot be separated; one of them is set to zero.",
     "Pass offset= or readout= to estimate_noise if one of them is known."),
    ("gain_undetermined", WARNING,
     "The noise does not grow with the signal; the gain is set as if the noise of the dim regions were counting noise.",
     "Pass gain= to estimate_noise if it is known."),
    ("shared_noise", WARNING,
     "Neighboring pixels share noise (the variance of fine detail is {ratio:.2f} of that of coarse detail); gain and "
     "read-out noise are lower bounds."),
    ("saturated", WARNING,
     "{count} sampled values are at the largest one, {value:g}: the data are saturated."),
    ("clipped", WARNING,
     "{percent:.0f} % of the values are at the smallest one, {value:g}: the data are clipped below."),
    ("inverted", WARNING,
     "Most values are close to the maximum: the contrast may be inverted (bright regions have low values).",
     "If so, invert them: data.max() - data."),
    ("wrapped", WARNING,
     "Dark pixels lie inside bright disks: values may have wrapped at {limit}.",
     "Read or sum the data as wider integers."),
    ("nonlinear", WARNING,
     "The noise grows far less than the signal: values are not proportional to electrons (gamma, logarithm or "
     "smoothing).",
     "Do not rely on doses, sigmas and denoising."),
    ("dead_lines", WARNING,
     "Whole lines of the detector give one value between lines that see electrons, as gaps between chips do (rows: "
     "{rows}; columns: {columns}); these lines are masked."),
    ("interpolated_lines", WARNING,
     "Values are interpolated between their neighbors in whole lines of the detector, as over gaps between chips "
     "(rows: {rows}; columns: {columns}); these lines are masked."),
    ("wide_lines", WARNING,
     "Whole lines of the detector count more than their neighbors, as wide pixels between chips do (rows: {rows}; "
     "columns: {columns}); these lines are masked.",
     "Where a wide pixel stands for several, the pattern is too narrow by the difference: put the missing lines in, "
     "or origin and ellipse are wrong."),
    ("lost_frames", WARNING,
     "{count} of {total} sampled frames were lost: much of them holds one value. They were left out of the noise "
     "model."),
    ("hits", WARNING,
     "{count} single pixels in {total} sampled patterns are too bright for electrons: X-rays or cosmic rays. They were "
     "left out of the noise model.",
     "They stay in the counts; do not take them for Bragg disks."),
    ("repeated_frames", WARNING,
     "{count} of {total} sampled patterns are exact copies of others: frames were repeated."),
    ("unresponsive", WARNING,
     "Pixels around ({row}, {column}) give one value throughout, beside pixels that see electrons.",
     "Exclude dead chips, gaps, beam stops and scale bars with mask=."),
)
_ORIGIN = (
    ("beam_found", INFO,
     "The direct beam was found at every position."),
    ("beam_missing", WARNING,
     "{count} of {total} positions show no beam."),
    ("beam_missing_few", INFO,
     "{count} of {total} positions show no beam; they have the origin of their neighbors and take no part in the fit."),
    ("beam_missing_mostly", REFUSAL,
     "{count} of {total} positions show no beam."),
    ("no_beam", REFUSAL,
     "No beam was found: the sums over blocks of the scan look like noise."),
    ("nothing_located", REFUSAL,
     "No position shows a beam that can be located."),
    ("beam_elsewhere", REFUSAL,
     "{count} of {total} patterns show no direct beam although they hold {ratio:.2f} times the electrons of the "
     "others, so the positions found in the remaining patterns are unreliable.",
     "The beam may lie behind a beam stop or off the detector, or be no brighter than its surroundings in a thick "
     "crystal: pass mask=, or choose a thinner region."),
    ("center_given", INFO,
     "The search started at the place that was given; the direct beam lies {distance:.2g} px from it (median)."),
    ("center_elsewhere", WARNING,
     "Without the place that was given, the search finds a beam at ({qx:.1f}, {qy:.1f}) px, {distance:.3g} px from it.",
     "Check with datacube.prenet.view() which of the two is the direct beam."),
    ("center_searched", INFO,
     "Only the surroundings of the place that was given were searched.",
     "Check that the center, or the origin in the calibration, is (row, column) of the direct beam; replace=True "
     "without center searches the whole pattern."),
    ("center_not_confirmed", REFUSAL,
     "No direct beam was found at the place that was given: the nearest disk lies {nearest:.3g} px from it, more than "
     "{reach:.3g} px.",
     "Check that the center, or the origin in the calibration, is (row, column) of the direct beam; replace=True "
     "without center searches the whole pattern."),
    ("radius_given", INFO,
     "The radius of the direct disk was given as {given:.3g} px, and fitted as {radius:.3g} px."),
    ("position_uncertain", WARNING,
     "A single position is known to {sigma:.2g} px only; counting alone allows {counting:.1g} px.",
     "The dose is low, disks overlap, or the crystal is thick: the fitted origin may have an error of the same size."),
    ("sigma_known", INFO,
     "A single position is known to {sigma:.2g} px along each axis."),
    ("sigma_poor", WARNING,
     "A single position is known to {sigma:.2g} px along each axis only; the fit averages over the scan.",
     "The dose is low, or the direct beam has no sharp edge."),
    ("sigma_unknown", WARNING,
     "No uncertainties of the origin are stored.",
     "Call datacube.prenet.measure_origin()."),
    ("quadrants_swapped", REFUSAL,
     "The pattern continues across opposite edges of the detector: its quadrants are swapped.",
     "Apply numpy.fft.fftshift over the last two axes."),
    ("beam_cut_off", REFUSAL,
     "{percent:.0f} % of the direct disk lie off the detector, so its position and its radius cannot be told apart.",
     "Move the pattern onto the detector."),
    ("beam_cut", WARNING,
     "{percent:.0f} % of the direct disk lie off the detector; this adds {sigma:.2g} px to the sigma of all positions "
     "together."),
    ("pooled_positions", WARNING,
     "Single patterns hold {dose:,.1f} electrons; the direct beam was located in sums over {side} x {side} positions."),
    ("beam_hidden", WARNING,
     "The direct beam is hidden; the reported origin is the center of the rings, which can lie pixels from the direct "
     "beam."),
    ("stop_found", INFO,
     "A beam stop that no mask names covers {pixels} pixels; they are not used.",
     "Look at it in datacube.prenet.show(); report.origin.stop is the mask (True behind the stop), which the "
     "calibration holds as \"prenet_stop\"; calibrate(mask=~report.origin.stop) uses it as the detector mask."),
    ("stray_light", WARNING,
     "A soft spot of {pixels} pixels beside a sharper and brighter one is taken for stray light, and is not used.",
     "If the soft spot is the direct beam, pass center=."),
    ("inversion_used", WARNING,
     "The direct beam is hidden; the reported origin is the center of inversion of the mean pattern (symmetry "
     "{symmetry:.2f}). Its descan is that of the first guess."),
    ("hidden_by_stop", REFUSAL,
     "The direct beam is hidden behind a beam stop or lies off the detector."),
    ("beam_ambiguous", REFUSAL,
     "Several places of the pattern may be the direct beam; the most likely one has a probability of "
     "{probability:.2f}."),
    ("diffuse_elsewhere", REFUSAL,
     "The diffuse scattering is not centered on the located disk but {distance:.0f} px away, near ({qx0:.0f}, "
     "{qy0:.0f}): the disk is a Bragg disk, and the direct beam is hidden, dim or beyond the frame.",
     "If a beam stop hides it, pass mask=; if the place is known, pass center=."),
    ("hidden_undetermined", REFUSAL,
     "Neither rings nor inversion symmetry determine the origin. It is probably near ({qx0:.0f}, {qy0:.0f}), within "
     "{sigma:.2g} px.",
     "Pass mask= with the beam stop, or set the origin by hand."),
    ("rings_missing", WARNING,
     "{count} of {total} positions show no rings."),
    ("rings_empty", REFUSAL,
     "No rings: the pattern is empty."),
    ("rings_no_room", REFUSAL,
     "No rings: less than {needed:.0f} px of radius lie on the detector."),
    ("rings_disagree", REFUSAL,
     "No rings: the radial profiles of {sectors} sectors agree to {agreement:.2f} (needed: at least {needed:.2f})."),
    ("rings_flat", REFUSAL,
     "No rings: the radial profile rises by {rise:.1f} standard errors only (needed: at least {needed:.0f})."),
    ("rings_no_center", REFUSAL,
     "No rings: no center makes the pattern a function of the radius."),
    ("rings_uncertain", REFUSAL,
     "The center of the rings is uncertain by {sigma:.1f} px (at most {needed:.1f} px is allowed)."),
    ("rings_found", INFO,
     "The center was found from the rings."),
    ("stored_origin", INFO,
     "The origin was read from the calibration."),
    ("nothing_learned", INFO,
     "Nothing has been learned yet."),
    ("input_refused", REFUSAL,
     "{message}"),
    ("origin_sigma_checked", INFO,
     "Measured in two halves of the electrons, the origin scatters by {scatter:.3f} px along each axis, which is "
     "{ratio:.2f} ± {sigma:.2f} times the stated sigma ({positions} positions)."),
    ("origin_sigma_understated", WARNING,
     "Measured in two halves of the electrons, the origin scatters by {scatter:.3f} px along each axis, which is "
     "{ratio:.2f} ± {sigma:.2f} times the stated sigma ({positions} positions).",
     "Multiply the stated sigma by this factor."),
    ("half_without_beam", WARNING,
     "The sigma of the origin was not checked: no direct beam can be located with half of the electrons."),
)
_DESCAN = (
    ("no_surface", REFUSAL,
     "No descan: only {count} of {total} positions can be used."),
    ("most_positions_off", REFUSAL,
     "{percent:.0f} % of the measured positions disagree with the {model}."),
    ("two_surfaces", REFUSAL,
     "{percent:.0f} % of the measured positions lie side by side on another surface.",
     "Crop the scan between them with datacube.prenet.crop_R, and calibrate the parts."),
    ("too_few_positions", REFUSAL,
     "{count} positions are too few to tell whether deviations of {deviation:.2g} px are descan or errors.",
     "Write the measured origin, calibration.set_origin(calibration.get_origin_meas()), or insist on a model: "
     "datacube.prenet.fit_origin('{model}')."),
    ("single_position", INFO,
     "The scan has one usable position."),
    ("residuals_white", INFO,
     "The residuals are noise: {scale:.2f} times the stated sigma, without spatial correlation."),
    ("residuals_correlated", WARNING,
     "The residuals are spatially correlated ({shared:.2g} px rms, {sigmas:.1f} standard errors), probably by "
     "deflection of the beam in the specimen.",
     "Keep the smooth fit; a richer model would follow the specimen."),
    ("model_too_simple", WARNING,
     "A {model} does not describe the descan: positions scatter by {scatter:.2g} px about it, and by {left:.2g} px "
     "about a {better}.",
     "Call datacube.prenet.fit_origin() without a model."),
    ("residuals_large", WARNING,
     "The residuals scatter by {scatter:.2g} px, {scale:.1f} times the stated sigma, without spatial correlation.",
     "This averages out in the fit."),
    ("few_positions", WARNING,
     "{count} positions are too few to test the residuals."),
    ("outliers", WARNING,
     "{percent:.0f} % of the measured positions are outliers and were ignored."),
    ("model_undetermined", WARNING,
     "The positions do not determine a {asked}; a {model} was fitted."),
    ("extrapolated", WARNING,
     "No beam was measured outside scan rows {first_row} to {last_row} and columns {first_column} to {last_column}; "
     "the surface continues there as a {model}."),
    ("jump", WARNING,
     "The beam jumps by {step:+.2f} px in {coordinate} ({sigmas:.0f} sigma) between scan rows {row} and {next_row}; "
     "the fit follows."),
    ("more_jumps", WARNING,
     "The beam jumps {count} more times in {coordinate}."),
    ("too_many_jumps", WARNING,
     "{count} jumps are too many for a surface with steps.",
     "Crop the scan between them with datacube.prenet.crop_R, and calibrate the parts."),
    ("segments", WARNING,
     "The descan changes at scan {places}, as in joined scans; it is fitted in {count} parts."),
    ("rows_reversed", WARNING,
     "Every second scan row is reversed, as in a snake scan that was read as a raster; the fit follows.",
     "Reverse these rows of the scan (data[1::2] = data[1::2, ::-1]) and calibrate again: images are wrong as well."),
    ("frames_shifted", WARNING,
     "All frames lie {count} positions too late in the scan, as with extra triggers at its start (negative: too "
     "early); the fit follows.",
     "Move the frames back and calibrate again: images are wrong as well."),
    ("frames_missing", WARNING,
     "From scan row {row}, column {column} on, frames lie {count} positions too early, as after missing triggers "
     "(negative: too late); the fit follows.",
     "Move the frames and calibrate again: images are wrong as well."),
    ("row_length_wrong", WARNING,
     "Scan rows have {length} frames, not {columns}; the fit follows.",
     "Open the file again with the right scan shape: images are wrong as well."),
    ("row_steps", WARNING,
     "The beam jumps with each scan row (typically by {step:.2g} px); the fit follows."),
    ("lines_elsewhere", WARNING,
     "Whole scan rows ({rows}) or columns ({columns}) lie off the surface of the others, as frames taken on the way "
     "back do; the measured origin stands there.",
     "Crop them with datacube.prenet.crop_R if they do not belong to the scan."),
    ("centered_before", WARNING,
     "The patterns were centered to whole pixels before; the fit follows the fractions of a pixel that are left."),
    ("beam_jumps", REFUSAL,
     "The beam jumps {count} times between frames (typically by {step:.2g} px), so no surface describes the descan.",
     "Use the measured origin: calibration.set_origin(calibration.get_origin_meas())."),
    ("order_unknown", REFUSAL,
     "{percent:.0f} % of the positions lie off the surface but agree with the frames before or after: frames are "
     "missing, misplaced, or the beam jumped.",
     "Check the order of the frames; the measured origin can be used."),
    ("positions_scatter", REFUSAL,
     "Positions scatter by {scatter:.2g} px about any surface, {ratio:.0f} times what counting allows, and not as "
     "errors do: the beam jumps from frame to frame, or other disks were taken for it.",
     "Look at single patterns; if the positions are right, use the measured origin."),
    ("origin_moved", WARNING,
     "The origin in the calibration is {moved:.2f} px (rms) from the best fit, a {model}.",
     "datacube.prenet.fit_origin() writes the best fit."),
    ("origin_far_off", REFUSAL,
     "The origin in the calibration is {moved:.2f} px (rms) from the best fit, a {model}.",
     "datacube.prenet.fit_origin() writes the best fit."),
    ("fit_not_accepted", REFUSAL,
     "No descan fit is in the calibration."),
    ("specimen_explains", INFO,
     "{percent:.0f} % of the variance of the residuals follows virtual images and their slopes: the specimen deflects "
     "the beam or shades the disk."),
    ("origin_error", INFO,
     "Along each axis, the fitted origin is uncertain by {uncertainty:.3f} px (noise), and a richer model would move "
     "it by {choice:.3f} px (rms). At a Bragg disk {distance:.0f} px away, {error:.2g} px are {strain:.2g} % of "
     "strain."),
)
_ELLIPSE = (
    ("ellipse_determined", INFO,
     "The ellipse is determined from {sources}, with a sigma of {sigma:.4f} in a/b."),
    ("ellipse_no_evidence", REFUSAL,
     "The ellipse is not determined: neither rings nor the image of a round aperture can be seen."),
    ("ellipse_sources_disagree", REFUSAL,
     "The ellipse is refused: the estimates from {sources} disagree by {sigmas:.1f} sigma."),
    ("ellipse_uncertain", REFUSAL,
     "The ellipse is not determined: a/b is uncertain by {sigma:.3f} (at most {needed:.3f} is allowed)."),
    ("spots_only", WARNING,
     "No continuous ring is seen; Bragg spots cannot separate strain from distortion."),
    ("beam_shape_left_out", WARNING,
     "The shape of the direct beam disagrees with the rings by {sigmas:.1f} sigma and was left out; the aperture may "
     "not be round."),
    ("rings_off_center", WARNING,
     "The center of the rings lies ({dx:+.2f}, {dy:+.2f}) px from the direct beam (sigma {sigma_x:.2f}, "
     "{sigma_y:.2f}); the reported origin is the direct beam."),
    ("symmetric_elsewhere", WARNING,
     "The mean pattern is symmetric ({there:.2f}) about a point ({dx:+.0f}, {dy:+.0f}) px from the origin, and less "
     "({here:.2f}) about the origin.",
     "Check whether the origin lies in a diffracted disk."),
    ("region_without_beam", REFUSAL,
     "No position of this region shows a beam."),
    ("radius_unknown", INFO,
     "No disk lies at the origin in the calibration, so its shape was not used.",
     "If the direct beam is visible, check the origin, or set the radius with calibration.set_probe_semiangle."),
    ("ellipse_given", INFO,
     "The ellipse was set by hand: a/b {ratio:.4f}, a axis at {degrees:.1f}° from +qx toward +qy."),
    ("ellipse_agrees", INFO,
     "It agrees with what this scan shows: the difference is {difference:.4f} in a/b, {sigmas:.1f} sigma."),
    ("ellipse_untested", INFO,
     "This scan does not show its ellipse, so the one that is set was not tested."),
    ("given_ellipse_differs", WARNING,
     "It differs from what this scan shows by {difference:.4f} in a/b, {sigmas:.1f} sigma.",
     "Leave ellipse= out to use that of the scan."),
    ("ellipse_not_set", WARNING,
     "No ellipse is set: rings stay as the detector shows them, and distortion is taken for strain.",
     "Measure strain against a reference region of the same scan, or set the ellipse of a standard."),
    ("ellipse_unconfirmed", WARNING,
     "An ellipse is set (by {author}), but this scan cannot confirm it."),
    ("ellipse_confirmed", INFO,
     "The ellipse that is set (by {author}) agrees with this scan: a/b {ratio:.4f} ± {sigma:.4f}, a axis at "
     "{degrees:.1f}° from +qx toward +qy.",
     "calibration.set_ellipse((None, None, None)) removes it."),
    ("ellipse_differs", REFUSAL,
     "The ellipse that is set (by {author}) differs from that of this scan by {difference:.4f} in a/b, {sigmas:.0f} "
     "sigma."),
    ("ellipse_halves_agree", INFO,
     "Two halves of the electrons give ellipses that differ by {difference:.4f} in a/b, {sigmas:.1f} times the stated "
     "sigma ({positions} positions)."),
    ("ellipse_halves_differ", WARNING,
     "Two halves of the electrons give ellipses that differ by {difference:.4f} in a/b, {sigmas:.1f} times the stated "
     "sigma ({positions} positions).",
     "Multiply the stated sigma by this factor."),
    ("half_without_ellipse", WARNING,
     "The sigma of the ellipse was not checked: no ellipse can be measured with half of the electrons."),
)
_PIXEL_SIZE = (
    ("pixel_size_determined", INFO,
     "The pixel size is determined from the {evidence} of {standard}, with a sigma of {percent:.2g} %; {rings} rings "
     "agree within {scatter:.2g} % (rms)."),
    ("pixel_size_no_rings", REFUSAL,
     "The pixel size is not determined: fewer than two rings of {standard} fit the pattern outside the direct beam."),
    ("pixel_size_ambiguous", REFUSAL,
     "The pixel size is not determined: the rings of {standard} fit with {first:.5f} and with {second:.5f} 1/Å per "
     "pixel, and the difference of log likelihood times two is only {margin:.1f} ({needed:.0f} is needed)."),
    ("pixel_size_other_lattice", REFUSAL,
     "The pixel size is not determined: the rings of {other} with a cell of free size fit as well as those of "
     "{standard} (log likelihood times two, {other} over {standard}: {margin:.1f}).",
     "Check whether the specimen is {standard}."),
    ("pixel_size_inconsistent", REFUSAL,
     "The pixel size is not determined: the rings differ from those of {standard} by {scatter:.2g} % (rms), beyond "
     "their noise.",
     "Check whether the specimen is {standard}."),
    ("pixel_size_uncertain", REFUSAL,
     "The pixel size is not determined: it is uncertain by {percent:.2g} % (at most {needed:.2g} % is allowed)."),
    ("radial_distortion", WARNING,
     "The radius of rings at {radius:.0f} px differs by {percent:+.2f} ± {sigma:.2f} % from that with a constant pixel "
     "size; the pixel size is that at the center.",
     "datacube.prenet.corrected() removes the distortion."),
    ("threefold_distortion", WARNING,
     "Rings have a threefold distortion of {percent:.2f} ± {sigma:.2f} % at {radius:.0f} px.",
     "datacube.prenet.corrected() removes the distortion."),
)
_ROTATION = (
    ("rotation_determined", INFO,
     "The pattern is rotated against the scan by {degrees:.2f}°, from the {sources}, with a sigma of {sigma:.2f}°."),
    ("rotation_sign_from_atoms", INFO,
     "The deflection points toward places that are bright in the dark field ({sigmas:.0f} sigma), which holds for thin "
     "specimens and leaves no half turn open."),
    ("rotation_half_turn_open", WARNING,
     "The rotation is known up to half a turn: {degrees:.1f}° or {degrees:.1f}° + 180°.",
     "If the sign of fields matters, decide it with measure_rotation(feature=image), an image that is brighter where "
     "the specimen is heavier."),
    ("rotation_no_field", REFUSAL,
     "The rotation is not determined: the deflection of the beam has no relation to the scan (probability by chance "
     "{probability:.2g}).",
     "Measure it on a scan at atomic resolution, or with a defocused probe, of the same microscope settings."),
    ("rotation_scan_small", REFUSAL,
     "The rotation is not determined: a scan of {rows} x {columns} positions is too small (at least {needed} x "
     "{needed} are needed)."),
    ("rotation_flip_open", REFUSAL,
     "The rotation is not determined: with and without flip the data fit almost as well ({ratio:.2f}, difference "
     "{sigmas:.1f} sigma), as with fields or contrast along one direction.",
     "Measure it on a scan with structure along all directions."),
    ("rotation_curl", REFUSAL,
     "The rotation is refused: {curl:.0%} of the power of the deflection has curl at any angle (at most {allowed:.0%} "
     "is allowed), as if diffraction contrast, a coarse scan step or a distorted scan caused it."),
    ("rotation_uncertain", REFUSAL,
     "The rotation is not determined: it is uncertain by {sigma:.2g}° (at most {needed:.2g}° is allowed)."),
    ("rotation_sources_disagree", REFUSAL,
     "The rotation is refused: center of mass and shadow image disagree (degrees, flip): {degrees}."),
)
_PROBE = (
    ("probe_measured", INFO,
     "The probe is the mean direct beam of {positions} positions, {electrons:,.0f} electrons."),
    ("probe_from_aperture", WARNING,
     "The probe is drawn from the aperture (radius {radius:.2f} px, edge {edge:.2f} px), because {cause}.",
     "For a measured image, take the probe of a vacuum scan of the same microscope settings."),
    ("probe_hidden", REFUSAL,
     "There is no probe: the direct beam is hidden.",
     "Take the probe of a vacuum scan of the same microscope settings."),
    ("probe_unknown", REFUSAL,
     "There is no probe: no disk can be fitted to the mean direct beam."),
)
_CALIBRATION = (
    ("disks_not_centered", WARNING,
     "The cube has no calibrated origin, so the Bragg vectors are not centered, and strain or orientation cannot be "
     "mapped from them.", "Call datacube.prenet.calibrate() (prenet calibrate) first."),
    ("pixel_size_from_crystal", INFO,
     "The pixel size, {value:.6f} ± {sigma:.6f} {unit}, was measured in this scan from {standard}. The calibration "
     "holds {stored:.6f}, times sqrt(a/b) of the ellipse, as py4DSTEM needs it."),
    ("pixel_size_from_standard", INFO,
     "The pixel size, {value:.6g} {unit}, was carried over from {source}."),
    ("pixel_size_untested", WARNING,
     "The pixel size, {value:.6g} {unit}, was set by {author}, and was not tested.",
     "If the specimen, or another scan of this camera length, is a known crystal: calibrate(standard=...)."),
    ("rotation_from_standard", INFO,
     "Rotation and flip, {degrees:.2f}° and {flipped}, were carried over from {source}."),
    ("rotation_untested", WARNING,
     "Rotation and flip, {degrees:.2f}° and {flipped}, were set by {author}, and were not tested.",
     "datacube.prenet.measure_rotation() measures them, if the field of the specimen shows them."),
    ("pixel_size_written", INFO,
     "The pixel size was written (set_Q_pixel_size)."),
    ("pixel_size_not_written", WARNING,
     "The pixel size was not written; what the calibration had was kept."),
    ("pixel_size_replaced", INFO,
     "The pixel size that the calibration had, {value:.6g} {unit} ({author}), was replaced."),
    ("pixel_size_stale", REFUSAL,
     "The ellipse was changed since the pixel size was measured, which py4DSTEM applies together with it.",
     "Measure the pixel size again: datacube.prenet.measure_pixel_size(standard=...)."),
    ("standard_written", INFO,
     "Written from {source}: {quantities}."),
    ("rotation_written", INFO,
     "Rotation and flip were written (set_QR_rotflip_degrees)."),
    ("rotation_not_written", WARNING,
     "Rotation and flip were not written."),
    ("origin_written", INFO,
     "The measured origin was written (set_origin_meas): the {feature}."),
    ("fit_written", INFO,
     "The fitted origin was written (set_origin): {model}."),
    ("fit_not_written", WARNING,
     "The fitted origin was not written."),
    ("ellipse_written", INFO,
     "The ellipse was written (set_ellipse)."),
    ("ellipse_not_written", WARNING,
     "The ellipse was not written."),
    ("nothing_written", REFUSAL,
     "Nothing was written."),
    ("not_written_as_asked", INFO,
     "Nothing was written, as was asked."),
    ("fit_kept", WARNING,
     "The origin in the calibration was set by {author} and was kept; the fitted one lies {distance:.2g} px from it "
     "(rms).",
     "calibrate(replace=True) replaces it."),
    ("ellipse_kept", WARNING,
     "The ellipse in the calibration was set by {author} and was kept; it differs from the measured one by "
     "{difference:.4f} in a/b, {sigmas:.1f} sigma.",
     "calibrate(replace=True) replaces it."),
    ("ellipse_kept_agrees", INFO,
     "The ellipse in the calibration was set by {author} and was kept; it agrees with the measured one: the difference "
     "is {difference:.4f} in a/b, {sigmas:.1f} sigma."),
    ("ellipse_kept_untested", INFO,
     "The ellipse in the calibration was set by {author} and was kept; this scan does not show its ellipse."),
    ("ellipse_not_asked", INFO,
     "The ellipse was not measured, as was asked; that in the calibration was kept."),
    ("scan_running", INFO,
     "{count} of {total} positions so far; nothing is written before the end."),
    ("calibration_current", INFO,
     "The calibration belongs to these data."),
    ("calibration_missing", REFUSAL,
     "No origin was measured.",
     "Call datacube.prenet.calibrate()."),
    ("other_scan_shape", REFUSAL,
     "The {name} is for a scan of {was} positions, but the scan is {now}.",
     "Crop and bin with datacube.prenet.crop_R and bin_R, which keep the calibration, or calibrate again."),
    ("other_pattern_shape", REFUSAL,
     "The {name} is for patterns of {was} pixels, but they are {now}.",
     "Crop and bin with datacube.prenet.crop_Q and bin_Q, which keep the calibration, or calibrate again."),
    ("origin_outside", REFUSAL,
     "The {name} lies at ({qx0:.0f}, {qy0:.0f}) px, outside patterns of {now} pixels.",
     "Crop and bin with datacube.prenet.crop_Q and bin_Q, which keep the calibration, or calibrate again."),
    ("mean_origin_moved", WARNING,
     "The mean origin in the calibration is ({dx:+.2f}, {dy:+.2f}) px from the mean of the origin maps, as after "
     "get_probe_size(); the axes of the cube follow it.",
     "Call datacube.calibration.set_origin(datacube.calibration.get_origin())."),
    ("other_data", REFUSAL,
     "The calibration was measured in other data: in another scan, or before the values of this one were changed.",
     "Calibrate this scan; calibrate(like=) carries over from another scan what belongs to the microscope."),
    ("radius_stale", REFUSAL,
     "The probe radius was measured in patterns of another size."),
    ("fit_stale", REFUSAL,
     "The origin was measured again since it was fitted.",
     "Call datacube.prenet.fit_origin()."),
    ("sigma_stale", WARNING,
     "The stored uncertainties of the origin belong to an earlier measurement and are not used.",
     "datacube.prenet.measure_origin() makes new ones."),
    ("bragg_vectors_stale", REFUSAL,
     "{name} was found in data of shape {was}.",
     "Find the disks again."),
)
_TRANSFER = (
    ("carried_over", INFO,
     "Carried over from {source}: {quantities}."),
    ("pixel_size_adapted", INFO,
     "The pixel size was converted to the ellipse of this scan (a/b {ratio:.4f}; that of the standard is "
     "{standard:.4f})."),
    ("standard_lacks", INFO,
     "{source} does not hold: {quantities}."),
    ("standard_bare", WARNING,
     "{source} is a calibration without its scan, so shape of the patterns, camera length, voltage and date were not "
     "compared, and it states no uncertainty; one of its pixels is taken for {binning:g} of this scan.",
     "Check that both were recorded with the same camera length and binning."),
    ("standard_contradicted", REFUSAL,
     "This scan contradicts the ellipse of the standard by {difference:.4f} in a/b, {sigmas:.1f} sigma; not carried "
     "over: {quantities}.",
     "Check that both were recorded with the same camera length and alignment. If the ellipse of the standard is "
     "right, set it by hand: calibrate(ellipse=(a, b, theta))."),
    ("standard_differs", WARNING,
     "The rings of this scan differ from the ellipse of the standard by {difference:.4f} in a/b, {sigmas:.1f} sigma, "
     "as by uniform strain.",
     "If the specimen is not strained, check that both were recorded with the same camera length and alignment."),
    ("beam_shape_differs", WARNING,
     "The shape of the direct beam differs from the ellipse of the standard by {difference:.4f} in a/b, {sigmas:.1f} "
     "sigma; the aperture may not be round.",
     "Check that both were recorded with the same camera length and alignment."),
    ("voltage_differs", REFUSAL,
     "Nothing was carried over: the standard was recorded at {theirs:g} V, this scan at {ours:g} V."),
    ("camera_length_differs", REFUSAL,
     "Nothing was carried over: the camera length of the standard is {theirs:g}, that of this scan {ours:g}."),
    ("standard_old", WARNING,
     "The standard was recorded {days} days from this scan."),
    ("frames_differ", REFUSAL,
     "Not carried over, since the detector frame of the standard is {theirs} px and that of this scan {ours} px: "
     "{quantities}.",
     "If one of them was binned, give binning=, pixels of the standard along a pixel of this scan; 1 if one was "
     "cropped."),
    ("scale_differs", REFUSAL,
     "Not carried over, since the pixel size of the standard, {theirs:.4g} {unit}, is far from the one in this scan, "
     "{ours:.4g} {unit}: {quantities}.",
     "Check the camera lengths, and binning=; if the pixel size in this scan is wrong, set its unit to pixels."),
    ("scan_differs", REFUSAL,
     "The descan was not carried over: the standard was scanned with {theirs} positions, this scan with {ours}, or "
     "with other steps."),
    ("descan_agrees", INFO,
     "The measured positions show the descan of the standard with the amplitude {amplitude:.3f} ± {sigma:.3f}."),
    ("descan_untested", INFO,
     "The measured positions do not test the descan of the standard."),
    ("descan_contradicted", REFUSAL,
     "The descan was not carried over: the measured positions show it with the amplitude {amplitude:.3f} ± "
     "{sigma:.3f}, not 1."),
)
_DENOISING = (
    ("denoising_attenuates", REFUSAL,
     "Denoising flattens the {quantity}: {slope:.2f} ± {sigma:.2f} of its variation over the scan is left.",
     "Measure it on the raw counts."),
    ("denoising_exaggerates", REFUSAL,
     "Denoising exaggerates the {quantity}: its variation over the scan becomes {slope:.2f} ± {sigma:.2f} times as "
     "large.",
     "Measure it on the raw counts."),
    ("denoising_keeps_slopes", INFO,
     "Denoising keeps the variation over the scan of {quantities}: the slopes are 1 within {deviation:.2f}, and known "
     "to {sigma:.2f}."),
    ("attenuation_unknown", WARNING,
     "Not known to be kept by denoising, since their slopes are not known to 5 %: {quantities}.",
     "Measure them on the raw counts. In a larger scan, check_denoising(datacube, positions=1024) of py4dstem_prenet "
     "tells more."),
    ("denoising_lowers_error", INFO,
     "Denoising lowers the squared error of single pixels to {error:.3g} ± {sigma:.1g} of that of the raw counts."),
    ("denoising_harmful", REFUSAL,
     "Denoising makes these data worse: its squared error is {error:.3g} ± {sigma:.1g} of that of the raw counts.",
     "Use the raw counts."),
    ("denoising_no_effect", WARNING,
     "Denoising makes no significant difference: its squared error is {error:.3g} ± {sigma:.1g} of that of the raw "
     "counts.",
     "Use the raw counts."),
    ("rival_better", WARNING,
     "The best {method} has a lower error ({error:.3g} ± {sigma:.1g})."),
    ("shared_noise_flatters", WARNING,
     "Neighboring pixels share noise (fine detail has {ratio:.2f} of the variance of independent noise), so all errors "
     "of methods that average pixels are lower bounds."),
    ("not_checked", WARNING,
     "The {check} cannot be checked on these data, since their noise is not independent counting noise."),
    ("few_electrons", WARNING,
     "There are too few electrons to test the noise."),
    ("noise_correlated", WARNING,
     "Neighboring pixels share noise (scintillator, interpolation or compression: fine detail has {ratio:.2f} of the "
     "variance of independent noise), so halves of their counts are not independent."),
    ("noise_too_small", WARNING,
     "The variance of the noise falls to {ratio:.2f} of that of counting, as after a gamma, rescaling or a filter."),
    ("noise_too_large", WARNING,
     "The variance of the noise is {ratio:.2f} times that of the noise model."),
    ("fine_tuned", INFO,
     "Fine-tuning helped: the deviance of held-out electrons fell by {gain:.3g} ± {gain_sigma:.2g} a pixel and the "
     "squared error changed by {error:+.3g} ± {error_sigma:.2g} of the raw one, in {steps} steps."),
    ("fine_tuning_no_gain", REFUSAL,
     "Fine-tuning did not help enough: the deviance of held-out electrons fell by {gain:.3g} ± {gain_sigma:.2g} a "
     "pixel and the squared error changed by {error:+.3g} ± {error_sigma:.2g} of the raw one, in {steps} steps. No "
     "weights were written.",
     "Keep the weights that you have."),
    ("fine_tuning_refused", REFUSAL,
     "Fine-tuning was not tried, since the network would learn the noise of these data. No weights were written."),
)
_FILES = (
    ("scan_cut_short", WARNING,
     "The file holds {frames} of {stated} frames; the first {rows} of {stated_rows} rows of {columns} positions are "
     "whole and were opened.",
     "Check whether the acquisition was interrupted, or the shape of the scan is wrong."),
    ("frames_left_over", WARNING,
     "The file holds {frames} frames, {extra} more than the scan has positions; the last {extra} were left out.",
     "Check where the additional frames are: if they come first, all patterns belong to other positions."),
    ("frame_cut_short", WARNING,
     "The file ends within a frame; the {frames} whole frames before it were opened."),
    ("sources_missing", WARNING,
     "{count} files that {name} links to are missing, beginning with {first}; what is there was opened.",
     "Copy the files into the folder of the file that links to them."),
    ("pixel_sizes_differ", WARNING,
     "The pixel sizes of the two {space} axes differ ({first:.4g} and {second:.4g} {unit}); py4DSTEM holds one, the "
     "first."),
    ("pixel_size_unknown", WARNING,
     "The {space} pixel size in the file, {size:.4g} {unit}, is not in a unit of a {space} axis, and was left out."),
    ("pixel_size_on_camera", WARNING,
     "The Q pixel size, {size:.4g} {unit}, is a length on the camera, and the file states no camera length.",
     "Calibrate the pixel size, for example with a standard."),
    ("reader_warned", WARNING,
     "The reader of the file says: {text}"),
)
_LIVE = (
    ("alarm_beam_lost", WARNING,
     "{count} consecutive positions {look}, starting at scan row {row}, column {column}; {state}."),
    ("alarm_dose_low", WARNING,
     "The direct beam of one pattern is known to {sigma:.2g} px, {strain:.2g} % of strain at a disk {distance:.0f} px "
     "away; {wanted:.2g} % needs at least {times:.1f} times the {dose:,.0f} electrons."),
    ("alarm_jump", WARNING,
     "The beam jumps by ({dx:+.1f}, {dy:+.1f}) px between scan rows {before} and {row}."),
    ("alarm_edge", WARNING,
     "The direct beam touches the edge of the detector."),
    ("alarm_drift", WARNING,
     "The beam is ({dx:+.1f}, {dy:+.1f}) px from where the scan began, beyond the window of ±{reach:.0f} px."),
    ("alarm_saturation", WARNING,
     "Many pixels are at the largest value: the detector saturates.",
     "Lower the dose, or mask pixels that always hold one value."),
    ("alarm_ellipse_changes", WARNING,
     "a/b goes from {ratio_before:.4f} at {angle_before:.0f}° to {ratio_after:.4f} at {angle_after:.0f}° between the "
     "halves of the rows so far ({sigmas:.1f} sigma)."),
)

_SUMMARY = (
    ("summary_no_origin", REFUSAL,
     "No origin was found, so nothing was calibrated and nothing was written."),
    ("summary_origin", INFO,
     "The {feature} was found at {count} of {total} positions, in the median at qx0 = {qx0:.2f} px (row, downward) and "
     "qy0 = {qy0:.2f} px (column, to the right); a single position is known to {sigma:.2g} px along each axis."),
    ("summary_origin_unsure", WARNING,
     "The {feature} was found at {count} of {total} positions, in the median at qx0 = {qx0:.2f} px (row, downward) and "
     "qy0 = {qy0:.2f} px (column, to the right), without a stated uncertainty."),
    ("summary_single", INFO,
     "The {feature} of the pattern is at qx0 = {qx0:.2f} px (row, downward) and qy0 = {qy0:.2f} px (column, to the "
     "right), known to {sigma:.2g} px along each axis. A single pattern has no descan."),
    ("summary_single_unsure", WARNING,
     "The {feature} of the pattern is at qx0 = {qx0:.2f} px (row, downward) and qy0 = {qy0:.2f} px (column, to the "
     "right), without a stated uncertainty. A single pattern has no descan."),
    ("summary_descan", INFO,
     "The descan is a {model} that moves the origin by {span_x:.2f} px (qx0) and {span_y:.2f} px (qy0) over the scan, "
     "and the fitted origin is known to {sigma:.2g} px along each axis."),
    ("summary_constant", INFO,
     "The same origin holds for the whole scan, and is known to {sigma:.2g} px along each axis."),
    ("summary_descan_unsure", WARNING,
     "The descan is a {model} that moves the origin by {span_x:.2f} px (qx0) and {span_y:.2f} px (qy0) over the scan, "
     "without a stated uncertainty."),
    ("summary_no_descan", REFUSAL,
     "No fitted origin was accepted: no surface describes the measured positions."),
    ("summary_ellipse", INFO,
     "Patterns are elliptical: a/b = {ratio:.4f} ± {sigma:.4f}, with the a axis at {degrees:.1f} ± "
     "{degrees_sigma:.1f}° from +qx toward +qy."),
    ("summary_ellipse_unsure", WARNING,
     "The ellipse that is set (a/b = {ratio:.4f}, a axis at {degrees:.1f}° from +qx toward +qy) states no "
     "uncertainty."),
    ("summary_round", INFO,
     "Patterns are round within the uncertainty: a/b = {ratio:.4f} ± {sigma:.4f}."),
    ("summary_no_ellipse", WARNING,
     "The elliptical distortion is not known."),
    ("summary_pixel_size", INFO,
     "A detector pixel is {value:.6f} ± {sigma:.6f} {unit}."),
    ("summary_pixel_size_unsure", WARNING,
     "The pixel size that is set, {value:.6g} {unit}, states no uncertainty."),
    ("summary_rotation", INFO,
     "The pattern is rotated against the scan by {degrees:.2f} ± {sigma:.2f}° and {flipped}."),
    ("summary_rotation_unsure", WARNING,
     "The rotation between pattern and scan that is set, {degrees:.2f}° and {flipped}, states no uncertainty."),
    ("next_use", INFO,
     "Next: find Bragg disks (datacube.prenet.bragg_disks()) and map strain or orientation, or save the calibration; "
     "py4DSTEM reads it from the cube."),
    ("next_read", INFO,
     "Next: look at datacube.prenet.show(), and read the warnings ({count}, marked ! or x, or amber or red); then find "
     "Bragg disks (datacube.prenet.bragg_disks()) and map strain or orientation."),
    ("next_single", INFO,
     "Next: save the calibration, or apply it to a scan recorded with the same settings (calibrate(like=...))."),
    ("next_refusals", REFUSAL,
     "Next: do what the refusals say (marked with x or red: {count}), and calibrate again; do not use this calibration "
     "before."),
    ("next_repair", INFO,
     "Use datacube.prenet.repaired() for py4DSTEM's find_Bragg_disks, since {count} bad pixels are in the counts; "
     "bragg_disks() leaves them out itself."),
    ("avoid_direct_beam", WARNING,
     "Do not take this center for the direct beam: it is the {feature}, which can lie pixels away."),
    ("avoid_denoised", WARNING,
     "Do not measure on denoised patterns what the denoising verdict says is changed; use the raw counts."),
    ("avoid_denoised_unknown", WARNING,
     "Do not map strain from denoised patterns: on this scan it could not be tested that denoising keeps it."),
    ("avoid_richer_model", WARNING,
     "Use the fitted origin. The measured origin, or a richer model, would follow the specimen."),
    ("avoid_lengths", INFO,
     "Do not read lattice spacings from it: the pixel size is not known, and lengths stay in pixels "
     "(calibrate(standard=...) or calibrate(like=...) adds it)."),
    ("avoid_lengths_refused", INFO,
     "Do not read lattice spacings from it: the pixel size was refused, and lengths stay in pixels."),
    ("avoid_directions", INFO,
     "Do not compare strain along different directions without a reference region of the same scan: an unknown ellipse "
     "looks like strain (calibrate(like=...) takes that of a standard)."),
    ("avoid_sign", INFO,
     "Do not use the sign of electric or magnetic fields: half a turn of the rotation is open."),
)

FLAGS: dict[str, FlagKind] = {
    row[0]: FlagKind(row[0], stage, *row[1:])
    for stage, rows in (("detector", _DETECTOR), ("origin", _ORIGIN), ("descan", _DESCAN), ("ellipse", _ELLIPSE),
                        ("pixel_size", _PIXEL_SIZE), ("rotation", _ROTATION), ("probe", _PROBE),
                        ("calibration", _CALIBRATION), ("transfer", _TRANSFER), ("denoising", _DENOISING),
                        ("files", _FILES), ("live", _LIVE), ("summary", _SUMMARY))
    for row in rows
}
