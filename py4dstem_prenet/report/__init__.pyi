from .figures import (
    inner_radius as inner_radius,
    ring_radius as ring_radius,
    show_ellipse as show_ellipse,
    show_map as show_map,
    show_origin as show_origin,
    show_pattern as show_pattern,
    show_polar as show_polar,
    show_rotation as show_rotation,
    show_sigma as show_sigma,
    show_standard as show_standard,
    show_straightened as show_straightened,
    stored_ellipse as stored_ellipse,
    subplots as subplots,
)
from .page import Panels as Panels, page_html as page_html, page_style as page_style
from .summary import of_calibration as of_calibration, of_verdicts as of_verdicts, of_versions as of_versions
from .verdicts import LIGHTS as LIGHTS, Verdict as Verdict, make_verdict as make_verdict, overall as overall
