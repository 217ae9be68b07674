from .figures import (
    inner_radius as inner_radius,
    ring_radius as ring_radius,
    show_ellipse as show_ellipse,
    show_map as show_map,
    show_origin as show_origin,
    show_pattern as show_pattern,
    show_polar as show_polar,
    show_sigma as show_sigma,
    show_standard as show_standard,
    show_straightened as show_straightened,
    stored_ellipse as stored_ellipse,
    subplots as subplots,
)
from .page import page_html as page_html
from .summary import of_calibration as of_calibration, of_verdicts as of_verdicts, of_versions as of_versions
from .verdicts import Verdict as Verdict, make_verdict as make_verdict, overall as overall
