"""Maps over the blocks of a small scan. (Workers of a cluster import this module: torch stays out.)"""

import os
from functools import partial

import dask.array
import h5py
import numpy as np

from py4dstem_prenet.compute.mapping import map_chunks

SHAPE = (6, 8, 32, 32)


def centroid(index, block, weight, exponent=1.0):
    """A float32 result that depends on how patterns are summed; and the process that made it."""
    total = (block.astype(np.float32) ** np.float32(exponent)).sum((1, 2)) * weight
    return total, os.getpid()


def broken(index, block):
    raise ZeroDivisionError("in the function")


def gather(function, data, *along, **options):
    results = list(map_chunks(function, data, *along, chunk=5, **options))
    return [index for index, _ in results], [result for _, result in results]


def computed_here(cube):
    _, results = gather(partial(centroid), cube, np.ones(48, np.float32))
    return {process for _, process in results} == {os.getpid()}


def sources(cube, folder):
    np.save(folder / "a.npy", np.concatenate([cube, cube], axis=1))
    whole = np.load(folder / "a.npy", mmap_mode="r")
    with h5py.File(folder / "a.h5", "w") as file:
        file.create_dataset("some/where", data=cube, chunks=(2, 3, 16, 32), compression="gzip")
    return {
        "memory": cube,
        "view of a memmap": whole[:, SHAPE[1]:],
        "reversed memmap": np.load(folder / "a.npy", mmap_mode="r")[::-1, :SHAPE[1]],
        "hdf5": h5py.File(folder / "a.h5", "r")["some/where"],
        "dask": dask.array.from_array(cube, chunks=(4, 4, 32, 16)),
    }
