"""Limits that all tests of a descan share: outliers, and effects of a specimen or of bends that a surface misses."""

OFF_SIGMAS = 5.0  # standard deviations of a position; smallest distance from the surface of an outlier
LINE_OFF_SIGMAS = 6.0  # standard errors; smallest mean distance of an outlier line: false alarm in 2e-9 of the lines
SIGMA_FLOOR_PX = 0.03  # pixels; added to the stated sigma: the least that specimens add to the scatter of neighbors
MIN_LINE_OFF_PX = 0.25  # pixels; smallest distance from the surface that no bend causes which the surface misses
MIN_RUN_PX = 0.3  # pixels; smallest step of the beam that ends a run of frames, or between surfaces of segments
MIN_JUMPING_PX = 1.0  # pixels; smallest distance from the descan of a position that jumps: contrast moves disks by less
MAX_LEFT_FRACTION = 0.5  # fraction of the outliers or of their misfit; most that a better model may leave
MIN_OFF_FRACTION = 0.02  # fraction of the positions; with fewer outliers, no fault of the order is searched for
MIN_REFUSED_FRACTION = 0.1  # fraction of the positions; with more outliers in time only, the surface is refused
MIN_ORDERED = 24  # used positions; fewest for which the order is tested
MIN_LINE_COUNT = 4  # used positions; fewest in a row or column that is tested
MIN_SEGMENT_ROWS = 4  # rows, or columns of a strip; fewest to which a surface of their own is fitted
JUMP_ROWS = 3  # scan rows on either side of a jump or break that determine its frame
MAX_JUMPS = 8  # jumps; most that are fitted, and most of one coordinate that get a flag each
