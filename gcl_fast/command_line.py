"""Parse the command line of train.py: preset, then --config, then flags, then --set."""

from __future__ import annotations

import argparse
import sys
import typing
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from gcl_fast.arguments import Parser, from_home
from gcl_fast.errors import UserError
from gcl_fast.settings import (
    ALL_STAGES,
    DATASETS,
    PACKAGE,
    LossWeights,
    RunConfig,
    assign,
    from_dict,
    override,
    preset,
    source_preset,
    warmup_preset,
)
from gcl_fast.settings.listing import list_settings
from gcl_fast.settings.model_sizes import PACKAGED_BACKBONE
from gcl_fast.settings.ranges import paths_of


def parser() -> Parser:
    """Return the parser of the flags; a flag that is not given leaves no attribute."""
    parser = Parser(
        "gcl-fast train",
        "Train GCL: warm-up, generative and joint stage, each followed by an evaluation. `torchrun gcl_fast/train.py`"
        " takes the same flags, and --nproc-per-node before it starts many processes.",
        argument_default=argparse.SUPPRESS,
    )
    flag = parser.add_argument
    flag("--preset", help="demo: 128x64, for a CPU; paper: 256x128, ResNet-50; best: its sizes, our method")
    flag(
        "--config",
        metavar="FILE",
        type=Path,
        help="settings of a file, such as a run's config.yaml; the preset has those that it lacks, flags change them",
    )
    flag(
        "--dataset",
        help=f"{', '.join(DATASETS[:-1])}, or {DATASETS[-1]} for any folder of crops (default: synthetic;"
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
        action="extend",
        choices=ALL_STAGES,
        help="stages to run (default: all, in this order; source with --source)",
    )
    flag(
        "--backbone",
        metavar="NAME",
        help="of the identity encoder: residual, resnet50-ibn-a, mobilenetv2, torchvision:NAME or timm:NAME (default:"
        " residual, of the preset's sizes)",
    )
    flag("--warmup", metavar="METHOD", help="cluster, jvtc, mmcl, or none: straight from --init (default: cluster)")
    flag(
        "--init",
        metavar="FILE",
        help="weights to start from: an earlier run, official ones, those of the backbone from torchvision, timm, MoCo,"
        " ..., or package: ImageNet's for --backbone mobilenetv2, from the extra gcl-fast[pretrained]",
    )
    flag(
        "--structure-maps", metavar="DIR", help="official pre-rendered structure maps instead of rendering in the loop"
    )
    flag("--smpl", metavar="FILE", help="file of the SMPL body model, for body parameters of SMPL (default body: Anny)")
    flag(
        "--feature-loss-on",
        choices=_choices("feature_loss_on", LossWeights),
        help="image whose part features are compared with the crop's, besides x_cyc (default: reconstruction)",
    )
    flag("--amp", action="store_true", help="mixed precision: bfloat16 where the hardware multiplies in it")
    flag("--compile", choices=_choices("compile"), help="torch.compile the networks (default: auto)")
    flag(
        "--optimizer-backend",
        choices=_choices("optimizer_backend"),
        help="origin of the fused optimizers (default: torch)",
    )
    flag("--sync-bn", action="store_true", help="batch-norm statistics over the batches of all ranks together")
    flag("--device", choices=_choices("device"), help="default: cuda where there is a GPU")
    flag("--cache", choices=_choices("cache"), help="keep decoded crops in memory (default: auto)")
    flag(
        "--on-bad-image",
        choices=_choices("on_bad_image"),
        help="what to do with an image that does not decode (default: skip)",
    )
    flag("--seed", type=int, help="seed of everything random (default: 0)")
    flag("--runs", metavar="DIR", help="folder of all runs (default: runs)")
    flag("--name", help="name of this run (default: <dataset>-<preset>-seed<seed>)")
    flag("--resume", action="store_true", default=False, help="go on with the run of that name, or start it")
    flag(
        "--set",
        nargs="+",
        action="extend",
        default=[],
        metavar="KEY=VALUE",
        help="any other setting, e.g. --set joint.epochs=5",
    )
    flag(
        "--list-settings",
        action="store_true",
        default=False,
        help="print every setting with its value by the other flags, its type and its meaning",
    )
    return parser


def parse(arguments: list[str] | None = None) -> tuple[RunConfig, bool]:
    """Parse the flags; a setting that no flag and no --config names keeps the preset's value.

    Args:
        arguments: the flags; None for those of the process.

    Returns:
        The settings, and whether to resume.

    Raises:
        SystemExit: --help or --list-settings (status 0), or an unknown or malformed flag (status 2).
    """
    flags = parser()
    options = vars(flags.parse_args(arguments))
    assignments, resume, listing = options.pop("set"), options.pop("resume"), options.pop("list_settings")
    if "feature_loss_on" in options:
        assignments = [f"generative.weights.feature_loss_on={options.pop('feature_loss_on')}", *assignments]
    if "backbone" in options:
        assignments = [f"model.identity.backbone={options.pop('backbone')}", *assignments]
    try:
        base = _base(options.pop("preset", None), options.pop("config", None))
        config = override(replace(base, **_with_methods(base, options)), assignments)
        config = assign(config, {key: from_home(path) for key, path in paths_of(config).items()})
        _refuse_conflicts(config)
    except UserError as error:
        flags.refuse(str(error))
    if listing:
        print(list_settings(config))
        sys.exit(0)
    return config, resume


def check_init(config: RunConfig) -> None:
    """Raise a UserError where --init names nothing, before a missing dataset is made for minutes."""
    if config.init not in ("", PACKAGE) and not Path(config.init).exists():
        raise UserError(f"--init {config.init}: there are no weights at this path")


def _choices(setting: str, kind: type = RunConfig) -> tuple[str, ...]:
    """Return the values of a setting whose type is a Literal."""
    return typing.get_args(typing.get_type_hints(kind)[setting])


def _base(name: str | None, path: Path | None) -> RunConfig:
    """Return the settings that flags change: those of a preset, with those of a file on top.

    A run's config.yaml holds "" as the name of a run that had none, so that another seed gives another folder.

    Args:
        name: of the preset; None for that of the file, or else "demo".
        path: the file of --config; None without.

    Raises:
        UserError: the file cannot be read, is no mapping of settings, or is of another preset than `name`.
    """
    if path is None:
        return preset(name or "demo")
    try:
        data = yaml.safe_load(path.read_text())
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"--config {path}: it cannot be read ({getattr(error, 'strerror', 'no text')})") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f" (line {mark.line + 1})" if mark else ""
        raise UserError(f"--config {path}: it is not YAML{line}; a run's config.yaml shows the form") from error
    if not isinstance(data, dict):
        raise UserError(f"--config {path}: it holds no settings; a run's config.yaml shows the form")
    if name is not None and data.get("preset", name) != name:
        raise UserError(
            f"--preset {name} with --config {path}: the file has the settings of preset {data['preset']}; leave"
            " --preset out"
        )
    base = preset(data.get("preset", name or "demo"))
    source, warmup = data.get("source"), data.get("warmup")
    if isinstance(source, dict):  # what the file lacks of these has the values of their flags
        base = replace(base, source=source_preset(base.preset, str(source.get("dataset", "synthetic")), ""))
    if isinstance(warmup, dict) and "method" in warmup:
        base = replace(base, warmup=warmup_preset(base.preset, str(warmup["method"]), after_source=source is not None))
    return from_dict(data, base)


def _with_methods(base: RunConfig, options: dict[str, Any]) -> dict[str, Any]:
    """Return `options` with --source and --warmup as settings, and the stages that follow from them.

    Raises:
        UserError: an unknown warm-up, or --source-root without a source, or no stage is left.
    """
    options = dict(options)
    if "source_root" in options and "source" not in options and base.source is None:
        raise UserError(f"--source-root {options['source_root']}: of which dataset? name it by --source DATASET")
    if "source" in options or "source_root" in options:
        name = options.get("source", base.source.dataset if base.source else "")
        former = base.source if base.source is not None and base.source.dataset == name else None
        root = options.pop("source_root", former.root if former else "")
        options["source"] = replace(former, root=root) if former else source_preset(base.preset, name, root)
        options.setdefault("stages", ("source", *base.stages))
    if "warmup" in options:
        method = options.pop("warmup")
        if base.warmup is None or method != base.warmup.method:
            after_source = (options.get("source") or base.source) is not None
            options["warmup"] = warmup_preset(base.preset, method, after_source)
        stages = options.get("stages", base.stages)
        if method == "none":
            options["stages"] = tuple(stage for stage in stages if stage != "warmup")
            if not options["stages"]:
                raise UserError("--warmup none: no stage is left to run")
        elif base.warmup is None:  # of a --config without a warm-up
            options.setdefault("stages", ("warmup", *base.stages))
    return options


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
    if config.init == PACKAGE and config.model.identity.backbone != PACKAGED_BACKBONE:
        raise UserError(
            f"--init package: these are weights of mobilenetv2, and this run's backbone is"
            f" {config.model.identity.backbone}; add --backbone mobilenetv2"
        )
    if config.optimizer_backend == "apex" and config.device == "cpu":
        raise UserError("--optimizer-backend apex with --device cpu: its kernels need CUDA; leave one of them out")
