"""The losses of all stages; the view-invariant loss of the joint stage is a method of `gcl_fast.memory.MemoryBank`."""

from gcl_fast.losses.adversarial import DiscriminatorLoss, DiscriminatorTerms, GeneratorAdversarialLoss, frozen
from gcl_fast.losses.camera_proxies import CameraProxies, camera_proxy_loss
from gcl_fast.losses.cluster_memory import (
    Clusters,
    cluster_centres,
    cluster_memory_loss,
    instance_memory_loss,
    update_by_hardest_,
)
from gcl_fast.losses.generator_terms import LossWeights, Views, generative_forward, generator_losses
from gcl_fast.losses.local_global import global_loss, local_loss, mean_direction
from gcl_fast.losses.multi_label import multi_label_loss
from gcl_fast.losses.reconstruction import reconstruction_loss
from gcl_fast.losses.soft_labels import Mix, choose_partners, mix_parts, soft_label_loss
from gcl_fast.losses.supervised import batch_hard_triplet_loss, identity_loss

__all__ = [
    "CameraProxies",
    "Clusters",
    "DiscriminatorLoss",
    "DiscriminatorTerms",
    "GeneratorAdversarialLoss",
    "LossWeights",
    "Mix",
    "Views",
    "batch_hard_triplet_loss",
    "camera_proxy_loss",
    "choose_partners",
    "cluster_centres",
    "cluster_memory_loss",
    "frozen",
    "generative_forward",
    "generator_losses",
    "global_loss",
    "identity_loss",
    "instance_memory_loss",
    "local_loss",
    "mean_direction",
    "mix_parts",
    "multi_label_loss",
    "reconstruction_loss",
    "soft_label_loss",
    "update_by_hardest_",
]
