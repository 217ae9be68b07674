from .errors import PrenetError as PrenetError
from .reading import SMALLEST_SIDE as SMALLEST_SIDE
from .reading import check as check
from .reading import patterns as patterns
from .reading import shape_of as shape_of
from .sample import Sample as Sample
