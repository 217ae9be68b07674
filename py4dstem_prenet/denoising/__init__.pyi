from .checks import check_denoising as check_denoising
from .denoiser import denoise as denoise
from .finetuning import finetune as finetune
from .neighbors import shift as shift
