"""Compute on a CPU or GPU in batches that fit into its memory."""

import numpy as np
import torch

from ..core import PrenetError

GPU_BATCHES = 16  # ratio; batch size for a GPU over that for the cache of a CPU

_fits = {}  # sizes that fit, found after a failure: {(device, requested size, shapes): size}


def in_batches(function, *arrays, device, size):
    """Apply a function to arrays in batches along their first axis.

    On CUDA the next batch is copied from pinned memory while one is computed. If the memory of the device is too small,
    the batch is halved for the rest of the process; completed batches are kept.

    Parameters
    ----------
    function : callable
        Takes one tensor for each array, on `device`, and returns a tensor or a tuple of tensors with as many items. It
        runs in inference mode.
    *arrays : ndarray
        Arrays of n > 0 items each.
    device : torch.device or str
        Device on which to compute.
    size : int
        Items per batch on a CPU; a GPU takes GPU_BATCHES times as many.

    Returns
    -------
    ndarray or tuple of ndarray
        The results for all items.

    Raises
    ------
    PrenetError
        If a single item does not fit into the memory.

    Examples
    --------
    >>> in_batches(lambda x: 2 * x, np.arange(5), device="cpu", size=2)
    array([0, 2, 4, 6, 8])
    """
    device = torch.device(device)
    key = (str(device), size, tuple(a.shape[1:] for a in arrays))
    size = min(_fits.get(key, size if device.type == "cpu" else size * GPU_BATCHES), len(arrays[0]))
    done = []
    while not _go_on(function, arrays, device, size, done):
        if size == 1:
            raise PrenetError(f"The memory of the device {device} is too small for a single pattern; "
                              "free some memory, or use device='cpu'.")
        size = _fits[key] = -(-size // 2)
        if device.type == "cuda":
            torch.cuda.empty_cache()
    if device.type == "cuda":
        torch.cuda.current_stream(device).synchronize()  # results are still being copied
    results = tuple(np.concatenate([t.numpy() for t in column]) for column in zip(*done, strict=True))
    return results if isinstance(done[0], tuple) else results[0]


class _Single(list):
    """List of one tensor: the result of a function that returns a tensor, not a tuple."""


def _go_on(function, arrays, device, size, done):
    """Append the results of the remaining batches to `done`; return False if memory ran out."""
    start, total = sum(len(part[0]) for part in done), len(arrays[0])
    cuda = device.type == "cuda"
    copies = torch.cuda.Stream(device) if cuda else None

    def copy_batch(start):
        on_host = [torch.from_numpy(np.ascontiguousarray(a[start : start + size])) for a in arrays]
        if not cuda:
            return [t.to(device) for t in on_host]
        with torch.cuda.stream(copies):
            return [t.pin_memory().to(device, non_blocking=True) for t in on_host]

    try:
        next_batch = copy_batch(start)
        while start < total:
            tensors = next_batch
            if cuda:
                torch.cuda.current_stream(device).wait_stream(copies)
                for t in tensors:
                    t.record_stream(torch.cuda.current_stream(device))
            start += size
            next_batch = copy_batch(start) if start < total else None
            with torch.inference_mode():
                result = function(*tensors)
            kind = tuple if isinstance(result, tuple) else _Single
            # Only CUDA keeps the order of asynchronous copies and later operations.
            done.append(kind(t.to("cpu", non_blocking=cuda) for t in (result if kind is tuple else [result])))
    except (RuntimeError, MemoryError) as error:
        # Not raised again: its traceback would keep the tensors that fill the memory.
        if not _is_out_of_memory(error):
            raise
        return False
    return True


def _is_out_of_memory(error):
    """Return whether an exception means that memory ran out."""
    if isinstance(error, torch.cuda.OutOfMemoryError | MemoryError):
        return True
    return any(words in str(error) for words in ("out of memory", "can't allocate memory", "not enough memory"))


def pick_device(device: str = "auto") -> torch.device:
    """Select the device to compute on.

    Parameters
    ----------
    device : {"auto", "cpu", "cuda", "mps"}, optional
        "auto" takes a GPU if there is one.

    Returns
    -------
    torch.device
        The device.

    Raises
    ------
    PrenetError
        If the device cannot be used.

    Examples
    --------
    >>> pick_device("cpu")
    device(type='cpu')
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        torch.empty(0, device=device)
        return torch.device(device)
    except (RuntimeError, AssertionError) as problem:
        raise PrenetError(f"The device {device!r} cannot be used here; device='cpu' always works.") from problem


def move_to_device(module: torch.nn.Module, device) -> None:
    """Have a module compute on a device for callers whose tensors are elsewhere.

    Arguments are moved to the device, and results to where the first argument was; gradients follow.

    Parameters
    ----------
    module : torch.nn.Module
        The module; its parameters are moved to the device.
    device : torch.device or str
        The device.

    Examples
    --------
    >>> layer = torch.nn.Linear(2, 1)
    >>> move_to_device(layer, "cpu")
    >>> layer(torch.ones(3, 2)).shape
    torch.Size([3, 1])
    """
    device = torch.device(device)
    module.to(device)
    home = []

    def send(_, args, kwargs):
        first = next(t for t in (*args, *kwargs.values()) if torch.is_tensor(t))
        home.append(first.device)
        return _moved(args, device), _moved(kwargs, device)

    module.register_forward_pre_hook(send, with_kwargs=True)
    module.register_forward_hook(lambda _, __, result: _moved(result, home.pop()))


def _moved(value, device):
    """Move all tensors in a nested value to a device."""
    if torch.is_tensor(value):
        return value.to(device, non_blocking=device.type == "cuda")
    if isinstance(value, dict):
        return {key: _moved(item, device) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return type(value)(_moved(item, device) for item in value)
    return value


def has_fast_bfloat16(device) -> bool:
    """Return whether a device computes in bfloat16 faster than in float32.

    Parameters
    ----------
    device : torch.device or str
        The device.

    Returns
    -------
    bool
        True for GPUs and processors with instructions for it (AVX-512 BF16, AMX).

    Examples
    --------
    >>> has_fast_bfloat16("meta")
    False
    """
    kind = torch.device(device).type
    if kind == "cuda":
        return torch.cuda.get_device_capability(device)[0] >= 8  # Ampere, the first with bfloat16
    features = torch.cpu.get_capabilities() if kind == "cpu" and hasattr(torch.cpu, "get_capabilities") else {}
    return any(features.get(name, False) for name in ("avx512_bf16", "amx_bf16"))
