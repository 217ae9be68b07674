from .curl import Alignment as Alignment, align as align, sign_of_field as sign_of_field
from .decide import (
    CENTER_OF_MASS as CENTER_OF_MASS,
    MAX_PROBABILITY as MAX_PROBABILITY,
    SHADOW as SHADOW,
    Estimate as Estimate,
    decide_rotation as decide_rotation,
    from_alignment as from_alignment,
    from_shadow as from_shadow,
    half_turn_distance as half_turn_distance,
    unknown_rotation as unknown_rotation,
)
from .deflection import Deflection as Deflection, flatten as flatten, measure_deflection as measure_deflection
from .measure import measure_rotation as measure_rotation
from .shadow import ShadowShift as ShadowShift, measure_shadow as measure_shadow
