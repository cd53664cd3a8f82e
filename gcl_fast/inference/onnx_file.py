"""Write an exported program as an ONNX file, which onnxruntime runs without torch; needs the extra `export`."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import BinaryIO

import torch
from torch import Tensor
from torch.export import ExportedProgram

from gcl_fast.errors import UserError
from gcl_fast.versions import EXPORT_WARNINGS

SUFFIX = ".onnx"
OPSET = 18  # version of ONNX's operators; onnxruntime 1.14 and later run it
CONTAINER = f"ONNX, operator set {OPSET}"


def check_packages() -> None:
    """Raise a UserError that names the extra, where a package of it is missing."""
    for name in ("onnx", "onnxscript", "onnxruntime"):
        try:
            import_module(name)
        except ImportError as error:
            if isinstance(error.__cause__, KeyboardInterrupt):  # Ctrl-C while a compiled module begins
                raise KeyboardInterrupt from error
            raise UserError(
                f"an ONNX file needs {name}: pip install onnx onnxscript onnxruntime (the extra gcl-fast[export])"
            ) from error


def write(program: ExportedProgram, file: BinaryIO, metadata: str) -> None:
    """Write an ONNX file without external data, with `metadata` as its property gcl_fast."""
    import onnx

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", EXPORT_WARNINGS)
        exported = torch.onnx.export(
            program,
            dynamo=True,
            opset_version=OPSET,
            input_names=["images"],
            output_names=["rows"],
            dynamic_shapes={"images": {0: "batch"}},  # the name of that axis in the file
            verbose=False,
        )
    assert exported is not None
    model = exported.model_proto
    onnx.helper.set_model_props(model, {"gcl_fast": metadata})
    file.write(model.SerializeToString())


def open_file(path: Path) -> Callable[[Tensor], Tensor]:
    """Return a call of the ONNX file at `path` by onnxruntime, from images (N, H, W, 3) uint8 to rows (N, D)."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return lambda images: torch.from_numpy(session.run(None, {"images": images.numpy()})[0])


def snippet(name: str) -> str:
    """Return lines of Python that turn `images` into `rows` by the ONNX file called `name`."""
    return f"""\
import onnxruntime

session = onnxruntime.InferenceSession({json.dumps(name)}, providers=["CPUExecutionProvider"])
(rows,) = session.run(None, {{"images": images}})"""
