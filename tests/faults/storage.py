"""Faults of files that are read."""

import os
from types import SimpleNamespace

import h5py
import numpy as np
import pytest

from py4dstem_prenet.core import Decision, PrenetError, as_scan
from py4dstem_prenet.io import calibrations, emd_files

from .bench import cube_of, into, scan, state

CASES = []
case = into(CASES)


def opened(path, **options):
    import py4dstem_prenet

    return py4dstem_prenet.open(path, **options)


def cannot_open(name, made, make):
    """A file that `open` refuses. make: writes it at a path."""
    def run(bench):
        path = bench.given / name
        make(path)
        return bench.refuse(lambda: opened(path), lambda: opened(str(path)))
    case("File", made, "refused", f"opened as {name}")(run)


def emd_file(path, data=None):
    emd_files.save(calibrated(data), path)
    return path


def calibrated(data=None):
    """A cube with an origin as this package writes it, sigma maps and all."""
    cube = cube_of(np.array(scan().counts[:3, :3]) if data is None else data)
    qx0, qy0, sigma = (np.full(cube.Rshape, v) for v in (31.0, 32.0, 0.1))
    calibrations.write_origin(cube, SimpleNamespace(
        decision=Decision(True), qx0=qx0, qy0=qy0, sigma_qx0=sigma, sigma_qy0=sigma, valid=sigma > 0,
                                           radius=scan().truth["radius"], found=True, feature="direct beam",
                                           radius_sigma=0.03, stop=None))
    calibrations.write_fit(cube, SimpleNamespace(qx0=qx0, qy0=qy0, accepted=True))
    return cube


def text(path):
    path.write_bytes(b"hello")


def cut(path, keep=9000):
    emd_file(path)
    os.truncate(path, keep)


def damaged(path):
    emd_file(path)
    content = bytearray(path.read_bytes())
    content[600:5000] = bytes(4400)
    path.write_bytes(content)


def without_filter(path):
    """A compressed file whose filter no one has: the number of gzip's exchanged."""
    with h5py.File(path, "w") as file:
        file.create_dataset("data", data=scan().counts, chunks=(1, 1, 64, 64), compression="gzip")
    content = bytearray(path.read_bytes())
    at = content.index(b"deflate\0")
    content[at - 8:at - 6] = (32099).to_bytes(2, "little")
    path.write_bytes(content)


def pickled(path):
    with open(path, "wb") as file:
        np.save(file, np.array([Bomb()] * 2, dtype=object), allow_pickle=True)


class Bomb:
    def __reduce__(self):
        return os.abort, ()


def cut_npy(path):
    np.save(path, scan().counts)
    os.truncate(path, 5000)


def plain(path, **sets):
    with h5py.File(path, "w") as file:
        for key, value in sets.items():
            file[key] = value


cannot_open("none.h5", "a missing file", lambda path: None)
cannot_open("folder.h5", "a folder", lambda path: path.mkdir())
cannot_open("text.h5", "text instead of HDF5", text)
cannot_open("empty.h5", "an empty file", lambda path: path.touch())
cannot_open("cut.h5", "HDF5 cut short", cut)
cannot_open("damaged.h5", "HDF5 with zeros in its tables", damaged)
cannot_open("cut.npy", "an array cut short", cut_npy)
cannot_open("pickle.npy", "an array of pickled objects", pickled)
cannot_open("a.xyz", "an unknown ending", text)
cannot_open("a.dm4", "text instead of dm4", text)
cannot_open("plain.h5", "HDF5 without a scan", lambda path: plain(path, x=np.zeros(3)))
cannot_open("two.h5", "HDF5 with two scans", lambda path: plain(path, a=scan().counts, b=scan().counts))
cannot_open("stack.npy", "a stack without the scan's shape",
            lambda path: np.save(path, scan().counts.reshape(36, 64, 64)))


@case("File", "a scan's shape that does not fit", "refused", "open(..., scan_shape=(5, 5))")
def _(bench):
    np.save(bench.given / "a.npy", scan().counts.reshape(36, 64, 64))
    return bench.refuse(lambda: opened(bench.given / "a.npy", scan_shape=(5, 5)))


@case("File", "compressed by a filter that is missing", "refused",
      "the number of gzip replaced by that of another filter")
def _(bench):
    without_filter(bench.given / "a.h5")
    return bench.refuse(lambda: opened(bench.given / "a.h5"))


@case("File", "a damaged compressed chunk", "refused", "zeros in one of its gzip streams")
def _(bench):
    path = bench.given / "a.h5"
    with h5py.File(path, "w") as file:
        stored = file.create_dataset("data", data=scan().counts, chunks=(1, 6, 64, 64), compression="gzip")
        place = stored.id.get_chunk_info(2).byte_offset
    content = bytearray(path.read_bytes())
    content[place + 100:place + 140] = bytes(40)
    path.write_bytes(content)
    cube = opened(path)
    before = dict(cube.calibration._params)
    told = bench.refuse(lambda: cube.prenet.calibrate(progress=False), lambda: cube.prenet.denoise(progress=False),
                        lambda: cube.prenet.denoise(out=bench.out / "a.h5", progress=False))
    assert cube.calibration._params == before
    cube.data.file.close()
    return told


@case("File", "written in place while it is read", "refused", "one byte is changed while the scan is read")
def _(bench):
    path = bench.given / "a.npy"
    np.save(path, scan().counts)
    cube, before = opened(path), bench.files()
    with pytest.raises(PrenetError) as caught:
        for number, _ in enumerate(as_scan(cube).blocks(6)):
            if number == 1:
                path.write_bytes(path.read_bytes()[:-1] + b"1")
    assert bench.files().keys() == before.keys()
    return [bench.told(caught.value)]


@case("File", "replaced by another while it is read", "answered",
      "os.replace after it was opened: the file that was opened is read", "beam_found")
def _(bench):
    np.save(bench.given / "a.npy", scan().counts)
    np.save(bench.given / "b.npy", scan().counts[::-1])
    known = cube_of(scan().counts).prenet.measure_origin(progress=False)
    cube = opened(bench.given / "a.npy")
    os.replace(bench.given / "b.npy", bench.given / "a.npy")
    found = cube.prenet.measure_origin(progress=False)
    np.testing.assert_allclose(found.qx0, known.qx0, atol=1e-3)
    return list(found.flags)


@case("File", "a calibration of another scan", "refused", "load_calibration")
def _(bench):
    path, cube = emd_file(bench.given / "a.h5"), cube_of(scan().counts)
    before = state(cube)
    told = bench.refuse(lambda: cube.prenet.load_calibration(path))
    assert state(cube) == before
    return told


@case("File", "a calibration cut short", "refused", "load_calibration")
def _(bench):
    cut(bench.given / "a.h5", 4000)
    cube = cube_of(scan().counts)
    before = state(cube)
    told = bench.refuse(lambda: cube.prenet.load_calibration(bench.given / "a.h5"))
    assert state(cube) == before
    return told


@case("File", "a scan cropped by py4DSTEM itself", "refused", "data[:4], same calibration")
def _(bench):
    cube = calibrated(scan().counts)
    from py4DSTEM import DataCube

    part = DataCube(cube.data[:4], calibration=cube.calibration.copy())
    return bench.refuse(lambda: part.prenet.measure_ellipse(), lambda: part.prenet.corrected(progress=False))
