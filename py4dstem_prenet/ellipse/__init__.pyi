from .check import check_ellipse as check_ellipse
from .decide import (
    MAX_ELLIPSE_SIGMA as MAX_ELLIPSE_SIGMA,
    Agreement as Agreement,
    combine as combine,
    compare_ellipses as compare_ellipses,
    given_ellipse as given_ellipse,
    judged_ellipse as judged_ellipse,
)
from .measure import (
    in_region as in_region,
    map_ellipse as map_ellipse,
    measure_ellipse as measure_ellipse,
    measure_pooled as measure_pooled,
)
