"""Flags of the image of the probe."""

PROBE_FLAGS = (
    ("probe_measured", "info",
     "The probe is the mean direct beam of {positions} positions, {electrons:,.0f} electrons."),
    ("probe_from_aperture", "warning",
     "The probe is not a measured image: it is drawn from the aperture (radius {radius:.2f} px, edge {edge:.2f} "
     "px), because {cause}.",
     "For a measured image, take the probe of a vacuum scan with the same microscope settings."),
    ("probe_hidden", "refusal",
     "There is no probe: the direct beam is hidden.",
     "Take the probe of a vacuum scan with the same microscope settings."),
    ("probe_unknown", "refusal",
     "There is no probe: no disk can be fitted to the mean direct beam.",
     "Take the probe of a vacuum scan with the same microscope settings."),
)
