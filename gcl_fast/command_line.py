"""The command line of train.py."""

from __future__ import annotations

import argparse
from dataclasses import replace

from gcl_fast.errors import UserError
from gcl_fast.models import check_size
from gcl_fast.optim.optimizers import BACKENDS
from gcl_fast.settings import ALL_STAGES, STAGES, RunConfig, override, preset, source_preset, warmup_preset


def parse(arguments: list[str] | None = None) -> tuple[RunConfig, bool]:
    """Return the settings that the command line asks for, and whether to resume. What is not named keeps the preset's
    value.

    Raises:
        SystemExit: --help, or an unknown or malformed flag (status 2).
        UserError: crops of a size that the networks cannot take.
    """
    parser = argparse.ArgumentParser(
        prog="torchrun gcl_fast/train.py",
        description="Train GCL: warm-up, generative and joint stage, each followed by an evaluation.",
        argument_default=argparse.SUPPRESS,
    )
    flag = parser.add_argument
    flag("--preset", default="demo", help="demo: 128x64, minutes on a CPU; paper: 256x128, ResNet-50 (default: demo)")
    flag("--dataset", help="synthetic, market1501, or folder for any folder of crops")
    flag("--data-root", metavar="DIR", help="folder of the dataset (synthetic: made there when missing)")
    flag("--source", metavar="DATASET", help="labelled dataset to train on first; synthetic: another world, made here")
    flag(
        "--source-root", metavar="DIR", help="folder of that dataset (default for synthetic: datasets/synthetic-source)"
    )
    flag("--stages", nargs="+", choices=ALL_STAGES, help="which to run (default: all, in this order; source: --source)")
    flag("--warmup", metavar="METHOD", help="cluster, jvtc, mmcl, or none: straight from --init (default: cluster)")
    flag(
        "--init",
        metavar="FILE",
        help="weights to start from: official checkpoint, torchvision ResNet-50, or .safetensors",
    )
    flag("--structure-maps", metavar="DIR", help="official pre-rendered pictures instead of rendering in the loop")
    flag("--smpl", metavar="FILE", help="SMPL body model, where the body parameters are for it (default body: Anny)")
    flag(
        "--feature-loss-on",
        choices=("reconstruction", "novel_view"),
        help="image whose part features are compared with the crop's, besides x_cyc (default: reconstruction)",
    )
    flag("--amp", action="store_true", help="mixed precision: bfloat16 where the hardware multiplies in it")
    flag("--compile", choices=("auto", "on", "off"), help="torch.compile the networks (default: auto)")
    flag("--optimizer-backend", choices=BACKENDS, help="whose fused optimizers (default: torch)")
    flag("--sync-bn", action="store_true", help="batch-norm statistics over the batches of all ranks together")
    flag("--device", choices=("auto", "cpu", "cuda"), help="default: cuda where there is a GPU")
    flag("--cache", choices=("auto", "none", "host", "device"), help="keep decoded crops in memory (default: auto)")
    flag("--on-bad-image", choices=("skip", "error"), help="a picture that does not decode (default: skip and count)")
    flag("--seed", type=int, help="of everything random (default: 0)")
    flag("--runs", metavar="DIR", help="where runs are kept (default: runs)")
    flag("--name", help="of this run (default: <dataset>-<preset>-seed<seed>)")
    flag("--resume", action="store_true", default=False, help="go on with the run of that name, or start it")
    flag("--set", nargs="+", default=[], metavar="KEY=VALUE", help="any other setting, e.g. --set joint.epochs=5")
    given = vars(parser.parse_args(arguments))
    assignments, resume, name = given.pop("set"), given.pop("resume"), given.pop("preset")
    if "feature_loss_on" in given:
        assignments = [f"generative.weights.feature_loss_on={given.pop('feature_loss_on')}", *assignments]
    try:
        if "source" in given:
            given["source"] = source_preset(name, given["source"], given.pop("source_root", ""))
            given.setdefault("stages", ALL_STAGES)
        if "warmup" in given:
            given["warmup"] = warmup_preset(name, given["warmup"], after_source="source" in given)
            if given["warmup"] is None:
                given["stages"] = tuple(stage for stage in given.get("stages", STAGES) if stage != "warmup")
            if given.get("stages") == ():
                raise UserError("--warmup none: no stage is left to run")
        if "source_root" in given:
            raise UserError(f"--source-root {given['source_root']}: of which dataset? --source DATASET tells")
        config = override(replace(preset(name), **given), assignments)
        _refuse_conflicts(config)
    except UserError as error:
        parser.error(str(error))
    check_size(*config.size)
    return config, resume


def _refuse_conflicts(config: RunConfig) -> None:
    """Refuse settings of which one would do nothing in silence, or which exclude each other.

    Raises:
        UserError: it names both.
    """
    if "source" in config.stages and config.source is None:
        raise UserError("--stages source: on which dataset? --source DATASET tells")
    if config.smpl and config.structure_maps != "online":
        raise UserError(
            f"--smpl with --structure-maps {config.structure_maps}: pictures need no body model; choose one"
        )
    if config.optimizer_backend == "apex" and config.device == "cpu":
        raise UserError("--optimizer-backend apex with --device cpu: its kernels need CUDA; leave one of them out")
