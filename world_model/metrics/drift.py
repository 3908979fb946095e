"""How much of a long rollout is still like the game, where no frame of the game is the right one to compare with.

Frames are (B, T, H, W, C) uint8; their figures, one a frame, are grey levels of 0 to 1: divide by those of real frames to judge them.
"""

import numpy as np
import torch
from torch import Tensor

from world_model.metrics.action_agreement import code_use


def sharpness(frames: Tensor) -> Tensor:
    """Mean absolute difference of neighbouring pixels, (B, T): what blurs has less, noise has more."""
    images = frames.float() / 255
    return (torch.diff(images, dim=2).abs().mean(dim=(2, 3, 4)) + torch.diff(images, dim=3).abs().mean(dim=(2, 3, 4))) / 2


def movement(frames: Tensor) -> Tensor:
    """Mean absolute change from each frame to the next, (B, T-1): 0 where a world is frozen."""
    return torch.diff(frames.float() / 255, dim=1).abs().mean(dim=(2, 3, 4))


def total_variation_distance(first: np.ndarray, second: np.ndarray, *, num_codes: int) -> float:
    """How differently two flat arrays of codes use them: 0 in the same shares, 1 where they share none.

    Two samples of one distribution differ too, the more the smaller they are: compare with the distance of such samples.
    """
    shares = [np.array(code_use(codes, num_codes=num_codes)) for codes in (first, second)]
    return float(np.abs(shares[0] - shares[1]).sum() / 2)


def chance_agreement(first: np.ndarray, second: np.ndarray, *, num_codes: int) -> float:
    """Share of places where two flat arrays of codes agree by chance: the mean over all orders of one of them."""
    return float(np.dot(code_use(first, num_codes=num_codes), code_use(second, num_codes=num_codes)))
