from .devices import in_batches as in_batches
from .mapping import connected as connected
from .mapping import map_chunks as map_chunks
