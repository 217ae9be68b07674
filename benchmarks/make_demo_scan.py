"""Cut the scan that ships with the package from the multislice bench: `python benchmarks/make_demo_scan.py BENCH`.

BENCH is the folder of the bench, whose data are free to use: gold particles on amorphous carbon. The scan has a known
descan, ellipse and dose; the expected patterns at three positions are stored with it for the figure.
"""

import sys
from pathlib import Path

import numpy as np

OUT = Path(__file__).parents[1] / "py4dstem_prenet" / "data" / "demo_scan.npz"
DOSE, RATIO, THETA, SEED = 4000, 1.05, np.radians(35), 11


def regions(clean):
    """Positions of an amorphous, a crystalline and a mixed pattern: by the strongest spot outside the direct beam."""
    x, y = np.meshgrid(*(np.arange(n) - n / 2 for n in clean.shape[2:]), indexing="ij")
    spots = np.where(np.hypot(x, y) > 22, clean, 0).max((2, 3))
    order = np.argsort(spots, axis=None)
    return {name: [int(i) for i in np.unravel_index(order[int(part * (order.size - 1))], spots.shape)]
            for name, part in (("amorphous", 0.1), ("crystal", 0.99), ("mixed", 0.8))}


def main():
    bench = Path(sys.argv[1])
    sys.path.insert(0, str(bench))
    from cubes import make_cube

    bank = dict(np.load(bench / "dev_scan.npz"))
    cube = make_cube(bank, str(bank["label"]), DOSE, SEED, ratio=RATIO, theta=THETA)
    where = regions(cube.clean)
    OUT.parent.mkdir(exist_ok=True)
    np.savez_compressed(
        OUT, counts=cube.counts, qx0=cube.qx0, qy0=cube.qy0, ratio=RATIO, theta=THETA, dose=DOSE,
        regions=np.array(list(where)), positions=np.array(list(where.values())),
        clean=np.stack([cube.clean[tuple(at)] for at in where.values()]).astype(np.float16))
    print(f"{OUT}: {cube.counts.shape} {cube.counts.dtype}, {OUT.stat().st_size / 2**20:.1f} MiB, regions {where}")


if __name__ == "__main__":
    main()
