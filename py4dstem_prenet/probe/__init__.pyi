from .measure import draw_aperture as draw_aperture, measure_probe as measure_probe, semi_angle as semi_angle
from .thin import choose_thin as choose_thin
