"""Whether decoded crops are kept in memory, and why."""

import pytest
import torch

from gcl_fast.data import cache
from gcl_fast.errors import UserError

CPU = torch.device("cpu")
SHAPE = (1000, 128, 64, 3)  # 24.6 MB


@pytest.fixture
def free(monkeypatch):
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)

    def set_free(times: float) -> None:
        monkeypatch.setattr(cache, "free_host_memory", lambda: int(times * 1000 * 128 * 64 * 3))

    return set_free


def test_auto_takes_a_quarter_of_the_free_memory(free, monkeypatch):
    free(4.01)
    where, why = cache.choose_cache("auto", SHAPE, CPU)
    assert where == "host"
    assert why.startswith("host: 0.02 GiB for 1,000 crops")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")  # two ranks keep two copies
    where, why = cache.choose_cache("auto", SHAPE, CPU)
    assert where is None
    assert "a quarter" in why


def test_a_cache_asked_for_by_name_must_fit(free):
    free(1.01)
    assert cache.choose_cache("host", SHAPE, CPU)[0] == "host"
    assert cache.choose_cache("device", SHAPE, CPU)[0] == "device"
    assert cache.choose_cache("auto", SHAPE, CPU)[0] is None
    free(0.99)
    with pytest.raises(UserError, match="host cache does not fit"):
        cache.choose_cache("host", SHAPE, CPU)


def test_off_and_unknown():
    assert cache.choose_cache(None, SHAPE, CPU) == (None, "off")
    with pytest.raises(UserError, match="unknown cache 'ram'"):
        cache.choose_cache("ram", SHAPE, CPU)


def test_free_memory_is_of_this_machine():
    assert 2**20 < cache.free_host_memory() < 2**44
