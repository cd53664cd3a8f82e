import torch

from gcl_fast.stages.colours import FLOOR, STRIPES, beside_colours, colour_stripes

MEAN = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)
STD = torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)


def crops(colours: torch.Tensor) -> torch.Tensor:
    """(N, S, 3) stripe colours in the central third, noise beside it -> normalized crops (N, 3, 16 * S, 24)."""
    person = colours.permute(0, 2, 1).repeat_interleave(16, 2)[..., None].expand(-1, -1, -1, 8)
    noise = torch.rand(2, *person.shape, generator=torch.Generator().manual_seed(0))
    return (torch.cat([noise[0], person, noise[1]], 3) - MEAN) / STD


def test_stripes_are_the_colours_of_the_central_third():
    colours = torch.rand(5, STRIPES, 3)
    images = crops(colours)
    order = torch.tensor([3, 0, 4, 1, 2])
    batches = [(images[order[:3]], order[:3]), (images[order[3:]], order[3:])]
    found = colour_stripes(batches, 5).view(5, 3, STRIPES)
    torch.testing.assert_close(found, (colours + FLOOR).log().transpose(1, 2), atol=1e-4, rtol=0)


def test_a_camera_that_scales_colours_changes_nothing():
    torch.manual_seed(0)
    people = torch.rand(40, STRIPES, 3) * 0.5
    gain = torch.tensor([1.6, 1.0, 0.5])
    rows = colour_stripes([(crops(torch.cat([people, people * gain])), torch.arange(80))], 80)
    cameras = torch.arange(2).repeat_interleave(40)
    alone = beside_colours(None, rows, cameras)
    nearest = (alone[:40] @ alone[40:].T).argmax(1)
    assert (nearest == torch.arange(40)).float().mean() > 0.95


def test_both_kinds_weigh_the_same():
    torch.manual_seed(0)
    embeddings, colours, cameras = torch.randn(6, 4), torch.randn(6, 24), torch.tensor([0, 0, 0, 1, 1, 1])
    both = beside_colours(embeddings, colours, cameras)
    single = [beside_colours(None, kind, cameras) for kind in (embeddings, colours)]
    torch.testing.assert_close(both @ both.T, (single[0] @ single[0].T + single[1] @ single[1].T) / 2)
