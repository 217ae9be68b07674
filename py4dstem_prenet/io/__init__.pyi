from .bragg_vectors import (
    DETAILS as DETAILS,
    held_disks as held_disks,
    read_disks as read_disks,
    save_bragg_vectors as save_bragg_vectors,
    to_bragg_vectors as to_bragg_vectors,
)
from .bridges import (
    CalibrationValues as CalibrationValues,
    calibration_values as calibration_values,
    pyxem_affine as pyxem_affine,
    pyxem_shifts as pyxem_shifts,
    quantem_calibration as quantem_calibration,
    quantem_origins as quantem_origins,
)
from .calibrations import (
    BEFORE as BEFORE,
    MASK as MASK,
    SIGMA as SIGMA,
    STORED_ELLIPSE_SIGMA as STORED_ELLIPSE_SIGMA,
    all_or_none as all_or_none,
    attach_ellipse_map as attach_ellipse_map,
    beam_is_hidden as beam_is_hidden,
    calibration_of as calibration_of,
    cube_like as cube_like,
    noise_of as noise_of,
    read_ellipse as read_ellipse,
    read_fitted_origin as read_fitted_origin,
    read_mask as read_mask,
    read_origin as read_origin,
    read_stop as read_stop,
    read_valid as read_valid,
    sigma_is_current as sigma_is_current,
    sigma_slice as sigma_slice,
    stored_ratio as stored_ratio,
    write_ellipse as write_ellipse,
    write_fit as write_fit,
    write_mask as write_mask,
    write_origin as write_origin,
    write_stop as write_stop,
)
from .dataset_scan import DatasetScan as DatasetScan
from .describing import describe_file as describe_file
from .emd_files import (
    load_calibration as load_calibration,
    open_bare_calibration as open_bare_calibration,
    open_calibrated as open_calibrated,
    resumable_cube as resumable_cube,
    save as save,
)
from .empad_files import read_empad as read_empad
from .files import (
    EMD_ENDINGS as EMD_ENDINGS,
    Unfinished as Unfinished,
    check_output as check_output,
    check_space as check_space,
    existing as existing,
    load_mask as load_mask,
    make_folder as make_folder,
    new_file as new_file,
    reserve as reserve,
    save_scan as save_scan,
)
from .fingerprints import fingerprint as fingerprint, same_data as same_data
from .frames import Frame as Frame, read_frame as read_frame, record_frame as record_frame
from .hdf5_access import (
    contiguous_offset as contiguous_offset,
    emd_nodes as emd_nodes,
    in_chunks as in_chunks,
    open_hdf5 as open_hdf5,
    stored_json as stored_json,
)
from .hdf5_files import (
    MAX_NODES as MAX_NODES,
    compression_of as compression_of,
    open_dataset as open_dataset,
    read_hdf5 as read_hdf5,
)
from .hdf5_layouts import (
    axes_of as axes_of,
    calibration_of_0_13 as calibration_of_0_13,
    has_spectra as has_spectra,
    hyperspy_sizes as hyperspy_sizes,
    is_other_object as is_other_object,
    kind_of_hdf5 as kind_of_hdf5,
    sidecar_sizes as sidecar_sizes,
    stated_shapes as stated_shapes,
)
from .history import (
    OTHER as OTHER,
    PRENET as PRENET,
    STANDARD as STANDARD,
    USER as USER,
    author_of as author_of,
    is_kept as is_kept,
    undo as undo,
    undoable as undoable,
)
from .merlin_files import read_merlin as read_merlin
from .microscope import settings_of_dm as settings_of_dm, settings_of_hyperspy as settings_of_hyperspy
from .opening import (
    is_emd as is_emd,
    open as open,
    read_contents as read_contents,
    readable_path as readable_path,
)
from .other_files import (
    first_line as first_line,
    is_zarr as is_zarr,
    read_dm as read_dm,
    read_k2 as read_k2,
    read_npy as read_npy,
    read_with_rosettasciio as read_with_rosettasciio,
    read_zarr as read_zarr,
    refuse_known as refuse_known,
)
from .pixel_sizes import PixelSizes as PixelSizes, write_pixel_sizes as write_pixel_sizes
from .provenance import (
    DENOISED as DENOISED,
    ENTRIES as ENTRIES,
    PROVENANCE as PROVENANCE,
    WRITTEN as WRITTEN,
    first_file as first_file,
    is_denoised as is_denoised,
    make_provenance as make_provenance,
    read_provenance as read_provenance,
    record_change as record_change,
    sign as sign,
    signatures as signatures,
    to_json as to_json,
    write_provenance as write_provenance,
)
from .quantities import (
    DEFLECTION as DEFLECTION,
    KERNEL_REACH as KERNEL_REACH,
    PROBE as PROBE,
    RING_PROFILE as RING_PROFILE,
    probe_optics as probe_optics,
    write_pixel_size as write_pixel_size,
    write_probe as write_probe,
    write_rotation as write_rotation,
)
from .readback import (
    check_names as check_names,
    check_readable as check_readable,
    check_sums as check_sums,
    checksum as checksum,
    use_stock_classes as use_stock_classes,
)
from .recorded import (
    held_quantities as held_quantities,
    known_ellipse as known_ellipse,
    read_pixel_size as read_pixel_size,
    read_rotation as read_rotation,
    recorded_ellipse as recorded_ellipse,
)
from .scan_shapes import (
    StatedShape as StatedShape,
    checked_shape as checked_shape,
    choose_shape as choose_shape,
    period_of_gaps as period_of_gaps,
    possible_shapes as possible_shapes,
    shapes_in_name as shapes_in_name,
    shortened as shortened,
)
from .stored import (
    FileContents as FileContents,
    OtherData as OtherData,
    StoredArray as StoredArray,
    choose_array as choose_array,
    decide_shape as decide_shape,
    heard as heard,
    load_shaped as load_shaped,
)
from .transfers import transfer_record as transfer_record, write_transfer as write_transfer
