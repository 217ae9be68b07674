"""How many clean patterns per second the simulation makes: `python benchmarks/simulation.py`."""

import datetime
import os
import platform
import subprocess
import time

from py4dstem_prenet.simulation.bank import make_bank
from py4dstem_prenet.simulation.scan import simulate

if __name__ == "__main__":
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    machine = platform.processor() or platform.machine()
    print(f"{datetime.date.today()}, commit {commit}, {os.cpu_count()} cores, {machine}")
    make_bank(5, 8)  # start the workers' imports once
    start = time.perf_counter()
    bank = make_bank(6, 240)
    seconds = time.perf_counter() - start
    print(f"multislice: {len(bank)} patterns of 256 x 256 samples in {seconds:.1f} s, "
          f"{len(bank) / seconds:.0f} a second")
    start = time.perf_counter()
    scan = simulate((24, 24), (128, 128), seed=3)
    seconds = time.perf_counter() - start
    print(f"scan of 24 x 24 patterns of 128 x 128, its specimens included: {seconds:.1f} s, "
          f"{scan.counts.shape[0] * scan.counts.shape[1] / seconds:.0f} a second")
