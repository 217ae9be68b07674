from .figures import (
    show_ellipse as show_ellipse,
)
from .figures import (
    show_map as show_map,
)
from .figures import (
    show_pattern as show_pattern,
)
from .figures import (
    show_polar as show_polar,
)
from .page import page_html as page_html
from .summary import of_calibration as of_calibration
from .summary import of_verdicts as of_verdicts
from .summary import of_versions as of_versions
from .verdicts import Verdict as Verdict
from .verdicts import make_verdict as make_verdict
