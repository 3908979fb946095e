"""Ordinary video files (mp4, mkv, webm: whatever FFmpeg reads) made into files of the HDF5 format.

Frames are taken at a steady rate, fitted to a size, and divided into episodes where the picture changes at once. Needs PyAV:
pip install "genie-agents[video]".

Shape key: T frames of an episode, H x W x 3 a frame.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from world_model.data.video_file import VideoFile, VideoFileError, VideoWriter

GRID = 32  # pixels a side of the grey pictures by which cuts are found
LARGEST_SHIFT = 5  # of these pixels, between two frames without a cut
# Down and right, the least first: most frames differ by little from the one before.
SHIFTS = sorted(itertools.product(range(-LARGEST_SHIFT, LARGEST_SHIFT + 1), repeat=2), key=lambda shift: abs(shift[0]) + abs(shift[1]))
EARLY = 0.1  # of a period, by which a frame may come too soon: many formats round times to milliseconds
LONGEST_EPISODE = 2**27  # bytes, for a moment held twice: what is longer is divided, as an episode is written as a whole


@dataclass(frozen=True, kw_only=True)
class VideoImportConfig:
    """Which frames of a video are taken, and how."""

    height: int = 64
    """of a frame, in pixels"""
    width: int = 64
    """of a frame; of each picture the middle is scaled to this size, as much of it as has this shape"""
    frames_per_second: float = 10.0
    """how many frames of a second are taken, as in the paper's Platformers data; all, where the video has fewer"""
    cut_threshold: float | None = 14.0
    """an episode ends where no shift of the picture by up to a sixth of its size makes the next frame of this one, but for so many grey
    levels of 256 in the mean; None for videos without cuts"""
    shortest_episode: int = 16
    """episodes of fewer frames are left out"""

    def __post_init__(self) -> None:
        if self.height < 1 or self.width < 1:
            raise ValueError(f"height is {self.height} and width {self.width}; give at least 1 pixel of each")
        if not 0 < self.frames_per_second < math.inf:
            raise ValueError(f"frames_per_second is {self.frames_per_second}; give a rate above 0")
        if self.cut_threshold is not None and not self.cut_threshold > 0:
            raise ValueError(f"cut_threshold is {self.cut_threshold}; give grey levels above 0, or None to look for no cuts")
        if self.shortest_episode < 2:
            raise ValueError(f"shortest_episode is {self.shortest_episode}; an action leads from a frame to the next, so give at least 2")


def import_video(
    source: str | Path,
    target: str | Path,
    config: VideoImportConfig = VideoImportConfig(),
    *,
    progress: Callable[[float, float | None], None] | None = None,
) -> None:
    """Write the episodes of an ordinary video file into an HDF5 video file, complete or not at all.

    `progress(seconds_done, seconds_in_all)` is called after each frame taken; the latter is None where the file does not say. One episode
    is held in memory, of at most 256 MiB. `is_imported` knows the result again.

    Raises:
        FileNotFoundError: no file at `source`, or no folder for `target`.
        ValueError: `source` is no video, or a damaged one, or none of its episodes is long enough.
        ImportError: PyAV is not installed.
        OSError: a full disk.
    """
    num_episodes = 0
    with VideoWriter(target, frame_shape=(config.height, config.width, 3), provenance=_describe(source, config)) as writer:
        for episode in _split_at_cuts(_read_frames(Path(source), config, progress), config):
            if len(episode) >= config.shortest_episode:
                writer.append(episode)
                num_episodes += 1
        if not num_episodes:
            raise ValueError(
                f"{source} has no episode of {config.shortest_episode} frames: give a longer video, "
                "raise frames_per_second or cut_threshold, or lower shortest_episode"
            )


def is_imported(source: str | Path, target: str | Path, config: VideoImportConfig = VideoImportConfig()) -> bool:
    """Whether `target` is what `import_video` would make; a source of the same name and size is taken to be the same."""
    try:
        with VideoFile(target) as video:
            return video.provenance == _describe(source, config)
    except (FileNotFoundError, VideoFileError):
        return False


def is_cut(before: np.ndarray, after: np.ndarray, threshold: float) -> bool:
    """Whether two frames (H, W, 3) uint8 in a row are of different scenes, as VideoImportConfig says.

    Games scroll, so that shifts have to be forgiven; histograms of colours, which do that too, miss cuts between places of one look. With
    a threshold of 14, 90 % of the cuts between levels of the Procgen games are found, and 2 in 1,000 other transitions taken for cuts.
    """
    first, second = _grid(before), _grid(after)
    for down, right in SHIFTS:
        there = first[max(0, down) : GRID + down, max(0, right) : GRID + right]
        here = second[max(0, -down) : GRID - down, max(0, -right) : GRID - right]
        if np.abs(there - here).mean() <= threshold:
            return False
    return True


def _grid(frame: np.ndarray) -> np.ndarray:
    return np.asarray(Image.fromarray(frame).convert("L").resize((GRID, GRID), Image.Resampling.BOX), dtype=np.float32)


def _split_at_cuts(frames: Iterable[np.ndarray], config: VideoImportConfig) -> Iterator[np.ndarray]:
    """The episodes (T, H, W, 3) uint8 of a video, of any length."""
    longest, episode = max(config.shortest_episode, LONGEST_EPISODE // (config.height * config.width * 3)), list[np.ndarray]()
    for frame in frames:
        ends = config.cut_threshold is not None and bool(episode) and is_cut(episode[-1], frame, config.cut_threshold)
        if ends or len(episode) == longest:
            yield np.stack(episode)
            episode = []
        episode.append(frame)
    if episode:
        yield np.stack(episode)


def _read_frames(path: Path, config: VideoImportConfig, progress: Callable[[float, float | None], None] | None) -> Iterator[np.ndarray]:
    """The frames (H, W, 3) uint8 taken from a video: the first of each period of 1 / frames_per_second that has one."""
    try:
        import av
    except ImportError as error:
        raise ImportError('ordinary videos are read by PyAV: pip install "genie-agents[video]"') from error
    seconds, last_period = 0.0, -1
    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                raise ValueError(f"{path} holds no pictures, or none that can be found: give a video, or a repaired file")
            stream = container.streams.video[0]
            stream.thread_type = "NONE"  # 500 frames of 1280 x 720 a second; with threads no more, and a process may hang at its end
            in_all = None if container.duration is None else container.duration / av.time_base
            start, rate = None, stream.average_rate or stream.guessed_rate or 25
            for index, frame in enumerate(container.decode(stream)):
                time = float(index / rate) if frame.time is None else frame.time
                start = time if start is None else start
                seconds = time - start
                period = math.floor(seconds * config.frames_per_second + EARLY)
                if period <= last_period:
                    continue
                last_period = period
                picture = ImageOps.fit(frame.to_image(), (config.width, config.height), Image.Resampling.LANCZOS)
                yield np.asarray(picture)
                if progress is not None:
                    progress(seconds, in_all)
    except av.error.FFmpegError as error:
        raise ValueError(
            f"{path} cannot be read as a video beyond {seconds:.1f} seconds ({error.strerror}): give another or a repaired file"
        ) from error


def _describe(source: str | Path, config: VideoImportConfig) -> dict[str, Any]:
    path = Path(source)
    if not path.is_file():
        raise FileNotFoundError(f"there is no video at {path}: check the path")
    return {"source": path.name, "bytes": path.stat().st_size, **dataclasses.asdict(config)}
