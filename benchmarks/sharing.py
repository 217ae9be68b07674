"""Measure how long `calibrate` takes when several processes share the cores.

    python benchmarks/sharing.py [--processes 1 2]

Each process calibrates the demonstration scan, repeated to 60 x 60 positions, with the default number of threads. The
processes start together; the time is that of `calibrate` alone, the slowest of them. Run it on an idle machine.
"""

import argparse
import platform
import subprocess
import sys
import time

CODE = """
import time, warnings
warnings.filterwarnings("ignore")
import numpy as np
import py4DSTEM, py4dstem_prenet
from py4dstem_prenet.demo import load_scan

scan = py4DSTEM.DataCube(np.tile(load_scan()[0].data, (3, 3, 1, 1)))
start = time.perf_counter()
scan.prenet.calibrate(progress=False)
print("seconds", time.perf_counter() - start)
"""


def seconds_of(count):
    """Duration of each of `count` simultaneous calibrations, seconds."""
    processes = [subprocess.Popen([sys.executable, "-c", CODE], stdout=subprocess.PIPE, text=True)
                 for _ in range(count)]
    return [float(process.communicate()[0].split()[-1]) for process in processes]


def main():
    """Print the durations."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2])
    counts = parser.parse_args().processes
    print(f"{platform.processor() or platform.machine()}, {time.strftime('%Y-%m-%d')}")
    alone = None
    for count in counts:
        seconds = max(seconds_of(count))
        alone = alone or seconds
        print(f"{count} at once: {seconds:.1f} s, {seconds / alone:.2f} times the first row")


if __name__ == "__main__":
    main()
