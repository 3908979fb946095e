"""Make HDF5 videos, which the other scripts learn from, of ordinary video files.

    python experiments/import_videos.py play.mp4 more.mkv --output runs/videos/mine
    python experiments/train_world_model.py --data runs/videos/mine --output runs/world_model/mine

Leaves two files a video in `output`: one of its episodes, NAME.h5, and a picture of some of them, NAME.png, that shows whether size, rate
and cuts are right. The same command goes on where it was stopped; a video that is finished is not read again, and one that cannot
be read is named at the end.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import tyro
from pictures import film_strips, save
from report import markdown_table
from stopping import refusing, stoppable
from tqdm import tqdm

from world_model.data import VideoFile, VideoImportConfig, import_video, is_imported

SHOWN_EPISODES = 8  # in the picture of a video
SHOWN_FRAMES = 12  # of each


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Options of the import."""

    videos: tyro.conf.Positional[tuple[Path, ...]]
    """video files of any format that FFmpeg reads"""
    output: Path = Path("runs/videos")
    """folder for the HDF5 videos and the pictures"""
    frames: tyro.conf.OmitArgPrefixes[VideoImportConfig] = VideoImportConfig()

    def __post_init__(self) -> None:
        if not self.videos:
            raise ValueError("videos is empty; name at least one")
        twice = [name for name, number in Counter(path.stem for path in self.videos).items() if number > 1]
        if twice:
            raise ValueError(f"two videos would become {self.output / twice[0]}.h5: import them one after the other, into two folders")


def draw(video: VideoFile, path: Path) -> None:
    """Some episodes, spread over the video, a row each of frames spread over it."""
    rows = []
    for index in np.unique(np.linspace(0, video.num_episodes - 1, SHOWN_EPISODES).astype(int)).tolist():
        frames = video.episode(index)
        shown = np.linspace(0, len(frames) - 1, min(SHOWN_FRAMES, len(frames))).astype(int)
        rows.append((f"episode {index}, {len(frames)} frames", torch.from_numpy(frames[shown])))
    save(film_strips(rows), path)


def import_one(source: Path, target: Path, config: VideoImportConfig) -> None:
    with tqdm(desc=source.name, bar_format="{l_bar}{bar}| {n:.0f} of {total} s [{elapsed}<{remaining}]", dynamic_ncols=True) as bar:

        def progress(seconds: float, in_all: float | None) -> None:
            bar.total = None if in_all is None else max(math.ceil(in_all), 1)
            bar.update(seconds - bar.n)

        import_video(source, target, config, progress=progress)


@refusing()
def main() -> None:
    settings = tyro.cli(Settings, description=__doc__)
    settings.output.mkdir(parents=True, exist_ok=True)
    rows, refused = [], []
    with stoppable(settings.output):
        for source in settings.videos:
            target = settings.output / f"{source.stem}.h5"
            try:
                with refusing():
                    if not is_imported(source, target, settings.frames):
                        import_one(source, target, settings.frames)
            except SystemExit as refusal:  # the others are imported all the same
                refused.append(str(refusal))
                continue
            except ImportError as error:
                raise SystemExit(str(error)) from None
            with VideoFile(target) as video:
                draw(video, target.with_suffix(".png"))
                rows.append([str(target), str(video.num_episodes), str(video.num_frames)])
    if rows:
        print(markdown_table(["video", "episodes", "frames"], rows))
    if refused:
        raise SystemExit("\n".join(refused))


if __name__ == "__main__":
    main()
