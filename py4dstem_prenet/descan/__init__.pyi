from .fit import MOST_JUMPS as MOST_JUMPS
from .fit import fit_descan as fit_descan
from .jumps import find_jumps as find_jumps
from .models import MODELS as MODELS
from .surface import fit_pair as fit_pair
