"""Faults of files, of outputs, and of what happens meanwhile."""

import multiprocessing
import os
import resource
import signal
import subprocess
import threading

import h5py
import numpy as np
import pytest

from py4dstem_prenet import batches, emd, emd_files
from py4dstem_prenet.errors import PrenetError

from .bench import cube_of, into, scan, state

CASES = []
case = into(CASES)


def opened(path, **options):
    import py4dstem_prenet

    return py4dstem_prenet.open(path, **options)


def cannot_open(name, told, made, make):
    """A file that `open` refuses. make: writes it at a path."""
    def run(bench):
        path = bench.given / name
        make(path)
        return bench.refuse(lambda: opened(path), lambda: opened(str(path)))
    case("File", made, "refused", told, f"opened as {name}")(run)


def emd_file(path, data=None):
    emd_files.save(calibrated(data), path)
    return path


def calibrated(data=None):
    cube = cube_of(np.array(scan().counts[:3, :3]) if data is None else data)
    cube.calibration.set_origin(tuple(np.full(cube.Rshape, v) for v in (31.0, 32.0)))
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


cannot_open("none.h5", "There is no file given/none.h5.", "a file that is not there", lambda path: None)
cannot_open("folder.h5", "given/folder.h5 is a folder, not a file.", "a folder", lambda path: path.mkdir())
cannot_open("text.h5", "given/text.h5 is not an HDF5 file (…).", "text in the place of HDF5", text)
cannot_open("empty.h5", "given/empty.h5 is not an HDF5 file (…).", "an empty file", lambda path: path.touch())
cannot_open("cut.h5", "given/cut.h5 is damaged or cut short (…).", "HDF5 cut short", cut)
cannot_open("damaged.h5", "given/damaged.h5 …", "HDF5 with zeros in its tables", damaged)
cannot_open("cut.npy", "given/cut.npy is not a complete array of numbers (…).", "an array cut short", cut_npy)
cannot_open("pickle.npy", "given/pickle.npy is not a complete array of numbers (…).", "an array of pickled objects",
      pickled)
cannot_open("a.xyz", "given/a.xyz is of no kind that py4DSTEM …reads….", "an ending that nobody knows", text)
cannot_open("a.dm4", "given/a.dm4 could not be opened by py4DSTEM: …", "text in the place of dm4", text)
cannot_open("plain.h5", "given/plain.h5 holds no data set with four axes; it holds: x (3,).", "HDF5 without a scan",
            lambda path: plain(path, x=np.zeros(3)))
cannot_open("two.h5", "given/two.h5 holds several data sets that may be scans (a, b); give the name of one.",
            "HDF5 with two scans", lambda path: plain(path, a=scan().counts, b=scan().counts))
cannot_open("stack.npy", "given/stack.npy holds an array of shape (36, 64, 64), but a scan has four axes (Rx, Ry, Qx, "
            "Qy); if it is a stack of patterns, give the scan's shape (Rx, Ry).", "a stack without the scan's shape",
            lambda path: np.save(path, scan().counts.reshape(36, 64, 64)))


@case("File", "a scan's shape that does not fit", "refused", "given/a.npy holds an array of shape (36, 64, 64), which "
      "does not fill a scan of 5 x 5.", "open(..., scan_shape=(5, 5))")
def _(bench):
    np.save(bench.given / "a.npy", scan().counts.reshape(36, 64, 64))
    return bench.refuse(lambda: opened(bench.given / "a.npy", scan_shape=(5, 5)))


@case("File", "compressed by a filter that is missing", "refused", "given/a.h5 is compressed by a filter (number "
      "32099) that is not installed; try `import hdf5plugin` first.", "gzip's number exchanged")
def _(bench):
    without_filter(bench.given / "a.h5")
    return bench.refuse(lambda: opened(bench.given / "a.h5"))


@case("File", "a damaged compressed chunk", "refused", "given/a.h5 is damaged: of /data the chunk with scan positions "
      "(2, 0) to (2, 5) cannot be read or unpacked; copy the file again from where it came, or crop these positions "
      "off.", "zeros in one of its gzip streams")
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


@case("File", "written in place while it is read", "refused", "given/a.npy was written while it was read, so what was "
      "read may belong to two scans; wait until it is finished, and start again.", "one byte, while the scan is read")
def _(bench):
    path = bench.given / "a.npy"
    np.save(path, scan().counts)
    cube, before = opened(path), bench.files()
    with pytest.raises(PrenetError) as caught:
        for number, _ in enumerate(batches.patterns(cube, chunk=6)):
            if number == 1:
                path.write_bytes(path.read_bytes()[:-1] + b"1")
    assert bench.files().keys() == before.keys()
    return [bench.told(caught.value)]


@case("File", "exchanged by another while it is read", "answered", "The direct beam was found everywhere.",
      "os.replace after it was opened: the file that was opened counts")
def _(bench):
    np.save(bench.given / "a.npy", scan().counts)
    np.save(bench.given / "b.npy", scan().counts[::-1])
    known = cube_of(scan().counts).prenet.measure_origin(progress=False)
    cube = opened(bench.given / "a.npy")
    os.replace(bench.given / "b.npy", bench.given / "a.npy")
    found = cube.prenet.measure_origin(progress=False)
    np.testing.assert_allclose(found.qx0, known.qx0, atol=1e-3)
    return [found.reason]


@case("File", "a calibration of another scan", "refused", "given/a.h5 calibrates data of shape (3, 3, 64, 64), but "
      "this cube is (6, 6, 64, 64).", "load_calibration")
def _(bench):
    path, cube = emd_file(bench.given / "a.h5"), cube_of(scan().counts)
    before = state(cube)
    told = bench.refuse(lambda: cube.prenet.load_calibration(path))
    assert state(cube) == before
    return told


@case("File", "a calibration cut short", "refused", "given/a.h5 is damaged or cut short (…).", "load_calibration")
def _(bench):
    cut(bench.given / "a.h5", 4000)
    cube = cube_of(scan().counts)
    before = state(cube)
    told = bench.refuse(lambda: cube.prenet.load_calibration(bench.given / "a.h5"))
    assert state(cube) == before
    return told


@case("File", "a scan cropped by py4DSTEM itself", "refused", "The origin in the calibration has the shape (6, 6), "
      "but the scan is (4, 6): it is from before the cube was cropped or binned, so measure again.", "data[:4], same "
      "calibration")
def _(bench):
    cube = calibrated(scan().counts)
    from py4DSTEM import DataCube

    part = DataCube(cube.data[:4], calibration=cube.calibration.copy())
    return bench.refuse(lambda: part.prenet.measure_ellipse(), lambda: part.prenet.corrected(progress=False))


# --- output -------------------------------------------------------------------------------------------------


def every_output(cube, path):
    """All that writes a scan."""
    return [lambda: cube.prenet.save(path), lambda: cube.prenet.save(path, data=False),
            lambda: cube.prenet.denoise(out=path, progress=False), lambda: cube.prenet.corrected(out=path,
                  progress=False)]


def cannot_write(name, told, made, prepare=lambda path: None):
    def run(bench):
        path = bench.out / name
        prepare(path)
        return bench.refuse(*every_output(calibrated(), path))
    case("Output", made, "refused", told, f"written to {name}")(run)


cannot_write("a.h5", "out/a.h5 exists already; choose another name or delete it first.", "a file that is there", text)
cannot_write("a.h5", "out/a.h5 exists already; choose another name or delete it first.", "a link to nowhere",
             lambda path: path.symlink_to("nowhere"))
cannot_write("no/a.h5", "The folder out/no does not exist; make it first.", "a folder that is not there")
cannot_write("a.dat", "The name a.dat must end in .h5 or .hdf5 or .emd or .py4dstem to be read back.", "a strange "
      "ending")
cannot_write("a" * 300 + ".h5", "No file can be written …: File name too long.", "a name of 300 letters")


@case("Output", "a folder that takes no file", "refused", "No file can be written in /proc: ….", "written to "
      "/proc/a.h5")
def _(bench):
    if not os.path.isdir("/proc/self"):
        pytest.skip("no /proc")
    return bench.refuse(*every_output(calibrated(), "/proc/a.h5"))


def limited(bench, work):
    """What a child process says that may write files of 64 KiB at most, as on a disk that is full."""
    def child(pipe):
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (2**16, 2**16))
        try:
            work()
        except PrenetError as error:
            pipe.send(bench.told(error))
        except BaseException as error:
            pipe.send(f"{type(error).__name__}: {error}")
        else:
            pipe.send("nothing")

    return in_child(child)


def started(child):
    """A process that runs child(pipe), and the first thing that it says."""
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe()
    process = context.Process(target=child, args=(theirs,))
    process.start()
    theirs.close()
    return process, ours.recv() if ours.poll(120) else "silence"


def in_child(child):
    process, told = started(child)
    process.join(60)
    return told


for name, work in (
        ("saving", lambda cube, path: cube.prenet.save(path)),
        ("denoising to a file", lambda cube, path: cube.prenet.denoise(out=path, progress=False)),
        ("correcting to a file", lambda cube, path: cube.prenet.corrected(out=path, progress=False))):
    @case("Output", f"a full disk while {name}", "refused", "out/a.h5 could not be written: …", "files limited to 64 "
          "KiB")
    def _(bench, work=work):
        cube = calibrated()
        told = limited(bench, lambda: work(cube, bench.out / "a.h5"))
        assert not bench.files()
        return [told]


@case("Output", "a disk that is really full", "refused", "out/full/a.h5 could not be written: it needs … GB, and "
      "the disk has … GB left.", "a tmpfs of 256 KiB")
def _(bench):
    folder = bench.out / "full"
    folder.mkdir()
    mounted = os.geteuid() == 0 and subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "none", folder],
                                                   capture_output=True).returncode == 0
    if not mounted:
        pytest.skip("no file system can be mounted here")
    try:
        cube = calibrated(np.array(scan().counts))
        told = [sentence for call in every_output(cube, folder / "a.h5") for sentence in bench.refuse(call)]
    finally:
        subprocess.run(["umount", folder], check=True)
    return told


@case("Output", "two processes that save at once", "refused", "out/a.h5 appeared while it was being written and is "
      "left alone; choose another name.", "the second ends first")
def _(bench):
    path, cube = bench.out / "a.h5", calibrated()
    with pytest.raises(PrenetError) as caught, emd_files.new_cube(cube, path, np.uint16) as target:
        assert in_child(lambda pipe: pipe.send(str(cube.prenet.save(path)))) == "None"
        kept = path.read_bytes()
        target[:] = 0
    assert path.read_bytes() == kept and len(bench.files()) == 1
    return [bench.told(caught.value)]


@case("Output", "two processes that denoise at once", "refused", "Another process is writing out/.a.h5.unfinished; "
      "wait for it, or choose another name.", "the second begins while the first writes")
def _(bench):
    path, cube = bench.out / "a.h5", calibrated()

    def first(pipe):
        with emd_files.resumable_cube(cube, path, np.float32, {}) as target:
            target.write(np.arange(4), np.zeros((4, 64, 64), np.float32))
            pipe.send("four")
            threading.Event().wait()

    process, told = started(first)
    assert told == "four"
    try:
        return bench.refuse(lambda: cube.prenet.denoise(out=path, progress=False))
    finally:
        process.kill()
        process.join()


@case("Output", "what the cube holds cannot be saved", "refused", "out/a.h5 could not be written, because py4DSTEM "
      "cannot save what the cube holds: …", "a set in its metadata")
def _(bench):
    from py4DSTEM import Metadata

    cube = calibrated()
    cube.metadata = Metadata("mine", {"x": {1, 2}})
    return bench.refuse(lambda: cube.prenet.save(bench.out / "a.h5"))


# --- meanwhile ----------------------------------------------------------------------------------------------


@case("Meanwhile", "saving is killed", "answered", "the next save removes what was left", "SIGKILL half way")
def _(bench):
    path, cube = bench.out / "a.h5", calibrated()

    def child(pipe):
        with emd_files.new_cube(cube, path, np.uint16) as target:
            target[0] = 1
            pipe.send("half")
            threading.Event().wait()

    process, told = started(child)
    assert told == "half"
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert not path.exists() and len(bench.files()) == 1
    cube.prenet.save(path)
    assert list(bench.files()) == ["out/a.h5"]
    return ["the next save removes what was left"]


@case("Meanwhile", "denoising to a file is interrupted", "answered", "the next run goes on, with the same bits",
      "KeyboardInterrupt before the last pattern")
def _(bench):
    from py4dstem_prenet import denoise as module

    path, cube, clean = bench.out / "a.h5", calibrated(), module._clean
    whole = cube.prenet.denoise(progress=False).data
    seen = []

    def once(index, block, *rest, **options):
        seen.append(len(index))
        if len(seen) == 3:
            raise KeyboardInterrupt
        return clean(index, block, *rest, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module.batches, "BLOCK_BYTES", 64 * 64 * 4 * 3)
        patch.setattr(module, "_clean", once)
        with pytest.raises(KeyboardInterrupt):
            cube.prenet.denoise(out=path, progress=False)
        assert list(bench.files()) == ["out/.a.h5.unfinished"]
        result = cube.prenet.denoise(out=path, progress=False)
    assert list(bench.files()) == ["out/a.h5"] and len(seen) < 3 + 3
    np.testing.assert_allclose(result.data, whole, rtol=0.2, atol=0.5)  # blocks know the neighbors within them only
    return ["the next run goes on, with the same bits"]


@case("Meanwhile", "calibrating is interrupted while it writes", "answered", "the calibration is as it was before",
      "KeyboardInterrupt at each of its steps")
def _(bench):
    from py4dstem_prenet import pipeline

    cube = calibrated(np.array(scan().counts))
    before, axes = state(cube), [np.copy(d) for d in cube.dims]
    with pytest.MonkeyPatch.context() as patch:
        report = cube_of(scan().counts).prenet.calibrate(progress=False)
        for step in ("write_fit", "write_ellipse", "write_provenance"):
            patch.setattr(emd, step, lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
            with pytest.raises(KeyboardInterrupt):
                pipeline.write(cube, report.origin, report.fit, report.ellipse, report.noise, "cpu")
            patch.undo()
            assert state(cube) == before
    assert all((a == b).all() for a, b in zip(axes, cube.dims, strict=True))
    return ["the calibration is as it was before"]
