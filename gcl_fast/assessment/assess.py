"""Evaluation of networks on the inputs of a run: retrieval, fidelity of novel views, a picture of them."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from gcl_fast.assessment.extract import extract
from gcl_fast.assessment.views import YAWS, draw_views
from gcl_fast.data import ExtractLoader, Records, ReIDDataset
from gcl_fast.distributed.ranks import Ranks
from gcl_fast.errors import UserError
from gcl_fast.evaluation import Reranking
from gcl_fast.evaluation.frechet import InceptionFeatures
from gcl_fast.evaluation.protocol import retrieve, view_fidelity
from gcl_fast.evaluation.quality import ViewQuality
from gcl_fast.inputs import Inputs
from gcl_fast.models import GCL
from gcl_fast.optim.precision import Precision
from gcl_fast.settings import STAGES, RunConfig

FIDELITY_CROPS = 128  # that SSIM is measured on
BATCH = 32
PICTURED = 6


class Assessment:
    """Measures networks on the inputs of a run. All ranks call; rank 0 draws."""

    def __init__(self, config: RunConfig, inputs: Inputs, ranks: Ranks, precision: Precision) -> None:
        self.config, self.inputs, self.ranks, self.precision = config, inputs, ranks, precision

    def retrieval(self, gcl: GCL, rerank: Reranking | None = None) -> dict[str, float]:
        """Return mAP, rank1, rank5, rank10 and mINP as fractions; nothing where the dataset has no query and gallery.

        rerank: k-reciprocal re-ranking instead of the plain distance.
        """
        return self.retrieval_in(self.inputs.dataset, gcl.identity, rerank)

    def retrieval_in(self, data: ReIDDataset, encoder: nn.Module, rerank: Reranking | None = None) -> dict[str, float]:
        """Return the retrieval of another dataset than the run's, or by another encoder than the networks'."""
        if not len(data.query) or not len(data.gallery):
            return {}
        query, gallery = (
            extract(encoder, r, self.config, self.ranks, self.precision) for r in (data.query, data.gallery)
        )
        found = retrieve(query, gallery, data.query, data.gallery, rerank)
        return {"mAP": found.mAP, **{f"rank{k}": float(found.cmc[k - 1]) for k in (1, 5, 10)}, "mINP": found.mINP}

    def split_for_views(self) -> str | None:
        """Return the split whose crops are turned, or None where no split has structure maps. Query and gallery, whose
        people are never trained on, come before train.
        """
        splits = ("query", "gallery", "train")
        return next((split for split in splits if self.inputs.has_structure_maps(split)), None)

    def split_to_turn(self) -> str:
        """Return `split_for_views`, where there has to be one.

        Raises:
            UserError: there is none.
        """
        if (split := self.split_for_views()) is None:
            raise UserError(
                f"{self.inputs.dataset.name}: no structure maps for any crop of query, gallery or train; where they "
                f"come from: {self.inputs.body}; expected there: test/render/NAME or train/render/NAME"
            )
        return split

    def choose(self, split: str, names: Sequence[str] | None, count: int) -> list[int]:
        """Return record indices of the crops called `names`, or of `count` crops at even distances.

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
        """Measure the SSIM of novel views (`evaluation.protocol.view_fidelity`); return nothing without a split for
        views.
        """
        split = self.split_for_views()
        if split is None:
            return {}
        records: Records = getattr(self.inputs.dataset, split)
        chosen = np.array(self.choose(split, None, FIDELITY_CROPS))
        maps = self.inputs.structure_maps(split, self.ranks.device)
        rows = chosen.tolist()
        return view_fidelity(
            gcl,
            ExtractLoader(records.subset(chosen), self.config.size, self.ranks.device, BATCH),
            lambda index, yaw: maps(index.new_tensor([rows[i] for i in index.tolist()]), yaw),
            [records.names[i] for i in rows],
            self.inputs.true_views,
            list(YAWS[1:]),
            self.precision.evaluating,
        )

    def generation(
        self,
        gcl: GCL,
        yaws: Sequence[float] = YAWS,
        count: int | None = None,
        inception: InceptionFeatures | None = None,
    ) -> dict[str, Any]:
        """What views of crops of `split_for_views()` are worth, yaw by yaw (`ViewQuality.measure`), against the real
        gallery (training crops, whose people are not in it, and where there is none: against the crops themselves).

        Args:
            count: of crops, at even distances; all by default.

        Raises:
            UserError: no crop has structure maps, or fewer than two are asked for.
        """
        split = self.split_to_turn()
        every: Records = getattr(self.inputs.dataset, split)
        rows = torch.tensor(self.choose(split, None, len(every) if count is None else count), device=self.ranks.device)
        if len(rows) < 2:
            raise UserError(f"a Fréchet distance needs two crops or more of {split}, not {len(rows)}")
        records = every.subset(rows.cpu().numpy())
        gallery = self.inputs.dataset.gallery
        real = every if split == "train" or not len(gallery) else gallery
        maps = self.inputs.structure_maps(split, self.ranks.device)
        crops, others = (ExtractLoader(r, self.config.size, self.ranks.device, BATCH) for r in (records, real))
        quality = ViewQuality(
            gcl,
            crops,
            records,
            others,
            real,
            lambda index, yaw: maps(rows[index], yaw),
            self.inputs.true_views,
            self.precision.evaluating,
            inception,
        )
        counts = {"split": split, "crops": len(records), "real_crops": len(real)}
        return counts | quality.measure(list(yaws))

    def after(self, stage: str, gcl: GCL, folder: Path) -> dict[str, float]:
        """Measure everything that is due when `stage` is complete; write folder/<stage>.png once there is a generator.

        Views that cannot be made or kept are warned of: the stage, not yet saved, is worth more.
        """
        measured = self.retrieval(gcl)
        split = self.split_for_views()
        if stage in STAGES[1:] and split is not None and self.ranks.main:
            try:
                measured |= self.fidelity(gcl)
                index = self.choose(split, None, PICTURED)
                draw_views(gcl, self.inputs, split, index, folder / f"{stage}.png", self.ranks, self.precision)
            except (OSError, UserError) as error:
                warnings.warn(f"{stage}: SSIM or picture of views left out ({error}); the run goes on", stacklevel=2)
        self.ranks.barrier()
        return measured
