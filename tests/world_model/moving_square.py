"""A toy world for tests: a bright square on a dark ground that moves two pixels each step, in one of four directions."""

import torch
from torch import Tensor

MOVES = torch.tensor([(0, 2), (0, -2), (2, 0), (-2, 0)])


def moving_square(batch: int, time: int, seed: int) -> tuple[Tensor, Tensor]:
    """Frames (B, T, 32, 32, 3) uint8, and the direction (B, T-1) of each move; what leaves the picture comes in on the other side."""
    generator = torch.Generator().manual_seed(seed)
    directions = torch.randint(0, 4, (batch, time - 1), generator=generator)
    places = torch.cat([torch.randint(0, 32, (batch, 1, 2), generator=generator), MOVES[directions]], dim=1).cumsum(dim=1)
    scene = torch.full((32, 32, 3), 40, dtype=torch.uint8)
    scene[:8, :8] = 220
    frames = [scene.roll(tuple(place.tolist()), (0, 1)) for place in places.flatten(0, 1)]
    return torch.stack(frames).unflatten(0, (batch, time)), directions
