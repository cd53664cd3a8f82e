"""Shared by all tests: the golden arrays and the weights they were made with, and skipping what needs a GPU."""

import json
import zlib
from pathlib import Path

from gcl_fast.training.process import set_openmp_waiting

# As every entry does, before torch is imported: beside one busy program the tests of convolutions take 74 s so on two
# cores, and more than 280 s otherwise.
set_openmp_waiting()

import numpy as np  # noqa: E402
import pytest  # noqa: E402
import torch  # noqa: E402

GOLDEN = Path(__file__).parent / "golden"


@pytest.fixture(scope="session")
def golden() -> Path:
    """Folder of the arrays made by the official implementation."""
    return GOLDEN


def _formula(name: str, shape: list[int]) -> torch.Tensor:
    """The golden run's weight of that official name."""
    if name.endswith("num_batches_tracked"):
        return torch.tensor(0)
    s = np.random.RandomState(zlib.crc32(name.encode())).standard_normal(int(np.prod(shape))).reshape(shape)
    if name.endswith("running_var"):
        s = 1 + 0.5 * np.abs(s)
    elif (name.endswith("weight") and len(shape) == 1) or name.endswith("gamma"):
        s = 1 + 0.1 * s
    elif name.endswith(("bias", "beta", "running_mean")):
        s = 0.02 * s
    else:
        s = s * np.sqrt(2 / np.prod(shape[1:]))
    return torch.from_numpy(s.astype(np.float32))


@pytest.fixture(scope="session")
def official(golden: Path) -> dict[str, dict[str, torch.Tensor]]:
    """State dicts of the golden run, under official names: gen, dis, id."""
    shapes = json.loads((golden / "official_state_dict_shapes.json").read_text())
    return {part: {name: _formula(name, shape) for name, shape in names.items()} for part, names in shapes.items()}


@pytest.fixture(scope="session")
def network_arrays(golden: Path) -> dict[str, torch.Tensor]:
    """What the official networks and steps made of these weights."""
    with np.load(golden / "networks.npz") as file:
        return {name: torch.from_numpy(file[name]) for name in file.files}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if not torch.cuda.is_available():
        for item in items:
            if "gpu" in item.keywords:
                item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))
