from .check import check_ellipse as check_ellipse
from .decide import combine as combine
from .measure import judge_pooled as judge_pooled, map_ellipse as map_ellipse, measure_ellipse as measure_ellipse
