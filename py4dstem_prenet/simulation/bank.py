"""A bank of clean patterns, simulated once from a seed and stored.

Training shifts, distorts, mixes and exposes bank patterns anew in every step (`pattern.py`, `detector.py`), so a few
thousand of them, simulated in minutes, yield millions of different samples.
"""

from __future__ import annotations

import os
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch

from . import GRID


@dataclass(frozen=True, eq=False)  # compared by identity, so that a bank can be the key of a cache
class Bank:
    """Clean patterns with the direct beam at (GRID // 2, GRID // 2).

    Attributes
    ----------
    root : torch.Tensor
        Square root of the fraction of the beam in each sample, times 1000, (n, GRID, GRID), float16. The root is stored
        because float16 has few digits below 1e-4.
    aperture : torch.Tensor
        Radius at which the amplitude of the probe is half, (n,), samples.
    kind : numpy.ndarray
        Kind of the specimen of each pattern, (n,), str.
    """

    root: torch.Tensor
    aperture: torch.Tensor
    kind: np.ndarray

    @property
    def radius(self) -> torch.Tensor:  # numpydoc ignore=RT01
        """Radius of the direct disk, (n,), samples: that of the uniform disk with as many electrons.

        The amplitude falls linearly over the sample around `aperture`, so the intensity falls as its square. The mean
        position u of that edge under the density 2 (1/2 - u), -1/2 < u < 1/2, is -1/6.
        """
        return self.aperture - 1 / 6

    def __len__(self) -> int:
        return len(self.root)

    def intensity(self, index) -> torch.Tensor:
        """Return the intensity of patterns.

        Parameters
        ----------
        index : int, slice or torch.Tensor
            Which patterns.

        Returns
        -------
        torch.Tensor
            Millionths of the beam, (..., GRID, GRID), float32.
        """
        return self.root[index].float().square_()


def _specimen(seed, oriented: bool) -> tuple:
    """Patterns (root as in `Bank`), aperture and kind of the specimen of a seed; runs in a worker process."""
    torch.set_num_threads(1)
    from . import draw_patterns

    patterns, radius, kind = draw_patterns(seed, oriented=oriented)
    return (patterns.sqrt() * 1000).half().numpy(), radius, kind


def make_bank(seed: int, specimens: int, workers: int | None = None, progress: bool = False,
              oriented: bool = False) -> Bank:
    """Simulate a bank.

    Parameters
    ----------
    seed : int
        Seed of all random numbers. The result does not depend on the number of workers.
    specimens : int
        Number of specimens, about six patterns each.
    workers : int, optional
        Number of processes; by default that of the cores, at most 8.
    progress : bool
        Whether to show a progress bar.
    oriented : bool
        Whether all specimens are crystals along zone axes (`specimens.draw_oriented`).

    Returns
    -------
    Bank
        The patterns.

    Examples
    --------
    >>> bank = make_bank(0, specimens=1)
    >>> bank.root.shape[1:], bank.radius.shape == (len(bank),)
    (torch.Size([256, 256]), True)
    """
    from tqdm import tqdm

    seeds = [(seed, number) for number in range(specimens)]
    workers = workers or min(os.cpu_count() or 1, 8)
    if workers == 1 or specimens < 8:
        made = [_specimen(s, oriented) for s in tqdm(seeds, "bank", disable=not progress)]
    else:
        with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
            results = pool.map(partial(_specimen, oriented=oriented), seeds, chunksize=4)
            made = list(tqdm(results, "bank", specimens, disable=not progress))
    counts = [len(patterns) for patterns, _, _ in made]
    root = np.empty((sum(counts), GRID, GRID), np.float16)
    np.concatenate([patterns for patterns, _, _ in made], out=root)
    radius = np.repeat([radius for _, radius, _ in made], counts).astype(np.float32)
    return Bank(torch.from_numpy(root), torch.from_numpy(radius), np.repeat([k for _, _, k in made], counts))


def joined(*banks: Bank) -> Bank:
    """Concatenate banks.

    Parameters
    ----------
    *banks : Bank
        The banks.

    Returns
    -------
    Bank
        The patterns of all of them.
    """
    root, aperture = (torch.cat([getattr(bank, name) for bank in banks]) for name in ("root", "aperture"))
    return Bank(root, aperture, np.concatenate([bank.kind for bank in banks]))


def load_bank(folder: Path, seed: int, specimens: int, oriented: bool = False) -> Bank:
    """Return the bank of a seed from a folder; simulate and store it if it is missing.

    Parameters
    ----------
    folder : str or pathlib.Path
        Folder of the banks.
    seed : int
        Seed of all random numbers.
    specimens : int
        Number of specimens.
    oriented : bool
        Whether all specimens are crystals along zone axes.

    Returns
    -------
    Bank
        The patterns.
    """
    path = Path(folder) / f"bank-{'oriented-' if oriented else ''}{seed}-{specimens}.npz"
    if not path.exists():
        bank = make_bank(seed, specimens, progress=True, oriented=oriented)
        path.parent.mkdir(parents=True, exist_ok=True)
        partial_file = path.with_name(path.stem + ".part.npz")
        np.savez(partial_file, root=bank.root.numpy(), radius=bank.aperture.numpy(), kind=bank.kind)
        partial_file.rename(path)
        return bank
    stored = np.load(path)
    return Bank(torch.from_numpy(stored["root"]), torch.from_numpy(stored["radius"]), stored["kind"])
