"""From picture files to batches on the training device: datasets, epoch plans, loaders."""

from gcl_fast.data.augment import Augmentation
from gcl_fast.data.loaders import ExtractLoader, TrainLoader
from gcl_fast.data.pictures import drop_broken, find_broken
from gcl_fast.data.readers import open_dataset
from gcl_fast.data.records import Records, ReIDDataset
from gcl_fast.data.sampling import identity_plan, shuffled_plan

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
    "shuffled_plan",
]
