"""Patterns as pictures: stretched to eight bits, with gamma, scale bars and text burnt in.

Patterns from cameras of older microscopes, and from publications, are often stored after such a change. Their values
are no counts, but the direct beam is still where it was.
"""

from __future__ import annotations

import math

import torch

from . import uniform


def stretch(counts, affected, generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Turn counts into pictures.

    Parameters
    ----------
    counts : torch.Tensor
        (B, H, W).
    affected : torch.Tensor
        Patterns that become pictures, (B,) bool.
    generator : torch.Generator
        Source of all random numbers.

    Returns
    -------
    counts : torch.Tensor
        (B, H, W); pictures are in a random unit.
    labeled : torch.Tensor
        Pixels of scale bars and text, (B, H, W) bool.
    """
    counts, labeled = counts.clone(), torch.zeros(counts.shape, dtype=torch.bool)
    for k in torch.nonzero(affected)[:, 0].tolist():
        def draw(low, high):  # numpydoc ignore=PR01,RT01
            """Draw a uniform number."""
            return float(uniform(generator, 1, low=low, high=high))

        image = counts[k]
        low = torch.quantile(image.flatten(), draw(0.0, 0.3)) * draw(0.0, 1.0)
        high = image.amax() * math.exp(draw(math.log(0.005), 0.0))
        image = ((image - low) / (high - low).clamp_min(1e-6)).clamp(0, 1) ** draw(0.4, 1.3)
        image = (image * 255).round()
        if draw(0, 1) < 0.5:
            mask, value = _labels(image.shape, draw)
            image, labeled[k] = torch.where(mask, value, image), mask
        counts[k] = image * math.exp(draw(math.log(0.05), math.log(3.0)))
    return counts, labeled


def _labels(shape, draw):
    """Draw scale bars and text near the margin: where they are, and their value."""
    mask = torch.zeros(shape, dtype=torch.bool)
    value = 255 if draw(0, 1) < 0.7 else 0
    for _ in range(int(draw(1, 4))):
        height, width = int(draw(1, 0.07 * shape[0])) + 1, int(draw(0.04, 0.4) * shape[1]) + 2
        row = int(draw(0, 0.15) * shape[0]) if draw(0, 1) < 0.3 else shape[0] - height - int(draw(0, 0.15) * shape[0])
        column = int(draw(0, 1) * (shape[1] - width))
        block = torch.ones(height, width, dtype=torch.bool)
        if draw(0, 1) < 0.5:  # text: strokes with gaps
            block = (torch.arange(width) * draw(0.3, 1.0)).long() % 2 == 0
            block = block.expand(height, -1)
        mask[max(row, 0) : max(row, 0) + height, column : column + width] = block
    if draw(0, 1) < 0.2:  # a bar with information below the picture
        mask[shape[0] - int(draw(0.03, 0.12) * shape[0]) :] = True
    return mask, float(value)
