from .measure import measure_probe as measure_probe
from .thin import choose_thin as choose_thin
