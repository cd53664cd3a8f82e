"""What happens to a crop on its way into a batch: the warm-up stage's augmentation, and normalization.

`draw` is a pure function of its generator. The op `kernels.sample_crops` gathers uint8 crops and applies what was
drawn, so decoded, cached and fallback crops agree exactly. `python benchmarks/loader.py` compares it with DALI's own
warp and colour operators.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch

from gcl_fast.kernels.sample_crops import sample_crops
from gcl_fast.random_streams import Stream, numpy_generator

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
LUMA = (0.299, 0.587, 0.114)


@dataclass(frozen=True)
class Augmentation:
    """Strength of each change. Jitter stays light: at 0.4 it hurts, since clothes are told apart by colour."""

    flip: float = 0.5  # probability
    zoom: float = 0.1  # the crop is scaled by a factor in 1 +- zoom; borders are repeated
    shift: float = 0.05  # and moved by up to this fraction of its height and width
    jitter: float = 0.15  # brightness, contrast and saturation factors in 1 +- jitter
    erase: float = 0.5  # probability that a rectangle is replaced by the mean colour
    erase_area: tuple[float, float] = (0.02, 0.33)  # of the crop's area
    erase_aspect: tuple[float, float] = (0.3, 3.3)  # height / width


class Draws(NamedTuple):
    """What happens to each crop of a batch, float32. The output at coordinate c (from -1 to 1) shows the input at
    scale * c + shift; then colours go through the linear map, normalization included; then pixels are erased."""

    placement: torch.Tensor  # (B, 4) vertical and horizontal scale (negative mirrors), vertical and horizontal shift
    colour: torch.Tensor  # (B, 3, 4) matrix and offset, from 0..255 to normalized
    erased: torch.Tensor  # (B, 4) top, bottom, left, right in fractions of the size; empty where nothing is erased

    def to(self, device: torch.device) -> Draws:
        return Draws(*(value.to(device, non_blocking=True) for value in self))


def draw(augmentation: Augmentation, batch: int, generator: np.random.Generator) -> Draws:
    """Draw the changes of `batch` crops. The same generator state gives the same changes on every machine."""
    a, uniform = augmentation, generator.uniform
    scale = 1 / uniform(1 - a.zoom, 1 + a.zoom, batch)
    mirror = np.where(uniform(size=batch) < a.flip, -1, 1)
    shift = uniform(-2 * a.shift, 2 * a.shift, (2, batch))
    placement = np.stack([scale, scale * mirror, *shift], axis=1)
    brightness, contrast, saturation = uniform(1 - a.jitter, 1 + a.jitter, (3, batch))
    side = np.sqrt(uniform(a.erase_area[0], a.erase_area[1], batch) * (uniform(size=batch) < a.erase))
    low, high = np.log(a.erase_aspect)
    aspect = np.exp(uniform(low, high, batch) / 2)
    extent = np.minimum(np.stack([side * aspect, side / aspect]), 1)  # (2, B) height, width
    start = uniform(size=(2, batch)) * (1 - extent)
    erased = np.stack([start[0], start[0] + extent[0], start[1], start[1] + extent[1]], axis=1)
    return _draws(placement, jitter_and_normalize(brightness, contrast, saturation), erased)


def denormalize(images: torch.Tensor) -> torch.Tensor:
    """Undo ImageNet's normalization without clamping, by kernels that a CUDA graph can hold.

    Args:
        images: (B, 3, H, W), ImageNet-normalized.

    Returns:
        (B, 3, H, W), 0..1 for what a crop can show.
    """
    std, mean = (
        torch.cat([images.new_full((1, 1, 1), value) for value in values]) for values in (IMAGENET_STD, IMAGENET_MEAN)
    )
    return images * std + mean


def draw_for(
    augmentation: Augmentation, batch: int, seed: int, epoch: int, step: int, rank: int = 0, world_size: int = 1
) -> Draws:
    """Draw the changes of a rank's crops of a step; they are a slice of what one process draws for all ranks.

    Args:
        augmentation: strength of the changes.
        batch: number of crops of this rank.
        seed: of the run.
        epoch: number of the epoch.
        step: position of the step in its epoch.
        rank: this process's number in 0..world_size-1.
        world_size: number of processes.
    """
    draws = draw(augmentation, world_size * batch, numpy_generator(seed, epoch, step, Stream.AUGMENTATION))
    return Draws(*(value[rank * batch : (rank + 1) * batch] for value in draws))


def augment(images: torch.Tensor, draws: Draws) -> torch.Tensor:
    """Change images as the loader changes crops.

    Args:
        images: (B, 3, H, W) float32, ImageNet-normalized; they are rounded to 8 bits, as crops are.
        draws: the changes of the B images, on their device.

    Returns:
        (B, 3, H, W) float32, ImageNet-normalized, in channels-last memory.

    Example:
        >>> images = torch.zeros(1, 3, 4, 2)
        >>> augment(images, no_change(1)).abs().max() < 0.01  # rounding to 8 bits
        tensor(True)
    """
    pixels = (denormalize(images) * 255).round().clamp(0, 255).to(torch.uint8)
    rows = torch.arange(len(images), device=images.device)
    return sample_crops(pixels.permute(0, 2, 3, 1).contiguous(), rows, *draws)


def no_change(batch: int) -> Draws:
    """Return draws that leave crops as they are, but for normalization."""
    one = np.ones(batch)
    return _draws(np.tile([1, 1, 0, 0], (batch, 1)), jitter_and_normalize(one, one, one), np.zeros((batch, 4)))


def jitter_and_normalize(brightness: np.ndarray, contrast: np.ndarray, saturation: np.ndarray) -> np.ndarray:
    """Turn factors (B,) into linear maps (B, 3, 4) of 0..255 colours, ImageNet-normalized.

    Saturation blends with the luma, brightness scales, contrast stretches about mid-grey. Nothing is clamped.
    """
    brightness, contrast, saturation = (factor[:, None, None] for factor in (brightness, contrast, saturation))
    mean, std = np.array(IMAGENET_MEAN)[:, None], np.array(IMAGENET_STD)[:, None]
    matrix = saturation * np.eye(3) + (1 - saturation) * np.array(LUMA)  # rows sum to 1: greys stay as they are
    matrix = contrast * brightness * matrix / (255 * std)
    return np.concatenate([matrix, (0.5 * (1 - contrast) - mean) / std], axis=2)


def _draws(*values: np.ndarray) -> Draws:
    return Draws(*(torch.from_numpy(value.astype(np.float32)) for value in values))
