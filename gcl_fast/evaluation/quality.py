"""What generated views are worth, yaw by yaw: likeness to the truth, identity, reconstruction, Fréchet distance."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from gcl_fast.data import Records
from gcl_fast.evaluation.frechet import FrechetDistance, InceptionFeatures, installed
from gcl_fast.evaluation.protocol import Autocast, Batches, novel_views, retrieve, to_unit
from gcl_fast.evaluation.structural_similarity import ssim
from gcl_fast.models import GCL

INCEPTION, OWN = "frechet_torchvision_inception", "frechet_distance_own_encoder"


class ViewQuality:
    """Measures the views that networks draw of the crops of one split, against real crops of the same people.

    Args:
        gcl: the networks, whose identity encoder also judges.
        crops: those to turn, in batches; gone through once a yaw. records: theirs, in the order of the index.
        real: the crops that retrieval and Fréchet distance compare with, in batches. real_records: theirs.
        structure_maps: (index, yaw) -> structure maps of `crops`.
        true_views: (names, yaw) -> (images (B, 3, H, W) uint8, person (B, H, W) bool); None: no truth is known.
        inception: features for the Fréchet distance; None: embeddings, and the metric has another name, or is left out
            where torchmetrics is not installed.

    Raises:
        UserError: `inception` without torchmetrics.
    """

    def __init__(
        self,
        gcl: GCL,
        crops: Batches,
        records: Records,
        real: Batches,
        real_records: Records,
        structure_maps: Callable[[Tensor, Tensor], Tensor],
        true_views: Callable[[list[str], Tensor], tuple[Tensor, Tensor]] | None,
        autocast: Autocast,
        inception: InceptionFeatures | None = None,
    ) -> None:
        self.gcl, self.crops, self.records, self.real_records = gcl.eval(), crops, records, real_records
        self.structure_maps, self.true_views, self.autocast = structure_maps, true_views, autocast
        self.inception, self.frechet_name = inception, OWN if inception is None else INCEPTION
        self.frechet: FrechetDistance | None = None  # its width is known with the first features
        self.people = records.identity != 0  # who are sought; distractors are found at most
        self.gallery = torch.cat([self._see(images, real=True) for images, _ in real])
        self.names = records.names
        known = (records.identity >= 0).all() and (real_records.identity >= 0).all()
        self.labelled = bool(known and self.people.any())

    @torch.no_grad()
    def measure(self, yaws: list[float]) -> dict[str, Any]:
        """Means over the crops, by yaw in degrees.

        Returns:
            `real`: the untouched crops, for comparison; `yaws`: by yaw; `mean`: over the yaws other than 0.
            ssim, error: SSIM and mean |difference| in 0..1 to the true view, on the person's pixels; ssim_copy,
            error_copy: of the untouched crop, likewise. Only where the truth is known.
            error_cycle: mean |difference| of the whole pictures, crop and view turned back; at yaw 0 also
            ssim_reconstruction and error_reconstruction, of the picture drawn at the crop's own yaw.
            mAP, rank1: of the views as queries in place of their crops, but for distractors. Only where identities are
            known.
            frechet_torchvision_inception or frechet_distance_own_encoder: `FrechetDistance` to the real crops.
        """
        real = self._among_real(torch.cat([self._see(images, real=False) for images, _ in self.crops]))
        by_yaw = {yaw: self._at(yaw) for yaw in yaws}
        novel = [metrics for yaw, metrics in by_yaw.items() if yaw % 360]
        mean = {name: sum(metrics[name] for metrics in novel) / len(novel) for name in (novel[0] if novel else ())}
        return {"real": real, "mean": mean, "yaws": {f"{yaw:g}": metrics for yaw, metrics in by_yaw.items()}}

    def _at(self, degrees: float) -> dict[str, float]:
        sums, seen = Counter[str](), []
        for images, index in self.crops:
            yaw = torch.full(index.shape, degrees, device=images.device)
            drawn, _ = novel_views(self.gcl, images, self.structure_maps, index, yaw, self.autocast)
            back, _ = novel_views(self.gcl, drawn, self.structure_maps, index, torch.zeros_like(yaw), self.autocast)
            crop, picture = to_unit(images), to_unit(drawn)
            found = {"error_cycle": _error(to_unit(back), crop)}
            if degrees % 360 == 0:
                found |= {"ssim_reconstruction": ssim(picture, crop), "error_reconstruction": _error(picture, crop)}
            if self.true_views is not None:
                truth, person = self.true_views([self.names[i] for i in index.tolist()], yaw.cpu())
                truth, person = truth.to(images.device).float() / 255, person.to(images.device)
                found |= {"ssim": ssim(picture, truth, person), "ssim_copy": ssim(crop, truth, person)}
                found |= {"error": _error(picture, truth, person), "error_copy": _error(crop, truth, person)}
            sums.update({name: float(values.sum()) for name, values in found.items()})
            seen.append(self._see(drawn, real=False))
        return {name: total / len(self.names) for name, total in sums.items()} | self._among_real(torch.cat(seen))

    def _see(self, images: Tensor, *, real: bool) -> Tensor:
        """Unit embeddings of normalized pictures, which also join one side of the Fréchet distance."""
        with torch.no_grad(), self.autocast():
            embedding = normalize(self.gcl.identity(images)[1].float(), dim=1)
        if self.inception is None and not installed():
            return embedding
        features = embedding if self.inception is None else self.inception(to_unit(images))
        if self.frechet is None:
            self.frechet = FrechetDistance(features.shape[1], features.device)
        self.frechet.add(features, real=real)
        return embedding

    def _among_real(self, embeddings: Tensor) -> dict[str, float]:
        """Retrieval by (N, D) embeddings that stand for the crops, and the Fréchet distance of what was last seen."""
        metrics = {self.frechet_name: self.frechet.distance()} if self.frechet is not None else {}
        if self.labelled:
            sought = embeddings[torch.from_numpy(self.people).to(embeddings.device)]
            found = retrieve(sought, self.gallery, self.records.subset(self.people), self.real_records)
            metrics |= {"mAP": found.mAP, "rank1": float(found.cmc[0])}
        return metrics


def _error(x: Tensor, y: Tensor, mask: Tensor | None = None) -> Tensor:
    """Mean |x - y| of each picture (B, 3, H, W), on the pixels of `mask` (B, H, W) where given; (B,)."""
    difference = (x - y).abs().mean(1)
    return difference.mean((1, 2)) if mask is None else (difference * mask).sum((1, 2)) / mask.sum((1, 2))
