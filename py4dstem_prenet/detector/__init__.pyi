from .independence import judge_noise as judge_noise
from .noise import (
    SAMPLE as SAMPLE,
)
from .noise import (
    NoiseModel as NoiseModel,
)
from .noise import (
    estimate_noise as estimate_noise,
)
from .noise import (
    evenly as evenly,
)
from .noise import (
    sample_positions as sample_positions,
)
from .noise import (
    stabilize as stabilize,
)
from .splitting import of_part as of_part
from .splitting import split as split
