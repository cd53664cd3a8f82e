"""Evaluate networks on the inputs of a run: retrieval, the fidelity of novel views, and a figure of them."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from gcl_fast.assessment.extract import extract
from gcl_fast.assessment.tracklet_rows import pool_tracklets
from gcl_fast.assessment.views import YAWS, draw_views
from gcl_fast.data import ExtractLoader, Records, ReIDDataset
from gcl_fast.distributed.ranks import Ranks
from gcl_fast.errors import UserError
from gcl_fast.evaluation import Reranking
from gcl_fast.evaluation.frechet import InceptionFeatures
from gcl_fast.evaluation.inference import ViewsOf, view_fidelity
from gcl_fast.evaluation.quality import ViewQuality
from gcl_fast.evaluation.query_expansion import average_with_nearest
from gcl_fast.evaluation.retrieval import retrieve
from gcl_fast.evaluation.view_pooling import NOVEL_YAWS, CarriedViews
from gcl_fast.inputs import BROKEN, Inputs
from gcl_fast.models import GCL
from gcl_fast.optim.precision import Precision
from gcl_fast.render import Turn
from gcl_fast.render.turn import Turns
from gcl_fast.settings import STAGES, RunConfig

FIDELITY_CROPS = 128  # number of crops whose views SSIM is measured on
BATCH = 32
BY_TRACKLET = ("mars",)  # datasets whose protocol ranks tracklets
PICTURED = 6  # number of crops in the figure of views


class ChosenTurns:
    """Makes the turns of some crops of a split by their number among these.

    Args:
        turns: of the whole split.
        rows: (N,) int64 record indices of the crops.
    """

    def __init__(self, turns: Turns, rows: Tensor) -> None:
        self.turns, self.rows = turns, rows

    def turn(self, index: Tensor, yaw: Tensor) -> Turn:
        """Return both views of the crops numbered `index` (B,), for novel views at yaw (B,) degrees."""
        return self.turns.turn(self.rows[index.to(self.rows.device)], yaw)


def broken_counts(data: ReIDDataset) -> dict[str, int]:
    """Return `query_broken` and `gallery_broken`, the images of both that do not decode, where there are any."""
    counts = {split: data.passed_over.get(BROKEN.format(split), 0) for split in ("query", "gallery")}
    return {f"{split}_broken": count for split, count in counts.items() if count}


class Assessment:
    """Measures networks on the inputs of a run. All ranks call its methods; rank 0 draws."""

    def __init__(self, config: RunConfig, inputs: Inputs, ranks: Ranks, precision: Precision) -> None:
        self.config, self.inputs, self.ranks, self.precision = config, inputs, ranks, precision

    def retrieval(
        self,
        gcl: GCL,
        rerank: Reranking | None = None,
        *,
        flip: bool = False,
        expansion: int = 0,
        tracklets: bool | None = None,
        pool_views: bool = False,
    ) -> dict[str, float]:
        """Measure retrieval on the run's dataset.

        Args:
            gcl: the networks.
            rerank: rank by k-reciprocal re-ranking instead of the plain distance.
            flip: embed the mirrored crops as well, and take the mean.
            expansion: entries of the gallery that each query is averaged with (`average_with_nearest`).
            tracklets: a query is a tracklet, and so is an entry of the gallery (`pool_tracklets`). None: for the
                datasets `BY_TRACKLET`, whose protocol says so.
            pool_views: pool the embedding of each crop with those of its novel views (`CarriedViews`).

        Returns:
            mAP, rank1, rank5, rank10 and mINP as fractions; empty where the dataset has no query and gallery. By
            tracklets, the numbers of tracklets in query and gallery as well. With pooled views, the share of the views
            that were used.

        Raises:
            UserError: `tracklets` is true, and no tracklet is known.
        """
        data, views = self.inputs.dataset, {}
        if pool_views and data.can_be_ranked:
            device = self.ranks.device
            views = {split: CarriedViews(self.inputs.structure_maps(split, device)) for split in ("query", "gallery")}
        metrics = self.retrieval_in(
            data, gcl.identity, rerank, flip=flip, expansion=expansion, tracklets=tracklets, views=views
        )
        return metrics | ({"views": sum(v.used for v in views.values()) / 2} if views else {})

    def retrieval_in(
        self,
        data: ReIDDataset,
        encoder: nn.Module,
        rerank: Reranking | None = None,
        *,
        flip: bool = False,
        expansion: int = 0,
        tracklets: bool | None = None,
        views: Mapping[str, ViewsOf] | None = None,
    ) -> dict[str, float]:
        """Measure retrieval, as `retrieval` does, on the dataset `data` by the embeddings of `encoder`."""
        if not data.can_be_ranked:
            return {}
        query, gallery = (
            extract(encoder, records, self.config, self.ranks, self.precision, flip, (views or {}).get(split))
            for split, records in (("query", data.query), ("gallery", data.gallery))
        )
        of_query, of_gallery, counts = data.query, data.gallery, {}
        if tracklets if tracklets is not None else data.name in BY_TRACKLET:
            if max(of_query.tracklet.max(), of_gallery.tracklet.max()) < 0:
                raise UserError(f"--tracklets: no tracklet is known of query and gallery of {data.name} in {data.root}")
            query, of_query = pool_tracklets(query, of_query)
            gallery, of_gallery = pool_tracklets(gallery, of_gallery)
            counts = {"query_tracklets": len(query), "gallery_tracklets": len(gallery)}
        query = average_with_nearest(query, gallery, expansion)
        return retrieve(query, gallery, of_query, of_gallery, rerank).metrics | counts | broken_counts(data)

    def split_for_views(self) -> str | None:
        """Return the split whose crops are turned, or None where no split has structure maps.

        Query and gallery come first, as their identities are never trained on; train is last.
        """
        splits = ("query", "gallery", "train")
        return next((split for split in splits if self.inputs.has_structure_maps(split)), None)

    def split_to_turn(self) -> str:
        """Return the split whose crops are turned, as `split_for_views` chooses it.

        Raises:
            UserError: no split has structure maps.
        """
        if (split := self.split_for_views()) is None:
            raise UserError(
                f"{self.inputs.dataset.name}: no structure maps for any crop of query, gallery or train; where they "
                f"come from: {self.inputs.body}; expected there: test/render/NAME or train/render/NAME"
            )
        return split

    def choose(self, split: str, names: Sequence[str] | None, count: int) -> list[int]:
        """Return the record indices of the crops called `names`, or of `count` crops spread evenly over the split.

        Args:
            split: "train", "query" or "gallery".
            names: file names of crops; None to take `count` crops.
            count: number of crops, >= 1; a smaller split gives all of its crops.

        Raises:
            UserError: a name that is not in `split`, a split without crops, or a count below one.
        """
        records: Records = getattr(self.inputs.dataset, split)
        if not len(records):
            raise UserError(f"{self.inputs.dataset.name}: there are no crops in {split}; another --split has some")
        if names is None:
            if count < 1:
                raise UserError(f"--count {count}: expected 1 crop or more")
            return np.linspace(0, len(records) - 1, min(count, len(records))).astype(int).tolist()
        place = {name: i for i, name in enumerate(records.names)}
        if unknown := [name for name in names if name not in place]:
            raise UserError(
                f"{', '.join(unknown[:5])}: no such crop in {split} of {records.root}; one is {records.names[0]}"
            )
        return [place[name] for name in names]

    def fidelity(self, gcl: GCL) -> dict[str, float]:
        """Measure SSIM on crops of `split_for_views()` (`evaluation.view_fidelity`); return {} without one."""
        split = self.split_for_views()
        if split is None:
            return {}
        records: Records = getattr(self.inputs.dataset, split)
        index = np.array(self.choose(split, None, FIDELITY_CROPS))
        return view_fidelity(
            gcl,
            ExtractLoader(records.subset(index), self.config.size, self.ranks.device, BATCH),
            ChosenTurns(self.inputs.structure_maps(split, self.ranks.device), torch.from_numpy(index)),
            [records.names[i] for i in index.tolist()],
            self.inputs.true_views,
            list(NOVEL_YAWS),
            self.precision.evaluating,
        )

    def generation(
        self,
        gcl: GCL,
        yaws: Sequence[float] = YAWS,
        count: int | None = None,
        inception: InceptionFeatures | None = None,
    ) -> dict[str, Any]:
        """Measure the quality of views of the crops in `split_to_turn()`, yaw by yaw (`ViewQuality.measure`).

        Views are compared with the real crops of the gallery. Training crops show other people than the gallery, so
        their views are compared with the training crops. Without a gallery, views are compared with their own split.

        Args:
            gcl: the networks.
            yaws: degrees.
            count: number of crops, spread evenly over the split; all by default.
            inception: the network of the Fréchet distance; None to use the run's own embeddings.

        Raises:
            UserError: no crop has structure maps, or fewer than two crops are asked for.
        """
        split = self.split_to_turn()
        every: Records = getattr(self.inputs.dataset, split)
        rows = torch.tensor(self.choose(split, None, len(every) if count is None else count), device=self.ranks.device)
        if len(rows) < 2:
            raise UserError(f"a Fréchet distance needs two crops or more of {split}, not {len(rows)}")
        records = every.subset(rows.cpu().numpy())
        gallery = self.inputs.dataset.gallery
        real = every if split == "train" or not len(gallery) else gallery
        turns = ChosenTurns(self.inputs.structure_maps(split, self.ranks.device), rows)
        crops, others = (ExtractLoader(r, self.config.size, self.ranks.device, BATCH) for r in (records, real))
        quality = ViewQuality(
            gcl,
            crops,
            records,
            others,
            real,
            turns,
            self.inputs.true_views,
            self.precision.evaluating,
            inception,
        )
        counts = {"split": split, "crops": len(records), "real_crops": len(real)}
        return counts | quality.measure(list(yaws))

    def after(self, stage: str, gcl: GCL, folder: Path) -> dict[str, float]:
        """Measure everything that is measured when `stage` is complete; once there is a generator, write its figure.

        Views that cannot be made or written cause a warning instead of an error, as the stage is not saved yet.

        Args:
            stage: its name.
            gcl: the networks.
            folder: where the figure <stage>.png goes.
        """
        metrics = self.retrieval(gcl)
        split = self.split_for_views()
        if stage in STAGES[1:] and split is not None and self.ranks.main:
            try:
                metrics |= self.fidelity(gcl)
                index = self.choose(split, None, PICTURED)
                draw_views(gcl, self.inputs, split, index, folder / f"{stage}.png", self.ranks, self.precision)
            except (OSError, UserError) as error:
                warnings.warn(f"{stage}: SSIM or figure of views left out ({error}); the run goes on", stacklevel=2)
        self.ranks.barrier()
        return metrics
