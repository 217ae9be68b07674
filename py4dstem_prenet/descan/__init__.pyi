from .fit import fit_descan as fit_descan
from .fit import fit_origin as fit_origin
from .fit import residual_flags as residual_flags
from .models import MODELS as MODELS
from .surface import fit_pair as fit_pair
