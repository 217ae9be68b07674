from .allocator import give_back_memory as give_back_memory, keep_memory as keep_memory
from .devices import (
    has_fast_bfloat16 as has_fast_bfloat16,
    in_batches as in_batches,
    move_to_device as move_to_device,
    pick_device as pick_device,
)
from .mapping import map_chunks as map_chunks, use_cluster as use_cluster
from .threads import adapt_threads as adapt_threads, free_cores as free_cores, sharing_cores as sharing_cores
