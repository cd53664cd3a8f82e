"""Read datasets, plan epochs, and load image files as batches on the training device."""

from gcl_fast.data.augment import Augmentation
from gcl_fast.data.broken_images import drop_broken, find_broken
from gcl_fast.data.epoch_plans import identity_plan, paired_plan, shuffled_plan
from gcl_fast.data.loaders import ExtractLoader, TrainLoader
from gcl_fast.data.readers import open_dataset
from gcl_fast.data.records import Records, ReIDDataset

__all__ = [
    "Augmentation",
    "ExtractLoader",
    "ReIDDataset",
    "Records",
    "TrainLoader",
    "drop_broken",
    "find_broken",
    "identity_plan",
    "open_dataset",
    "paired_plan",
    "shuffled_plan",
]
