from .beam_edge import edge_errors as edge_errors
from .checks import check_denoising as check_denoising
from .denoiser import (
    ALONE as ALONE,
    UNCHANGED as UNCHANGED,
    WITH_NEIGHBORS as WITH_NEIGHBORS,
    choose_mode as choose_mode,
    denoise as denoise,
    smooth_origins as smooth_origins,
)
from .evidence import agree as agree
from .finetuning import TRAINING_CROP_PX as TRAINING_CROP_PX, finetune as finetune
from .functionals import QUANTITIES as QUANTITIES, measure_slopes as measure_slopes, slope_flags as slope_flags
from .held_out import (
    SVD_RANKS as SVD_RANKS,
    SplitBlocks as SplitBlocks,
    truncated_svds as truncated_svds,
    unstabilized as unstabilized,
)
from .neighbors import CHUNK_PX as CHUNK_PX, neighbor_means as neighbor_means
from .scanmaps import ScanGrid as ScanGrid, unexplained_fraction as unexplained_fraction
from .shifts import (
    LANCZOS_LOBES as LANCZOS_LOBES,
    derivatives as derivatives,
    mean_of_three as mean_of_three,
    robust_derivatives as robust_derivatives,
    shift as shift,
)
from .states import (
    FIELDS_PER_AXIS as FIELDS_PER_AXIS,
    MIN_SUMMED_ELECTRONS as MIN_SUMMED_ELECTRONS,
    STATE_RIDGE as STATE_RIDGE,
    Displacements as Displacements,
    Profiles as Profiles,
    displacement_fields as displacement_fields,
    variance_of as variance_of,
)
