"""Quality of generated views by yaw: similarity to the true views, identity, reconstruction, Fréchet distance."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from gcl_fast.data import Records
from gcl_fast.data.records import judged_queries
from gcl_fast.evaluation.frechet import FrechetDistance, InceptionFeatures, installed
from gcl_fast.evaluation.inference import Autocast, Batches, novel_views, to_unit, turned_back
from gcl_fast.evaluation.retrieval import retrieve
from gcl_fast.losses.structural_similarity import ssim
from gcl_fast.models import GCL
from gcl_fast.render.turn import Turns

INCEPTION, OWN = "frechet_torchvision_inception", "frechet_distance_own_encoder"


class ViewQuality:
    """Measures generated views of the crops of one split against real crops of the same people.

    Args:
        gcl: the networks; their identity encoder also gives the embeddings for retrieval.
        crops: batches of (crops, index) to turn; they are iterated once per yaw.
        records: records of `crops`, in the order of the index.
        real: batches of (crops, index) that retrieval and Fréchet distance compare with.
        real_records: records of `real`, in the order of its batches.
        turns: makes the views of `crops`.
        true_views: maps (names, yaw) to images (B, 3, H, W) uint8 and masks of the person (B, H, W) bool; None: the
            true views are not known.
        autocast: makes the context of the forward pass, such as `contextlib.nullcontext`.
        inception: network for the features of the Fréchet distance; None: the embeddings, and the metric has another
            name. Without torchmetrics there is no Fréchet distance of embeddings.

    Raises:
        UserError: `inception` is given and torchmetrics is not installed.

    Example:
        >>> from contextlib import nullcontext
        >>> from pathlib import Path
        >>> import numpy as np
        >>> from gcl_fast.models import ModelConfig
        >>> from gcl_fast.render import Turn
        >>> class Maps:  # stands in for gcl_fast.bodies, which renders bodies
        ...     def turn(self, index, yaw):
        ...         return Turn(torch.rand(2 * len(index), 1, 64, 40))
        >>> def records(camera):
        ...     paths = [Path("0.jpg"), Path("1.jpg")]
        ...     return Records(Path("."), paths, np.array([1, 2]), np.full(2, camera), np.zeros(2, int))
        >>> gcl, batches = GCL(ModelConfig.demo()), [(torch.randn(2, 3, 64, 40), torch.arange(2))]
        >>> quality = ViewQuality(gcl, batches, records(1), batches, records(2), Maps(), None, nullcontext)
        >>> report = quality.measure([0.0, 90.0])
        >>> sorted(name for name in report["yaws"]["90"] if not name.startswith("frechet"))
        ['error_cycle', 'mAP', 'rank1']
    """

    def __init__(
        self,
        gcl: GCL,
        crops: Batches,
        records: Records,
        real: Batches,
        real_records: Records,
        turns: Turns,
        true_views: Callable[[list[str], Tensor], tuple[Tensor, Tensor]] | None,
        autocast: Autocast,
        inception: InceptionFeatures | None = None,
    ) -> None:
        self.gcl, self.crops, self.records, self.real_records = gcl.eval(), crops, records, real_records
        self.turns, self.true_views, self.autocast = turns, true_views, autocast
        self.inception, self.frechet_name = inception, OWN if inception is None else INCEPTION
        self.frechet: FrechetDistance | None = None  # made with the first features, which have its width
        self.people = records.identity != 0  # the queries: a distractor is in galleries only
        self.gallery = torch.cat([self._embed(images, real=True) for images, _ in real])
        self.names = records.names
        have_identities = (records.identity >= 0).all() and (real_records.identity >= 0).all()
        judged = judged_queries(records.subset(self.people), real_records)
        self.has_queries = bool(have_identities and judged.any())

    @torch.no_grad()
    def measure(self, yaws: list[float]) -> dict[str, Any]:
        """Measure views at several yaws, as means over the crops.

        Args:
            yaws: degrees.

        Returns:
            `real` has the metrics of the untouched crops, `yaws` those of the views by yaw, and `mean` the means over
            the yaws other than 0. The metrics are:

            - ssim, error: SSIM and mean |difference| in 0..1 to the true view, on the person's pixels; ssim_copy and
              error_copy are those of the untouched crop, ssim_transfer that of its carried pixels alone. They need
              true views, and ssim_transfer a generator that takes carried pixels.
            - error_cycle: mean |difference| in 0..1 between the crop and the view that is turned back.
            - ssim_reconstruction, error_reconstruction: of the reconstruction, at yaw 0.
            - mAP, rank1: of the views as queries in place of their crops, without distractors; mAP_transfer is that of
              the carried pixels alone. They need identities.
            - frechet_torchvision_inception or frechet_distance_own_encoder: `FrechetDistance` to the real crops.
        """
        real = self._among_real(torch.cat([self._embed(images, real=False) for images, _ in self.crops]))
        by_yaw = {yaw: self._at(yaw) for yaw in yaws}
        novel = [metrics for yaw, metrics in by_yaw.items() if yaw % 360]
        mean = {name: sum(metrics[name] for metrics in novel) / len(novel) for name in (novel[0] if novel else ())}
        return {"real": real, "mean": mean, "yaws": {f"{yaw:g}": metrics for yaw, metrics in by_yaw.items()}}

    def _at(self, degrees: float) -> dict[str, float]:
        """Measure the views at one yaw."""
        sums, view_embeddings, carried_embeddings = Counter[str](), [], []
        for images, index in self.crops:
            yaw = torch.full(index.shape, degrees, device=images.device)
            turn = self.turns.turn(index, yaw)
            views = novel_views(self.gcl, images, turn, self.autocast)
            cycle = turned_back(self.gcl, views, turn, self.autocast)
            crop, view = to_unit(images), to_unit(views.images)
            metrics = {"error_cycle": _error(to_unit(cycle), crop)}
            if degrees % 360 == 0:
                metrics |= {"ssim_reconstruction": ssim(view, crop), "error_reconstruction": _error(view, crop)}
            if self.true_views is not None:
                truth, person = self.true_views([self.names[i] for i in index.tolist()], yaw.cpu())
                truth, person = truth.to(images.device).float() / 255, person.to(images.device)
                metrics |= {"ssim": ssim(view, truth, person), "ssim_copy": ssim(crop, truth, person)}
                metrics |= {"error": _error(view, truth, person), "error_copy": _error(crop, truth, person)}
                if views.carried is not None:
                    metrics |= {"ssim_transfer": ssim(to_unit(views.carried.colour), truth, person)}
            sums.update({name: float(values.sum()) for name, values in metrics.items()})
            view_embeddings.append(self._embed(views.images, real=False))
            if views.carried is not None:
                carried_embeddings.append(self._embeddings(views.carried.colour))
        means = {name: total / len(self.names) for name, total in sums.items()}
        if carried_embeddings and (retrieval := self._retrieved(torch.cat(carried_embeddings))):
            means["mAP_transfer"] = retrieval["mAP"]
        return means | self._among_real(torch.cat(view_embeddings))

    @torch.no_grad()
    def _embeddings(self, images: Tensor) -> Tensor:
        """Compute unit embeddings of normalized images."""
        with self.autocast():
            return normalize(self.gcl.identity(images)[1].float(), dim=1)

    def _embed(self, images: Tensor, *, real: bool) -> Tensor:
        """Compute unit embeddings of normalized images, and add their features to one side of the Fréchet distance."""
        embedding = self._embeddings(images)
        if self.inception is None and not installed():
            return embedding
        features = embedding if self.inception is None else self.inception(to_unit(images))
        if self.frechet is None:
            self.frechet = FrechetDistance(features.shape[1], features.device)
        self.frechet.add(features, real=real)
        return embedding

    def _among_real(self, embeddings: Tensor) -> dict[str, float]:
        """Measure retrieval by embeddings (N, D) of views or crops, and the Fréchet distance of the last images."""
        metrics = {self.frechet_name: self.frechet.distance()} if self.frechet is not None else {}
        return metrics | self._retrieved(embeddings)

    def _retrieved(self, embeddings: Tensor) -> dict[str, float]:
        """Measure retrieval by embeddings (N, D) in place of the crops; {} without identities."""
        if not self.has_queries:
            return {}
        queries = embeddings[torch.from_numpy(self.people).to(embeddings.device)]
        retrieval = retrieve(queries, self.gallery, self.records.subset(self.people), self.real_records)
        return {"mAP": retrieval.mAP, "rank1": float(retrieval.cmc[0])}


def _error(x: Tensor, y: Tensor, mask: Tensor | None = None) -> Tensor:
    """Compute mean |x - y| of each image (B, 3, H, W), over the pixels of `mask` (B, H, W) if given; (B,)."""
    difference = (x - y).abs().mean(1)
    return difference.mean((1, 2)) if mask is None else (difference * mask).sum((1, 2)) / mask.sum((1, 2))
