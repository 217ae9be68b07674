from .check import check_ellipse as check_ellipse
from .decide import combine as combine
from .measure import (
    in_region as in_region,
    map_ellipse as map_ellipse,
    measure_ellipse as measure_ellipse,
    measure_pooled as measure_pooled,
)
