from .checks import (
    DenoisingCheck as DenoisingCheck,
)
from .checks import (
    EllipseCheck as EllipseCheck,
)
from .checks import (
    OriginCheck as OriginCheck,
)
from .checks import (
    check_denoising as check_denoising,
)
from .checks import (
    check_ellipse as check_ellipse,
)
from .checks import (
    check_origin as check_origin,
)
from .denoiser import denoise as denoise
from .finetuning import FinetuneResult as FinetuneResult
from .finetuning import finetune as finetune
from .neighbors import shift as shift
