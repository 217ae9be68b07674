"""What needs no py4DSTEM, with numpy 2: every module is imported, and a simulated scan is calibrated from its array.

    python .ci/numpy2.py
"""

import importlib
import pkgutil
import sys
from importlib.util import find_spec

import numpy as np
import torch

import py4dstem_prenet
from py4dstem_prenet import estimate_noise, fit_origin, measure_origin
from py4dstem_prenet.core import as_scan
from py4dstem_prenet.disks import find_bragg_disks
from py4dstem_prenet.ellipse import measure_ellipse
from py4dstem_prenet.networks import load
from py4dstem_prenet.pipeline import Calibrator
from py4dstem_prenet.simulation import simulate

NEEDS_MORE = ("py4dstem_prenet.libertem", "py4dstem_prenet.io.dataset_scan", "py4dstem_prenet.live.udf")  # LiberTEM

assert int(np.__version__.split(".")[0]) >= 2 and find_spec("py4DSTEM") is None and find_spec("emdfile") is None
torch.set_num_threads(1)
names = [module.name for module in pkgutil.walk_packages(py4dstem_prenet.__path__, "py4dstem_prenet.")]
for name in names:
    if name not in NEEDS_MORE:
        importlib.import_module(name)
scan = simulate(scan=(6, 6), shape=(128, 128), dose=20_000.0, seed=0, ratio=1.04, theta=0.6)
noise = estimate_noise(scan.counts)
origin = measure_origin(scan.counts, progress=False)
fit = fit_origin(origin)
error = np.hypot(fit.qx0 - scan.truth["qx0"], fit.qy0 - scan.truth["qy0"])
assert fit.accepted and error.max() < 0.3, error
ellipse = measure_ellipse(scan.counts, fit.qx0, fit.qy0, origin.radius, noise, progress=False)
assert not ellipse.accepted or abs(ellipse.a / ellipse.b - 1.04) < 0.02, ellipse
disks = find_bragg_disks(scan.counts, progress=False, origin=(fit.qx0, fit.qy0))
assert len(disks.table) >= 36, disks
array = as_scan(scan.counts)
calibrator = Calibrator.learn(array)
report = calibrator.finish(array, calibrator.locate_all(array)[0])
assert report.fit.accepted and str(report)
for name in ("center", "denoise", "ellipse"):
    assert all(torch.isfinite(weight).all() for weight in load(name).parameters())
versions = f"numpy {np.__version__}, torch {torch.__version__}, Python {sys.version.split()[0]}"
print(f"{py4dstem_prenet.__version__}, {versions}, without py4DSTEM: {len(names) - len(NEEDS_MORE)} modules imported, "
      f"origin off by {error.max():.3f} px at most")
