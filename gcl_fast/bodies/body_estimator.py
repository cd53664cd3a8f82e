"""Estimate body parameters of person crops by the network of body_regressor.py and its shipped weights.

`python -m gcl_fast.estimator_training` makes the weights, from synthetic people in clutter alone.
`gcl-fast estimate --truth FILE` measures the error of the yaw and the overlap of the silhouettes.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from pathlib import Path

import torch
import torch.nn.functional as F
from filelock import FileLock
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from gcl_fast.atomic import refuse_link, write_target
from gcl_fast.bodies import posture
from gcl_fast.bodies.body_regressor import SIZE, BodyRegressor, yaw_and_confidence
from gcl_fast.bodies.parameters import BodyParameters, load_body_parameters, save_body_parameters
from gcl_fast.data import ExtractLoader, Records
from gcl_fast.errors import UserError

log = logging.getLogger(__name__)

WEIGHTS = Path(__file__).parent / "assets" / "estimator.safetensors"
DOUBTFUL = 0.5  # confidence below which a crop is flagged


def save_regressor(path: Path, network: BodyRegressor) -> None:
    """Write a network's weights in half precision.

    Raises:
        UserError: `path` cannot be written.
    """
    state = network.state_dict().items()
    weights = {name: tensor.detach().half().contiguous() for name, tensor in state if tensor.is_floating_point()}
    write_target(path, lambda file: file.write(save(weights)))


def load_regressor(path: Path = WEIGHTS) -> BodyRegressor:
    """Return the network with the weights at `path`, in evaluation mode.

    Raises:
        UserError: the file is missing, damaged or for another network.
    """
    network = BodyRegressor()
    try:
        missing, unknown = network.load_state_dict(load_file(path), strict=False)
    except (OSError, SafetensorError, RuntimeError) as error:
        reason = str(error).splitlines()[0].rstrip(":")
        raise UserError(f"{path}: no weights of the estimator ({reason}); reinstall, or train them again") from error
    if unknown or any(not name.endswith("num_batches_tracked") for name in missing):
        raise UserError(f"{path}: weights of another network; train them with `python -m gcl_fast.estimator_training`")
    return network.eval().to(memory_format=torch.channels_last)


def estimate(records: Records, device: torch.device | str = "cpu", weights: Path = WEIGHTS) -> BodyParameters:
    """Estimate body parameters of person crops for AnnyBody.

    `confidence` is the network's probability that the yaw is within about 30 degrees. A crop below `DOUBTFUL` shows
    several people or hardly any, or front and back look alike in it.

    Args:
        records: the crops; they are resized to 128 x 64.
        device: where the network runs.
        weights: weights of the network.

    Returns:
        The parameters in the order of `records`, on the CPU.

    Raises:
        UserError: the weights cannot be read.
    """
    network = load_regressor(weights).to(device)
    batches = (image for image, _ in ExtractLoader(records, SIZE, device))
    return _predict(network, batches, records.names)


def estimate_images(images: Tensor, names: list[str], weights: Path = WEIGHTS) -> BodyParameters:
    """Estimate body parameters of crops in memory, as `estimate` does of files.

    Args:
        images: crops (B, 3, H, W), ImageNet-normalized; they are resized to 128 x 64.
        names: B different names of the crops.
        weights: weights of the network.

    Returns:
        The parameters in the order of the crops, on the CPU.

    Raises:
        UserError: the weights cannot be read.

    Example:
        >>> bodies = estimate_images(torch.zeros(2, 3, 128, 64), ["a", "b"])
        >>> bodies.model, bodies.pose.shape
        ('anny', torch.Size([2, 57]))
    """
    if images.shape[2:] != SIZE:
        images = F.interpolate(images, SIZE, mode="bicubic", antialias=True)
    return _predict(load_regressor(weights).to(images.device), [images], names)


@torch.no_grad()
def _predict(network: BodyRegressor, batches: Iterable[Tensor], names: list[str]) -> BodyParameters:
    """Return the parameters of crops in batches (B, 3, 128, 64), on the CPU."""
    parts: list[tuple[Tensor, ...]] = []
    for image in batches:
        prediction = network.both_ways(image)
        parts.append((*posture.decode(prediction.vector), *yaw_and_confidence(prediction.direction)))
    pose, shape, camera, yaw, confidence = (torch.cat(values).cpu() for values in zip(*parts))
    return BodyParameters(names, "anny", pose, shape, yaw, camera, confidence.clamp(0, 1))


def estimate_to_file(
    records: Records, path: Path, device: torch.device | str = "cpu", weights: Path = WEIGHTS, *, again: bool = False
) -> BodyParameters:
    """Estimate body parameters and save them at `path`, or read the file that exists there.

    If several processes call this function, one estimates and the others read.

    Args:
        records: the crops.
        path: the body-parameter file.
        device: where the network runs.
        weights: weights of the network.
        again: estimate even if the file exists.

    Returns:
        The parameters in the file.

    Raises:
        UserError: the weights cannot be read, or `path` cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if again or not path.is_file():  # before the lock: rank 0 prints this, whichever rank estimates
            log.info("estimating body parameters of %d crops into %s", len(records), path)
        lock = path.with_name(f".{path.name}.lock")
        refuse_link(lock)
        with FileLock(lock):
            if again or not path.is_file():
                save_body_parameters(path, estimate(records, device, weights))
    except OSError as error:
        raise unwritable_parameters(path, records, error) from error
    return load_body_parameters(path)


def unwritable_parameters(path: Path, records: Records, error: OSError) -> UserError:
    """Return the error for body parameters of `records` that cannot be written to `path`."""
    return UserError(
        f"cannot write body parameters to {path} ({error.strerror}); estimate them elsewhere with "
        f"`gcl-fast estimate --images {records.root} --out FILE` and put FILE there"
    )
