from .calibrations import read_fitted_origin as read_fitted_origin
from .emd_files import load_calibration as load_calibration
from .emd_files import save as save
from .files import (
    EMD_ENDINGS as EMD_ENDINGS,
)
from .files import (
    check_output as check_output,
)
from .files import (
    emd_nodes as emd_nodes,
)
from .files import (
    existing as existing,
)
from .files import (
    load_mask as load_mask,
)
from .files import (
    new_file as new_file,
)
from .files import (
    open_hdf5 as open_hdf5,
)
from .files import (
    save_scan as save_scan,
)
from .files import (
    stored_json as stored_json,
)
from .opening import open as open
