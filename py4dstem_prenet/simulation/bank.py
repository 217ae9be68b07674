"""A bank of clean patterns, made once from a seed and drawn from ever after.

Training moves, stretches, mixes, doses and counts bank patterns afresh at every step (`pattern.py`,
`detector.py`), so a few thousand of them, which take a minute or two, last for millions of samples.
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

from .specimens import GRID


@dataclass(frozen=True, eq=False)  # a bank is equal to itself alone, and can be a key
class Bank:
    """Clean patterns, direct beam at (GRID // 2, GRID // 2).

    root: (n, GRID, GRID) float16, square root of the fraction of the beam in each sample, times 1000 (float16
        has few digits below 1e-4). aperture: (n,) where the probe's amplitude is half, samples. kind: (n,) names of
        specimens.
    """

    root: torch.Tensor
    aperture: torch.Tensor
    kind: np.ndarray

    @property
    def radius(self) -> torch.Tensor:
        """(n,) radius of the direct disk, samples: of the even disk with as many electrons.

        The amplitude falls linearly over the sample around `aperture`, so the intensity falls as the square of it,
        with its edge at the mean of u under the density 2 (1/2 - u), -1/2 < u < 1/2, which is -1/6.
        """
        return self.aperture - 1 / 6

    def __len__(self) -> int:
        return len(self.root)

    def intensity(self, index) -> torch.Tensor:
        """Millionths of the beam, (len(index), GRID, GRID) float32."""
        return self.root[index].float().square_()


def _specimen(seed, oriented: bool) -> tuple:
    torch.set_num_threads(1)
    from .waves import draw_patterns

    patterns, radius, kind = draw_patterns(seed, oriented=oriented)
    return (patterns.sqrt() * 1000).half().numpy(), radius, kind


def make_bank(seed: int, specimens: int, workers: int | None = None, progress: bool = False,
              oriented: bool = False) -> Bank:
    """Simulate a bank. The same seed gives the same patterns, whatever the number of workers.

    oriented: of crystals along zone axes only, `specimens.draw_oriented`.
    """
    from tqdm import tqdm

    seeds = [(seed, number) for number in range(specimens)]
    workers = workers or min(os.cpu_count() or 1, 8)
    if workers == 1 or specimens < 8:
        made = [_specimen(s, oriented) for s in tqdm(seeds, "bank", disable=not progress)]
    else:
        with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
            found = pool.map(partial(_specimen, oriented=oriented), seeds, chunksize=4)
            made = list(tqdm(found, "bank", specimens, disable=not progress))
    counts = [len(patterns) for patterns, _, _ in made]
    root = np.empty((sum(counts), GRID, GRID), np.float16)
    np.concatenate([patterns for patterns, _, _ in made], out=root)
    radius = np.repeat([radius for _, radius, _ in made], counts).astype(np.float32)
    return Bank(torch.from_numpy(root), torch.from_numpy(radius), np.repeat([k for _, _, k in made], counts))


def joined(*banks: Bank) -> Bank:
    """One bank of the patterns of several."""
    root, aperture = (torch.cat([getattr(bank, name) for bank in banks]) for name in ("root", "aperture"))
    return Bank(root, aperture, np.concatenate([bank.kind for bank in banks]))


def load_bank(folder: Path, seed: int, specimens: int, oriented: bool = False) -> Bank:
    """The bank of this seed from `folder`, made and kept there the first time."""
    path = Path(folder) / f"bank-{'oriented-' if oriented else ''}{seed}-{specimens}.npz"
    if not path.exists():
        bank = make_bank(seed, specimens, progress=True, oriented=oriented)
        path.parent.mkdir(parents=True, exist_ok=True)
        beside = path.with_name(path.stem + ".part.npz")
        np.savez(beside, root=bank.root.numpy(), radius=bank.aperture.numpy(), kind=bank.kind)
        beside.rename(path)
        return bank
    stored = np.load(path)
    return Bank(torch.from_numpy(stored["root"]), torch.from_numpy(stored["radius"]), stored["kind"])
