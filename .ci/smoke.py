"""What an installed package must do, outside the repository: find its weights, calibrate a scan, write a file.

    python .ci/smoke.py
"""

import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import py4DSTEM
import torch

import py4dstem_prenet
from py4dstem_prenet.demo import load_scan

torch.set_num_threads(1)
whole, truth = load_scan()
part = np.ascontiguousarray(whole.data[:5, :6])
cube = py4DSTEM.DataCube(part)
report = cube.prenet.calibrate(progress=False)
assert report.origin.valid.all() and report.fit.accepted, str(report)
error = np.hypot(report.fit.qx0 - truth["qx0"][:5, :6], report.fit.qy0 - truth["qy0"][:5, :6])
assert error.max() < 0.5, error
clean = cube.prenet.denoise(scan_aware=False, progress=False)
assert abs(clean.data[...].sum() / part.sum() - 1) < 0.01
with tempfile.TemporaryDirectory() as folder:
    path = Path(folder) / "scan.h5"
    cube.prenet.save(path)
    assert np.array_equal(py4DSTEM.read(str(path)).calibration.get_origin()[0], report.fit.qx0)
for command in (["--help"], ["info", "--help"]):
    prenet = [sys.executable, "-m", "py4dstem_prenet.cli", *command]
    assert "Usage" in subprocess.run(prenet, capture_output=True, text=True, check=True).stdout
print(f"{py4dstem_prenet.__version__} in {Path(py4dstem_prenet.__file__).parent}, Python {sys.version.split()[0]}, "
      f"torch {torch.__version__}, numpy {np.__version__}: origin off by {error.max():.3f} px at most")
