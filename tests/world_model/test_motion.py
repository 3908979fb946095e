import pytest
import torch

from world_model import LatentActionConfig
from world_model.layers.motion import count_shifts, motion_costs, warp


def noise(*shape: int) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(("down", "right"), [(0, 0), (2, -4), (-6, 8)])
def test_the_cheapest_shift_is_the_one_that_moved_the_picture(down: int, right: int) -> None:
    world = noise(1, 96, 96, 3)
    before, after = world[:, 16:80, 16:80], world[:, 16 + down : 80 + down, 16 + right : 80 + right]
    costs = motion_costs(torch.stack([before, after], dim=1), patch_size=16, reach=8)
    assert costs.shape == (1, 2, 4, 4, count_shifts(8))
    cheapest = costs.argmin(-1)
    assert (cheapest[:, 0] == count_shifts(8) // 2).all()  # nothing moved before the first frame
    assert (cheapest[:, 1, 1:3, 1:3] == (down // 2 + 4) * 9 + right // 2 + 4).all()  # patches that see where they came from


def test_a_reach_of_an_odd_number_of_pixels_ends_before_it() -> None:
    assert motion_costs(noise(1, 2, 8, 8, 3), patch_size=4, reach=3).shape[-1] == count_shifts(3) == 9


def test_warp_takes_pixels_from_where_the_flow_points() -> None:
    images = noise(2, 5, 7, 3)
    flow = torch.zeros(2, 5, 7, 2)
    torch.testing.assert_close(warp(images, flow), images)
    flow[..., 0] = 2.0  # to the right
    torch.testing.assert_close(warp(images, flow)[:, :, :-2], images[:, :, 2:])
    torch.testing.assert_close(warp(images, flow)[:, :, -2:], images[:, :, -1:].expand(-1, -1, 2, -1))
    flow[..., 0], flow[..., 1] = 0.0, -0.5  # half a pixel up
    torch.testing.assert_close(warp(images, flow)[:, 1:], (images[:, 1:] + images[:, :-1]) / 2)


def test_motion_needs_patches_that_can_be_halved() -> None:
    with pytest.raises(ValueError, match="patch_size must be even, got 5"):
        LatentActionConfig(image_height=25, image_width=25, patch_size=5, stem="patch")
    LatentActionConfig(image_height=25, image_width=25, patch_size=5, stem="patch", motion_reach=0)
