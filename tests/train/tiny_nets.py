"""Backbones of a few thousand parameters, which runs import by name; a file of its own, so that processes can."""

import itertools

import torch
from torch import Tensor, nn

SIZE = 32  # of the images


class TinyNet(nn.Module):
    """Five strided convolutions without any norm, and a linear classifier; stages 2 and 3 have 4 and 1 positions."""

    def __init__(self, dropout: float = 0.0, num_classes: int = 2) -> None:
        super().__init__()
        widths = (3, 6, 8, 10, 12, 12)
        pairs = itertools.pairwise(widths)
        self.stages = nn.ModuleList(nn.Sequential(nn.Conv2d(a, b, 3, 2, 1), nn.GELU()) for a, b in pairs)
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(widths[-1], num_classes)
        for stage in self.stages:  # wide enough features: masks standardise them, and rounding with them
            nn.init.kaiming_normal_(stage[0].weight, nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        for stage in self.stages:
            x = self.dropout(stage(x))
        return self.fc(x.mean((2, 3)))


def tiny() -> TinyNet:
    return TinyNet()


def tiny_with_dropout() -> TinyNet:
    """What draws from torch's own generator in training."""
    return TinyNet(dropout=0.2)


def tiny_with_batch_norm() -> nn.Module:
    network = TinyNet()
    for stage in network.stages:
        stage.insert(1, nn.BatchNorm2d(stage[0].out_channels))
    return network


def tiny_with_two_linear_layers() -> nn.Module:
    """What pools, and then is no sum over positions."""
    network = TinyNet()
    network.fc = nn.Sequential(nn.Linear(12, 12), nn.ReLU(), nn.Linear(12, 2))
    return network


def unused() -> nn.Module:
    """Has a parameter that no loss reaches."""
    network = TinyNet()
    network.stages[0].register_parameter("lost", nn.Parameter(torch.zeros(3)))
    return network
