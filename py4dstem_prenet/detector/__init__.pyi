from .bad_pixels import (
    EIGHT_NEIGHBORS as EIGHT_NEIGHBORS,
    find_bad_pixels as find_bad_pixels,
    quiet_pixels as quiet_pixels,
)
from .estimate import (
    MAX_NOISE_POSITIONS as MAX_NOISE_POSITIONS,
    estimate_noise as estimate_noise,
    noise_sample as noise_sample,
)
from .frames import (
    confirmed_hits as confirmed_hits,
    hit_candidates as hit_candidates,
    lost_frames as lost_frames,
)
from .full_scale import full_scale_pixels as full_scale_pixels
from .independence import check_independence as check_independence
from .limits import (
    MEAN_SIGMAS as MEAN_SIGMAS,
    MIN_MEAN_PATTERNS as MIN_MEAN_PATTERNS,
    MIN_PIXEL_ELECTRONS as MIN_PIXEL_ELECTRONS,
    MIN_SAMPLE_ELECTRONS as MIN_SAMPLE_ELECTRONS,
    PIXEL_SIGMAS as PIXEL_SIGMAS,
)
from .lines import bad_lines as bad_lines, dark_sides as dark_sides, padded_lines as padded_lines
from .moments import group_moments as group_moments, leave_one_out as leave_one_out
from .quality import doubts as doubts, refuse as refuse
from .splitting import (
    MAX_SPLIT_POSITIONS as MAX_SPLIT_POSITIONS,
    of_part as of_part,
    places as places,
    read_block as read_block,
    split as split,
)
from .virtual import virtual_images as virtual_images
