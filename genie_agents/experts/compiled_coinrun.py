"""CoinRun without its pictures, compiled: hundreds of thousands of steps a second, for whoever learns from reward by the view alone.

Levels are read from the real game, their motion is that of `physics`, equal to the game's to the last bit. The player is asked only
where an answer counts, on the ground; in the air RIGHT is held. It decides anew on every frame on which it stands, as one who sees
nothing but the last pictures must; LEFT alone may have to be held for longer.

Shape letters: E games side by side, L levels, N things of one kind, T frames.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import gymnasium
import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from numba import njit, prange

from genie_agents.coinrun import LEFT, RIGHT, RIGHT_UP, ProcgenEnv
from genie_agents.experts.game_state import GameState, read_state
from genie_agents.experts.physics import COLLECTED, PLAYING, has_support, judge, step_agent, walk_enemies
from genie_agents.experts.view import VIEW_SIZE, draw_view

KEYS = (RIGHT, RIGHT_UP, LEFT)
"""What can be pressed on the ground. A jump from full speed lands 7.5 cells ahead, and the camera shows 6.5; LEFT brakes the run, and a
jump after it lands in sight. The first two alone solve practically every level for who knows it."""
OBSERVATION_SIZE = VIEW_SIZE + 1
MAX_FRAMES = 320
"""A level that takes longer counts as lost: a win takes 60 to 130 frames."""

# Beside the coin's reward of 1. They are small, and make a player run where nothing speaks for another key, and never dither.
_KEY_COSTS = np.array([0.0, 0.005, 0.003])
_FRAME_COST = 0.0002
_IDLE_COST = 0.01  # for a key that leads nowhere, RIGHT before a wall: nothing changes then, and who decides anew would press it for ever


class Levels(NamedTuple):
    """Beginnings of levels. Things of all levels stand in a row, those of level l from `..._at[l]` to `..._at[l + 1]`."""

    grid: np.ndarray  # (L, H, W) int8
    body: np.ndarray  # (L, 4) float32: x, y, vx, vy
    crates: np.ndarray  # (N, 2) float32
    crates_at: np.ndarray
    saws: np.ndarray  # (N, 2) float32
    saws_at: np.ndarray
    enemies: np.ndarray  # (N, 3) float32
    enemies_at: np.ndarray


class Games(NamedTuple):
    """Where the games stand."""

    level: np.ndarray  # (E,) int64
    frame: np.ndarray  # (E,) int64, since the beginning
    may_brake: np.ndarray  # (E,) bool: whether LEFT is allowed
    body: np.ndarray  # (E, 4) float32: x, y, vx, vy
    on_crate: np.ndarray  # (E,) bool
    grid: np.ndarray  # (E, H, W) int32
    enemies_x: np.ndarray  # (E, T + 1, N) float32, see walk_enemies
    crate_grip_y: np.ndarray  # (E, T) float32


def read_levels(difficulty: str, level_seeds: Sequence[int], on_level: Callable[[], None] | None = None) -> list[GameState]:
    """How levels begin in the real game, about a thousand a second; `on_level` is called after each."""
    env, beginnings = ProcgenEnv(difficulty=difficulty), []
    for level_seed in level_seeds:
        env.reset(options={"level_seed": int(level_seed)})
        now = read_state(env.get_state().simulator)
        beginnings.append(GameState(**vars(now) | {"grid": now.grid.astype(np.int8)}))
        if on_level is not None:
            on_level()
    env.close()
    return beginnings


class CompiledCoinRun(VectorEnv[np.ndarray, np.ndarray, Any]):
    """E games, each on a level drawn from `beginnings`; an action is the place of a key in `KEYS`, and lasts until the player stands again,
    LEFT for `brake_frames` frames, or until it stands no more and does again.

    Observations (E, OBSERVATION_SIZE) float32: the view (see `view.look`), and whether LEFT may be pressed, which is so in a
    `braking_share` of the episodes; in the others LEFT runs on. The view shows the player, and its speed, up to
    `blur` cells beside where it is, as a picture of 64 pixels does; with a chance of `slip` another key than the chosen one is pressed. The
    reward is 1 for the coin, less small costs of keys and frames; infos hold `level_solved` of episodes that end.

    Raises ValueError without levels or games or for `brake_frames` below 1, and in `step` for actions that are none.
    """

    metadata = {"autoreset_mode": AutoresetMode.SAME_STEP}

    def __init__(
        self,
        beginnings: Sequence[GameState],
        num_envs: int,
        *,
        blur: float = 0.1,
        slip: float = 0.01,
        braking_share: float = 0.67,
        brake_frames: int = 1,
    ) -> None:
        if not beginnings or num_envs < 1:
            raise ValueError(f"{len(beginnings)} levels and {num_envs} games were given; there must be at least one of each")
        if brake_frames < 1:
            raise ValueError(f"brake_frames is {brake_frames}; a key is held for 1 frame or more")
        self.num_envs, self.blur, self.slip, self.braking_share, self.brake_frames = num_envs, blur, slip, braking_share, brake_frames
        self.single_observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (OBSERVATION_SIZE,), np.float32)
        self.single_action_space = gymnasium.spaces.Discrete(len(KEYS))
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        things = [_in_a_row([getattr(now, name) for now in beginnings]) for name in ("crates", "saws", "enemies")]
        bodies = np.array([(now.x, now.y, now.vx, now.vy) for now in beginnings], dtype=np.float32)
        self._levels = Levels(np.stack([now.grid for now in beginnings]), bodies, *(part for pair in things for part in pair))
        most_enemies = max(len(now.enemies) for now in beginnings)
        self._games = Games(
            level=np.zeros(num_envs, dtype=np.int64),
            frame=np.zeros(num_envs, dtype=np.int64),
            may_brake=np.zeros(num_envs, dtype=bool),
            body=np.zeros((num_envs, 4), dtype=np.float32),
            on_crate=np.zeros(num_envs, dtype=bool),
            grid=np.zeros((num_envs, *self._levels.grid.shape[1:]), dtype=np.int32),
            enemies_x=np.zeros((num_envs, MAX_FRAMES + 2, most_enemies), dtype=np.float32),
            crate_grip_y=np.zeros((num_envs, MAX_FRAMES + 1), dtype=np.float32),
        )
        self._obs = np.zeros((num_envs, OBSERVATION_SIZE), dtype=np.float32)

    def reset(
        self, *, seed: int | list[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """`options={"levels": (E,)}` says which levels the games begin with, by their place among the `beginnings`."""
        super().reset(seed=seed[0] if isinstance(seed, list) else seed)
        levels = (options or {}).get("levels")
        levels = self._draw_levels() if levels is None else np.asarray(levels)
        if levels.shape != (self.num_envs,) or not ((levels >= 0) & (levels < len(self._levels.grid))).all():
            raise ValueError(
                f"need {self.num_envs} levels in 0 ... {len(self._levels.grid) - 1}, places among the beginnings; got {levels}"
            )
        _begin(np.ones(self.num_envs, dtype=bool), levels, *self._draw(), self._levels, self._games, self._obs)
        return self._obs.copy(), {}

    def step(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        if actions.shape != (self.num_envs,) or not ((actions >= 0) & (actions < len(KEYS))).all():
            raise ValueError(f"need {self.num_envs} actions in 0 ... {len(KEYS) - 1}, places of keys in KEYS; got {actions}")
        slips = np.where(self.np_random.random(self.num_envs) < self.slip, self.np_random.integers(len(KEYS), size=self.num_envs), -1)
        brakes, blurs = self._draw()
        rewards, ended, solved = _step(actions, slips, self.brake_frames, blurs, self._levels, self._games, self._obs)
        infos: dict[str, Any] = {}
        if ended.any():
            final_obs = np.full(self.num_envs, None, dtype=object)
            for game in np.flatnonzero(ended):
                final_obs[game] = self._obs[game].copy()
            final_info = {"level_solved": solved, "_level_solved": ended}
            infos = {"final_obs": final_obs, "_final_obs": ended, "final_info": final_info, "_final_info": ended}
            _begin(ended, self._draw_levels(), brakes, blurs, self._levels, self._games, self._obs)
        return self._obs.copy(), rewards, ended, np.zeros_like(ended), infos

    def _draw_levels(self) -> np.ndarray:
        return self.np_random.integers(len(self._levels.grid), size=self.num_envs)

    def _draw(self) -> tuple[np.ndarray, np.ndarray]:
        """Which episodes may brake, (E,), and by how much each view is beside the truth, along x and in the speed, (E, 2)."""
        blurs = self.np_random.uniform(-self.blur, self.blur, size=(self.num_envs, 2)) * (1, 0.4)
        return self.np_random.random(self.num_envs) < self.braking_share, blurs.astype(np.float32)


def _in_a_row(parts: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    return np.concatenate(parts), np.cumsum([0, *map(len, parts)])


@njit(cache=True)
def _begin_one(game: int, level: int, may_brake: bool, levels: Levels, games: Games) -> None:
    games.level[game], games.frame[game], games.on_crate[game], games.may_brake[game] = level, 0, False, may_brake
    games.body[game] = levels.body[level]
    games.grid[game] = levels.grid[level]
    crates = levels.crates[levels.crates_at[level] : levels.crates_at[level + 1]]
    enemies = levels.enemies[levels.enemies_at[level] : levels.enemies_at[level + 1]]
    enemies_x, crate_grip_y = walk_enemies(enemies, games.grid[game], crates, MAX_FRAMES + 1)
    games.enemies_x[game, :, : len(enemies)] = enemies_x
    games.crate_grip_y[game] = crate_grip_y


@njit(cache=True, parallel=True)
def _begin(
    wanted: np.ndarray, chosen: np.ndarray, brakes: np.ndarray, blurs: np.ndarray, levels: Levels, games: Games, obs: np.ndarray
) -> None:
    """Begin the `wanted` games (E,) anew, on the levels `chosen` (E,)."""
    for game in prange(len(wanted)):  # nothing but calls stands in parallel loops: numba 0.68 loses assignments to named tuples there
        if wanted[game]:
            _begin_one(game, chosen[game], brakes[game], levels, games)
            _observe(game, blurs, levels, games, obs)


@njit(cache=True)
def _observe(game: int, blurs: np.ndarray, levels: Levels, games: Games, obs: np.ndarray) -> None:
    level, frame = games.level[game], games.frame[game]
    x, y, vx, vy = games.body[game]
    start, stop = levels.enemies_at[level], levels.enemies_at[level + 1]
    enemies = levels.enemies[start:stop].copy()
    enemies[:, 0] = games.enemies_x[game, frame, : stop - start]
    enemies[:, 2] = games.enemies_x[game, frame + 1, : stop - start] - enemies[:, 0]  # who turns in the next step is shown turned
    crates = levels.crates[levels.crates_at[level] : levels.crates_at[level + 1]]
    saws = levels.saws[levels.saws_at[level] : levels.saws_at[level + 1]]
    body = (np.float32(x + blurs[game, 0]), y, np.float32(vx + blurs[game, 1]), vy, games.on_crate[game])
    draw_view(body, games.grid[game], crates, saws, enemies, obs[game, :VIEW_SIZE])
    obs[game, VIEW_SIZE] = games.may_brake[game]


@njit(cache=True)
def _press(game: int, key: int, levels: Levels, games: Games) -> int:
    """One frame of a game: PLAYING, COLLECTED or DIED."""
    level, frame = games.level[game], games.frame[game]
    crates = levels.crates[levels.crates_at[level] : levels.crates_at[level + 1]]
    x, y, vx, vy = games.body[game]
    x, y, vx, vy, on_crate = step_agent(x, y, vx, vy, games.on_crate[game], key, games.crate_grip_y[game, frame], games.grid[game], crates)
    body = games.body[game]
    body[0], body[1], body[2], body[3], games.on_crate[game] = x, y, vx, vy, on_crate
    games.frame[game] = frame + 1
    saws = levels.saws[levels.saws_at[level] : levels.saws_at[level + 1]]
    outcome = judge(x, y, saws[:, 0], saws[:, 1], games.grid[game])
    if outcome == PLAYING:
        start, stop = levels.enemies_at[level], levels.enemies_at[level + 1]
        enemies_x = games.enemies_x[game, frame + 1, : stop - start]
        outcome = judge(x, y, enemies_x, levels.enemies[start:stop, 1], games.grid[game])
    return outcome


@njit(cache=True)
def _decide(game: int, key: int, frames: int, levels: Levels, games: Games) -> int:
    """Press a key for so many frames on the ground and hold RIGHT until the player stands: PLAYING, COLLECTED or DIED."""
    while True:
        outcome = _press(game, key, levels, games)
        frames -= 1
        x, y, _, vy = games.body[game]
        stands = has_support(x, y, vy, games.on_crate[game], games.grid[game])
        if outcome != PLAYING or games.frame[game] == MAX_FRAMES or (stands and frames <= 0):
            return outcome
        if not stands:
            key, frames = RIGHT, 0


@njit(cache=True)
def _step_one(game: int, action: int, key: int, brake_frames: int, levels: Levels, games: Games) -> tuple[float, bool, bool]:
    """The reward of a decision, and whether the episode has ended and the level is solved."""
    begun, x, cost = games.frame[game], games.body[game, 0], _KEY_COSTS[action]
    if key == LEFT and not games.may_brake[game]:
        key = RIGHT
    outcome = _decide(game, key, brake_frames if key == LEFT else 1, levels, games)
    if games.body[game, 0] == x:
        cost += _IDLE_COST
    solved = outcome == COLLECTED
    return solved - cost - _FRAME_COST * (games.frame[game] - begun), outcome != PLAYING or games.frame[game] == MAX_FRAMES, solved


@njit(cache=True, parallel=True)
def _step(
    actions: np.ndarray, slips: np.ndarray, brake_frames: int, blurs: np.ndarray, levels: Levels, games: Games, obs: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A decision in every game: rewards (E,) float32, ended (E,) and solved (E,) bool.

    `slips` (E,) holds what is pressed instead of the action chosen, -1 for that itself.
    """
    rewards = np.zeros(len(actions), np.float32)
    ended, solved = np.zeros(len(actions), np.bool_), np.zeros(len(actions), np.bool_)
    for game in prange(len(actions)):
        key = KEYS[actions[game] if slips[game] < 0 else slips[game]]
        rewards[game], ended[game], solved[game] = _step_one(game, actions[game], key, brake_frames, levels, games)
        _observe(game, blurs, levels, games, obs)
    return rewards, ended, solved
