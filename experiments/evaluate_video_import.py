"""How well the cuts of a video are found: Procgen games, played with keys held for long, level after level in one mp4 file.

    python experiments/evaluate_video_import.py    # needs pip install -e ".[video]"

Prints a table and writes results.json: for each game and threshold how many of the cuts from one level to the next are found, and how many
other transitions are taken for cuts.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Literal

import av
import numpy as np
import tyro
from checks import check_counts
from report import markdown_table, write_results
from stopping import refusing
from tqdm import tqdm

from genie_agents.coinrun import DIFFICULTIES, GAMES, VALIDATION_LEVELS
from genie_agents.demonstrations import RecordingConfig, record_shard
from genie_agents.experts.players import make_expert
from world_model.data import VideoFile, VideoImportConfig, import_video, is_cut

SCALE = 4  # pixels a side for each of the game's, as codecs take more from small pictures than from those that people look at


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What to measure."""

    output: Path = Path("runs/evaluate_video_import")
    """folder for results.json"""
    games: tuple[str, ...] = tuple(GAMES)
    """Procgen games"""
    difficulties: tuple[Literal["easy", "hard"], ...] = DIFFICULTIES
    levels: int = 30
    """levels played of each game and difficulty"""
    max_steps: int = 60
    """steps of a level, at most"""
    frames_per_second: int = 15
    """of the mp4 file, and taken from it"""
    thresholds: tuple[float, ...] = (8.0, 10.0, 12.0, 14.0, 16.0, 20.0)
    """values of cut_threshold"""
    seed: int = 0
    """seed of the players"""

    def __post_init__(self) -> None:
        check_counts(self, "max_steps", "frames_per_second")
        if not 2 <= self.levels <= len(VALIDATION_LEVELS):
            raise ValueError(f"levels is {self.levels}; play 2, with a cut between them, to {len(VALIDATION_LEVELS)}")
        if set(self.games) - set(GAMES):
            raise ValueError(f"games is {' '.join(self.games)}; choose of {', '.join(GAMES)}")


def play(game: str, difficulty: str, settings: Settings) -> tuple[np.ndarray, np.ndarray]:
    """The frames (N, 64, 64, 3) uint8 of all levels in a row, and whether each but the last is followed by another level's (N-1,)."""
    player = make_expert("sticky", settings.seed, game)
    recording = RecordingConfig(
        game=game, difficulty=difficulty, noise=0, delay=0, cut_noise=False, keep_unsolved=True, max_steps=settings.max_steps
    )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "play.h5"
        record_shard(path, player, VALIDATION_LEVELS[: settings.levels], recording, settings.seed)
        with VideoFile(path) as video:
            return video.frames[:], video.actions()[:-1] == -1


def write_video(
    path: Path, frames: np.ndarray, milliseconds: Sequence[int], *, codec: str = "libx264", pixel_format: str = "yuv420p"
) -> Path:
    """An ordinary video file of frames (T, H, W, 3) uint8, each shown from its time on."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=30)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt, stream.codec_context.time_base = pixel_format, Fraction(1, 1000)
        for frame, time in zip(frames, milliseconds, strict=True):
            picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
            picture.pts, picture.time_base = time, Fraction(1, 1000)
            container.mux(stream.encode(picture))
        container.mux(stream.encode(None))
    return path


def through_mp4(frames: np.ndarray, frames_per_second: int) -> np.ndarray:
    """The frames as an import gives them back, all of them."""
    times = [round(1000 * index / frames_per_second) for index in range(len(frames))]
    with tempfile.TemporaryDirectory() as folder:
        source = write_video(Path(folder) / "play.mp4", frames.repeat(SCALE, axis=1).repeat(SCALE, axis=2), times)
        target = Path(folder) / "play.h5"
        import_video(source, target, VideoImportConfig(frames_per_second=frames_per_second, cut_threshold=None, shortest_episode=2))
        with VideoFile(target) as video:
            return video.frames[:]


@refusing()
def main() -> None:
    settings = tyro.cli(Settings, description=__doc__)
    counts = {}
    places = [(game, difficulty) for game in settings.games for difficulty in settings.difficulties]
    for game, difficulty in tqdm(places, unit="video", dynamic_ncols=True):
        played, cuts = play(game, difficulty, settings)
        frames = through_mp4(played, settings.frames_per_second)
        if len(frames) != len(played):
            raise RuntimeError(f"{len(played)} frames were written and {len(frames)} read")
        found = {}
        for threshold in settings.thresholds:
            seen = np.array([is_cut(before, after, threshold) for before, after in zip(frames, frames[1:], strict=False)])
            found[str(threshold)] = {"found": int((seen & cuts).sum()), "false": int((seen & ~cuts).sum())}
        counts[f"{game}, {difficulty}"] = {"cuts": int(cuts.sum()), "others": int((~cuts).sum()), "thresholds": found}
    write_results(settings.output, settings, {"counts": counts})
    columns = [str(threshold) for threshold in settings.thresholds]
    rows = [
        [
            name,
            str(count["cuts"]),
            *(f"{count['thresholds'][column]['found']}, {count['thresholds'][column]['false']}" for column in columns),
        ]
        for name, count in counts.items()
    ]
    cuts, others = (sum(count[what] for count in counts.values()) for what in ("cuts", "others"))
    shares = []
    for column in columns:
        found, false = (sum(count["thresholds"][column][what] for count in counts.values()) for what in ("found", "false"))
        shares.append(f"{100 * found / cuts:.1f} %, {1000 * false / others:.1f} of 1,000")
    rows.append(["all", str(cuts), *shares])
    print(markdown_table(["found, false", "cuts", *columns], rows))
    print(f"\nall figures are in {settings.output / 'results.json'}")


if __name__ == "__main__":
    main()
