from .beam_and_rings import (
    inner_radius as inner_radius,
    ring_radius as ring_radius,
    show_beam as show_beam,
    show_edge as show_edge,
    show_polar as show_polar,
    show_straightened as show_straightened,
)
from .denoising_figures import (
    show_denoised as show_denoised,
    show_denoising_check as show_denoising_check,
    show_slopes as show_slopes,
    show_virtual as show_virtual,
)
from .figures import (
    LABEL_SIZE as LABEL_SIZE,
    SMALL_SIZE as SMALL_SIZE,
    TITLE_SIZE as TITLE_SIZE,
    add_color_bar as add_color_bar,
    draw_ellipse as draw_ellipse,
    gray_colors as gray_colors,
    label_color_bar as label_color_bar,
    legend_below as legend_below,
    mark_ellipse as mark_ellipse,
    name_pattern_axes as name_pattern_axes,
    name_scan_axes as name_scan_axes,
    no_ticks as no_ticks,
    round_handles as round_handles,
    show_ellipse as show_ellipse,
    show_left_out as show_left_out,
    show_map as show_map,
    show_origin as show_origin,
    show_pattern as show_pattern,
    show_recentered as show_recentered,
    show_sigma as show_sigma,
    stored_ellipse as stored_ellipse,
    subplots as subplots,
)
from .overview import (
    UNKNOWN_RADIUS_FRACTION as UNKNOWN_RADIUS_FRACTION,
    draw_evidence as draw_evidence,
    draw_quantities as draw_quantities,
    drawn_radius as drawn_radius,
    shown_ring as shown_ring,
)
from .page import Panels as Panels, page_html as page_html, page_style as page_style
from .page_tables import (
    length_text as length_text,
    number_rows as number_rows,
    provenance_rows as provenance_rows,
)
from .quantities import (
    ring_radius_px as ring_radius_px,
    show_deflection as show_deflection,
    show_ring_errors as show_ring_errors,
    show_rotation as show_rotation,
    show_standard as show_standard,
)
from .summary import (
    of_calibration as of_calibration,
    of_probe as of_probe,
    of_verdicts as of_verdicts,
    of_versions as of_versions,
)
from .verdicts import LIGHTS as LIGHTS, Verdict as Verdict, make_verdict as make_verdict, overall as overall
