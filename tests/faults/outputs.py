"""Faults of outputs, and of what happens meanwhile."""

import multiprocessing
import os
import resource
import signal
import subprocess
import threading

import numpy as np
import pytest

from py4dstem_prenet.core.errors import PrenetError
from py4dstem_prenet.io import emd_files

from .bench import cube_of, into, scan, state
from .storage import calibrated, text

CASES = []
case = into(CASES)


def every_output(cube, path):
    """All that writes a scan."""
    return [lambda: cube.prenet.save(path), lambda: cube.prenet.save(path, data=False),
            *(lambda name=name: getattr(cube.prenet, name)(out=path, progress=False)
              for name in ("denoise", "corrected", "repaired"))]


def cannot_write(name, made, prepare=lambda path: None):
    def run(bench):
        path = bench.out / name
        prepare(path)
        return bench.refuse(*every_output(calibrated(), path))
    case("Output", made, "refused", f"written to {name if len(name) < 20 else 'it'}")(run)


cannot_write("a.h5", "an existing file", text)
cannot_write("a.h5", "a symbolic link without a target", lambda path: path.symlink_to("nowhere"))
cannot_write("no/a.h5", "a folder that does not exist")
cannot_write("a.dat", "an unknown ending")
cannot_write("a" * 300 + ".h5", "a name of 300 letters")


@case("Output", "a folder in which no file can be created", "refused", "written to /proc/a.h5")
def _(bench):
    if not os.path.isdir("/proc/self"):
        pytest.skip("no /proc")
    return bench.refuse(*every_output(calibrated(), "/proc/a.h5"))


def limited(bench, work):
    """The error in a child process that may write files of 64 KiB at most, as on a full disk."""
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
            pipe.send("no error")

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
        ("correcting to a file", lambda cube, path: cube.prenet.corrected(out=path, progress=False)),
        ("repairing to a file", lambda cube, path: cube.prenet.repaired(out=path, progress=False))):
    @case("Output", f"a full disk while {name}", "refused", "files limited to 64 KiB")
    def _(bench, work=work):
        cube = calibrated()
        told = limited(bench, lambda: work(cube, bench.out / "a.h5"))
        assert not bench.files()
        return [told]


@case("Output", "a disk without enough space", "refused", "a tmpfs of 256 KiB")
def _(bench):
    folder = bench.out / "full"
    folder.mkdir()
    mounted = os.geteuid() == 0 and subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "none", folder],
                                                   capture_output=True).returncode == 0
    if not mounted:
        pytest.skip("no file system can be mounted here")
    try:
        cube = calibrated(np.array(scan().counts))
        told = [error for call in every_output(cube, folder / "a.h5") for error in bench.refuse(call)]
    finally:
        subprocess.run(["umount", folder], check=True)
    return told


@case("Output", "two processes that save at once", "refused", "the second ends first")
def _(bench):
    path, cube = bench.out / "a.h5", calibrated()
    with pytest.raises(PrenetError) as caught, emd_files.new_cube(cube, path, np.uint16) as target:
        assert in_child(lambda pipe: pipe.send(str(cube.prenet.save(path)))) == "None"
        kept = path.read_bytes()
        target[:] = 0
    assert path.read_bytes() == kept and len(bench.files()) == 1
    return [bench.told(caught.value)]


@case("Output", "two processes that denoise at once", "refused", "the second begins while the first writes")
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


@case("Output", "a cube that py4DSTEM cannot save", "refused", "a set in its metadata")
def _(bench):
    from py4DSTEM import Metadata

    cube = calibrated()
    cube.metadata = Metadata("mine", {"x": {1, 2}})
    return bench.refuse(lambda: cube.prenet.save(bench.out / "a.h5"))


# --- meanwhile ----------------------------------------------------------------------------------------------


@case("Meanwhile", "saving is killed", "answered", "SIGKILL half way")
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
    return ["the next save removes the incomplete file"]


@case("Meanwhile", "denoising to a file is interrupted", "answered", "KeyboardInterrupt before the last pattern")
def _(bench):
    from py4dstem_prenet.core import reading
    from py4dstem_prenet.denoising import denoiser as module

    path, cube, clean = bench.out / "a.h5", calibrated(), module._clean
    whole = cube.prenet.denoise(progress=False).data
    seen = []

    def once(index, block, *rest, **options):
        seen.append(len(index))
        if len(seen) == 3:
            raise KeyboardInterrupt
        return clean(index, block, *rest, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reading, "BLOCK_BYTES", 64 * 64 * 4 * 3)
        patch.setattr(module, "_clean", once)
        with pytest.raises(KeyboardInterrupt):
            cube.prenet.denoise(out=path, progress=False)
        assert list(bench.files()) == ["out/.a.h5.unfinished"]
        result = cube.prenet.denoise(out=path, progress=False)
    assert list(bench.files()) == ["out/a.h5"] and len(seen) < 3 + 3
    np.testing.assert_allclose(result.data, whole, rtol=0.2, atol=0.5)  # blocks know the neighbors within them only
    return ["the next run continues with the first pattern that is missing"]


@case("Meanwhile", "calibrating is interrupted while it writes", "answered", "KeyboardInterrupt at each of its steps")
def _(bench):
    from py4dstem_prenet import choices

    cube = calibrated(np.array(scan().counts))
    before, axes = state(cube), [np.copy(d) for d in cube.dims]
    with pytest.MonkeyPatch.context() as patch:
        report = cube_of(scan().counts).prenet.calibrate(progress=False)
        for step in ("write_fit", "write_ellipse", "write_provenance"):
            patch.setattr(choices.writing, step, lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
            with pytest.raises(KeyboardInterrupt):
                choices.write_report(cube, report, {})
            patch.undo()
            assert state(cube) == before
    assert all((a == b).all() for a, b in zip(axes, cube.dims, strict=True))
    return ["the calibration is unchanged"]
