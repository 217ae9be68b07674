from .estimate import SAMPLE as SAMPLE
from .estimate import estimate_noise as estimate_noise
from .independence import judge_noise as judge_noise
from .noise import NoiseModel as NoiseModel
from .noise import stabilize as stabilize
from .splitting import (
    MAX_SPLIT_POSITIONS as MAX_SPLIT_POSITIONS,
)
from .splitting import (
    of_part as of_part,
)
from .splitting import (
    places as places,
)
from .splitting import (
    read_block as read_block,
)
from .splitting import (
    split as split,
)
from .virtual import virtual_images as virtual_images
