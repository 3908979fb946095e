"""The videos that worlds learn from and are judged on: a game played by good and bad players."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from recording import record
from run_cache import RunCache

from genie_agents.coinrun import FRAME_SHAPE, TEST_LEVELS, VALIDATION_LEVELS
from genie_agents.demonstrations import RecordingConfig, open_videos
from world_model import Genie, VideoTokenizerConfig
from world_model.data import VideoFile

Source = tuple[str, ...]
"""Whose videos: difficulty and player, or, of videos that were given, their path."""

SHARD_LEVELS = 50  # a random player begins anew with each shard, so what it plays depends on this

# What players do wrong stays on camera: a world must know what follows from every action.
MIXED = RecordingConfig(noise=0.3, max_noise_steps=6, cut_noise=False, keep_unsolved=True, max_steps=100)


def videos_by_source(cache: RunCache, name: str, levels: range, *, game: str, difficulties: Sequence[str], seed: int) -> dict[Source, Path]:
    """The folder of each source's videos: a quarter of the levels played at random, a quarter with keys held for long, the rest by
    CoinRun's planner with noise. Other games have no planner: there the rest too is played with keys held for long.
    """
    if not difficulties:
        raise SystemExit("difficulties is empty; choose easy, hard or both")
    if len(levels) < 4:
        raise SystemExit(f"{len(levels)} levels cannot be shared out among the players: give at least 4")
    quarter = len(levels) // 4
    shares = {"random": levels[:quarter], "sticky": levels[quarter:]}
    if game == "coinrun":
        shares |= {"sticky": levels[quarter : 2 * quarter], "planner": levels[2 * quarter :]}
    return {
        (difficulty, player): record(
            cache,
            f"{name}-{player}-{difficulty}",
            share,
            dataclasses.replace(MIXED, game=game, difficulty=difficulty),
            player,
            seed=seed,
            shard_levels=SHARD_LEVELS,
        )
        for difficulty in difficulties
        for player, share in shares.items()
    }


def videos_to_judge_on(
    cache: RunCache, data: Sequence[Path], genie: Genie, *, levels: int, test: bool, difficulties: Sequence[str], seed: int
) -> dict[Source, list[VideoFile]]:
    """The videos of each source: each file, or folder of files, in `data`, or without any what is played of CoinRun's validation levels
    or test levels. Ends the program where their frames are not the model's."""
    if data:
        return {(str(path),): open_all([path], genie.config.tokenizer) for path in data}
    check_frame_shape("CoinRun", FRAME_SHAPE, genie.config.tokenizer)
    name, seeds = held_out(test)
    if not 4 <= levels <= len(seeds):
        raise SystemExit(f"levels is {levels}; play 4, one for each kind of player, to {len(seeds)}")
    folders = videos_by_source(cache, name, seeds[:levels], game="coinrun", difficulties=difficulties, seed=seed)
    return {source: open_videos(folder) for source, folder in folders.items()}


def held_out(test: bool) -> tuple[str, range]:
    """The name and the seeds of the levels to judge on: test levels, or validation levels."""
    return ("test", TEST_LEVELS) if test else ("validation", VALIDATION_LEVELS)


def open_all(paths: Sequence[Path], tokenizer: VideoTokenizerConfig) -> list[VideoFile]:
    """All videos of files and folders of files. Ends the program where their frames are not the model's."""
    files = [file for path in paths for file in (open_videos(path) if path.is_dir() else [VideoFile(path)])]
    for file in files:
        check_frame_shape(file.path, file.frame_shape, tokenizer)
    return files


def longest_episode(files: Sequence[VideoFile]) -> int:
    """How many frames the longest episode of all files has."""
    return max(int(np.diff(file.episode_starts).max()) for file in files)


def check_frame_shape(source: str | Path, shape: tuple[int, int, int], tokenizer: VideoTokenizerConfig) -> None:
    """Ends the program where the frames of a source are not the model's."""
    expected = (tokenizer.image_height, tokenizer.image_width, tokenizer.channels)
    if shape != expected:
        raise SystemExit(f"frames of {source} are {shape} and the model's {expected}: give videos of that shape by --data")


def mixed_videos(cache: RunCache, name: str, levels: range, *, game: str, difficulties: Sequence[str], seed: int) -> list[Path]:
    """The folders of all sources together."""
    return list(videos_by_source(cache, name, levels, game=game, difficulties=difficulties, seed=seed).values())
