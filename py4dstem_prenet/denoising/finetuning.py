"""The denoising network, adapted to one scan by its own counts.

Noise2Noise (Lehtinen et al. 2018, arXiv:1803.04189) on split counts (splitting.py): the network sees a part of the
electrons and is to expect the rest, which is independent noise about the same truth, so that no truth is needed. Whole
blocks of the scan are set aside; new weights are kept only where they predict electrons of those better than the old.
"""

from __future__ import annotations

import copy
import datetime
import hashlib
import json
import math
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from .._version import __version__
from ..core import PrenetError, as_scan, jackknife
from ..detector import NoiseModel, judge_noise, of_part, places, read_block, split
from ..io import calibrations, check_output
from ..networks import MULTIPLE, weights
from .checks import Level
from .denoiser import smooth_origins
from .neighbors import neighbor_means

POSITIONS = 1024  # at most, of which a quarter is held out
PARTS = 4  # into which the scan is cut along either axis
BATCH = 16
FIELD = 96  # side of a training crop, pixels
RATE = 2e-4
AVERAGE = 0.99  # decay of the running mean of the weights
FRACTIONS = (0.5, 0.9)  # of the electrons that the network sees: near the whole, it learns at the dose that it will see
WORTH = 0.02  # of the squared error that is left, by which it must fall: less is not worth weights of one's own
SMALL = 0.02  # electrons beside which less than that weighs no more


@dataclass(frozen=True)
class FinetuneResult:
    """Whether adapting the network was worth it. `str(result)` is a sentence.

    path: the new weights, None where they were not kept. gain, gain_sigma: by how much the Poisson deviance of held-out
    electrons fell, a pixel, and one standard deviation of that. error, error_sigma: change of the squared error, as a
    part of the raw one; negative is better. steps: of training. accepted: written. reason: in words.
    """

    path: Path | None
    gain: float
    gain_sigma: float
    error: float
    error_sigma: float
    steps: int
    accepted: bool
    reason: str

    def __str__(self):
        return f"Fine-tuning {self.reason}"


def finetune(datacube, noise: NoiseModel | None = None, out="weights.safetensors", minutes: float = 5.0,
             start="denoise", device="auto", seed: int = 0, progress=True) -> FinetuneResult:
    """Adapt the denoising network to a scan; write weights that `denoise(weights=out)` takes if they are better on it.

    At most 1024 positions in sixteen blocks are read; four of the blocks, apart from the others, are held out. Kept
    are weights that lower the Poisson deviance of their held-out electrons by more than two standard errors of the
    difference and the squared error that was left by at least two per cent; otherwise nothing is written.

    Args:
        datacube: DataCube or array (Rx, Ry, Qx, Qy). noise: the detector's noise; estimated from the scan by default.
        out: a new .safetensors file; its description goes beside it, as .json.
        minutes: how long to train. start: weights to begin from, a name or a file.
        device: "auto", "cpu", "cuda" or "mps". seed: all that is random follows from it.

    Raises PrenetError where the data cannot be used, a scan has one position only, or `out` is taken.
    """
    data = as_scan(datacube)
    out = check_output(out, (".safetensors",))
    check_output(out.with_suffix(".json"), (".json",))
    if not minutes > 0:
        raise PrenetError(f"Say how many minutes to train: a positive number, not {minutes}.")
    scan = data.scan_shape
    if scan == (1, 1):
        raise PrenetError("One pattern is too little to learn from: some positions must be held out for judging.")
    device = weights.pick_device(device)
    network = copy.deepcopy(weights.load(start, device)).requires_grad_(True)
    noise = noise or calibrations.noise_of(datacube)
    where = places(data.shape, POSITIONS, (PARTS, PARTS))
    blocks = [read_block(data, some) for some in where]
    problem = " ".join(flag.sentence for flag in judge_noise(blocks, noise) if flag)
    if problem:
        return FinetuneResult(None, np.nan, np.nan, np.nan, np.nan, 0, False,
                              f"was not tried, nothing was written: on these data it would learn noise, for {problem}")
    columns = min(PARTS, scan[1])
    aside = np.array([(k // columns + 2 * (k % columns)) % 4 == 0 for k in range(len(blocks))])
    origins = smooth_origins(datacube, noise, str(device))
    seen = [_Block(noise, blocks[k], None if origins is None else origins[where[k].ravel()])
            for k in np.flatnonzero(~aside)]
    generator = np.random.default_rng(seed)
    network, steps = _train(network, seen, minutes, generator, device, progress)
    with tempfile.TemporaryDirectory() as folder:
        trial = Path(folder) / "trial.safetensors"
        content, card = _described(network, start, noise, minutes, steps, seed, sum(len(b.patterns) for b in seen))
        trial.write_bytes(content)
        trial.with_suffix(".json").write_text(json.dumps(card))
        level = Level([blocks[k] for k in np.flatnonzero(aside)], noise, 0.5, generator)
        old, new = (level.denoised(dict(device=str(device), weights=str(w), progress=False)) for w in (start, trial))
    gain, error = level.deviance(old) - level.deviance(new), level.ratio(new) - level.ratio(old)
    facts = [float(v) for v in (gain[0], jackknife(gain), error[0], jackknife(error))]
    better = facts[0] > 2 * facts[1] and facts[2] <= -WORTH * max(float(level.ratio(old)[0]), 0.0)
    figures = (f"held-out deviance a pixel lower by {facts[0]:.3g} +- {facts[1]:.2g}, squared error changed by "
               f"{facts[2]:+.3g} +- {facts[3]:.2g} of the raw one, after {steps} steps")
    if not better:
        return FinetuneResult(None, *facts, steps, False,
                              f"did not help enough, nothing was written: {figures}; keep the weights you have")
    card["figures"] = dict(zip(("deviance_gain", "sigma", "error_change", "error_sigma"), facts, strict=True))
    weights.publish(out, content, {out.with_suffix(".json"): (json.dumps(card, indent=1) + "\n").encode()})
    return FinetuneResult(out, *facts, steps, True, f"helped: {figures}; written to {out}")


class _Block:
    """Patterns of neighboring positions, (n, Qx, Qy) in detector units, and their origins (n, 2), None if not known."""

    def __init__(self, noise, block, origins):
        self.noise, self.patterns, self.origins = noise, block.reshape(-1, *block.shape[2:]), origins

    def draw(self, generator, device):
        """BATCH crops: what the network takes, what is left of the electrons, brought to the same dose, and its share.

        Half of the times they come with the means of their neighbors, of the same part of the electrons.
        """
        fraction = float(generator.uniform(*FRACTIONS))
        first, rest = split(self.patterns, self.noise, generator, fraction)
        part, share = of_part(self.noise, fraction), fraction / (1 - fraction)
        some = generator.integers(len(first), size=BATCH)
        electrons = part.electrons(first)
        good = np.broadcast_to(~self.noise.bad_pixels, (BATCH, *electrons.shape[1:])).astype(np.float32)
        images = [electrons[some], self.noise.electrons(rest[some]) * np.float32(share), good]
        readout, others = part.readout / part.gain, {}
        if self.origins is not None and len(first) > 1 and generator.random() < 0.5:
            means, patterns = neighbor_means(
                torch.from_numpy(electrons), torch.from_numpy(self.origins).float(), readout,
                torch.from_numpy(~self.noise.bad_pixels), torch.from_numpy(some))
            images.append(means.numpy())
            others["patterns"] = patterns.to(device)
        images = torch.from_numpy(_crops(np.stack(images), generator)).to(device)
        if others:
            others["neighbors"] = images[3]
        readout = torch.full((BATCH,), readout, device=device)
        return dict(electrons=images[0], readout=readout, good=images[2] > 0.5, **others), images[1], share


def _crops(images, generator):
    """Parts (..., FIELD, FIELD) of images, at most, turned and mirrored alike: detectors know no direction."""
    sides = [min(FIELD, n // MULTIPLE * MULTIPLE) for n in images.shape[-2:]]
    x, y = (generator.integers(n - side + 1) for n, side in zip(images.shape[-2:], sides, strict=True))
    images = np.rot90(images[..., x:x + sides[0], y:y + sides[1]], generator.integers(4), axes=(-2, -1))
    return np.ascontiguousarray(images[..., ::-1] if generator.random() < 0.5 else images)


def _train(network, blocks, minutes, generator, device, progress):
    """(network with averaged weights, steps) after so many minutes on blocks."""
    average = copy.deepcopy(network).requires_grad_(False)
    optimizer = torch.optim.AdamW(network.parameters(), lr=RATE, weight_decay=0.0, betas=(0.9, 0.98))
    began, steps, done = time.monotonic(), 0, 0.0
    with tqdm(total=round(60 * minutes), desc="fine-tuning", unit=" s", disable=not progress) as bar:
        while done < 1:
            for group in optimizer.param_groups:
                group["lr"] = RATE * min(1, (steps + 1) / 20) * 0.5 * (1 + math.cos(math.pi * done))
            inputs, rest, share = blocks[generator.integers(len(blocks))].draw(generator, device)
            loss = _loss(network, inputs, rest, share)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimizer.step()
            steps += 1
            decay = min(AVERAGE, (1 + steps) / (10 + steps))
            with torch.no_grad():
                for mean, value in zip(average.parameters(), network.parameters(), strict=True):
                    mean.lerp_(value, 1 - decay)
            done = (time.monotonic() - began) / (60 * minutes)
            bar.update(round(min(done, 1) * bar.total) - bar.n)
    return average.eval(), steps


def _loss(network, inputs, rest, share):
    """Squared error and Poisson deviance of the rest, in units of its noise, as in training.

    Squares over the variance that the estimate itself implies have the gradient of the deviance, and suit read-out
    noise and the negative values that come with it, too (quasi-likelihood, Wedderburn 1974).
    """
    estimate, good = network(**inputs), inputs["good"]
    variance = estimate.detach() + inputs["readout"][:, None, None] ** 2
    square = (estimate - rest).square() * good
    squared = square.sum((1, 2)) / (variance * good).sum((1, 2)).clamp_min(1)
    deviance = (square / (variance + SMALL)).sum((1, 2)) / ((4 * variance).clamp(max=1) * good).sum((1, 2)).clamp_min(1)
    return ((squared + deviance) / share).mean()


def _described(network, start, noise, minutes, steps, seed, positions):
    """(content of the weights file, its description) in the form that `networks.weights` reads."""
    from safetensors.torch import save

    network = copy.deepcopy(network).cpu()
    content = save({key: value.contiguous().float() for key, value in network.state_dict().items()})
    return content, {
        "task": "denoise", "format": weights.FORMAT, "sha256": hashlib.sha256(content).hexdigest(),
        "version": __version__, "date": datetime.date.today().isoformat(), "seed": seed, "steps": steps,
        "minutes": minutes, "command": "finetune", "start": {"name": Path(start).name, "sha256": weights.verify(start)},
        "positions": positions, "dose": noise.dose, "parameters": sum(p.numel() for p in network.parameters()),
        "replay": weights.replay(network),
    }
