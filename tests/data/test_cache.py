"""The cache's place is chosen by the free memory, and the reason is given."""

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


CUDA, BYTES = torch.device("cuda", 0), 1000 * 128 * 64 * 3


@pytest.fixture
def free_device(monkeypatch, free):
    """Return a function that frees a multiple of the crops' bytes on each of `gpus` GPUs, and plenty on the host."""

    def set_free(times: float, gpus: int = 1, unused: float = 0) -> None:
        free(100)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (int(times * BYTES), 2**40))
        monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: int((unused + 1) * BYTES))
        monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: BYTES)

    return set_free


def test_auto_takes_the_gpu_s_memory_first(free_device, free):
    free_device(4.01)
    where, why = cache.choose_cache("auto", SHAPE, CUDA)
    assert where == "device"
    assert why == "device: 0.02 GiB for 1,000 crops, 0.1 GiB of device memory free per rank"
    free_device(3.99)
    where, why = cache.choose_cache("auto", SHAPE, CUDA)
    assert where == "host"
    assert why.startswith("host: 0.02 GiB for 1,000 crops, 2.3 GiB of host memory free per rank; ")
    assert why.endswith("; 0.1 GiB of device memory free per rank, and auto takes a quarter at most")
    free(3.99)
    where, why = cache.choose_cache("auto", SHAPE, CUDA)
    assert where is None
    assert "of device memory" in why
    assert "of host memory" in why


def test_ranks_on_one_gpu_share_its_memory(free_device, monkeypatch):
    for ranks, gpus, times in ((2, 2, 4.01), (2, 1, 8.02), (3, 2, 8.02), (8, 8, 4.01), (1, 8, 4.01)):
        monkeypatch.setenv("LOCAL_WORLD_SIZE", str(ranks))
        free_device(times, gpus)
        assert cache.choose_cache("auto", SHAPE, CUDA)[0] == "device"
        free_device(times - 0.04, gpus)
        assert cache.choose_cache("auto", SHAPE, CUDA)[0] == "host"


def test_memory_that_torch_holds_for_nothing_is_free(free_device):
    free_device(3, unused=1.01)
    assert cache.choose_cache("auto", SHAPE, CUDA)[0] == "device"


def test_a_gpu_s_cache_asked_for_by_name_must_fit(free_device):
    free_device(1.01)
    assert cache.choose_cache("device", SHAPE, CUDA)[0] == "device"
    free_device(0.99)
    with pytest.raises(UserError, match="device cache does not fit"):
        cache.choose_cache("device", SHAPE, CUDA)
    assert cache.choose_cache("host", SHAPE, CUDA)[0] == "host"


def test_off_and_unknown():
    assert cache.choose_cache(None, SHAPE, CPU) == (None, "off")
    with pytest.raises(UserError, match="unknown cache 'ram'"):
        cache.choose_cache("ram", SHAPE, CPU)


def test_free_memory_is_of_this_machine():
    assert 2**20 < cache.free_host_memory() < 2**44


@pytest.mark.parametrize(
    ("line", "group", "files"),
    [
        ("0::/", "", "memory.max memory.current inactive_file"),
        ("0::/slurm/job_1/step_0", "slurm/job_1", "memory.max memory.current inactive_file"),  # the step has no limit
        ("0::/system.slice/of/the/host", "", "memory.max memory.current inactive_file"),  # as a container may see it
        (
            "4:cpu,memory:/slurm/job_1",
            "memory/slurm",
            "memory.limit_in_bytes memory.usage_in_bytes total_inactive_file",
        ),
    ],
)
def test_the_limit_of_a_job_or_container_counts(tmp_path, monkeypatch, line, group, files):
    monkeypatch.setattr(cache, "PROC", tmp_path / "proc")
    monkeypatch.setattr(cache, "CGROUPS", tmp_path / "cgroup")
    (tmp_path / "proc" / "self").mkdir(parents=True)
    (tmp_path / "proc" / "meminfo").write_text("MemTotal: 8000000 kB\nMemAvailable: 4000000 kB\n")
    (tmp_path / "proc" / "self" / "cgroup").write_text(f"9:name=systemd:/elsewhere\n{line}\n")
    assert cache.free_host_memory() == 4_000_000 * 1024
    limit, usage, cached = files.split()
    folder = tmp_path / "cgroup" / group
    (folder / "job_1" / "step_0").mkdir(parents=True)
    (folder / usage).write_text("700000\n")
    (folder / "memory.stat").write_text(f"anon 600000\n{cached} 50000\n")
    for most, free in (("1000000", 350_000), ("9223372036854771712", 4_000_000 * 1024), ("max", 4_000_000 * 1024)):
        (folder / limit).write_text(most + "\n")
        assert cache.free_host_memory() == free
