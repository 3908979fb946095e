"""The videos that worlds learn from and are judged on: a game played by good and bad players."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from recording import record
from run_cache import RunCache

from genie_agents.demonstrations import RecordingConfig

Source = tuple[str, str]
"""Whose videos: difficulty and player."""

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


def mixed_videos(cache: RunCache, name: str, levels: range, *, game: str, difficulties: Sequence[str], seed: int) -> list[Path]:
    """The folders of all sources together."""
    return list(videos_by_source(cache, name, levels, game=game, difficulties=difficulties, seed=seed).values())
