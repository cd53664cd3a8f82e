"""Train E_id by multi-label classification, in which crops of one person are labels of each other (MMCL)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from gcl_fast.distributed.ranks import Ranks
from gcl_fast.inputs import Inputs
from gcl_fast.losses.multi_label import multi_label_loss
from gcl_fast.models import GCL
from gcl_fast.optim.precision import Precision
from gcl_fast.optim.update import descend
from gcl_fast.pseudo_labels.label_prediction import predict_labels
from gcl_fast.settings import MMCLConfig, RunConfig
from gcl_fast.stages.warmups.base import PassWarmup


class MMCL(PassWarmup):
    """Represents the warm-up by multi-label classification against the bank (Wang and Zhang 2020).

    In the first epochs every crop is a class of its own. Then the labels are predicted from the bank at each epoch; the
    paper predicts the labels of a batch at its step. The weight of the old entry in a bank update rises from zero.
    """

    settings: MMCLConfig

    def __init__(self, config: RunConfig, gcl: GCL, inputs: Inputs, ranks: Ranks, precision: Precision) -> None:
        super().__init__(config, gcl, inputs, ranks, precision)
        self.positives = torch.arange(len(self.records), device=ranks.device).unsqueeze(1)  # (N, L), padded with -1

    def begin_epoch(self, epoch: int) -> dict[str, float]:
        """Fill the bank before the first epoch; after the epochs of single labels, predict the labels from it."""
        s = self.settings
        if epoch == 0:
            self.fill_bank()
        if epoch < s.single_label_epochs:
            return {}
        self.positives = predict_labels(
            self.descriptors(trained=epoch > s.single_label_epochs), s.threshold, s.candidates
        )
        return self._report()

    def plan(self, epoch: int) -> Tensor:
        """Return images (steps, batch) of shuffled crops."""
        return self.images_of(self.crops(epoch), epoch)

    def _update(self, epoch: int, images: Tensor, index: Tensor) -> dict[str, Tensor]:
        """Update by the labels and the momentum of `epoch`."""
        s = self.settings
        crops = self.owner[index]
        embedding = self.embed(images)
        loss = multi_label_loss(embedding, self.bank.features, self.positives[crops], s.delta, s.hard_share, s.form)
        skipped = descend(loss, self.ranks, *self.optimizers)
        self.ranks.average_norms(self.encoder)
        self.bank.momentum = s.momentum * epoch / max(s.epochs - 1, 1)
        self.bank.update_(self.ranks.gather(crops), self.ranks.gather(embedding.detach().float()))
        return {"loss": loss, "skipped": skipped}

    def _report(self) -> dict[str, float]:
        """Return the mean number of labels besides the crop itself, and their precision where identities are known.

        The identities are used for the metrics alone; no training depends on them.
        """
        prediction = self.positives[:, 1:] >= 0
        metrics = {"labels": float(prediction.sum()) / len(prediction)}
        identity = torch.as_tensor(self.records.identity, device=prediction.device)
        if bool((identity >= 0).all()) and bool(prediction.any()):
            correct = (identity[self.positives[:, 1:]] == identity[:, None])[prediction]
            metrics["label_precision"] = float(correct.float().mean())
        return metrics

    def state_dict(self) -> dict[str, Any]:
        """Return the states of the optimizers and the bank, and the labels."""
        return {**super().state_dict(), "positives": self.positives}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        super().load_state_dict(state)
        self.positives = state["positives"].to(self.ranks.device)
