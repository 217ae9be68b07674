from .bad_pixels import EIGHT_NEIGHBORS as EIGHT_NEIGHBORS, find_bad_pixels as find_bad_pixels
from .estimate import MAX_NOISE_POSITIONS as MAX_NOISE_POSITIONS, estimate_noise as estimate_noise
from .independence import check_independence as check_independence
from .quality import doubts as doubts, refuse as refuse
from .splitting import (
    MAX_SPLIT_POSITIONS as MAX_SPLIT_POSITIONS,
    of_part as of_part,
    places as places,
    read_block as read_block,
    split as split,
)
from .virtual import virtual_images as virtual_images
