from .figures import (
    show_ellipse as show_ellipse,
    show_map as show_map,
    show_pattern as show_pattern,
    show_polar as show_polar,
)
from .page import page_html as page_html
from .summary import of_calibration as of_calibration, of_verdicts as of_verdicts, of_versions as of_versions
from .verdicts import Verdict as Verdict, make_verdict as make_verdict
