from .checks import SplitBlocks as SplitBlocks, check_denoising as check_denoising
from .denoiser import denoise as denoise, smooth_origins as smooth_origins
from .finetuning import finetune as finetune
from .functionals import QUANTITIES as QUANTITIES, measure_slopes as measure_slopes
from .neighbors import neighbor_means as neighbor_means, shift as shift
