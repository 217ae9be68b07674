from .calibrations import (
    MASK as MASK,
)
from .calibrations import (
    SIGMA as SIGMA,
)
from .calibrations import (
    WRITTEN as WRITTEN,
)
from .calibrations import (
    all_or_none as all_or_none,
)
from .calibrations import (
    attach_ellipse_map as attach_ellipse_map,
)
from .calibrations import (
    cube_like as cube_like,
)
from .calibrations import (
    make_provenance as make_provenance,
)
from .calibrations import (
    noise_of as noise_of,
)
from .calibrations import (
    read_fitted_origin as read_fitted_origin,
)
from .calibrations import (
    read_mask as read_mask,
)
from .calibrations import (
    read_origin as read_origin,
)
from .calibrations import (
    read_provenance as read_provenance,
)
from .calibrations import (
    read_valid as read_valid,
)
from .calibrations import (
    sigma_is_current as sigma_is_current,
)
from .calibrations import (
    sigma_slice as sigma_slice,
)
from .calibrations import (
    sign as sign,
)
from .calibrations import (
    signatures as signatures,
)
from .calibrations import (
    write_ellipse as write_ellipse,
)
from .calibrations import (
    write_fit as write_fit,
)
from .calibrations import (
    write_mask as write_mask,
)
from .calibrations import (
    write_origin as write_origin,
)
from .calibrations import (
    write_provenance as write_provenance,
)
from .dataset_scan import DatasetScan as DatasetScan
from .describing import describe_file as describe_file
from .emd_files import load_calibration as load_calibration
from .emd_files import resumable_cube as resumable_cube
from .emd_files import save as save
from .files import (
    check_output as check_output,
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
    save_scan as save_scan,
)
from .opening import open as open
