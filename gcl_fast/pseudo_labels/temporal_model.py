"""Temporal model of walks between cameras: likelihood of a pair of crops by their frames, and joint similarity."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

PAIRS = 2**22  # of crops that are counted at a time
STEEPNESS, DOUBT = 5.0, 2.0  # of the logistic curves (Li and Zhang 2020, eq. 9); only the curve of time has the doubt


class TemporalModel(NamedTuple):
    """Holds for each two cameras how likely a difference of frames is between crops of one person.

    Example:
        >>> labels, cameras = torch.tensor([0, 0, 1, 1]), torch.tensor([1, 2, 1, 2])
        >>> frames = torch.tensor([0, 500, 9000, 9500])  # two people walk from camera 1 to camera 2 in 500 frames
        >>> model = TemporalModel.fit(labels, cameras, frames, sigma=1.0)
        >>> model.similarity(torch.tensor([1]), torch.tensor([0]), torch.tensor([2, 2]), torch.tensor([500, 5000]))
        tensor([[1., 0.]])
    """

    cameras: Tensor  # (C,) int64, ascending, as the dataset numbers them
    likelihood: Tensor  # (C, C, bins) by camera of the later crop, camera of the earlier crop, frame difference / width
    width: int  # frames in a bin

    @classmethod
    def fit(
        cls, labels: Tensor, cameras: Tensor, frames: Tensor, width: int = 100, bins: int = 3000, sigma: float = 50.0
    ) -> TemporalModel:
        """Estimate a temporal model from pseudo-labels.

        The frame differences of every two crops of one cluster make a histogram for each two cameras. It is smoothed by
        a Gaussian window (Li and Zhang 2020) and divided by its largest value. As shares of 3,000 bins the values would
        be below 0.01, where the logistic curve is flat.

        Args:
            labels: (N,) int64 pseudo-labels, outlier = -1.
            cameras: (N,) int64.
            frames: (N,) int64.
            width: frames per bin.
            bins: number of bins; larger differences count in the last one.
            sigma: of the window, in bins.

        Returns:
            The model; the likelihood of two cameras that share no cluster is 0.
        """
        numbers, camera = cameras.cpu().unique(return_inverse=True)
        frames, labels = frames.cpu(), labels.cpu()
        C = len(numbers)
        counts = torch.zeros(C * C * bins, dtype=torch.int64)
        order = labels.argsort(stable=True)
        sizes = labels[order].unique_consecutive(return_counts=True)[1].tolist()
        clusters = [rows for rows in order.split(sizes) if labels[rows[0]] >= 0]
        for one, other in (pair for rows in clusters for pair in _pairs(rows)):
            later = torch.where(frames[one] >= frames[other], one, other)
            earlier = one + other - later
            difference = ((frames[later] - frames[earlier]) // width).clamp_max(bins - 1)
            place = (camera[later] * C + camera[earlier]) * bins + difference
            counts.index_add_(0, place, torch.ones_like(place))
        likelihood = _smooth(counts.view(C * C, bins), sigma)
        likelihood /= likelihood.amax(1, keepdim=True).clamp_min(torch.finfo(torch.float32).tiny)
        return cls(numbers, likelihood.view(C, C, bins), width)

    def similarity(self, cameras: Tensor, frames: Tensor, other_cameras: Tensor, other_frames: Tensor) -> Tensor:
        """Compute the likelihood that two crops show one person, by their cameras and frames.

        Args:
            cameras: (A,) int64.
            frames: (A,) int64.
            other_cameras: (B,) int64.
            other_frames: (B,) int64.

        Returns:
            (A, B) in 0..1; 0 where the model does not know a camera.
        """
        C, _, bins = self.likelihood.shape
        (one, is_known), (other, other_is_known) = (self._find(c) for c in (cameras, other_cameras))
        difference = frames[:, None] - other_frames[None]  # (A, B)
        pair = torch.where(difference >= 0, one[:, None] * C + other[None], other[None] * C + one[:, None])
        place = pair * bins + (difference.abs() // self.width).clamp_max(bins - 1)
        return self.likelihood.flatten()[place] * (is_known[:, None] & other_is_known[None])

    def _find(self, cameras: Tensor) -> tuple[Tensor, Tensor]:
        """Find the positions of cameras in `self.cameras`, and whether they are there."""
        place = torch.searchsorted(self.cameras, cameras).clamp_max(len(self.cameras) - 1)
        return place, self.cameras[place] == cameras

    def to(self, device: torch.device) -> TemporalModel:
        """Return the model on `device`."""
        return TemporalModel(self.cameras.to(device), self.likelihood.to(device), self.width)


def joint_similarity(visual: Tensor, temporal: Tensor) -> Tensor:
    """Compute 1 / (1 + exp(-5 v)) * 1 / (1 + 2 exp(-5 t)), element by element (Li and Zhang 2020, eq. 9).

    Args:
        visual: cosine v of the embeddings, -1..1.
        temporal: likelihood t of the frames, 0..1, of the same shape.

    Returns:
        Similarities in 0..1, of the same shape.

    Example:
        >>> joint_similarity(torch.tensor([1.0, 1.0]), torch.tensor([1.0, 0.0]))
        tensor([0.9801, 0.3311])
    """
    return torch.sigmoid(STEEPNESS * visual) / (1 + DOUBT * torch.exp(-STEEPNESS * temporal))


def _pairs(rows: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield every two of `rows` once, about PAIRS at a time; a clustering that collapsed has up to N x N / 2 pairs."""
    step = max(1, PAIRS // len(rows))
    for begin in range(0, len(rows), step):
        one, other = torch.triu_indices(min(step, len(rows) - begin), len(rows) - begin, 1) + begin
        yield rows[one], rows[other]


def _smooth(counts: Tensor, sigma: float) -> Tensor:
    """Convolve rows with a Gaussian by the Fourier transform, because its window is as wide as the row."""
    bins = counts.shape[1]
    reach = torch.arange(-bins + 1, bins, dtype=torch.float64)
    window = torch.exp(-0.5 * (reach / sigma) ** 2)
    length = 3 * bins
    spectrum = torch.fft.rfft(counts.double(), length) * torch.fft.rfft(window, length)
    return torch.fft.irfft(spectrum, length)[:, bins - 1 : 2 * bins - 1].clamp_min(0).float()
