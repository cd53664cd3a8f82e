"""Check that ranks that share a clustering get the labels of one process."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import torch
import torch.distributed as dist

from gcl_fast.distributed.row_sharing import Team
from gcl_fast.pseudo_labels import cluster


def features(N: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(N)
    centre = torch.randn(max(1, N // 12), 24, generator=generator)
    return torch.nn.functional.normalize(
        centre[torch.arange(N) % len(centre)] + 0.7 * torch.randn(N, 24, generator=generator)
    )


CASES = [
    (1, {"eps": 0.5}),
    (301, {"rho": 0.01}),
    (302, {"rho": 0.5}),
    (300, {"eps": "auto"}),
]  # with one row, a rank has none
if importlib.util.find_spec("faiss") is not None:
    CASES.append((400, {"eps": 0.6, "engine": "approximate"}))


def one_rank(rank: int, folder: Path) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    for N, how in CASES:
        found = cluster(features(N), k1=15, group=dist.group.WORLD, **how)
        torch.save((found.labels, found.eps), folder / f"{rank}-{N}.pt")
    dist.destroy_process_group()


def test_two_ranks_find_what_one_finds(tmp_path):
    ranks = [subprocess.Popen([sys.executable, __file__, str(rank), str(tmp_path)]) for rank in range(2)]
    assert [rank.wait(120) for rank in ranks] == [0, 0]
    for N, how in CASES:
        alone = cluster(features(N), k1=15, **how)
        for rank in range(2):
            labels, eps = torch.load(tmp_path / f"{rank}-{N}.pt", weights_only=True)
            assert torch.equal(labels, alone.labels)
            assert eps == alone.eps


def test_ranges_cover_every_row_once():
    for ranks in (1, 3, 7):
        for N in (0, 1, 5, 100):
            team, covered = Team(), []
            for team.rank in range(ranks):
                team.size = ranks
                covered += range(*team.rows(N))
            assert covered == list(range(N))


if __name__ == "__main__":
    one_rank(int(sys.argv[1]), Path(sys.argv[2]))
