"""Computing on a device in batches that fit into its memory; what there is to know of GPUs is here."""


import numpy as np
import torch

from ..core import PrenetError

GPU_BATCHES = 16  # a GPU takes so many of the batches that suit a processor's cache at once

_fits = {}  # what was found to fit after a failure: {(device, size asked for, shapes): size}


def in_batches(function, *arrays, device, size):
    """`function(*tensors)` of parts of arrays along their first axis, and its results put together again.

    On CUDA the next part is copied, out of pinned memory, while one is computed. Where the memory does not suffice,
    parts are halved, for the rest of the process, and the work goes on; what was computed is kept.

    Args:
        function: of tensors on `device`, one for each array; gives a tensor or a tuple of tensors of as many items.
            It runs in inference mode.
        arrays: numpy arrays of n > 0 items each.
        device: a torch device, or its name.
        size: items at a time that suit a processor; a GPU takes GPU_BATCHES times as many.

    Returns: a numpy array, or a tuple of them. Raises PrenetError where a single item does not fit.
    """
    device = torch.device(device)
    key = (str(device), size, tuple(a.shape[1:] for a in arrays))
    size = min(_fits.get(key, size if device.type == "cpu" else size * GPU_BATCHES), len(arrays[0]))
    done = []
    while not _go_on(function, arrays, device, size, done):
        if size == 1:
            raise PrenetError(f"The memory of the device {device} does not hold one pattern's computation; "
                              "free some of it, or use device='cpu'.")
        size = _fits[key] = -(-size // 2)
        if device.type == "cuda":
            torch.cuda.empty_cache()
    if device.type == "cuda":
        torch.cuda.current_stream(device).synchronize()  # results are still being copied
    results = tuple(np.concatenate([t.numpy() for t in column]) for column in zip(*done, strict=True))
    return results if isinstance(done[0], tuple) else results[0]


class _Many(list):
    """The tensors of one part of which the function gives one only."""


def _go_on(function, arrays, device, size, done):
    """Append to `done` the results of what is left; False where memory ran out."""
    start, total = sum(len(part[0]) for part in done), len(arrays[0])
    cuda = device.type == "cuda"
    copies = torch.cuda.Stream(device) if cuda else None

    def put(start):
        host = [torch.from_numpy(np.ascontiguousarray(a[start : start + size])) for a in arrays]
        if not cuda:
            return [t.to(device) for t in host]
        with torch.cuda.stream(copies):
            return [t.pin_memory().to(device, non_blocking=True) for t in host]

    try:
        coming = put(start)
        while start < total:
            tensors = coming
            if cuda:
                torch.cuda.current_stream(device).wait_stream(copies)
                for t in tensors:
                    t.record_stream(torch.cuda.current_stream(device))
            start += size
            coming = put(start) if start < total else None
            with torch.inference_mode():
                result = function(*tensors)
            kind = tuple if isinstance(result, tuple) else _Many
            # Only CUDA keeps order between such copies and what follows.
            done.append(kind(t.to("cpu", non_blocking=cuda) for t in (result if kind is tuple else [result])))
    except (RuntimeError, MemoryError) as error:
        # Told by a value, because the traceback holds on to what fills the memory.
        if not _is_out_of_memory(error):
            raise
        return False
    return True


def _is_out_of_memory(error):
    if isinstance(error, torch.cuda.OutOfMemoryError | MemoryError):
        return True
    return any(words in str(error) for words in ("out of memory", "can't allocate memory", "not enough memory"))


def pick_device(device: str = "auto") -> torch.device:
    """The device to compute on: a GPU when there is one, or what is asked for. Raises PrenetError."""
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        torch.empty(0, device=device)
        return torch.device(device)
    except (RuntimeError, AssertionError) as problem:
        raise PrenetError(f"The device {device!r} cannot be used here; device='cpu' always works.") from problem
