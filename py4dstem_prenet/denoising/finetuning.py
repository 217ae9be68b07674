"""Fine-tuning of the denoising network on the counts of one scan.

The method is Noise2Noise (Lehtinen et al. 2018, arXiv:1803.04189) on split counts (`detector.splitting`): the network
gets a random part of the electrons and learns to predict the remaining electrons, whose noise is independent, so that
no clean patterns are needed. Whole blocks of the scan are held out. New weights are written only if they predict the
electrons of these blocks better than the old weights.
"""

from __future__ import annotations

import copy
import json
import math
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from ..compute import pick_device, sharing_cores
from ..core import Decision, FinetuneResult, Flag, NoiseModel, PrenetError, as_scan, jackknife
from ..detector import check_independence, of_part, places, read_block, split
from ..io import check_output, noise_of
from ..networks import MULTIPLE, averaged_weights, load, publish, serialize, verify
from . import SplitBlocks, neighbor_means, smooth_origins

# Chosen by hand for some minutes of training on a processor, unless stated otherwise.
MAX_FINETUNE_POSITIONS = 1024  # scan positions; most that are read, including held-out ones, to limit time and memory
BLOCKS_PER_AXIS = 4  # number of blocks along each scan axis from which positions are read; a quarter is held out
FINETUNE_BATCH = 16  # number of crops in a training step
TRAINING_CROP_PX = 96  # pixels; largest side of a training crop, also of the published weights: chosen for speed
PEAK_LEARNING_RATE = 2e-4  # learning rate of AdamW; about a seventh of that in `training.denoise`, for trained weights
INPUT_FRACTION_RANGE = (0.5, 0.9)  # fraction of the electrons in the network's input; close to the full dose in use
MIN_RELATIVE_GAIN = 0.02  # fraction; smallest reduction of the remaining squared error for which weights are written
DEVIANCE_SOFTENING = 0.02  # electrons; added to the variance in the loss, so that dark pixels do not dominate it


@sharing_cores
def finetune(datacube, noise: NoiseModel | None = None, out="weights.safetensors", minutes: float = 5.0,
             start="denoise", device="auto", seed: int = 0, progress=True) -> FinetuneResult:
    """Adapt the denoising network to a scan, and write the new weights if they denoise it better.

    Parameters
    ----------
    datacube : DataCube or numpy.ndarray
        The scan, (Rx, Ry, Qx, Qy).
    noise : NoiseModel, optional
        Noise of the detector. By default it is estimated from the scan.
    out : str or pathlib.Path
        New .safetensors file; its description is written next to it as .json. Pass the file to
        ``denoise(weights=...)``.
    minutes : float
        Duration of the training.
    start : str
        Weights to start from: a name or a .safetensors file.
    device : {"auto", "cpu", "cuda", "mps"}
        Device on which the network is trained.
    seed : int
        Seed of all random numbers.
    progress : bool
        Whether to show a progress bar.

    Returns
    -------
    FinetuneResult
        Change of the errors, and whether weights were written.

    Raises
    ------
    PrenetError
        If the data cannot be used, the scan has a single position, or `out` exists.

    Notes
    -----
    At most `MAX_FINETUNE_POSITIONS` positions in sixteen blocks are read. Four of the blocks, no two of them adjacent
    along an axis, are held out. New weights are written if they lower the Poisson deviance of held-out electrons by
    more than two standard errors, and the remaining squared error by at least `MIN_RELATIVE_GAIN`.
    """
    data = as_scan(datacube)
    out = check_output(out, (".safetensors",))
    check_output(out.with_suffix(".json"), (".json",))
    if not minutes > 0:
        raise PrenetError(f"The duration of the training must be positive, not {minutes} minutes.")
    scan = data.scan_shape
    if scan == (1, 1):
        raise PrenetError("Fine-tuning needs more than one position, because some positions are held out for the test.")
    device = pick_device(device)
    network = copy.deepcopy(load(start, device)).requires_grad_(True)
    noise = noise or noise_of(datacube)
    positions = places(data.shape, MAX_FINETUNE_POSITIONS, (BLOCKS_PER_AXIS, BLOCKS_PER_AXIS))
    blocks = [read_block(data, block) for block in positions]
    problems = tuple(flag for flag in check_independence(blocks, noise) if flag)
    if problems:
        decision = Decision(False, (Flag("fine_tuning_refused"), *problems))
        return FinetuneResult(None, np.nan, np.nan, np.nan, np.nan, 0, decision)
    columns = min(BLOCKS_PER_AXIS, scan[1])
    held_out = np.array([(k // columns + 2 * (k % columns)) % 4 == 0 for k in range(len(blocks))])
    origins = smooth_origins(datacube, noise, str(device))
    training = [_Block(noise, blocks[k], None if origins is None else origins[positions[k].ravel()])
                for k in np.flatnonzero(~held_out)]
    generator = np.random.default_rng(seed)
    network, steps = _train(network, training, minutes, generator, device, progress)
    with tempfile.TemporaryDirectory() as folder:
        trial = Path(folder) / "trial.safetensors"
        count = sum(len(block.patterns) for block in training)
        content, card = _described(network, start, noise, minutes, steps, seed, count)
        trial.write_bytes(content)
        trial.with_suffix(".json").write_text(json.dumps(card))
        level = SplitBlocks([blocks[k] for k in np.flatnonzero(held_out)], noise, 0.5, generator)
        old, new = (level.denoised(dict(device=str(device), weights=str(w), progress=False)) for w in (start, trial))
    gains, errors = level.deviance(old) - level.deviance(new), level.ratio(new) - level.ratio(old)
    gain, gain_sigma, error, error_sigma = figures = [
        float(v) for v in (gains[0], jackknife(gains), errors[0], jackknife(errors))]
    better = gain > 2 * gain_sigma and error <= -MIN_RELATIVE_GAIN * max(float(level.ratio(old)[0]), 0.0)
    numbers = {"gain": gain, "gain_sigma": gain_sigma, "error": error, "error_sigma": error_sigma, "steps": steps}
    if not better:
        return FinetuneResult(None, *figures, steps, Decision(False, (Flag("fine_tuning_no_gain", numbers),)))
    card["figures"] = dict(zip(("deviance_gain", "sigma", "error_change", "error_sigma"), figures, strict=True))
    publish(out, content, {out.with_suffix(".json"): (json.dumps(card, indent=1) + "\n").encode()})
    return FinetuneResult(out, *figures, steps, Decision(True, (Flag("fine_tuned", numbers),)))


class _Block:
    """Patterns (n, Qx, Qy) of adjacent positions in detector units, and their origins (n, 2) or None."""

    def __init__(self, noise, block, origins):
        self.noise, self.patterns, self.origins = noise, block.reshape(-1, *block.shape[2:]), origins
        self.places = np.argwhere(np.ones(block.shape[:2], bool))

    def draw(self, generator, device):
        """Draw random crops: (input of the network, target electrons scaled to the dose of the input, that scale).

        In half of the batches, the input contains the means of similar patterns from the same part of the electrons.
        """
        fraction = float(generator.uniform(*INPUT_FRACTION_RANGE))
        input_counts, target_counts = split(self.patterns, self.noise, generator, fraction)
        input_noise, scale = of_part(self.noise, fraction), fraction / (1 - fraction)
        chosen = generator.integers(len(input_counts), size=FINETUNE_BATCH)
        electrons = input_noise.electrons(input_counts)
        good = np.broadcast_to(~self.noise.bad_pixels, (FINETUNE_BATCH, *electrons.shape[1:])).astype(np.float32)
        images = [electrons[chosen], self.noise.electrons(target_counts[chosen]) * np.float32(scale), good]
        readout, neighbor_inputs = input_noise.readout / input_noise.gain, {}
        if self.origins is not None and len(input_counts) > 1 and generator.random() < 0.5:
            means, patterns = neighbor_means(
                torch.from_numpy(electrons), torch.from_numpy(self.origins).float(), self.places, readout,
                torch.from_numpy(~self.noise.bad_pixels), torch.from_numpy(chosen))
            images.append(means.numpy())
            neighbor_inputs["patterns"] = patterns.to(device)
        images = torch.from_numpy(_crops(np.stack(images), generator)).to(device)
        if neighbor_inputs:
            neighbor_inputs["neighbors"] = images[3]
        readout = torch.full((FINETUNE_BATCH,), readout, device=device)
        return dict(electrons=images[0], readout=readout, good=images[2] > 0.5, **neighbor_inputs), images[1], scale


def _crops(images, generator):
    """Crop all images at one random position and orient them at random; crops are at most TRAINING_CROP_PX wide."""
    sides = [min(TRAINING_CROP_PX, n // MULTIPLE * MULTIPLE) for n in images.shape[-2:]]
    x, y = (generator.integers(n - side + 1) for n, side in zip(images.shape[-2:], sides, strict=True))
    images = np.rot90(images[..., x:x + sides[0], y:y + sides[1]], generator.integers(4), axes=(-2, -1))
    return np.ascontiguousarray(images[..., ::-1] if generator.random() < 0.5 else images)


def _train(network, blocks, minutes, generator, device, progress):
    """Train a network on blocks for a number of minutes: (network with averaged weights, number of steps)."""
    average = averaged_weights(network, decay=0.99, warmup=10)
    optimizer = torch.optim.AdamW(network.parameters(), lr=PEAK_LEARNING_RATE, weight_decay=0.0, betas=(0.9, 0.98))
    began, steps, done = time.monotonic(), 0, 0.0
    with tqdm(total=round(60 * minutes), desc="fine-tuning", unit=" s", disable=not progress) as bar:
        while done < 1:
            for group in optimizer.param_groups:
                group["lr"] = PEAK_LEARNING_RATE * min(1, (steps + 1) / 20) * 0.5 * (1 + math.cos(math.pi * done))
            inputs, target, scale = blocks[generator.integers(len(blocks))].draw(generator, device)
            loss = _loss(network, inputs, target, scale)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimizer.step()
            steps += 1
            average.update_parameters(network)
            done = (time.monotonic() - began) / (60 * minutes)
            bar.update(round(min(done, 1) * bar.total) - bar.n)
    return average.module.eval(), steps


def _loss(network, inputs, target, scale):
    """Squared error and Poisson deviance of the target electrons, in units of their noise, as in training.

    The squared error divided by the variance of the estimate has the gradient of the Poisson deviance, and is also
    valid with read-out noise and negative values (quasi-likelihood, Wedderburn 1974, doi 10.1093/biomet/61.3.439).
    """
    estimate, good = network(**inputs), inputs["good"]
    variance = estimate.detach() + inputs["readout"][:, None, None] ** 2
    square = (estimate - target).square() * good
    squared = square.sum((1, 2)) / (variance * good).sum((1, 2)).clamp_min(1)
    weight = ((4 * variance).clamp(max=1) * good).sum((1, 2)).clamp_min(1)
    deviance = (square / (variance + DEVIANCE_SOFTENING)).sum((1, 2)) / weight
    return ((squared + deviance) / scale).mean()


def _described(network, start, noise, minutes, steps, seed, positions):
    """Content of the weights file of a network, and its description in the format of `networks.weights`."""
    content, description = serialize(copy.deepcopy(network).cpu(), "denoise")
    return content, description | {
        "seed": seed, "steps": steps, "minutes": minutes, "command": "finetune", "positions": positions,
        "start": {"name": Path(start).name, "sha256": verify(start)}, "dose": noise.dose,
    }
