"""Predict a distribution of the yaw and the vector of posture.py from a person crop.

The yaw is a distribution over 36 directions, which can express that a crop shows either a front or a back. The estimate
is the most probable window of 7 directions, 30 degrees to each side, and its confidence is the window's probability.
The vector is regressed, as Kanazawa et al. 2018 do.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gcl_fast.bodies import posture
from gcl_fast.models.backbones.residual import Block
from gcl_fast.models.layers import relu, widen

SIZE = (128, 64)  # (H, W) of the network's crops
DIRECTIONS = 36
NEAR = 3  # directions to each side that count as the same view: 30 degrees
CHANNELS, NARROW, HIDDEN = (32, 64, 128, 128, 256), 48, 256
YAWS = torch.arange(DIRECTIONS) * (360.0 / DIRECTIONS)  # degrees


class Regressed(NamedTuple):
    """Holds the network's prediction for B crops."""

    direction: Tensor  # (B, 36) logits of the yaws `YAWS`
    vector: Tensor  # (B, WIDTH), see posture.py


class BodyRegressor(nn.Module):
    """Maps ImageNet-normalized crops (B, 3, 128, 64) to `Regressed`, float32."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, CHANNELS[0], 5, 2, 2, bias=False), nn.BatchNorm2d(CHANNELS[0]))
        self.blocks = nn.Sequential(*(Block("basic", a, b, 2 if a != b else 1) for a, b in pairwise(CHANNELS)))
        self.narrow = nn.Conv2d(CHANNELS[-1], NARROW, 1)
        cells = SIZE[0] * SIZE[1] // 16**2
        self.hidden = nn.Linear(NARROW * cells, HIDDEN)
        self.head = nn.Linear(HIDDEN, DIRECTIONS + posture.WIDTH)
        nn.init.zeros_(self.head.weight)

    def forward(self, image: Tensor) -> Regressed:
        """Predict direction and vector of crops (B, 3, 128, 64)."""
        x = self.narrow(self.blocks(relu(self.stem(image))))
        output = widen(self.head(relu(self.hidden(x.flatten(1)))))
        return Regressed(*output.split((DIRECTIONS, posture.WIDTH), 1))

    def both_ways(self, image: Tensor) -> Regressed:
        """Average the predictions for crops (B, 3, 128, 64) and for their mirror images.

        Where the two disagree, the distribution becomes flat and the confidence low.

        Returns:
            Log probabilities of the directions and mean vectors.
        """
        plain, mirror = self(image), self(image.flip(3))
        flipped = mirror.direction.softmax(1).roll(-1, 1).flip(1)  # direction k of the mirror image is -k
        direction = (0.5 * (plain.direction.softmax(1) + flipped)).clamp_min(1e-12).log()
        return Regressed(direction, 0.5 * (plain.vector + posture.mirror(mirror.vector)))


def yaw_and_confidence(direction: Tensor) -> tuple[Tensor, Tensor]:
    """Estimate the yaw from logits of the directions.

    Args:
        direction: (B, 36) logits.

    Returns:
        Yaw (B,) in -180..180 degrees, and confidence (B,) in 0..1: the probability that the yaw is within about 30
        degrees.
    """
    share = direction.softmax(1)
    window = F.pad(share, (NEAR, NEAR), mode="circular").unfold(1, 2 * NEAR + 1, 1)  # (B, 36, 7)
    confidence, middle = window.sum(2).max(1)
    offset = torch.arange(-NEAR, NEAR + 1, device=share.device) * (360.0 / DIRECTIONS)
    best = window[torch.arange(len(share), device=share.device), middle]  # (B, 7)
    turn = (best @ offset) / confidence
    return (YAWS.to(share)[middle] + turn + 180) % 360 - 180, confidence


def soft_direction(yaw: Tensor, spread: float) -> Tensor:
    """Return a von Mises distribution over the directions about each yaw.

    Args:
        yaw: (B,) degrees.
        spread: approximate standard deviation in degrees.

    Returns:
        Probabilities (B, 36).
    """
    distance = torch.deg2rad(yaw[:, None] - YAWS.to(yaw))
    return (distance.cos() / math.radians(spread) ** 2).softmax(1)
