"""The interface between the training loop and what each network is trained on."""

from __future__ import annotations

import torch
from torch import nn


class Task:
    """Training task of one network: its random batches, its loss and its validation.

    Attributes
    ----------
    name : str
        Name of the task, as in `networks.weights.build`.
    network : type
        Class of the network.
    batch : int
        Number of samples in a training step.
    rate : float
        Peak learning rate of AdamW.
    parts : tuple of str
        Submodules whose gradients are clipped separately; the empty string is the whole network.
    called : tuple of str
        Submodules that the loss calls; the empty string is the whole network.
    """

    name: str
    network: type[nn.Module]
    batch: int
    rate: float
    parts: tuple[str, ...] = ("",)
    called: tuple[str, ...] = ("",)

    def build(self) -> nn.Module:
        """Return an untrained network.

        Returns
        -------
        torch.nn.Module
            A network with random weights.
        """
        return self.network()

    def loss(self, network, bank, generator, half: bool = False) -> torch.Tensor:
        """Return the loss of a network on a random batch.

        Parameters
        ----------
        network : torch.nn.Module
            Network under training.
        bank : Bank
            Clean patterns from which samples are made.
        generator : torch.Generator
            Source of all random numbers.
        half : bool
            Whether convolutions run in bfloat16.

        Returns
        -------
        torch.Tensor
            A scalar.
        """
        raise NotImplementedError

    def validate(self, network, bank, generator, half: bool = False) -> dict:
        """Measure the errors of a network on random samples.

        Parameters
        ----------
        network : torch.nn.Module
            Network in evaluation mode.
        bank : Bank
            Clean patterns that were not used for training.
        generator : torch.Generator
            Source of all random numbers.
        half : bool
            Whether convolutions run in bfloat16.

        Returns
        -------
        dict
            Figures (float) by name. `score` summarizes them; lower is better.
        """
        raise NotImplementedError
