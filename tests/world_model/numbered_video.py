"""Small videos whose frames carry their own number."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from world_model.data import VideoWriter

FRAME_SHAPE = (4, 4, 3)


def make_episode(length: int, first: int = 0) -> np.ndarray:
    """Frames that carry their own number (first, first + 1, ...) in their first two bytes."""
    frames = np.zeros((length, *FRAME_SHAPE), np.uint8)
    numbers = first + np.arange(length)
    frames[:, 0, 0, 0], frames[:, 0, 0, 1] = numbers // 256, numbers % 256
    return frames


def frame_numbers(frames: np.ndarray) -> np.ndarray:
    return frames[..., 0, 0, 0].astype(int) * 256 + frames[..., 0, 0, 1]


def write_episodes(path: Path, lengths: Sequence[int], first: int = 0) -> Path:
    with VideoWriter(path, frame_shape=FRAME_SHAPE) as writer:
        for length in lengths:
            writer.append(make_episode(length, first))
            first += length
    return path
