"""`as_scan`: one protocol over all that can hold a scan; the same patterns and blocks, and the same refusals."""

import types

import dask.array
import h5py
import numpy as np
import py4DSTEM
import pytest

from py4dstem_prenet.core.errors import PrenetError
from py4dstem_prenet.core.scan import DaskScan, Hdf5Scan, MemoryScan, SampledScan, Scan, SlicedScan, as_scan

SHAPE = (5, 7, 32, 34)
WANTED = np.array([0, 3, 4, 8, 20, 33, 34])


class Sliced:
    """An array that only has a shape and a type and can be sliced, as those of zarr."""

    def __init__(self, values):
        self.values, self.shape, self.dtype = values, values.shape, values.dtype

    def __getitem__(self, key):
        return self.values[key]


@pytest.fixture(scope="module")
def values():
    return np.random.default_rng(0).integers(0, 60000, SHAPE).astype(np.uint16)


def hdf5(values, folder, **options):
    with h5py.File(folder / "a.h5", "w") as file:
        file.create_dataset("d", data=values, **options)
    return h5py.File(folder / "a.h5", "r")["d"]


def mapped(values, folder):
    np.save(folder / "a.npy", values)
    return np.load(folder / "a.npy", mmap_mode="r")


def dask_array(values, folder):
    import dask.array

    return dask.array.from_array(values, chunks=(2, 3, 32, 17))


HOLDERS = {  # what makes it of an array and a folder, and the kind of scan that it is
    "array": (lambda values, folder: values, MemoryScan),
    "strided array": (lambda values, folder: np.asfortranarray(values), MemoryScan),
    "big-endian array": (lambda values, folder: values.astype(">u2"), MemoryScan),
    "memory map": (mapped, MemoryScan),
    "HDF5": (hdf5, Hdf5Scan),
    "HDF5 in chunks": (lambda values, folder: hdf5(values, folder, chunks=(2, 3, 16, 17)), Hdf5Scan),
    "compressed HDF5": (lambda values, folder: hdf5(values, folder, chunks=(2, 3, 16, 17), compression="gzip"),
                        Hdf5Scan),
    "dask": (dask_array, DaskScan),
    "sliced": (lambda values, folder: Sliced(values), SlicedScan),
    "DataCube": (lambda values, folder: py4DSTEM.DataCube(values.copy()), MemoryScan),
    "DataCube of HDF5": (lambda values, folder: py4DSTEM.DataCube(hdf5(values, folder)), Hdf5Scan),
    "sample": (lambda values, folder: SampledScan(SHAPE[:2], np.arange(35), values.reshape(35, 32, 34)), SampledScan),
    "sample in a list": (lambda values, folder: SampledScan(SHAPE[:2], np.arange(35), list(values.reshape(35, 32, 34))),
                         SampledScan),
}


@pytest.mark.parametrize("holder", HOLDERS)
@pytest.mark.parametrize("chunk", [None, 1, 4, 100])
def test_every_holder_gives_every_pattern_once_unchanged(values, tmp_path, holder, chunk):
    make, kind = HOLDERS[holder]
    scan = as_scan(make(values, tmp_path))
    assert type(scan) is kind and isinstance(scan, Scan) and as_scan(scan) is scan
    assert scan.shape == SHAPE and scan.scan_shape == (5, 7) and scan.pattern_shape == (32, 34) and scan.size == 35
    assert scan.dtype == np.uint16 or scan.dtype == np.dtype(">u2")
    assert scan.positions.tolist() == list(range(35)) and scan.readable.all() and scan.holds(WANTED)
    flat = values.reshape(35, 32, 34)
    for positions in (None, WANTED):
        seen = np.zeros(35, int)
        for index, block in scan.blocks(chunk, positions=positions):
            assert index.dtype == np.int64 and (np.diff(index) > 0).all() and len(index) <= (chunk or 35)
            assert block.dtype == np.uint16 and block.dtype.isnative
            np.testing.assert_array_equal(block, flat[index])
            np.add.at(seen, index, 1)
        assert np.flatnonzero(seen).tolist() == list(range(35) if positions is None else WANTED) and seen.max() == 1
    np.testing.assert_array_equal(scan.read(WANTED), flat[WANTED])


@pytest.mark.parametrize("positions", [None, WANTED])
def test_holders_with_the_same_storage_give_the_same_blocks(values, tmp_path, positions):
    """What is computed block by block is then equal to the last bit wherever the patterns lie."""
    alike = [name for name in HOLDERS if name not in ("HDF5 in chunks", "compressed HDF5", "dask")]
    blocks = {}
    for name in alike:
        (tmp_path / name).mkdir()
        scan = as_scan(HOLDERS[name][0](values, tmp_path / name))
        blocks[name] = [index.tolist() for index, _ in scan.blocks(4, positions=positions)]
    assert all(blocks[name] == blocks["array"] for name in alike) and len(blocks["array"]) > 1


def test_only_arrays_and_samples_lie_in_memory(values, tmp_path):
    for name, (make, _) in HOLDERS.items():
        (tmp_path / name).mkdir()
        scan = as_scan(make(values, tmp_path / name))
        assert scan.in_memory == (name in ("array", "strided array", "big-endian array", "DataCube", "sample",
                                           "sample in a list"))
        assert scan.deferred == (name == "dask")
        assert (scan.reopener() is not None) == ("HDF5" in name or name == "memory map")
        assert (scan.file is not None) == ("HDF5" in name or name == "memory map")


def test_a_sample_refuses_what_it_does_not_hold(values):
    sample = SampledScan(SHAPE[:2], WANTED, values.reshape(35, 32, 34)[WANTED])
    assert sample.shape == SHAPE and np.flatnonzero(sample.readable).tolist() == WANTED.tolist()
    assert sample.holds(WANTED[2:]) and not sample.holds([0, 1])
    np.testing.assert_array_equal(sample.read(WANTED[2:5]), values.reshape(35, 32, 34)[WANTED[2:5]])
    with pytest.raises(PrenetError):
        sample.read([0, 1])


@pytest.mark.parametrize("data", [
    np.zeros((64, 64)), np.zeros((3, 64, 64)), [[1.0]], "scan.h5", None, np.zeros((0, 4, 64, 64)),
    np.zeros((2, 2, 31, 64)), np.zeros((2, 2, 64, 31)), types.SimpleNamespace(shape=(2, 2, 64, 64), dtype="torch.x"),
    np.zeros((2, 2, 64, 64), complex), np.zeros((2, 2, 64, 64), object), np.ma.zeros((2, 2, 64, 64))],
    ids=["one pattern", "three axes", "a list", "a path", "nothing", "empty", "few rows", "few columns", "strange",
         "complex", "objects", "masked"])
def test_what_is_no_scan_is_refused_in_one_sentence(data):
    with pytest.raises(PrenetError) as refused:
        as_scan(data)
    assert str(refused.value).endswith(".") and "\n" not in str(refused.value)


@pytest.mark.parametrize("kind", ["memory", "memory map", "hdf5", "chunks", "dask", "torch"])
def test_truth_values_are_one_bit_counts(values, tmp_path, kind):
    bits = np.asarray(values) > np.median(values)
    if kind == "memory map":
        np.save(tmp_path / "a.npy", bits)
        data = np.load(tmp_path / "a.npy", mmap_mode="r")
    elif kind in ("hdf5", "chunks"):
        options = dict(chunks=(2, 3, *bits.shape[2:]), compression="gzip") if kind == "chunks" else {}
        data = h5py.File(tmp_path / "a.h5", "w").create_dataset("a", data=bits, **options)
    elif kind == "torch":
        data = pytest.importorskip("torch").from_numpy(bits)
    else:
        data = bits if kind == "memory" else dask.array.from_array(bits, chunks=(2, 2, *bits.shape[2:]))
    scan = as_scan(data)
    whole = scan.read(np.arange(scan.size))
    assert scan.dtype == whole.dtype == np.uint8
    np.testing.assert_array_equal(whole.reshape(bits.shape), bits)
    np.testing.assert_array_equal(scan.read([3, 7, 8]), bits.reshape(-1, *bits.shape[2:])[[3, 7, 8]])


def test_data_on_a_gpu_are_refused():
    class ndarray:  # as cupy's
        shape, dtype = (2, 2, 64, 64), np.dtype("u2")

    ndarray.__module__ = "cupy"
    with pytest.raises(PrenetError):
        as_scan(ndarray())


def test_a_virtual_data_set_whose_sources_vanish_is_no_zeros(values, tmp_path):
    flat = np.asarray(values).reshape(-1, *values.shape[2:])
    layout = h5py.VirtualLayout(values.shape, values.dtype)
    for row, part in enumerate(values):
        with h5py.File(tmp_path / f"{row}.h5", "w") as file:
            file["a"] = part
        layout[row] = h5py.VirtualSource(f"{row}.h5", "a", part.shape)
    with h5py.File(tmp_path / "v.h5", "w") as file:
        file.create_virtual_dataset("a", layout)
    with h5py.File(tmp_path / "v.h5") as file:
        scan = as_scan(file["a"])
        np.testing.assert_array_equal(scan.read(np.arange(scan.size)), flat)
        (tmp_path / "1.h5").unlink()
        with pytest.raises(PrenetError):
            scan.read(np.arange(scan.size))


def test_nothing_is_read_before_it_is_asked_for():
    class Unreadable(Sliced):
        def __getitem__(self, key):
            raise AssertionError("it was read")

    scan = as_scan(Unreadable(np.broadcast_to(np.uint8(0), (300, 300, 256, 256))))
    assert scan.size == 90_000 and scan.shape == (300, 300, 256, 256)
