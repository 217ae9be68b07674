from .check import EllipseCheck as EllipseCheck
from .check import check_ellipse as check_ellipse
from .decide import combine as combine
from .measure import judge_pooled as judge_pooled
from .measure import map_ellipse as map_ellipse
from .measure import measure_ellipse as measure_ellipse
