from .estimate import SAMPLE as SAMPLE, estimate_noise as estimate_noise
from .independence import judge_noise as judge_noise
from .noise import NoiseModel as NoiseModel, stabilize as stabilize
from .splitting import (
    MAX_SPLIT_POSITIONS as MAX_SPLIT_POSITIONS,
    of_part as of_part,
    places as places,
    read_block as read_block,
    split as split,
)
from .virtual import virtual_images as virtual_images
