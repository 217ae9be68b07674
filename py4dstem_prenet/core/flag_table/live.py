"""Flags of alarms of a running scan."""

LIVE_FLAGS = (
    ("alarm_beam_lost", "warning",
     "{count} consecutive positions {look}, starting at scan row {row}, column {column}; {state}.",
     "Check the beam, its shutter and the beam blanker."),
    ("alarm_dose_low", "warning",
     "The position of the direct beam in one pattern is uncertain by {sigma:.2g} px. This is {strain:.2g} % of "
     "strain at a disk {distance:.0f} px away. A precision of {wanted:.2g} % needs at least {times:.1f} times the "
     "{dose:,.0f} electrons per pattern of this scan.",
     "Increase the dwell time or the beam current."),
    ("alarm_jump", "warning",
     "The beam jumps by ({dx:+.1f}, {dy:+.1f}) px between scan rows {before} and {row}."),
    ("alarm_edge", "warning",
     "The direct beam touches the edge of the detector.",
     "Move the pattern onto the detector."),
    ("alarm_drift", "warning",
     "The beam is ({dx:+.1f}, {dy:+.1f}) px from its position at the start of the scan, more than the ±{reach:.0f} "
     "px that are allowed."),
    ("alarm_saturation", "warning",
     "Many pixels hold the largest value: the detector is saturated.",
     "Lower the dose, or mask pixels that always hold one value."),
    ("alarm_ellipse_changes", "warning",
     "The ellipse changes during the scan: between the halves of the rows so far, a/b changes from "
     "{ratio_before:.4f} at {angle_before:.0f}° to {ratio_after:.4f} at {angle_after:.0f}° ({sigmas:.1f} sigma)."),
)
