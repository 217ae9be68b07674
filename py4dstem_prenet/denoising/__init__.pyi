from .checks import DenoisingCheck as DenoisingCheck, check_denoising as check_denoising
from .denoiser import denoise as denoise
from .finetuning import FinetuneResult as FinetuneResult, finetune as finetune
from .neighbors import shift as shift
