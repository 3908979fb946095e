"""The HDF5 video format: many episodes of uint8 frames in one file, with what is known about each of them.

Layout of a file (N frames in E episodes, frames H x W x C):

    frames           (N, H, W, C) uint8   all episodes, one after the other
    episode_starts   (E + 1,) int64       episode e is frames[episode_starts[e]:episode_starts[e + 1]]
    level_seeds      (E,) int64           the level an episode was played on, -1 where unknown
    actions          (N,) int64           optional: the true action from each frame to the next, -1 on an episode's last frame
    latent_actions   (N,) int64           optional: the same for latent actions; the attribute `labeller` says whose they are

with the attributes `format`, `version` and `provenance` (JSON, free form) on the file itself.

Frames are stored in chunks of 8 with gzip 4: measured on CoinRun (experiments/bench_video_file.py) that takes a third of lzf's
bytes at the same speed of random reads. Longer chunks save 3 % more but slow the reads; shuffle does nothing for single bytes.
"""

from __future__ import annotations

import json
import operator
from collections.abc import Mapping
from contextlib import ExitStack
from hashlib import sha256
from pathlib import Path
from types import TracebackType
from typing import Any

import h5py
import numpy as np

from world_model.data.hdf5_output import OutputFile, interrupts_wait, replace_hdf5

FORMAT_NAME = "genie-agents video"
FORMAT_VERSION = 1
CHUNK_LENGTH = 8
COMPRESSION = {"compression": "gzip", "compression_opts": 4}


class VideoFileError(ValueError):
    """The file at this path is not a complete video file of this format, or lacks what was asked of it."""


class VideoWriter:
    """Write a video file, one episode after the other.

    The frames go to a temporary file beside `path`, which takes the place of `path` when the with block is left without an
    exception; until then, and whatever fails, an older file at `path` stays as it is.

        with VideoWriter("play.h5", provenance={"game": "CoinRun"}) as writer:
            writer.append(frames, level_seed=7)

    Raises FileNotFoundError where the folder of `path` does not exist, VideoFileError on leaving the with block without an
    episode, and OSError when writing fails (a full disk).
    """

    def __init__(
        self,
        path: str | Path,
        *,
        frame_shape: tuple[int, int, int] = (64, 64, 3),
        provenance: Mapping[str, object] | None = None,
        with_actions: bool = False,
    ) -> None:
        self.path = Path(path)
        self.frame_shape = tuple(operator.index(size) for size in frame_shape)
        self.with_actions = with_actions
        if len(self.frame_shape) != 3 or min(self.frame_shape) < 1:
            raise ValueError(f"frame_shape must be (height, width, channels), all at least 1, not {frame_shape}")
        try:
            self._provenance = json.dumps(dict(provenance or {}))
        except (TypeError, ValueError) as error:
            raise TypeError(f"provenance must hold only what JSON can: {error}") from error
        self._stack = ExitStack()
        self._output: OutputFile | None = None
        self._buffer = np.empty((CHUNK_LENGTH, *self.frame_shape), np.uint8)
        self._num_buffered = 0
        self._episode_starts = [0]
        self._level_seeds: list[int] = []
        self._actions: list[np.ndarray] = []

    def __enter__(self) -> VideoWriter:
        if self._output is not None:
            raise RuntimeError("this VideoWriter was used before: make a new one for each file")
        self._file, self._output = self._stack.enter_context(replace_hdf5(self.path))
        self._stack.push(self._finish)
        self._file.attrs.update(format=FORMAT_NAME, version=FORMAT_VERSION, provenance=self._provenance)
        shape = self.frame_shape
        self._frames = self._file.create_dataset(
            "frames", (0, *shape), "u1", maxshape=(None, *shape), chunks=(CHUNK_LENGTH, *shape), **COMPRESSION
        )
        return self

    def append(self, frames: np.ndarray, *, level_seed: int = -1, actions: np.ndarray | None = None) -> None:
        """Add one episode: `frames` (T, H, W, C) uint8 with T >= 2 and, in a file with actions, `actions` (T - 1,) integers >= 0.

        Raises ValueError or TypeError for anything else, before a frame is written; OSError when writing fails.
        """
        if self._output is None or not self._file:
            raise RuntimeError("append only inside the with block: with VideoWriter(path) as writer: writer.append(frames)")
        frames = _checked_frames(frames, self.frame_shape)
        if (actions is not None) != self.with_actions:
            remedy = "pass the episode's actions" if self.with_actions else "pass with_actions=True to VideoWriter to store them"
            raise ValueError(f"this VideoWriter was made with with_actions={self.with_actions}: {remedy}")
        level_seed = operator.index(level_seed)
        if not -(2**63) <= level_seed < 2**63:
            raise ValueError(f"level_seed is {level_seed} and must fit into 64 bits")
        marked = None if actions is None else _with_end_marker(actions, len(frames))
        with interrupts_wait():  # whoever catches Ctrl-C keeps whole episodes
            if marked is not None:
                self._actions.append(marked)
            self._level_seeds.append(level_seed)
            self._episode_starts.append(self._episode_starts[-1] + len(frames))
            while len(frames):
                taken = frames[: CHUNK_LENGTH - self._num_buffered]
                self._buffer[self._num_buffered : self._num_buffered + len(taken)] = taken
                self._num_buffered += len(taken)
                frames = frames[len(taken) :]
                if self._num_buffered == CHUNK_LENGTH:
                    self._write_buffer()
        self._output.raise_error(self.path)

    def _write_buffer(self) -> None:
        """Only whole chunks reach the file (but for the last one), so that none is compressed twice."""
        num_written = len(self._frames)
        self._frames.resize(num_written + self._num_buffered, axis=0)
        self._frames[num_written:] = self._buffer[: self._num_buffered]
        self._num_buffered = 0

    def _finish(self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None) -> None:
        if exc is not None:
            return
        if not self._level_seeds:
            raise VideoFileError(f"{self.path} was not written, as it holds no episode: append one before the with block ends")
        with interrupts_wait():
            if self._num_buffered:
                self._write_buffer()
            self._file["episode_starts"] = np.array(self._episode_starts, np.int64)
            self._file["level_seeds"] = np.array(self._level_seeds, np.int64)
            if self.with_actions:
                self._file.create_dataset("actions", data=np.concatenate(self._actions), **COMPRESSION)

    def __exit__(self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None) -> None:
        self._stack.__exit__(exc_type, exc, traceback)


class StoredFrames:
    """The frames (N, H, W, C) uint8 of an open video file, read by index or slice like those of an array.

    Opening a file does not read them, so damage is found here: VideoFileError.
    """

    def __init__(self, dataset: h5py.Dataset, path: Path) -> None:
        self._dataset, self._path = dataset, path
        self.shape, self.dtype = dataset.shape, dataset.dtype

    def __len__(self) -> int:
        return len(self._dataset)

    def __getitem__(self, frames: Any) -> np.ndarray:
        try:
            return self._dataset[frames]
        except OSError as error:
            raise VideoFileError(f"{self._path} is damaged in its frames ({error}): write it again with VideoWriter") from error


class VideoFile:
    """Read a video file. Opening checks that it is one and reads the episode bounds; frames are read when they are asked for.

    Attributes: `path`; `num_frames` N; `num_episodes` E; `frame_shape` (H, W, C); `provenance`; `has_actions`;
    `episode_starts` (E + 1,) int64; `level_seeds` (E,) int64; `frames` (N, H, W, C) uint8, StoredFrames.

    Raises FileNotFoundError where nothing is at `path` and VideoFileError where something else is: a foreign, damaged, truncated
    or empty file, or one of another format version.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        if not self.path.exists():
            raise FileNotFoundError(f"there is no video file at {self.path}: check the path, or write the file with VideoWriter")
        self.path.open("rb").close()  # a folder or a file that may not be read says so itself; h5py would call it damaged
        try:
            self._file = h5py.File(self.path, "r")
        except BlockingIOError as error:
            raise VideoFileError(f"{self.path} is open for writing in another program: close it there first") from error
        except OSError as error:
            raise VideoFileError(f"{self.path} is truncated or not HDF5 ({error}): write it again with VideoWriter") from error
        try:
            self._read_header()
        except (AttributeError, KeyError, OSError, RuntimeError, TypeError, ValueError) as error:
            self.close()
            if isinstance(error, VideoFileError):
                raise
            raise VideoFileError(f"{self.path} is damaged ({error}): write it again with VideoWriter") from error

    def fingerprint(self) -> str:
        """A hash of the episode bounds, of 16 frames spread over the video and of how much all of them take, compressed: it changes with
        the video, but not with its labels or its place."""
        digest = sha256(self.episode_starts.tobytes() + str(self._file["frames"].id.get_storage_size()).encode())
        for index in np.linspace(0, self.num_frames - 1, 16).astype(int):
            digest.update(self.frames[index].tobytes())
        return digest.hexdigest()[:16]

    def _read_header(self) -> None:
        if str(self._file.attrs.get("format")) != FORMAT_NAME:
            raise VideoFileError(f"{self.path} is an HDF5 file but not a video file of this format: write one with VideoWriter")
        version = self._file.attrs.get("version")
        if version != FORMAT_VERSION:
            raise VideoFileError(
                f"{self.path} has format version {version} and this library reads version {FORMAT_VERSION}: "
                "use the version of genie-agents that wrote it, or write the file again"
            )
        self.provenance: dict[str, object] = json.loads(self._file.attrs["provenance"])
        self.frames = StoredFrames(self._file["frames"], self.path)
        self.episode_starts: np.ndarray = self._file["episode_starts"][:]
        self.level_seeds: np.ndarray = self._file["level_seeds"][:]
        self.num_frames = len(self.frames)
        self.num_episodes = len(self.level_seeds)
        self.frame_shape: tuple[int, int, int] = self.frames.shape[1:]
        self.has_actions = "actions" in self._file
        if self.num_episodes == 0:
            raise VideoFileError(f"{self.path} holds no episode: write it again with at least one")
        bounds = self.episode_starts
        tables = [self._file[name] for name in ("actions", "latent_actions") if name in self._file]
        for table in (self._file["episode_starts"], self._file["level_seeds"], *tables):
            if table.dtype != np.int64:
                raise VideoFileError(
                    f"{self.path} is damaged ({table.name[1:]} are {table.dtype}, not int64): write it again with VideoWriter"
                )
        if (
            self.frames.dtype != np.uint8
            or len(self.frames.shape) != 4
            or bounds.shape != (self.num_episodes + 1,)
            or (bounds[0], bounds[-1]) != (0, self.num_frames)
            or np.diff(bounds).min() < 2
            or any(table.shape != (self.num_frames,) for table in tables)
        ):
            raise VideoFileError(f"{self.path} is damaged (frames and episode bounds disagree): write it again with VideoWriter")

    def actions(self) -> np.ndarray:
        """The true actions (N,) int64 from each frame to the next, -1 on the last frame of each episode."""
        if not self.has_actions:
            raise VideoFileError(f"{self.path} holds no actions: write it with VideoWriter(..., with_actions=True)")
        return self._read_actions("actions")

    def latent_actions(self) -> tuple[np.ndarray, str]:
        """The latent actions (N,) int64, -1 on the last frame of each episode, and the identity of the labeller they are from."""
        if "latent_actions" not in self._file:
            raise VideoFileError(f"{self.path} holds no latent actions: label it first, and open it again afterwards")
        labeller = self._file["latent_actions"].attrs.get("labeller")
        if labeller is None:
            raise VideoFileError(f"{self.path} does not say which model its latent actions are from: label it again")
        return self._read_actions("latent_actions"), labeller

    def _read_actions(self, name: str) -> np.ndarray:
        try:
            return self._file[name][:]
        except OSError as error:
            raise VideoFileError(f"{self.path} is damaged in its {name} ({error}): write it again with VideoWriter") from error

    def episode(self, index: int) -> np.ndarray:
        """The frames (T, H, W, C) uint8 of one episode, 0 <= index < num_episodes."""
        if not 0 <= index < self.num_episodes:
            raise IndexError(f"there is no episode {index} in {self.path}: choose one from 0 to {self.num_episodes - 1}")
        return self.frames[self.episode_starts[index] : self.episode_starts[index + 1]]

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> VideoFile:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()


def write_latent_actions(path: str | Path, latent_actions: np.ndarray, *, labeller: str) -> None:
    """Add the latent actions (N,) of a video file to it, or replace those it has; on any failure the file stays as it is.

    `latent_actions` must be -1 on the last frame of each episode and >= 0 everywhere else; `labeller` says which model they are
    from. A VideoFile that is already open goes on reading the old contents: open it again to see the new ones.

    Raises what VideoFile raises, ValueError or TypeError for bad latent actions, OSError when writing fails.
    """
    path = Path(path)
    latent_actions = np.asarray(latent_actions)
    if not np.issubdtype(latent_actions.dtype, np.integer):
        raise TypeError(f"latent_actions must be integers, not {latent_actions.dtype}")
    if not labeller:
        raise ValueError("labeller is empty: name the model that the latent actions are from")
    with VideoFile(path) as video:
        if latent_actions.shape != (video.num_frames,):
            raise ValueError(f"{path} needs latent_actions of shape ({video.num_frames},), not {latent_actions.shape}")
        is_last_frame = np.zeros(video.num_frames, bool)
        is_last_frame[video.episode_starts[1:] - 1] = True
    if (latent_actions < -1).any() or ((latent_actions == -1) != is_last_frame).any():
        raise ValueError("latent_actions must be -1 on the last frame of each episode and >= 0 on all other frames")
    with replace_hdf5(path, keep_contents=True) as (file, _), interrupts_wait():
        if "latent_actions" in file:
            del file["latent_actions"]
        dataset = file.create_dataset("latent_actions", data=latent_actions.astype(np.int64), **COMPRESSION)
        dataset.attrs["labeller"] = labeller


def _checked_frames(frames: np.ndarray, frame_shape: tuple[int, ...]) -> np.ndarray:
    frames = np.asarray(frames)
    if frames.dtype != np.uint8:
        raise TypeError(f"frames must be uint8 (0 to 255), not {frames.dtype}")
    if frames.ndim != 4 or frames.shape[1:] != frame_shape:
        raise ValueError(f"frames must have this file's shape (time, {', '.join(map(str, frame_shape))}), not {frames.shape}")
    if len(frames) < 2:
        raise ValueError(f"an episode needs at least 2 frames, not {len(frames)}: leave out episodes without a transition")
    return frames


def _with_end_marker(actions: np.ndarray, num_frames: int) -> np.ndarray:
    """actions (T - 1,) -> (T,) int64 with -1 for the last frame, from which no action leads."""
    actions = np.asarray(actions)
    if not np.issubdtype(actions.dtype, np.integer):
        raise TypeError(f"actions must be integers, not {actions.dtype}")
    if actions.shape != (num_frames - 1,):
        raise ValueError(f"{num_frames} frames need actions of shape ({num_frames - 1},), not {actions.shape}")
    actions = actions.astype(np.int64)  # what does not fit into it comes out below 0
    if actions.min() < 0:
        raise ValueError("actions must be >= 0, and below 2**63: -1 is kept for the last frame of an episode and added by the writer")
    return np.append(actions, -1)
