"""Parse the command line of train.py."""

from __future__ import annotations

import argparse
from dataclasses import replace

from gcl_fast.errors import UserError
from gcl_fast.models import check_size
from gcl_fast.optim.optimizers import BACKENDS
from gcl_fast.settings import ALL_STAGES, STAGES, RunConfig, override, preset, source_preset, warmup_preset


def parse(arguments: list[str] | None = None) -> tuple[RunConfig, bool]:
    """Parse the flags; a setting that no flag names keeps the preset's value.

    Args:
        arguments: the flags; None for those of the process.

    Returns:
        The settings, and whether to resume.

    Raises:
        SystemExit: --help (status 0), or an unknown or malformed flag (status 2).
        UserError: crops of a size that the networks cannot take.
    """
    parser = argparse.ArgumentParser(
        prog="torchrun gcl_fast/train.py",
        description="Train GCL: warm-up, generative and joint stage, each followed by an evaluation.",
        argument_default=argparse.SUPPRESS,
    )
    flag = parser.add_argument
    flag(
        "--preset",
        default="demo",
        help="demo: 128x64, for a CPU; paper: 256x128, ResNet-50; best: its sizes, our method",
    )
    flag(
        "--dataset",
        help="synthetic, market1501, dukemtmc, msmt17, cuhk03, or folder for any folder of crops (default: synthetic;"
        " with --preset paper or best: market1501)",
    )
    flag("--data-root", metavar="DIR", help="folder of the dataset (synthetic: made there when missing)")
    flag("--source", metavar="DATASET", help="labelled dataset to train on first; synthetic: another world, made here")
    flag(
        "--source-root", metavar="DIR", help="folder of that dataset (default for synthetic: datasets/synthetic-source)"
    )
    flag(
        "--stages",
        nargs="+",
        choices=ALL_STAGES,
        help="stages to run (default: all, in this order; source with --source)",
    )
    flag("--warmup", metavar="METHOD", help="cluster, jvtc, mmcl, or none: straight from --init (default: cluster)")
    flag(
        "--init",
        metavar="FILE",
        help="weights to start from: an earlier run (folder or .safetensors), official, or torchvision ResNet-50",
    )
    flag(
        "--structure-maps", metavar="DIR", help="official pre-rendered structure maps instead of rendering in the loop"
    )
    flag("--smpl", metavar="FILE", help="file of the SMPL body model, for body parameters of SMPL (default body: Anny)")
    flag(
        "--feature-loss-on",
        choices=("reconstruction", "novel_view"),
        help="image whose part features are compared with the crop's, besides x_cyc (default: reconstruction)",
    )
    flag("--amp", action="store_true", help="mixed precision: bfloat16 where the hardware multiplies in it")
    flag("--compile", choices=("auto", "on", "off"), help="torch.compile the networks (default: auto)")
    flag("--optimizer-backend", choices=BACKENDS, help="origin of the fused optimizers (default: torch)")
    flag("--sync-bn", action="store_true", help="batch-norm statistics over the batches of all ranks together")
    flag("--device", choices=("auto", "cpu", "cuda"), help="default: cuda where there is a GPU")
    flag("--cache", choices=("auto", "none", "host", "device"), help="keep decoded crops in memory (default: auto)")
    flag(
        "--on-bad-image",
        choices=("skip", "error"),
        help="what to do with an image that does not decode (default: skip)",
    )
    flag("--seed", type=int, help="seed of everything random (default: 0)")
    flag("--runs", metavar="DIR", help="folder of all runs (default: runs)")
    flag("--name", help="name of this run (default: <dataset>-<preset>-seed<seed>)")
    flag("--resume", action="store_true", default=False, help="go on with the run of that name, or start it")
    flag("--set", nargs="+", default=[], metavar="KEY=VALUE", help="any other setting, e.g. --set joint.epochs=5")
    options = vars(parser.parse_args(arguments))
    assignments, resume, name = options.pop("set"), options.pop("resume"), options.pop("preset")
    if "feature_loss_on" in options:
        assignments = [f"generative.weights.feature_loss_on={options.pop('feature_loss_on')}", *assignments]
    try:
        if "source" in options:
            options["source"] = source_preset(name, options["source"], options.pop("source_root", ""))
            options.setdefault("stages", ALL_STAGES)
        if "warmup" in options:
            options["warmup"] = warmup_preset(name, options["warmup"], after_source="source" in options)
            if options["warmup"] is None:
                options["stages"] = tuple(stage for stage in options.get("stages", STAGES) if stage != "warmup")
            if options.get("stages") == ():
                raise UserError("--warmup none: no stage is left to run")
        if "source_root" in options:
            raise UserError(f"--source-root {options['source_root']}: of which dataset? name it by --source DATASET")
        config = override(replace(preset(name), **options), assignments)
        _refuse_conflicts(config)
    except UserError as error:
        parser.error(str(error))
    check_size(*config.size)
    return config, resume


def _refuse_conflicts(config: RunConfig) -> None:
    """Refuse two settings that exclude each other, or of which one would do nothing.

    Raises:
        UserError: there are two such settings; it names both.
    """
    if "source" in config.stages and config.source is None:
        raise UserError("--stages source: on which dataset? name it by --source DATASET")
    if config.smpl and config.structure_maps != "online":
        raise UserError(
            f"--smpl with --structure-maps {config.structure_maps}: pre-rendered maps need no body model; choose one"
        )
    if config.optimizer_backend == "apex" and config.device == "cpu":
        raise UserError("--optimizer-backend apex with --device cpu: its kernels need CUDA; leave one of them out")
