"""When people walk from camera to camera: how likely a pair of crops is by its frames, and the joint similarity."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

PAIRS = 2**22  # of crops looked at at a time
STEEPNESS, DOUBT = 5.0, 2.0  # of the logistic curves (Li and Zhang 2020, eq. 9); doubt weighs against time alone


class TemporalModel(NamedTuple):
    """For each two cameras, how usual a distance in time is among crops of one person."""

    cameras: Tensor  # (C,) int64, ascending, as the dataset numbers them
    likelihood: Tensor  # (C, C, bins) camera of the later crop, camera of the earlier one, frames between / width
    width: int  # frames in a bin

    @classmethod
    def fit(
        cls, labels: Tensor, cameras: Tensor, frames: Tensor, width: int = 100, bins: int = 3000, sigma: float = 50.0
    ) -> TemporalModel:
        """Estimate it from pseudo-labels: the histogram of frame differences of every two crops of one cluster, by
        cameras, with a Gaussian Parzen window.

        The largest value for each two cameras is 1 (as shares of 3,000 bins the values would be below 0.01, and a
        logistic curve of them flat). Where no pair was seen it is 0.

        Args:
            labels: (N,) int64 pseudo-labels, outlier = -1.
            cameras, frames: (N,) int64.
            width: frames in a bin.
            bins: time differences beyond the last one count as in it.
            sigma: of the window, in bins.
        """
        names, camera = cameras.cpu().unique(return_inverse=True)
        frames, labels = frames.cpu(), labels.cpu()
        C = len(names)
        counts = torch.zeros(C * C * bins, dtype=torch.int64)
        order = labels.argsort(stable=True)
        sizes = labels[order].unique_consecutive(return_counts=True)[1].tolist()
        clusters = [rows for rows in order.split(sizes) if labels[rows[0]] >= 0]
        for one, other in (pair for rows in clusters for pair in _pairs(rows)):
            later = torch.where(frames[one] >= frames[other], one, other)
            earlier = one + other - later
            between = ((frames[later] - frames[earlier]) // width).clamp_max(bins - 1)
            place = (camera[later] * C + camera[earlier]) * bins + between
            counts.index_add_(0, place, torch.ones_like(place))
        likelihood = _smooth(counts.view(C * C, bins), sigma)
        likelihood /= likelihood.amax(1, keepdim=True).clamp_min(torch.finfo(torch.float32).tiny)
        return cls(names, likelihood.view(C, C, bins), width)

    def similarity(self, cameras: Tensor, frames: Tensor, other_cameras: Tensor, other_frames: Tensor) -> Tensor:
        """(A, B) likelihood of each two crops, 0..1; 0 where a camera is not known.

        Args:
            cameras, frames: (A,) int64.
            other_cameras, other_frames: (B,) int64.
        """
        C, _, bins = self.likelihood.shape
        (one, known), (other, other_known) = (self._find(c) for c in (cameras, other_cameras))
        between = frames[:, None] - other_frames[None]  # (A, B)
        pair = torch.where(between >= 0, one[:, None] * C + other[None], other[None] * C + one[:, None])
        place = pair * bins + (between.abs() // self.width).clamp_max(bins - 1)
        return self.likelihood.flatten()[place] * (known[:, None] & other_known[None])

    def _find(self, cameras: Tensor) -> tuple[Tensor, Tensor]:
        place = torch.searchsorted(self.cameras, cameras).clamp_max(len(self.cameras) - 1)
        return place, self.cameras[place] == cameras

    def to(self, device: torch.device) -> TemporalModel:
        return TemporalModel(self.cameras.to(device), self.likelihood.to(device), self.width)


def joint_similarity(visual: Tensor, temporal: Tensor) -> Tensor:
    """1 / (1 + exp(-5 v)) * 1 / (1 + 2 exp(-5 t)), element by element: 0..1 (Li and Zhang 2020, eq. 9).

    Args:
        visual: cosine v of the embeddings.
        temporal: likelihood t of the frames, 0..1.
    """
    return torch.sigmoid(STEEPNESS * visual) / (1 + DOUBT * torch.exp(-STEEPNESS * temporal))


def _pairs(rows: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Every two of `rows` once, about PAIRS at a time: a clustering that collapsed has as many as N x N / 2."""
    step = max(1, PAIRS // len(rows))
    for begin in range(0, len(rows), step):
        one, other = torch.triu_indices(min(step, len(rows) - begin), len(rows) - begin, 1) + begin
        yield rows[one], rows[other]


def _smooth(counts: Tensor, sigma: float) -> Tensor:
    """Convolve rows with a Gaussian, by way of the Fourier transform: 3,000 bins reach far."""
    bins = counts.shape[1]
    reach = torch.arange(-bins + 1, bins, dtype=torch.float64)
    window = torch.exp(-0.5 * (reach / sigma) ** 2)
    length = 3 * bins
    spectrum = torch.fft.rfft(counts.double(), length) * torch.fft.rfft(window, length)
    return torch.fft.irfft(spectrum, length)[:, bins - 1 : 2 * bins - 1].clamp_min(0).float()
