"""Make sure, before the first step of a run, that every stage ahead has what it needs.

An epoch of each stage is planned, every input is opened, and every place of an output is tried.
"""

from __future__ import annotations

from collections.abc import Callable

from gcl_fast.data import Records, shuffled_plan
from gcl_fast.data.camera_time import check_time
from gcl_fast.data.styled_images import StyledImages
from gcl_fast.distributed.ranks import Ranks
from gcl_fast.errors import UserError
from gcl_fast.inputs import Inputs
from gcl_fast.settings import JVTCConfig, RunConfig, WarmupConfig
from gcl_fast.stages import clustering


def look_ahead(
    config: RunConfig, inputs: Inputs, ranks: Ranks, awaits: Callable[[str], bool], split_for_views: str | None
) -> None:
    """Check what the stages ahead need.

    Args:
        config: the settings.
        inputs: the opened dataset.
        ranks: whose number divides the crops of a step, and whose device clusters.
        awaits: whether the stage of a name is asked for and not complete.
        split_for_views: the split that novel views are measured on, None for none.

    Raises:
        UserError: structure maps, styled images, cameras or frames are missing, crops do not fill a batch, body
            parameters cannot be written, or a clustering cannot run on this machine.
    """
    train, joint = inputs.dataset.train, config.joint
    draws_views = awaits("generative") or awaits("joint")
    for split in dict.fromkeys(("train", split_for_views or "train")) if draws_views else ():
        inputs.check_structure_maps(split)
    if awaits("warmup") and config.warmup is not None:
        _check_images(config.warmup.styled, "warmup", train)
        if isinstance(config.warmup, WarmupConfig):
            _check_contrast(config.warmup, "warmup", train, ranks)
        else:
            _check_batch(config.warmup.batch, "warmup", train, ranks)
        if isinstance(config.warmup, JVTCConfig) and config.warmup.temporal:
            check_time(train, "--set warmup.temporal=false clusters by similarity alone")
    if awaits("generative"):
        _check_batch(config.generative.batch, "generative", train, ranks)
    if awaits("joint") and joint.clusters is not None:
        _check_images(joint.clusters.styled, "joint.clusters", train)
        _check_contrast(joint.clusters, "joint.clusters", train, ranks)
        if joint.views == "carried" and config.structure_maps != "online":
            raise UserError(
                f"--structure-maps {config.structure_maps} with joint.views=carried: pre-rendered maps hold no body to"
                " carry pixels by; add --set joint.views=drawn"
            )
    elif awaits("joint"):
        _check_batch(joint.batch, "joint", train, ranks)
        clustering.check(joint.clustering, "joint", len(train), ranks.device)


def _check_contrast(settings: WarmupConfig, section: str, train: Records, ranks: Ranks) -> None:
    """Check what the contrast with clusters needs: a clustering, and cameras where it compares by them."""
    clustering.check(settings.clustering, section, len(train), ranks.device)
    if settings.memory == "cameras" and not bool((train.camera > 0).all()):
        unknown = train.paths[int((train.camera <= 0).nonzero()[0][0])]
        raise UserError(
            f"--set {section}.memory=cameras: no camera is known of {unknown.name} in {train.root}; names such as"
            f" 0002_c1s1_000451_01.jpg contain it. {section}.memory=instances needs none"
        )


def _check_batch(batch: int, section: str, train: Records, ranks: Ranks) -> None:
    """Plan one pass over the training crops."""
    try:
        shuffled_plan(len(train), batch, seed=0, epoch=0, rank=ranks.rank, world_size=ranks.world_size)
    except UserError as error:
        raise UserError(f"{section}.batch={batch}: {str(error).replace('STAGE', section)}") from error


def _check_images(folder: str, section: str, train: Records) -> None:
    """Open the folder of styled images."""
    try:
        StyledImages(train, folder)
    except UserError as error:
        raise UserError(f"{section}.styled={folder}: {error}") from error
