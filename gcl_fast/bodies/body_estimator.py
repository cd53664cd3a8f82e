"""From person crops to body parameters, with the weights that ship with the package.

The weights come from `python -m gcl_fast.training.estimator`: synthetic people only, in clutter. On the 600 query crops
of the demo's world, which they never saw, the yaw is off by 3.1 degrees in the median, 99.5 % within 30; silhouettes of
estimated and true bodies overlap (intersection over union) by 0.793 in the crop's view, by 0.749 turned by 90 degrees
(`python -m gcl_fast.estimate --truth`). Before training aligned bodies in pixels (training/alignment.py) and saw heads
in other colours, it was 4.9 degrees, 95.7 %, 0.702 and 0.657. Novel views of a demo run's generator reach an SSIM of
0.334 on the person's pixels where true parameters give 0.355 (`evaluate --generation --count 120 --yaws 45 135 180 270
--stages generative`, parameters of the queries estimated or true).
"""

from __future__ import annotations

from pathlib import Path

import torch
from filelock import FileLock
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from gcl_fast.atomic import write_atomically
from gcl_fast.bodies import posture
from gcl_fast.bodies.body_regressor import SIZE, BodyRegressor, yaw_and_confidence
from gcl_fast.bodies.parameters import BodyParameters, load_body_parameters, save_body_parameters
from gcl_fast.data import ExtractLoader, Records
from gcl_fast.errors import UserError

WEIGHTS = Path(__file__).parent / "assets" / "estimator.safetensors"
DOUBTFUL = 0.5  # confidence below which a crop is flagged


def save_regressor(path: Path, network: BodyRegressor) -> None:
    """Write the weights in half precision: 4 MB. Raises UserError where `path` cannot be written."""
    state = network.state_dict().items()
    halved = {name: tensor.detach().half().contiguous() for name, tensor in state if tensor.is_floating_point()}
    try:
        write_atomically(path, lambda file: file.write(save(halved)))
    except OSError as error:
        raise UserError(f"cannot write {path} ({error.strerror}); choose another place") from error


def load_regressor(path: Path = WEIGHTS) -> BodyRegressor:
    """The network, ready to estimate. Raises UserError where the file is missing, damaged or of another network."""
    network = BodyRegressor()
    try:
        missing, unknown = network.load_state_dict(load_file(path), strict=False)
    except (OSError, SafetensorError, RuntimeError) as error:
        reason = str(error).splitlines()[0].rstrip(":")
        raise UserError(f"{path}: no weights of the estimator ({reason}); reinstall, or train them again") from error
    if unknown or any(not name.endswith("num_batches_tracked") for name in missing):
        raise UserError(f"{path}: weights of another network; train them with `python -m gcl_fast.training.estimator`")
    return network.eval().to(memory_format=torch.channels_last)


@torch.no_grad()
def estimate(records: Records, device: torch.device | str = "cpu", weights: Path = WEIGHTS) -> BodyParameters:
    """Body parameters of the crops of `records`, for AnnyBody, in their order and with their names.

    Crops of any size are seen as 128 x 64. `confidence` is the network's probability that the yaw is within about 30
    degrees; below `DOUBTFUL` a crop shows several people, hardly any, or may as well be seen from behind.
    Raises UserError where the weights cannot be read."""
    network = load_regressor(weights).to(device)
    loader = ExtractLoader(records, SIZE, device)
    parts: list[tuple[Tensor, ...]] = []
    for image, _ in loader:
        told = network.both_ways(image)
        parts.append((*posture.decode(told.vector), *yaw_and_confidence(told.direction)))
    pose, shape, camera, yaw, confidence = (torch.cat(values).cpu() for values in zip(*parts))
    return BodyParameters(records.names, "anny", pose, shape, yaw, camera, confidence.clamp(0, 1))


def estimate_to_file(
    records: Records, path: Path, device: torch.device | str = "cpu", weights: Path = WEIGHTS, *, again: bool = False
) -> BodyParameters:
    """`estimate`, kept at `path`; what lies there already is read, unless `again`.

    Of several processes that call, one estimates and the others read. Raises UserError where `path` cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_name(f".{path.name}.lock")):
            if again or not path.is_file():
                print(f"bodies: estimating those of {len(records)} crops into {path}", flush=True)
                save_body_parameters(path, estimate(records, device, weights))
    except OSError as error:
        raise UserError(
            f"cannot write body parameters to {path} ({error.strerror}); estimate them elsewhere with "
            f"`python -m gcl_fast.estimate --images {records.root} --out FILE` and put FILE there"
        ) from error
    return load_body_parameters(path)
