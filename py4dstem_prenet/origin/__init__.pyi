from .afterglow import Afterglow as Afterglow, lag as lag, measure_afterglow as measure_afterglow
from .bars import find_bar as find_bar
from .beam import (
    LOCATE_BATCH as LOCATE_BATCH,
    UNCERTAIN_SIGMA_PX as UNCERTAIN_SIGMA_PX,
    Beam as Beam,
    Located as Located,
    unlocated as unlocated,
)
from .candidates import (
    MIN_RANKED_PROBABILITY as MIN_RANKED_PROBABILITY,
    PAIRS_WEIGHT as PAIRS_WEIGHT,
    pair_differences as pair_differences,
    ranked_beam as ranked_beam,
)
from .check import check_origin as check_origin
from .coarse import (
    MAX_FIELD_PX as MAX_FIELD_PX,
    OUTLIER_LIKELIHOOD as OUTLIER_LIKELIHOOD,
    FirstGuess as FirstGuess,
    block_of_positions as block_of_positions,
    block_sums as block_sums,
    coarse_origin as coarse_origin,
    spread_blocks as spread_blocks,
)
from .copies import copied_frames as copied_frames
from .covered import covered_beam as covered_beam, disk_asymmetry as disk_asymmetry
from .decide import (
    MIN_SIGNAL_ELECTRONS as MIN_SIGNAL_ELECTRONS,
    MIN_SIGNAL_FRACTION as MIN_SIGNAL_FRACTION,
    decide_origin as decide_origin,
    shows_beam as shows_beam,
)
from .diffuse import (
    check_diffuse as check_diffuse,
    diffuse_evidence as diffuse_evidence,
    radial_scatter as radial_scatter,
)
from .diffuse_image import (
    MIN_RIVAL_PX as MIN_RIVAL_PX,
    MIN_RIVAL_RADII as MIN_RIVAL_RADII,
    RIVAL_BLOCKS as RIVAL_BLOCKS,
    RIVAL_STEP_PX as RIVAL_STEP_PX,
    DiffuseImage as DiffuseImage,
    diffuse_asymmetry as diffuse_asymmetry,
)
from .edges import (
    check_edges as check_edges,
    continues_across_edges as continues_across_edges,
    hidden_fraction as hidden_fraction,
)
from .given import (
    GivenBeam as GivenBeam,
    confirmed as confirmed,
    given_beam as given_beam,
    searched_elsewhere as searched_elsewhere,
    started as started,
)
from .hidden import (
    CERTAIN_PROBABILITY as CERTAIN_PROBABILITY,
    MIN_BEAM_PROBABILITY as MIN_BEAM_PROBABILITY,
    check_shaded as check_shaded,
    hidden_origin as hidden_origin,
    is_hidden as is_hidden,
    resolved as resolved,
)
from .kept import keep_locator as keep_locator, kept_locator as kept_locator
from .learn import learn_beam as learn_beam
from .lighting import is_smoothly_lit as is_smoothly_lit
from .measure import BeamLocator as BeamLocator, check_mask as check_mask, measure_origin as measure_origin
from .plateau import (
    on_plateau as on_plateau,
    saturated_disk as saturated_disk,
    with_outline_error as with_outline_error,
)
from .refused import no_origin as no_origin
from .ring_origin import (
    BLANKED_FRACTION as BLANKED_FRACTION,
    BRIGHT_QUANTILE as BRIGHT_QUANTILE,
    origin_from_rings as origin_from_rings,
)
from .rows import followed_rows as followed_rows
from .sparse import pooled_origin as pooled_origin
from .stop import find_stop as find_stop
from .stray import sharper_spot as sharper_spot, stray_light as stray_light
from .structure import structure_sigma as structure_sigma
from .vague import check_stop as check_stop, is_vague as is_vague
from .vignette import find_vignette as find_vignette
from .wide import WideDisk as WideDisk, wide_disk as wide_disk, wide_origin as wide_origin
