from .devices import in_batches as in_batches, pick_device as pick_device
from .mapping import map_chunks as map_chunks, use_cluster as use_cluster
from .threads import adapt_threads as adapt_threads, sharing_cores as sharing_cores
