"""Flags of files as they are opened."""

FILES_FLAGS = (
    ("scan_cut_short", "warning",
     "The file holds {frames} of {stated} frames; the first {rows} of {stated_rows} rows of {columns} positions are "
     "complete and were opened.",
     "Check whether the acquisition was interrupted, and whether the shape of the scan is right."),
    ("frames_left_over", "warning",
     "The file holds {frames} frames, {extra} more than the scan has positions; the last {extra} were left out.",
     "Check where the additional frames are. If they are at the beginning, all patterns are assigned to wrong "
     "positions."),
    ("frame_cut_short", "warning",
     "The file ends within a frame; the {frames} complete frames before it were opened."),
    ("sources_missing", "warning",
     "{count} files that {name} links to are missing, beginning with {first}; the others were opened.",
     "Copy the files into the folder of the file that links to them."),
    ("pixel_sizes_differ", "warning",
     "The pixel sizes of the two {space} axes differ ({first:.4g} and {second:.4g} {unit}). py4DSTEM has one value "
     "for both axes; the first was used."),
    ("pixel_size_unknown", "warning",
     "The {space} pixel size in the file, {size:.4g} {unit}, has no unit of a {space} axis and was left out."),
    ("pixel_size_on_camera", "warning",
     "The Q pixel size, {size:.4g} {unit}, is a length on the camera, and the file states no camera length.",
     "Calibrate the pixel size, for example with a standard."),
    ("reader_warned", "warning",
     "The reader of the file says: {text}"),
)
