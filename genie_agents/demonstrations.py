"""Expert play of Procgen games, recorded as HDF5 videos; the true actions are kept apart, for the oracle and the mapping alone.

Videos come in shards, one file for a few hundred levels: the unit of work for a process, and of resume for an interrupted run.
"""

from __future__ import annotations

import dataclasses
import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch

from genie_agents.coinrun import LEFT, LEFT_UP, NOOP, RIGHT, RIGHT_UP, TAKE_OFFS, UP, ProcgenEnv
from genie_agents.experts.game_state import read_state
from genie_agents.experts.players import PLANNERS, Expert, make_expert
from genie_agents.selection import Proxy
from world_model.data import VideoFile, VideoWriter

Seen = TypeVar("Seen")

# Most of the noise jumps at the wrong moment, the mistake that a clone makes most; the rest is any key that acts on the ground.
NOISE_ACTIONS = (LEFT, LEFT_UP, NOOP, UP, *[RIGHT_UP] * 8)

WHOLE = 0.1  # of the levels, where a proxy selects: frames of which it is sure are to be learned from too, but fewer do


@dataclass(frozen=True, kw_only=True)
class RecordingConfig:
    """How play becomes video.

    States off the expert's own path are what makes cloning robust. `noise` is the chance per step on the ground (in CoinRun; per step in
    other games) that 1 to `max_noise_steps` steps of one random action take over, mostly a jump at the wrong moment, and `delay` the
    chance per take-off that it is put off by 1 or 2 steps; then the expert recovers, often by steering in the air. A latent
    action names what is seen, so a disturbed transition would be labelled with the disturbance. By default noise is therefore off
    camera (`cut_noise`): the video is cut and goes on as a new episode, and a disturbance that loses the level is taken back. The new
    episode begins `lead_in` frames before the expert has the controls again: a latent action model labels nothing before it has
    seen so many, and what the expert does first, put right what the disturbance did, is what is to be learned. The actions of these
    frames are the ones really played. Uncut noise, labelled with the keys really pressed, serves the training of latent action models.
    Levels that are not solved are dropped, unless `keep_unsolved`.
    """

    game: str = "coinrun"
    difficulty: str = "easy"
    noise: float = 0.1
    max_noise_steps: int = 2
    delay: float = 0.2
    cut_noise: bool = True
    lead_in: int = 2
    keep_unsolved: bool = False
    max_steps: int = 500

    def __post_init__(self) -> None:
        for name in ("noise", "delay"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; give a chance from 0 to below 1")
        if self.max_noise_steps < 1:
            raise ValueError(f"max_noise_steps is {self.max_noise_steps}; a burst lasts at least 1 step")
        if self.lead_in < 0:
            raise ValueError(f"lead_in is {self.lead_in}; give 0 for none, or more frames")

    def draw_noise(self, expert_action: int, generator: np.random.Generator) -> list[int]:
        """The actions that disturb the expert now; mostly none."""
        if expert_action in TAKE_OFFS and generator.random() < self.delay:
            return [RIGHT] * int(generator.integers(1, 3))
        if generator.random() < self.noise:
            return [int(generator.choice(NOISE_ACTIONS))] * int(generator.integers(1, self.max_noise_steps + 1))
        return []


@dataclass(frozen=True)
class Segment:
    """Frames (T, 64, 64, 3) uint8 and the actions (T-1,) that led from each to the next."""

    frames: np.ndarray
    actions: np.ndarray

    def around(self, wanted: np.ndarray, lead_in: int) -> list[Segment]:
        """The stretches that hold the transitions from the `wanted` frames (T,) bool, each with `lead_in` frames before the first.

        Transitions from the segment's own first `lead_in` frames are only led in by fewer, and the last frame leads nowhere: none of
        these is wanted.
        """
        parts: list[Segment] = []
        start = stop = 0
        for index in np.flatnonzero(wanted[lead_in:-1]) + lead_in:
            if index - lead_in > stop:  # else the stretch before reaches to this one's lead-in, and both are one
                parts.append(Segment(self.frames[start : stop + 1], self.actions[start:stop]))
                start = index - lead_in
            stop = index + 1
        parts.append(Segment(self.frames[start : stop + 1], self.actions[start:stop]))
        return [part for part in parts if len(part.actions)]


def play_level(
    env: ProcgenEnv, expert: Expert, level_seed: int, config: RecordingConfig, generator: np.random.Generator
) -> tuple[list[Segment], bool]:
    """Play one level to its end; the video in segments, and whether the level was solved in the real game."""
    obs, _ = env.reset(options={"level_seed": level_seed})
    expert.begin(env)
    frames: list[np.ndarray] = [obs]
    actions: list[int] = []
    lead_in = 0  # of these actions, at the beginning, were not the expert's
    segments: list[Segment] = []

    def end_segment() -> None:
        if len(actions) > lead_in:
            segments.append(Segment(np.stack(frames), np.array(actions, dtype=np.int64)))

    while env.elapsed_steps < config.max_steps:
        planned = expert.act(obs)
        if planned is None:
            break
        noise = config.draw_noise(planned, generator)
        if noise and not may_disturb(env):
            noise = []
        if noise and config.cut_noise:
            seen, lost = disturb(env, expert, noise)
            if lost:  # by the expert's own doing, before the noise
                end_segment()
                return segments, False
            if seen:
                end_segment()
                frames = [*frames, *seen][-1 - config.lead_in :]
                lead_in = len(frames) - 1
                actions = [*actions, *noise][len(actions) + len(noise) - lead_in :]
                obs = frames[-1]
            continue
        for action in (noise or [planned])[: config.max_steps - env.elapsed_steps]:
            obs, _, terminated, truncated, info = env.step(action)
            if terminated or truncated:  # the terminal frame is never drawn, so the last action leads to no frame
                end_segment()
                return segments, info["level_solved"]
            frames.append(obs)
            actions.append(action)
        if noise:
            expert.begin(env)
    end_segment()
    return segments, False


def on_ground(env: ProcgenEnv) -> bool:
    """Whether the player of CoinRun stands on something: only there do keys for up and down change the picture."""
    return bool(read_state(env.get_state().simulator).vy == 0)


def may_disturb(env: ProcgenEnv) -> bool:
    """In the air of CoinRun most keys do nothing: a disturbance there would cut the video for no change."""
    return env.game != "coinrun" or on_ground(env)


def disturb(env: ProcgenEnv, expert: Expert, noise: Sequence[int]) -> tuple[list[np.ndarray], bool]:
    """Play `noise` off camera and let the expert look again; a disturbance that loses the level is taken back.

    Returns the frames that it led through, none where it was taken back, and whether the level is lost all the same.
    """
    before, seen = env.get_state(), []
    for action in noise:
        obs, _, terminated, truncated, _ = env.step(action)
        if terminated or truncated:
            break
        seen.append(obs)
    if terminated or truncated or not expert.begin(env):
        env.set_state(before)
        return [], not expert.begin(env)
    return seen, False


def record_shard(
    path: Path, expert: Expert, level_seeds: Sequence[int], config: RecordingConfig, seed: int, proxy: Proxy | None = None
) -> None:
    """Record the levels into one HDF5 video with true actions, none where no level is to be kept; an existing file stays as it is.

    With a `proxy`, nine levels in ten are cut to what it is unsure of.
    """
    if path.exists():
        return
    provenance = dataclasses.asdict(config) | {"expert": type(expert).__name__, "seed": seed}
    provenance |= {"proxy": proxy.identity} if proxy else {}
    env = ProcgenEnv(config.game, difficulty=config.difficulty)

    def episodes() -> Iterator[tuple[int, Segment]]:
        for level_seed in level_seeds:
            segments, solved = play_level(env, expert, level_seed, config, np.random.default_rng((seed, level_seed)))
            if solved or config.keep_unsolved:
                if proxy is not None and np.random.default_rng((seed, level_seed, 1)).random() >= WHOLE:
                    segments = [part for whole in segments for part in whole.around(proxy.unsure(whole.frames), config.lead_in)]
                yield from ((level_seed, segment) for segment in segments)

    kept = episodes()
    if (first := next(kept, None)) is not None:  # a video without episodes is none
        with VideoWriter(path, provenance=provenance, with_actions=True) as video:
            for level_seed, segment in chain([first], kept):
                video.append(segment.frames, level_seed=level_seed, actions=segment.actions)
    env.close()


def _record_shard_in_worker(
    path: Path, expert: str, level_seeds: Sequence[int], config: RecordingConfig, seed: int, proxy: Path | None
) -> None:
    torch.set_num_threads(1)  # an expert's network looks at one frame at a time, and the other cores have workers of their own
    record_shard(path, make_expert(expert, seed + level_seeds[0], config.game), level_seeds, config, seed, Proxy(proxy) if proxy else None)


def record_videos(
    folder: Path,
    level_seeds: Sequence[int],
    config: RecordingConfig,
    *,
    expert: str = "planner",
    proxy: Path | None = None,
    seed: int = 0,
    shard_levels: int = 250,
    num_workers: int | None = None,
) -> Iterator[int]:
    """Record `level_seeds` into shards under `folder`, over several processes; yields the number of levels done, shard by shard.

    Shards that exist are kept, so an interrupted recording goes on where it stopped.

    `expert` is a name or folder that `make_expert` knows, `proxy` the folder of a cloned policy: nine levels in ten are then cut to
    what it is unsure of.

    Raises:
        ValueError: a seed below 0, a planner asked to play another game than CoinRun, an expert that solves none of the levels, or a
            policy that is no `Proxy`.
        FileNotFoundError: no such expert or policy.
    """
    if seed < 0:
        raise ValueError(f"seed is {seed}; choose 0 or more")
    if expert in PLANNERS and config.game != "coinrun":
        raise ValueError(f"the planner knows CoinRun's physics only, not {config.game!r}; choose 'random' or train an expert by PPO")
    shards = [level_seeds[start : start + shard_levels] for start in range(0, len(level_seeds), shard_levels)]
    folder.mkdir(parents=True, exist_ok=True)
    spawn = multiprocessing.get_context("spawn")  # forking a process that runs torch's threads can hang
    with ProcessPoolExecutor(num_workers, mp_context=spawn) as pool:
        futures = {}
        for shard in shards:
            path = folder / f"levels-{shard[0]}-{shard[-1]}.h5"
            futures[pool.submit(_record_shard_in_worker, path, expert, shard, config, seed, proxy)] = len(shard)
        try:
            for future in as_completed(futures):
                future.result()
                yield futures[future]
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
    if not any(folder.glob("*.h5")):
        raise ValueError(f"{expert} solved none of {len(level_seeds)} levels, and only solved ones are kept: choose a better expert")


def replay(file: VideoFile, look: Callable[[ProcgenEnv], Seen]) -> Iterator[tuple[int, Seen]]:
    """Play a recording of CoinRun with true actions again, some 4,000 frames a second: each frame's index and what `look` sees there.

    Raises:
        ValueError: playing a level again leads elsewhere: it is no recording of whole levels of CoinRun by this version of procgen.
    """
    actions, env = file.actions(), ProcgenEnv(difficulty=str(file.provenance.get("difficulty")))
    for start, stop, level_seed in zip(file.episode_starts[:-1], file.episode_starts[1:], file.level_seeds, strict=True):
        obs, _ = env.reset(options={"level_seed": int(level_seed)})
        terminated = truncated = False
        yield start, look(env)
        for index in range(start + 1, stop):
            obs, _, terminated, truncated, _ = env.step(actions[index - 1])
            if terminated or truncated:
                break
            yield index, look(env)
        if terminated or truncated or not np.array_equal(obs, file.frames[stop - 1]):
            raise ValueError(
                f"{file.path}: playing level {level_seed} again does not lead to its last frame: record whole levels of CoinRun "
                "(cut_noise=False) with the installed procgen"
            )
    env.close()


def find_ground_frames(file: VideoFile) -> np.ndarray:
    """(N,) bool: the frames of a recording of CoinRun on which the player stands and from which an action leads (see `replay`)."""
    grounded = np.zeros(file.num_frames, dtype=bool)
    for index, standing in replay(file, on_ground):
        grounded[index] = standing
    return grounded & (file.actions() >= 0)


def find_player(file: VideoFile) -> np.ndarray:
    """(N, 2): the player's place x, y, in cells, on each frame of a recording of CoinRun (see `replay`)."""

    def place(env: ProcgenEnv) -> tuple[np.float32, np.float32]:
        now = read_state(env.get_state().simulator)
        return now.x, now.y

    places = np.empty((file.num_frames, 2), dtype=np.float32)
    for index, here in replay(file, place):
        places[index] = here
    return places


def open_videos(*folders: Path) -> list[VideoFile]:
    """All videos of one or several folders, files named .h5 or .hdf5, folder by folder in the order of their names.

    Raises:
        FileNotFoundError: a folder holds no HDF5 video.
    """
    videos = []
    for folder in folders:
        paths = sorted(path for path in folder.iterdir() if path.suffix in (".h5", ".hdf5")) if folder.is_dir() else []
        if not paths:
            raise FileNotFoundError(f"no HDF5 video (.h5 or .hdf5) in {folder}; record some first")
        videos += [VideoFile(path) for path in paths]
    return videos
