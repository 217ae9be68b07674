from .calibrations import (
    all_or_none as all_or_none,
    make_provenance as make_provenance,
    read_fitted_origin as read_fitted_origin,
    read_mask as read_mask,
    write_ellipse as write_ellipse,
    write_fit as write_fit,
    write_mask as write_mask,
    write_origin as write_origin,
    write_provenance as write_provenance,
)
from .emd_files import load_calibration as load_calibration, save as save
from .files import (
    EMD_ENDINGS as EMD_ENDINGS,
    check_output as check_output,
    emd_nodes as emd_nodes,
    existing as existing,
    load_mask as load_mask,
    new_file as new_file,
    open_hdf5 as open_hdf5,
    save_scan as save_scan,
    stored_json as stored_json,
)
from .opening import open as open
