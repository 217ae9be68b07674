from .measure import (
    mean_as_recorded as mean_as_recorded,
    name_of as name_of,
    noise_with_stop as noise_with_stop,
    review as review,
)
from .outputs import report as report, show as show
from .results import Review as Review
from .stages import (
    FitReview as FitReview,
    ellipse_flags as ellipse_flags,
    noise_flags as noise_flags,
    origin_flags as origin_flags,
    quantity_flags as quantity_flags,
    review_fit as review_fit,
)
