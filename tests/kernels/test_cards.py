"""Facts of a GPU, as launch rules read them from the device at hand."""

from types import SimpleNamespace

import pytest
import torch

from gcl_fast.kernels import cards
from gcl_fast.kernels.cards import TARGETS, card_of

KIB = 1024
DEVICES = {  # what torch says of a T4, an RTX 3090, a B300, an RTX 5090, an MI300X, an MI355X and a 7900 XTX
    "sm_75": {"major": 7, "minor": 5, "shared_memory_per_block_optin": 64 * KIB},
    "sm_86": {"major": 8, "minor": 6, "shared_memory_per_block_optin": 99 * KIB},
    "sm_103": {"major": 10, "minor": 3, "shared_memory_per_block_optin": 227 * KIB},
    "sm_120": {"major": 12, "minor": 0, "shared_memory_per_block_optin": 99 * KIB},
    "gfx942": {"gcnArchName": "gfx942:sramecc+:xnack-", "shared_memory_per_block": 64 * KIB},
    "gfx950": {"gcnArchName": "gfx950:sramecc+:xnack-", "shared_memory_per_block": 160 * KIB},
    "gfx1100": {"gcnArchName": "gfx1100", "shared_memory_per_block": 64 * KIB},
}


@pytest.fixture
def asked(monkeypatch):
    """The numbers of the devices that torch was asked for; device n is the n-th of DEVICES."""
    asked = []

    def properties(number):
        asked.append(number)
        return SimpleNamespace(**list(DEVICES.values())[number])

    monkeypatch.setattr(torch.cuda, "get_device_properties", properties)
    cards._card.cache_clear()
    yield asked
    cards._card.cache_clear()


@pytest.mark.parametrize("name", DEVICES)
def test_a_device_is_the_target_of_its_kind(name, asked, monkeypatch):
    monkeypatch.setattr(torch.version, "hip", "7.2" if name.startswith("gfx") else None)
    number = list(DEVICES).index(name)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: number)
    for device in (torch.device("cuda", number), torch.device("cuda")):
        assert card_of(device) == TARGETS[name].card
    assert asked == [number]


def test_the_interpreter_needs_no_device(asked):
    assert card_of(torch.device("cpu")) in {target.card for target in TARGETS.values()}
    assert asked == []


def test_a_block_may_have_the_whole_register_file():
    options = {warps: TARGETS["sm_90"].card.every_register(warps) for warps in (1, 8, 16, 32)}
    assert options == {1: {"maxnreg": 255}, 8: {"maxnreg": 255}, 16: {"maxnreg": 128}, 32: {"maxnreg": 64}}
    assert TARGETS["gfx942"].card.every_register(8) == {}


@pytest.mark.gpu
def test_a_gpu_is_a_known_target_or_a_new_one():
    card = card_of(torch.device("cuda"))
    known = [target.card for target in TARGETS.values() if target.card.arch == card.arch]
    assert card.block_shared >= 48 * KIB
    assert known in ([], [card])
