"""Exponential running mean of the weights of a network under training.

The mean of the weights over the last steps is closer to a minimum of the loss than the weights of any single step
(Polyak and Juditsky 1992, doi 10.1137/0330046). The bookkeeping is that of `torch.optim.swa_utils.AveragedModel`.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel


def averaged_weights(network: nn.Module, decay: float, warmup: int) -> AveragedModel:
    """Return a running mean of the weights of a network, initialized with its current weights.

    After every optimizer step, call `update_parameters(network)` on the result. The network with averaged weights is
    its attribute `module`.

    Parameters
    ----------
    network : torch.nn.Module
        Network under training.
    decay : float
        Largest weight of the previous mean in an update, between 0 and 1.
    warmup : int
        Number of steps over which the decay rises: in update n it is at most ``(1 + n) / (warmup + n)``, so that the
        initial weights are forgotten quickly.

    Returns
    -------
    torch.optim.swa_utils.AveragedModel
        The running mean. Its count `n_averaged` is one more than the number of updates; set it to that value to
        continue an earlier run.

    Examples
    --------
    >>> import torch
    >>> network = torch.nn.Linear(1, 1)
    >>> average = averaged_weights(network, decay=0.99, warmup=10)
    >>> before = network.weight.item()
    >>> with torch.no_grad():
    ...     _ = network.weight.add_(1.0)
    >>> average.update_parameters(network)
    >>> round(average.module.weight.item() - before, 3)  # 1 - 2 / 11
    0.818
    """
    average = AveragedModel(network, multi_avg_fn=partial(_update, decay, warmup)).requires_grad_(False)
    average.update_parameters(network)  # the first update copies the weights and sets the count to 1
    return average


def _update(decay, warmup, means, values, count):
    """Move the means (list of tensors) toward the current values; count: of earlier updates, the first included."""
    steps = int(count)
    torch._foreach_lerp_(means, values, 1 - min(decay, (1 + steps) / (warmup + steps)))
