from .measure import draw_aperture as draw_aperture, measure_probe as measure_probe
from .thin import choose_thin as choose_thin
