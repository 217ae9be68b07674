"""Flags of rotation and flip between scan and pattern."""

ROTATION_FLAGS = (
    ("rotation_determined", "info",
     "The pattern is rotated against the scan by {degrees:.2f}°, from the {sources}, with a sigma of {sigma:.2f}°."),
    ("rotation_sign_from_atoms", "info",
     "The beam is deflected toward regions that are bright in the dark field ({sigmas:.0f} sigma), as it is by the "
     "atoms of a thin specimen; this decides between the rotation and the rotation plus 180°."),
    ("rotation_half_turn_open", "warning",
     "The rotation is known up to half a turn: it is {degrees:.1f}° or {degrees:.1f}° + 180°.",
     "If the sign of fields matters, call measure_rotation(feature=image) with an image that is brighter where the "
     "specimen is heavier."),
    ("rotation_no_field", "refusal",
     "The rotation is not determined: the deflection of the beam shows no relation to the scan (noise gives such a "
     "result with a probability of {probability:.2g}).",
     "Measure it on a scan at atomic resolution, or with a defocused probe, with the same microscope settings."),
    ("rotation_scan_small", "refusal",
     "The rotation is not determined: a scan of {rows} x {columns} positions is too small (at least {needed} x "
     "{needed} are needed).",
     "Measure it on a larger scan with the same microscope settings."),
    ("rotation_flip_open", "refusal",
     "The rotation is not determined: the data fit almost as well with flip as without (ratio {ratio:.2f}, "
     "difference {sigmas:.1f} sigma). This occurs if fields or contrast have one direction only.",
     "Measure it on a scan with structure along all directions."),
    ("rotation_curl", "refusal",
     "The rotation is refused: at every angle, at least {curl:.0%} of the power of the deflection is curl (at most "
     "{allowed:.0%} is allowed). Diffraction contrast, a coarse scan step or a distorted scan may be the cause.",
     "Measure it on a scan at atomic resolution, or with a defocused probe, with the same microscope settings."),
    ("rotation_uncertain", "refusal",
     "The rotation is not determined: it is uncertain by {sigma:.2g}° (at most {needed:.2g}° is allowed).",
     "Measure it on a scan with more positions or a higher dose, with the same microscope settings."),
    ("rotation_sources_disagree", "refusal",
     "The rotation is refused: center of mass and shadow image disagree (degrees, flip): {degrees}.",
     "Measure it on another scan with the same microscope settings."),
)
