"""Hold the weights of the generator's losses."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from gcl_fast.settings.ranges import NotNegative


@dataclass(frozen=True)
class LossWeights:
    """Holds the weights of the generator's losses, and which part features the feature loss compares.

    `generator_losses` describes `feature_loss_on`. The weights `view` and `mixup` count in the joint stage only.
    """

    image: NotNegative = 5.0  # of the L1 distance of x_rec and x_cyc from the crop
    similarity: NotNegative = 0.0  # of 1 - SSIM of x_rec and x_cyc
    feature: NotNegative = 5.0  # of the distance of part features
    adversarial: NotNegative = 1.0  # of the loss that the discriminator gives
    view: NotNegative = 1.0  # of the view-invariant loss
    # of images with mixed part features (Chen et al. 2022); one more pass of G and E_id unless 0
    mixup: NotNegative = 0.0
    # image whose part features are compared with the crop's, besides x_cyc
    feature_loss_on: Literal["reconstruction", "novel_view"] = "reconstruction"
