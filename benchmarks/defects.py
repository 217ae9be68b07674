"""Put deliberate defects into copies of the code, and name the tests that fail.

    python benchmarks/defects.py [NAME ...]

A defect that no test catches is printed as MISSED, and the exit status is 1. If the code that a defect replaces is not
found, the script fails: the table below must follow the code.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]

WRITTEN = "tests/test_properties.py::test_what_is_written_is_what_py4dstem_uses"
MARKED = "tests/test_properties.py::test_positions_without_a_beam_get_a_neighbors_origin_and_stay_marked"

# name: (module, code, code with the defect, tests that should fail)
DEFECTS = {
    "swapped axes of the fitted origin": (
        "io/calibrations.py", "datacube.calibration.set_origin((qx0, qy0))",
        "datacube.calibration.set_origin((qy0, qx0))",
        WRITTEN),
    "ellipse angle off by 90 degrees": (
        "io/calibrations.py", "set_ellipse((float(ellipse.a), float(ellipse.b), float(ellipse.theta)))",
        "set_ellipse((float(ellipse.a), float(ellipse.b), float(ellipse.theta) + 1.5707963))",
        WRITTEN),
    "a and b exchanged in the ellipse's axes": (
        "io/calibrations.py", "set_ellipse((float(ellipse.a), float(ellipse.b), float(ellipse.theta)))",
        "set_ellipse((float(ellipse.b), float(ellipse.a), float(ellipse.theta)))",
        WRITTEN),
    "invalid positions counted as valid": (
        "io/calibrations.py", "valid &= np.isfinite(maps", "valid[...] = True; valid &= np.isfinite(maps", MARKED),
    "stale sigma taken for current": (
        "io/calibrations.py", 'return entry is None or entry["unchanged"]', "return True",
        "tests/test_properties.py::test_sigmas_of_an_earlier_measurement_are_not_those_of_a_later_one"),
    "offset ignored": (
        "core/noise.py", "e -= np.float32(self.offset)", "e -= np.float32(0)", "tests/test_noise.py"),
    "gain ignored": (
        "core/noise.py", "e /= np.float32(self.gain)", "e /= np.float32(1)", "tests/test_noise.py"),
    "user's mask inverted": (
        "detector/estimate.py", "bad | ~np.asarray(mask, bool)", "bad | np.asarray(mask, bool)",
        "tests/test_pipeline.py tests/test_origin.py"),
    "fit on the wrong mask": (
        "descan/fit.py", "x, y, flags = fit_descan(maps, sigmas, valid, model)",
        "x, y, flags = fit_descan(maps, sigmas, ~valid, model)",
        "tests/test_properties.py::test_a_descan_fit_follows_the_scan_and_its_own_coordinates"),
    "coordinates of the pattern mirrored in the disk fit": (
        "fits/disk.py", "dx, dy = self.x - position[:, :1]", "dx, dy = self.x + position[:, :1]",
        "tests/test_properties.py::test_the_disk_fit_follows_its_window"),
    "covariance of the disk fit doubled": (
        "fits/disk.py", "return DiskPositions(state.position, inverse[:, :2, :2],",
        "return DiskPositions(state.position, 4 * inverse[:, :2, :2],",
        "tests/test_disk.py tests/test_origin.py"),
    "read position one to the right": (
        "core/scan.py", "rows, columns = np.divmod(index, self.scan_shape[1])",
        "rows, columns = np.divmod(np.roll(index, 1), self.scan_shape[1])", "tests/test_scan_reading.py"),
    "NaN let through": (
        "core/reading.py", "if not all_finite(block):", "if False and not all_finite(block):",
        "tests/test_scan_reading.py tests/test_pipeline.py"),
}


def apply(copy, module, code, defect):
    path = copy / "py4dstem_prenet" / module
    text = path.read_text()
    if code not in text:
        raise SystemExit(f"{module} does not contain {code!r}; update the table in defects.py.")
    path.write_text(text.replace(code, defect))


def caught_by(name):
    """Names of the first two tests that fail with the defect."""
    module, code, defect, tests = DEFECTS[name]
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "tree"
        left_out = shutil.ignore_patterns(".*", "runs", "demo", "docs", "notebooks", "__pycache__")
        shutil.copytree(ROOT, copy, ignore=left_out)
        apply(copy, module, code, defect)
        command = [sys.executable, "-m", "pytest", "-q", "--maxfail=2", "--tb=no", "-p", "no:cacheprovider"]
        made = subprocess.run([*command, *tests.split()], cwd=copy, capture_output=True, text=True,
                              env={**os.environ, "PYTHONPATH": str(copy)})
    return re.findall(r"^FAILED (\S+)", made.stdout, re.M)


if __name__ == "__main__":
    missed = 0
    for chosen in sys.argv[1:] or DEFECTS:
        found = caught_by(chosen)
        missed += not found
        print(f"{chosen}: {', '.join(found) or 'MISSED'}", flush=True)
    raise SystemExit(bool(missed))
