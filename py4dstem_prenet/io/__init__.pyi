from .calibrations import (
    MASK as MASK,
    SIGMA as SIGMA,
    WRITTEN as WRITTEN,
    all_or_none as all_or_none,
    attach_ellipse_map as attach_ellipse_map,
    cube_like as cube_like,
    make_provenance as make_provenance,
    noise_of as noise_of,
    read_fitted_origin as read_fitted_origin,
    read_mask as read_mask,
    read_origin as read_origin,
    read_provenance as read_provenance,
    read_valid as read_valid,
    sigma_is_current as sigma_is_current,
    sigma_slice as sigma_slice,
    sign as sign,
    signatures as signatures,
    to_json as to_json,
    write_ellipse as write_ellipse,
    write_fit as write_fit,
    write_mask as write_mask,
    write_origin as write_origin,
    write_provenance as write_provenance,
)
from .describing import describe_file as describe_file
from .emd_files import load_calibration as load_calibration, resumable_cube as resumable_cube, save as save
from .files import (
    check_output as check_output,
    existing as existing,
    load_mask as load_mask,
    new_file as new_file,
    save_scan as save_scan,
)
from .opening import open as open
