from .devices import in_batches as in_batches
from .devices import pick_device as pick_device
from .mapping import map_chunks as map_chunks
from .mapping import use_cluster as use_cluster
from .threads import adapt_threads as adapt_threads
from .threads import sharing_cores as sharing_cores
