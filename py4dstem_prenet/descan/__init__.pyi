from .fit import fit_descan as fit_descan, fit_origin as fit_origin, residual_flags as residual_flags
from .models import MODELS as MODELS
from .surface import fit_pair as fit_pair
