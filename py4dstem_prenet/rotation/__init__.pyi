from .curl import (
    Alignment as Alignment,
    align as align,
)
from .decide import decide_rotation as decide_rotation, half_turn_distance as half_turn_distance
from .deflection import Deflection as Deflection, measure_deflection as measure_deflection
from .measure import measure_rotation as measure_rotation
from .shadow import ShadowShift as ShadowShift, measure_shadow as measure_shadow
