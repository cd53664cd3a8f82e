"""The estimator's network: a person crop to a distribution of the yaw and the vector of posture.py.

The yaw is told as probabilities of 36 directions, so a crop that may show a front or a back says so; the estimate is
the heaviest 60 degrees of the circle, its confidence their share. The rest is regressed, as Kanazawa et al. 2018 do.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gcl_fast.bodies import posture
from gcl_fast.models.identity import Block
from gcl_fast.models.layers import relu, widen

SIZE = (128, 64)  # of the crops that it sees
DIRECTIONS = 36
NEAR = 3  # directions to each side that count as the same view: 30 degrees
CHANNELS, NARROW, HIDDEN = (32, 64, 128, 128, 256), 48, 256
YAWS = torch.arange(DIRECTIONS) * (360.0 / DIRECTIONS)  # degrees


class Regressed(NamedTuple):
    """direction (B, 36): logits of the yaws `YAWS`; vector (B, WIDTH): see posture.py."""

    direction: Tensor
    vector: Tensor


class BodyRegressor(nn.Module):
    """ImageNet-normalized crops (B, 3, 128, 64) -> `Regressed`, float32."""

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
        x = self.narrow(self.blocks(relu(self.stem(image))))
        told = widen(self.head(relu(self.hidden(x.flatten(1)))))
        return Regressed(*told.split((DIRECTIONS, posture.WIDTH), 1))

    def both_ways(self, image: Tensor) -> Regressed:
        """What crop and mirrored crop tell together: log probabilities and the mean vector.

        A crop whose mirror image is read otherwise gets a flat distribution, so a low confidence."""
        here, there = self(image), self(image.flip(3))
        turned = there.direction.softmax(1).roll(-1, 1).flip(1)  # direction k of the mirror image is -k
        direction = (0.5 * (here.direction.softmax(1) + turned)).clamp_min(1e-12).log()
        return Regressed(direction, 0.5 * (here.vector + posture.mirror(there.vector)))


def yaw_and_confidence(direction: Tensor) -> tuple[Tensor, Tensor]:
    """Yaw in -180..180 degrees and confidence 0..1, both (B,), of logits (B, 36).

    The confidence is the probability that the estimate is within about 30 degrees."""
    share = direction.softmax(1)
    window = F.pad(share, (NEAR, NEAR), mode="circular").unfold(1, 2 * NEAR + 1, 1)  # (B, 36, 7)
    confidence, middle = window.sum(2).max(1)
    offset = torch.arange(-NEAR, NEAR + 1, device=share.device) * (360.0 / DIRECTIONS)
    chosen = window[torch.arange(len(share), device=share.device), middle]
    turn = (chosen @ offset) / confidence
    return (YAWS.to(share)[middle] + turn + 180) % 360 - 180, confidence


def soft_direction(yaw: Tensor, spread: float) -> Tensor:
    """Probabilities (B, 36) about yaw (B,) in degrees: von Mises of a standard deviation of about `spread` degrees."""
    away = torch.deg2rad(yaw[:, None] - YAWS.to(yaw))
    return (away.cos() / math.radians(spread) ** 2).softmax(1)
