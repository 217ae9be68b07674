"""The same file, version and weights give the same bits, and the provenance names all three."""

import json
import subprocess
import sys
import textwrap

import numpy as np
import pytest
from scans import simulated

from py4dstem_prenet import __version__
from py4dstem_prenet.networks import weights

SCRIPT = """
    import hashlib, json, sys
    import torch
    torch.set_num_threads(1)
    import py4dstem_prenet
    from py4dstem_prenet.io import provenance

    cube = py4dstem_prenet.open("scan.npy")
    report = cube.prenet.calibrate(device="cpu", progress=False)
    clean = cube.prenet.denoise(device="cpu", progress=False)
    values = {"denoised": clean.data}
    for name in ("qx0", "qy0", "sigma_qx0", "sigma_qy0"):
        values[name] = getattr(report.origin, name)
    values["fit"] = report.fit.qx0
    kept = {key: value for key, value in cube.calibration._params.items() if not key.startswith("_")}
    record = provenance.read_provenance(cube)
    record.pop("date")
    print(json.dumps({"bits": {name: hashlib.sha256(v.tobytes()).hexdigest() for name, v in values.items()},
                      "calibration": hashlib.sha256(repr(sorted(kept.items())).encode()).hexdigest(),
                      "report": str(report), "record": record}))
"""


@pytest.mark.slow
def test_two_fresh_processes_agree_in_every_bit(tmp_path):
    np.save(tmp_path / "scan.npy", simulated(scan=(4, 4), shape=(64, 64), radius=5.0, dose=4000.0).counts)
    found = []
    for _ in range(2):
        run = subprocess.run([sys.executable, "-c", textwrap.dedent(SCRIPT)], cwd=tmp_path, capture_output=True,
                             text=True)
        assert run.returncode == 0, run.stderr
        found.append(json.loads(run.stdout.splitlines()[-1]))
    assert found[0] == found[1]
    record = found[0]["record"]
    assert record["version"] == __version__ and record["shape"] == [4, 4, 64, 64] and record["dtype"] == "uint16"
    assert record["weights"] == {name: weights.verify(name) for name in ("center", "ellipse")}
    assert record["noise"]["gain"] == 1 and record["settings"] == {"device": "cpu"}
