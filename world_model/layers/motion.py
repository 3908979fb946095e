"""Where things moved to: what a shift of the picture would explain, and pictures shifted.

Strided convolutions see that a picture moved, but hardly how far to a fraction of a pixel, and that is what most actions change.

Shape key: B clips, T frames, C channels, H and W pixels, P patch_size, S shifts.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

IMAGES_AT_A_TIME = 32  # few enough to stay in a processor's cache, which makes it three times as fast


def count_shifts(reach: int) -> int:
    """S of `motion_costs`."""
    return (reach // 2 * 2 + 1) ** 2


@torch.no_grad()
def motion_costs(images_BTHWC: Tensor, *, patch_size: int, reach: int) -> Tensor:
    """How badly each shift of the frame before explains each patch of a frame: (B, T, H/P, W/P, S) float32.

    The cost volume of optical flow (Sun et al. 2018, PWC-Net), of images (B, T, H, W, C) in [0, 1]: squared differences at half the
    resolution, for shifts by 0, 2, ... `reach` pixels up, down, left and right, as logarithms around their mean over the shifts. P is
    even. The frame before the first is taken to be the first.
    """
    images = F.avg_pool2d(images_BTHWC.flatten(0, 1).movedim(-1, 1).float(), 2).contiguous()
    clips = images.unflatten(0, images_BTHWC.shape[:2])
    steps, (height, width) = reach // 2, images.shape[-2:]
    before = F.pad(torch.cat([clips[:, :1], clips[:, :-1]], dim=1).flatten(0, 1), (steps,) * 4, mode="replicate")
    costs = []
    for now, then in zip(images.split(IMAGES_AT_A_TIME), before.split(IMAGES_AT_A_TIME), strict=True):
        differences = [
            (now - then[:, :, down : down + height, right : right + width]).square_().mean(1)
            for down in range(2 * steps + 1)
            for right in range(2 * steps + 1)
        ]
        costs.append(F.avg_pool2d(torch.stack(differences, dim=1), patch_size // 2))
    logarithms = torch.cat(costs).add(1e-4).log()
    return (logarithms - logarithms.mean(1, keepdim=True)).movedim(1, -1).unflatten(0, images_BTHWC.shape[:2])


def warp(images_BHWC: Tensor, flow_BHW2: Tensor) -> Tensor:
    """Images (B, H, W, C) whose every pixel is taken from where its flow (x, y) in pixels points; beyond the edge, from the edge."""
    height, width = images_BHWC.shape[1:3]
    rows, columns = torch.meshgrid(*(torch.arange(size, device=flow_BHW2.device) for size in (height, width)), indexing="ij")
    places_BHW2 = (torch.stack([columns, rows], dim=-1) + flow_BHW2) * 2 / flow_BHW2.new_tensor([width - 1, height - 1]) - 1
    images_BCHW = images_BHWC.movedim(-1, 1).to(places_BHW2.dtype)
    return F.grid_sample(images_BCHW, places_BHW2, padding_mode="border", align_corners=True).movedim(1, -1)
