"""Random clips from video files, the same ones for the same seed.

Letters of shapes: B clips, T frames per clip, H x W x C a frame.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

import numpy as np

from world_model.data.video_file import VideoFile


@dataclass(frozen=True)
class ClipBatch:
    """`frames` (B, T, H, W, C) uint8 and `positions` (B,) int64: each clip's first frame, counted over all files in order.

    Labels of the same clips: `np.concatenate([file.actions() for file in files])[positions[:, None] + np.arange(T - 1)]`.

    `seeds` (B,) int64, at least 0: a random number for each clip. A loss that needs randomness draws it for each clip from here, and so
    depends neither on the number of devices nor on what else draws random numbers.
    """

    frames: np.ndarray
    positions: np.ndarray
    seeds: np.ndarray


class ClipSampler:
    """An endless iterator over batches of random clips, none of which crosses the end of an episode.

    Each clip is drawn with replacement, uniformly from all places of all files where a clip of `clip_length` frames fits, so a
    long episode gives more clips than a short one. `state_dict` and `load_state_dict` resume with the very batch that would have
    come next.

    With several processes, each reads its own share of the same batch: `batch_size` counts the clips of all of them together, and the
    process of `rank` gets the rank-th of `world_size` equal parts. A state may be loaded with another number of processes.

    Raises ValueError where no file is given, frame shapes differ between files, no episode is long enough for a clip, or the batch
    cannot be divided among the processes.
    """

    def __init__(
        self, files: Sequence[VideoFile], *, clip_length: int, batch_size: int, seed: int, rank: int = 0, world_size: int = 1
    ) -> None:
        if not files or not all(isinstance(file, VideoFile) for file in files):
            raise ValueError(f"no video files to sample from: pass at least one, each a VideoFile(path), not {files}")
        if clip_length < 1 or batch_size < 1:
            raise ValueError(f"clip_length and batch_size must be at least 1, not {clip_length} and {batch_size}")
        if seed < 0:
            raise ValueError(f"seed is {seed}; choose 0 or more")
        if batch_size % world_size:
            raise ValueError(f"a batch of {batch_size} clips cannot be divided among {world_size} processes: make batch_size a multiple")
        if not 0 <= rank < world_size:
            raise ValueError(f"rank is {rank}; with {world_size} processes give one of 0 to {world_size - 1}")
        for file in files:
            if file.frame_shape != files[0].frame_shape:
                raise ValueError(
                    f"frames of {file.path} are {file.frame_shape} and those of {files[0].path} {files[0].frame_shape}: "
                    "sample files of different frame shapes apart"
                )
        lengths = np.concatenate([np.diff(file.episode_starts) for file in files])
        num_starts = np.maximum(lengths - clip_length + 1, 0)  # per episode, the places where a clip fits
        if not num_starts.any():
            raise ValueError(f"no clip of {clip_length} frames fits, the longest episode has {lengths.max()}: lower clip_length")
        self.files = tuple(files)
        self.clip_length = clip_length
        self.batch_size = batch_size
        self.seed = seed
        self._share = slice(rank * batch_size // world_size, (rank + 1) * batch_size // world_size)
        self._file_starts = np.cumsum([0] + [file.num_frames for file in files])
        self._episode_starts = np.cumsum(lengths) - lengths
        self._last_start = np.cumsum(num_starts)  # valid starts of this and all episodes before it
        self._first_start = self._last_start - num_starts
        self._generator = np.random.default_rng(seed)
        digest = sha256(self._last_start.tobytes())
        for file in files:
            digest.update(file.fingerprint().encode())
        self._videos = digest.hexdigest()[:16]

    def __iter__(self) -> Iterator[ClipBatch]:
        return self

    def __next__(self) -> ClipBatch:
        # Every process draws the numbers of the whole batch, so that their generators stay in step.
        starts = self._generator.integers(self._last_start[-1], size=self.batch_size)[self._share]
        seeds = self._generator.integers(2**63, size=self.batch_size)[self._share]
        episodes = np.searchsorted(self._last_start, starts, side="right")
        positions = self._episode_starts[episodes] + starts - self._first_start[episodes]
        frames_BTHWC = np.empty((len(starts), self.clip_length, *self.files[0].frame_shape), np.uint8)
        file_indices = np.searchsorted(self._file_starts, positions, side="right") - 1
        for clip_THWC, position, index in zip(frames_BTHWC, positions, file_indices, strict=True):
            first = position - self._file_starts[index]
            clip_THWC[:] = self.files[index].frames[first : first + self.clip_length]
        return ClipBatch(frames_BTHWC, positions, seeds)

    def state_dict(self) -> dict[str, Any]:
        """Where the sampler stands, fit for JSON."""
        return {**self._identity(), "generator": self._generator.bit_generator.state}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where `state` was taken. Raises ValueError where it is from a sampler of other videos or settings."""
        check_same_source(state, self._identity())
        self._generator.bit_generator.state = state["generator"]

    def _identity(self) -> dict[str, int | str]:
        """What a state must share with the sampler that loads it, or the clips would silently be other ones."""
        return {
            "clip_length": self.clip_length,
            "batch_size": self.batch_size,
            "seed": self.seed,
            "videos": self._videos,
        }


def check_same_source(state: Mapping[str, Any], identity: Mapping[str, Any]) -> None:
    """Raises ValueError where a saved position in the data is from other data or settings than those that `identity` names."""
    for name, value in identity.items():
        if state.get(name) != value:
            raise ValueError(
                f"the state is from a run with {name} {state.get(name)} and this one has {value}: resume with the same data and settings"
            )
