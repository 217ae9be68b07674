"""What `save` writes is read back before the file gets its name; what py4DSTEM would not read is refused."""

import h5py
import numpy as np
import py4DSTEM
import pytest
from py4DSTEM import DataCube

import py4dstem_prenet
from py4dstem_prenet.core.errors import PrenetError
from py4dstem_prenet.io import emd_files

DATA = np.random.default_rng(0).poisson(3, (3, 4, 40, 48)).astype("u2")


class Cube(DataCube):
    pass


class Slice(py4DSTEM.RealSlice):
    pass


def cube(name="scan", kind=DataCube, **entries):
    made = kind(DATA.copy(), name=name)
    for key, value in entries.items():
        made.calibration[key] = value
    return made


def refused(made, folder, data=True):
    with pytest.raises(PrenetError):
        py4dstem_prenet.save(made, folder / "a.h5", data=data)
    assert not list(folder.iterdir())


@pytest.mark.parametrize("make", [
    lambda: cube("a/b"), lambda: cube(**{"HV/kV": 200.0}), lambda: cube(Q_pixel_size=(0.02, 0.03)),
    lambda: cube(Q_pixel_size=None), lambda: cube(R_pixel_size="1 nm"), lambda: cube(R_pixel_size=np.ones(2))])
def test_what_py4dstem_writes_but_does_not_read_is_refused(tmp_path, make):
    refused(make(), tmp_path)


def test_names_in_the_metadata(tmp_path):
    made = cube()
    made.metadata = py4DSTEM.Metadata("session", {"HV/kV": 200})
    refused(made, tmp_path)


def test_objects_of_subclasses_are_stored_as_those_of_py4dstem(tmp_path):
    made = cube(kind=Cube)
    made.attach(Slice(np.full((3, 4), 2.0), name="image"))
    py4dstem_prenet.save(made, tmp_path / "a.h5")
    for read in (py4DSTEM.read, py4dstem_prenet.open):
        found = read(tmp_path / "a.h5")
        assert type(found) is DataCube and (found.tree("image").data == 2).all()
        np.testing.assert_array_equal(found.data, DATA)
    assert type(made) is Cube  # what is in memory is unchanged


def test_an_entry_that_comes_back_different_is_noticed(tmp_path, monkeypatch):
    """As by a version of emdfile that stores something else."""
    made, save = cube(camera_length=0.2), py4DSTEM.save

    def changed(path, node, **options):
        calibration = getattr(node, "calibration", node)
        calibration._params["camera_length"] = 0.3
        save(path, node, **options)
        calibration._params["camera_length"] = 0.2

    monkeypatch.setattr(py4DSTEM, "save", changed)
    refused(made, tmp_path)


def test_patterns_that_come_back_different_are_noticed(tmp_path, monkeypatch):
    """As from a disk that lost a block."""
    real, calls = emd_files.checksum, []

    def other(values):
        calls.append(len(values))
        return real(values) + (len(calls) == 1)

    monkeypatch.setattr(emd_files, "checksum", other)
    refused(cube(), tmp_path)
    assert calls == [3]


@pytest.mark.parametrize("data", [DATA, DATA > 3, DATA.astype(">f4"), np.asfortranarray(DATA)])
def test_the_checksum_is_of_the_values(tmp_path, data):
    py4dstem_prenet.save(DataCube(data), tmp_path / "a.h5")
    np.testing.assert_array_equal(py4DSTEM.read(tmp_path / "a.h5").data, data)
    assert [p.name for p in tmp_path.iterdir()] == ["a.h5"]


def test_a_source_that_vanishes_leaves_no_file(tmp_path):
    folder = tmp_path / "source"
    folder.mkdir()
    layout = h5py.VirtualLayout(DATA.shape, DATA.dtype)
    for row, part in enumerate(DATA):
        with h5py.File(folder / f"{row}.h5", "w") as file:
            file["d"] = part
        layout[row] = h5py.VirtualSource(f"{row}.h5", "d", part.shape)
    with h5py.File(folder / "all.h5", "w") as file:
        file.create_virtual_dataset("d", layout)
    made = py4dstem_prenet.open(folder / "all.h5")
    (folder / "1.h5").unlink()
    (tmp_path / "out").mkdir()
    refused(made, tmp_path / "out")


@pytest.mark.filterwarnings("ignore")
def test_a_cube_without_a_calibration_is_saved(tmp_path):
    made = cube()
    made.root._metadata.pop("calibration")
    py4dstem_prenet.save(made, tmp_path / "a.h5")
    np.testing.assert_array_equal(py4DSTEM.read(tmp_path / "a.h5").data, DATA)


def test_a_stream_is_refused_before_it_begins(tmp_path):
    begun = []
    with pytest.raises(PrenetError), emd_files.new_cube(cube("a/b"), tmp_path / "a.h5", np.float32):
        begun.append(True)
    with pytest.raises(PrenetError), emd_files.resumable_cube(cube("a/b"), tmp_path / "a.h5", np.float32, {}):
        begun.append(True)
    assert not begun and not list(tmp_path.iterdir())
