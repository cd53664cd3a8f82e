"""Export the identity encoder as one file that runs without gcl_fast: gcl-fast export RUN --to onnx

The file turns uint8 images of the model's size into unit rows. A model card is written next to it.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from gcl_fast.arguments import Parser
from gcl_fast.entry import entry, in_one_line
from gcl_fast.errors import UserError
from gcl_fast.process import prepare_process
from gcl_fast.settings import DATASETS

if TYPE_CHECKING:
    from torch import Tensor

    from gcl_fast.data import Records, ReIDDataset

    Run = Callable[[Tensor], Tensor]  # images (N, H, W, 3) uint8 -> rows (N, D)


def parser() -> Parser:
    """Return the parser of the flags."""
    parser = Parser("gcl-fast export", str(__doc__))
    add = parser.add_argument
    add("run", type=Path, metavar="RUN", help="folder of a run, a .safetensors file of it, or official weights")
    add("--to", required=True, choices=("onnx", "torch-export"), help="onnx: a .onnx file; torch-export: a .pt2 file")
    add("--out", type=Path, metavar="FILE", help="the file to write (default: in RUN, or next to it, by its name)")
    add("--stage", help="of a run's folder (default: the last one that is finished)")
    add("--evaluate", action="store_true", help="print mAP by PyTorch and by the file, on query and gallery")
    add("--dataset", choices=DATASETS, metavar="NAME", help="dataset of --evaluate (default: the run's)")
    add("--data-root", metavar="DIR", help="folder of that dataset")
    parser.set_defaults(structure_maps=None, smpl=None, amp=None)  # for `load_run`; the data do not depend on them
    return parser


@entry
def main(arguments: list[str] | None) -> int:
    """Write the file and its model card, and return the exit status."""
    options = parser().parse_args(arguments)
    if (options.dataset or options.data_root) and not options.evaluate:
        raise UserError("--dataset and --data-root name the data of --evaluate; add --evaluate, or leave them out")
    prepare_process()  # may restart the process: before torch is imported
    with in_one_line():
        from gcl_fast.atomic import check_target, write_target, write_text
        from gcl_fast.inference import exported_program, onnx_file
        from gcl_fast.inference.agreement import BATCHES, check_agreement
        from gcl_fast.inference.load import load
        from gcl_fast.inference.model_card import model_card
        from gcl_fast.inference.pixel_encoder import PixelEncoder

    kind = {"onnx": onnx_file, "torch-export": exported_program}[options.to]
    kind.check_packages()
    model = load(options.run, device="cpu", amp=False, stage=options.stage)
    out = options.out or _beside(options.run, model.metadata["stage"], kind.SUFFIX)
    card_file = out.with_name(f"{out.name}.md")
    if out.suffix != kind.SUFFIX:
        raise UserError(f"--out {out}: expected a name that ends in {kind.SUFFIX}")
    check_target(out)
    check_target(card_file)
    data = _open_data(options) if options.evaluate else None
    network = PixelEncoder(model.encoder)
    program = exported_program.export_program(network, model.size)
    difference = 0.0

    def write(file: BinaryIO) -> None:
        """Write the exported file, and run it before it has its name."""
        nonlocal difference
        kind.write(program, file, json.dumps({**model.metadata, "digest": model.digest}))
        file.flush()
        difference = check_agreement(kind.open_file(Path(file.name)), network, model.size, out)

    write_target(out, write)
    batches = ", ".join(map(str, BATCHES))
    agreement = f"rows differ from PyTorch's in float32 by {difference:.1g} at most (batches of {batches})"
    card = model_card(model, out.name, kind.CONTAINER, kind.snippet(out.name), agreement)
    write_text(card_file, card)
    print(f"{out}: {kind.CONTAINER}, digest {model.digest}; {agreement}")
    print(f"{card_file}: its model card")
    if data is not None:
        mAPs = [100 * _mAP(run, data, model.size) for run in (network, kind.open_file(out))]
        print(f"mAP on {data.name}: {mAPs[0]:.2f} % by PyTorch in float32, {mAPs[1]:.2f} % by {out.name}")
    return 0


def _beside(run: Path, stage: str, suffix: str) -> Path:
    """Return the default place: in the folder that was named, or next to the file that was named."""
    return run / f"{Path(stage).name}{suffix}" if run.is_dir() else run.with_suffix(suffix)


def _open_data(options: argparse.Namespace) -> ReIDDataset:
    """Open the dataset of --evaluate.

    Raises:
        UserError: there is no such dataset, or it has no query and gallery.
    """
    from gcl_fast.run.restore import load_run, open_noted

    data = open_noted(load_run(options)).dataset
    if not data.can_be_ranked:
        raise UserError(f"--evaluate: {data.name} in {data.root} {data.why_unranked}; leave --evaluate out")
    return data


def _mAP(run: Run, data: ReIDDataset, size: tuple[int, int]) -> float:
    """Measure mAP by the rows that `run` gives."""
    from gcl_fast.evaluation.retrieval import retrieve

    query, gallery = (_rows(run, records, size) for records in (data.query, data.gallery))
    return retrieve(query, gallery, data.query, data.gallery).mAP


def _rows(run: Run, records: Records, size: tuple[int, int]) -> Tensor:
    """Compute the rows (N, D) of crops, which are resized as in `evaluate`."""
    import numpy as np
    import torch

    from gcl_fast.assessment.extract import BATCH
    from gcl_fast.data.image_files import ImageFiles

    files = ImageFiles(records.paths, size, torch.device("cpu"), threads=torch.get_num_threads())
    plan = np.array_split(np.arange(len(records)), range(BATCH, len(records), BATCH))
    with torch.no_grad():
        return torch.cat([run(images) for images in files.batches(plan)])


if __name__ == "__main__":
    sys.exit(main())
