"""CoinRun in a few moves, chosen on the ground alone: run, jump, or brake and jump; in the air RIGHT is held.

The first two moves solve practically every level for who knows it (a planner that has no others: 198 of 200 easy and 199 of 200 hard
ones). But a jump from full speed lands 7.5 cells ahead, and the camera shows 6.5. Steps of LEFT before it brake the run, and it lands
in sight. The usual way to look before one lands is to brake in the air, by 0.15 pixels a step, which hardly anyone can see in a video;
braking on the ground moves the picture by a pixel. Every move leads on: nobody can dither at an edge. Three frames in four are
airborne, so a player asked only where an answer counts learns from a quarter of the frames.
"""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import torch

from genie_agents.coinrun import LEFT, MAX_EPISODE_STEPS, RIGHT, RIGHT_UP, ProcgenEnv
from genie_agents.experts.game_state import read_state
from genie_agents.experts.physics import Body, has_support, step_agent, walk_enemies
from genie_agents.experts.planner import Planner, PlannerConfig
from genie_agents.policy import Policy, PolicyConfig

MOVES = ((RIGHT,), (RIGHT_UP,), (LEFT, RIGHT_UP), (LEFT, LEFT, RIGHT_UP), (LEFT, LEFT, LEFT, RIGHT_UP))
"""The keys of each move. A player of n moves has the first n, at least two."""
RUN = 0  # the move that does not jump
UP_FRAMES = 4
"""For how many frames the expert holds UP, as a hand would. In the air the key does nothing, but what a latent action model sees and calls
by one name, the rise, then goes with that key more often; pressed on the first frame alone, it is the rarer key of that name."""


def make_teacher(num_moves: int) -> Planner:
    """The planner that has the keys of these moves and no others."""
    keys = tuple(dict.fromkeys(key for move in MOVES[:num_moves] for key in move))
    return Planner(PlannerConfig(ground_keys=keys, air_keys=(RIGHT,), max_nodes=20_000))


def check_policy(config: PolicyConfig) -> None:
    """Raises ValueError for a policy of another shape than this game's."""
    if not 2 <= config.num_actions <= len(MOVES) or (config.num_frames, config.image_size) != (2, 64):
        raise ValueError(
            f"running and jumping needs a policy of 2 to {len(MOVES)} actions, 2 frames and 64 x 64 pixels; this one has "
            f"{config.num_actions} actions, {config.num_frames} frames and {config.image_size} x {config.image_size} pixels"
        )


class AgentTracker:
    """Follows the agent from a saved state on by its physics: says what a newly saved state would, and saving one
    takes longer than a step of the game.

    Exact but for the rarity that `Planner` names."""

    def __init__(self, env: ProcgenEnv) -> None:
        now = read_state(env.get_state().simulator)
        self._grid, self._crates = now.grid, now.crates
        _, self._crate_grip_y_T = walk_enemies(now.enemies, now.grid, now.crates, MAX_EPISODE_STEPS)
        self._body, self._time = (now.x, now.y, now.vx, now.vy, now.on_crate), 0

    def _after(self, action: int) -> Body:
        *body, on_crate = step_agent(*self._body, action, self._crate_grip_y_T[self._time], self._grid, self._crates)
        x, y, vx, vy = map(np.float32, body)  # compiled code hands float32 back as Python's float
        return x, y, vx, vy, on_crate

    def step(self, action: int) -> None:
        self._body, self._time = self._after(action), self._time + 1

    @property
    def on_ground(self) -> bool:
        x, y, _, vy, on_crate = self._body
        return bool(has_support(x, y, vy, on_crate, self._grid))

    @property
    def is_blocked(self) -> bool:
        """Whether it stands and a step of RIGHT would not move it."""
        return self.on_ground and bool(self._after(RIGHT)[0] == self._body[0])


class RunAndJump(gymnasium.Wrapper[np.ndarray, np.int64, np.ndarray, np.int64]):
    """One step is one of the first `num_moves` moves, and the game goes on until it is over and the agent stands again.

    Observations (2, 64, 64, 3) uint8: the game's frame before, and the present one. Who slides off an edge while braking falls with
    RIGHT held.
    """

    env: ProcgenEnv

    def __init__(self, env: ProcgenEnv, *, num_moves: int = len(MOVES)) -> None:
        if env.game != "coinrun":
            raise ValueError(f"only CoinRun can be played by running and jumping, not {env.game!r}")
        super().__init__(env)
        self.num_moves = num_moves
        self.observation_space = gymnasium.spaces.Box(0, 255, (2, 64, 64, 3), np.uint8)
        self.action_space = gymnasium.spaces.Discrete(num_moves)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict[str, Any]]:
        frame, info = self.env.reset(seed=seed, options=options)
        self._frames = [frame, frame]
        self._agent = AgentTracker(self.env)
        return np.stack(self._frames), info

    def step(self, action: np.int64 | int) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        keys = list(MOVES[action])
        while True:
            key = keys.pop(0) if keys else RIGHT
            key = key if self._agent.on_ground else RIGHT
            frame, reward, terminated, truncated, info = self.env.step(key)
            self._frames = [self._frames[1], frame]
            self._agent.step(key)
            if terminated or truncated or (self._agent.on_ground and not keys):
                return np.stack(self._frames), reward, terminated, truncated, info

    @property
    def is_blocked(self) -> bool:
        """Whether the agent stands before a wall, where running leads nowhere."""
        return self._agent.is_blocked


class RunAndJumpExpert:
    """A policy of this game as an `Expert`: the best move by its logits wherever it stands, RIGHT in the air; UP is held for `UP_FRAMES`.
    It plays all the moves that it knows, or the first `num_moves` alone.

    Raises ValueError for a policy of another shape than this game's, or one that does not know so many moves.
    """

    def __init__(self, policy: Policy, *, num_moves: int | None = None) -> None:
        check_policy(policy.config)
        self.policy, self.num_moves = policy.eval(), policy.config.num_actions if num_moves is None else num_moves
        if not 2 <= self.num_moves <= policy.config.num_actions:
            raise ValueError(f"num_moves is {num_moves}; this expert knows {policy.config.num_actions} moves: give 2 to so many")
        self._planner = make_teacher(self.num_moves)

    def begin(self, env: ProcgenEnv) -> bool:
        self._agent = AgentTracker(env)
        self._frame_before: np.ndarray | None = None
        self._keys, self._frames_of_up = list[int](), 0
        return self._planner.plan(env.get_state().simulator) is not None

    @torch.inference_mode()
    def act(self, obs: np.ndarray) -> int:
        standing = self._agent.on_ground
        if standing and not self._keys:
            frames = np.stack([obs if self._frame_before is None else self._frame_before, obs])
            logits = self.policy(torch.from_numpy(frames)[None], torch.full((1, 2), -1))[0, -1]
            self._keys = list(MOVES[int(logits[: self.num_moves].argmax())])
        action = self._keys.pop(0) if self._keys else RIGHT
        if standing:
            self._frames_of_up = UP_FRAMES if action == RIGHT_UP else 0
        else:
            action = RIGHT_UP if self._frames_of_up > 0 else RIGHT
        self._frames_of_up -= 1
        self._frame_before = obs
        self._agent.step(action)
        return action
