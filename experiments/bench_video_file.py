"""Which compression and which chunk length should the video files of `world_model.data` use?

Plays CoinRun, writes the same frames with every combination and prints, for each, the three numbers that decide: bytes per
frame (uncompressed: 12,288), frames written per second and random 16-frame clips read per second. All files are read from a
warm page cache, so the reads show the cost of decompression, not of the disk.

    python experiments/bench_video_file.py --num-frames 8192
"""

import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import h5py
import numpy as np
import tyro
from procgen import ProcgenGym3Env
from report import markdown_table

COMPRESSIONS: dict[str, dict[str, Any]] = {
    "none": {},
    "lzf": {"compression": "lzf"},
    "lzf + shuffle": {"compression": "lzf", "shuffle": True},
    "gzip 1": {"compression": "gzip", "compression_opts": 1},
    "gzip 1 + shuffle": {"compression": "gzip", "compression_opts": 1, "shuffle": True},
    "gzip 4": {"compression": "gzip", "compression_opts": 4},
    "gzip 4 + shuffle": {"compression": "gzip", "compression_opts": 4, "shuffle": True},
}


@dataclass(frozen=True, kw_only=True)
class BenchConfig:
    num_frames: int = 8192
    """Frames of CoinRun to play."""
    chunk_lengths: tuple[int, ...] = (1, 4, 8, 16, 32, 64)
    """Frames per HDF5 chunk to try."""
    clip_length: int = 16
    """Frames per random clip read."""
    num_clips: int = 300
    """Random clips read per combination."""
    distribution_mode: Literal["easy", "hard"] = "easy"
    """CoinRun's difficulty: easy or hard."""
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.chunk_lengths:
            raise ValueError("chunk_lengths is empty: choose at least one")
        if self.num_frames < max(self.clip_length, *self.chunk_lengths):
            raise ValueError("num_frames must reach clip_length and every chunk length: raise num_frames")


def play_coinrun(config: BenchConfig, num_envs: int = 16) -> np.ndarray:
    """Frames (num_frames, 64, 64, 3) uint8 of play that mostly runs right and holds each action for four steps."""
    rng = np.random.default_rng(config.seed)
    env = ProcgenGym3Env(num=num_envs, env_name="coinrun", start_level=0, num_levels=10_000, rand_seed=config.seed,
                         distribution_mode=config.distribution_mode)  # fmt: skip
    steps = -(-config.num_frames // num_envs)
    frames = np.empty((num_envs, steps, 64, 64, 3), np.uint8)  # one player after the other: neighbours are neighbours in time
    actions = np.full(num_envs, 7, np.int32)
    for t in range(steps):
        frames[:, t] = env.observe()[1]["rgb"]
        if t % 4 == 0:
            actions = rng.choice(np.array([7, 8, 4, 1], np.int32), size=num_envs, p=[0.6, 0.2, 0.1, 0.1])
        env.act(actions)
    return frames.reshape(-1, 64, 64, 3)[: config.num_frames]


def measure(path: Path, frames: np.ndarray, chunk_length: int, filters: dict[str, Any], config: BenchConfig) -> tuple[float, float, float]:
    """(bytes per frame, frames written per second, random clips read per second) of one combination."""
    started = time.perf_counter()
    with h5py.File(path, "w") as file:
        dataset = file.create_dataset("frames", (0, *frames.shape[1:]), "u1", maxshape=(None, *frames.shape[1:]),
                                      chunks=(chunk_length, *frames.shape[1:]), **filters)  # fmt: skip
        for start in range(0, len(frames), chunk_length):
            stop = min(start + chunk_length, len(frames))
            dataset.resize(stop, axis=0)
            dataset[start:stop] = frames[start:stop]
    write_seconds = time.perf_counter() - started

    starts = np.random.default_rng(config.seed).integers(len(frames) - config.clip_length + 1, size=config.num_clips)
    with h5py.File(path, "r") as file:
        dataset = file["frames"]
        started = time.perf_counter()
        for start in starts:
            dataset[start : start + config.clip_length]
        read_seconds = time.perf_counter() - started
    return path.stat().st_size / len(frames), len(frames) / write_seconds, config.num_clips / read_seconds


def main(config: BenchConfig) -> None:
    frames = play_coinrun(config)
    columns = ["compression", "chunk length", "bytes/frame", "write frames/s", f"{config.clip_length}-frame clips/s"]
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for name, filters in COMPRESSIONS.items():
            for chunk_length in config.chunk_lengths:
                path = Path(folder) / "bench.h5"
                size, write_rate, read_rate = measure(path, frames, chunk_length, filters, config)
                rows.append([name, str(chunk_length), f"{size:,.0f}", f"{write_rate:,.0f}", f"{read_rate:,.0f}"])
    print(markdown_table(columns, rows))


if __name__ == "__main__":
    main(tyro.cli(BenchConfig))
