"""CoinRun with two keys: run (RIGHT) or jump (RIGHT+UP), asked for on the ground alone; in the air RIGHT is held.

Two keys solve practically every level (a planner that knows the whole level and has only these: 198 of 200 easy and 199 of 200 hard
ones), and a latent action model sees them both. It does not see how a good player brakes: in the air by 0.15 pixels a step, on the
ground by one. Three frames in four are airborne, so a player asked only where an answer counts learns from a quarter of the frames.
"""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import torch

from genie_agents.coinrun import MAX_EPISODE_STEPS, RIGHT, RIGHT_UP, ProcgenEnv
from genie_agents.experts.game_state import read_state
from genie_agents.experts.physics import Body, has_support, step_agent, walk_enemies
from genie_agents.experts.planner import Planner, PlannerConfig
from genie_agents.policy import Policy, PolicyConfig

KEYS = (RIGHT, RIGHT_UP)
RUN = 0  # the index of RIGHT among them
UP_FRAMES = 4
"""For how many frames the expert holds UP, as a hand would. In the air the key does nothing, but what a latent action model sees and calls
by one name, the rise, then goes with that key more often; pressed on the first frame alone, it is the rarer key of that name."""


def make_teacher() -> Planner:
    """The planner that has these keys and no others."""
    return Planner(PlannerConfig(ground_keys=KEYS, air_keys=(RIGHT,), max_nodes=20_000))


def check_policy(config: PolicyConfig) -> None:
    """Raises ValueError for a policy of another shape than this game's."""
    if (config.num_actions, config.num_frames, config.image_size) != (len(KEYS), 2, 64):
        raise ValueError(
            f"running and jumping needs a policy of {len(KEYS)} actions, 2 frames and 64 x 64 pixels; this one has {config.num_actions} "
            f"actions, {config.num_frames} frames and {config.image_size} x {config.image_size} pixels"
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
    """One step is one key pressed where the agent stands, and the game goes on until it stands again.

    Observations (2, 64, 64, 3) uint8: the game's frame before, and the present one.
    """

    env: ProcgenEnv

    def __init__(self, env: ProcgenEnv) -> None:
        if env.game != "coinrun":
            raise ValueError(f"only CoinRun can be played by running and jumping, not {env.game!r}")
        super().__init__(env)
        self.observation_space = gymnasium.spaces.Box(0, 255, (2, 64, 64, 3), np.uint8)
        self.action_space = gymnasium.spaces.Discrete(len(KEYS))

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict[str, Any]]:
        frame, info = self.env.reset(seed=seed, options=options)
        self._frames = [frame, frame]
        self._agent = AgentTracker(self.env)
        return np.stack(self._frames), info

    def step(self, action: np.int64 | int) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        key = KEYS[action]
        while True:
            frame, reward, terminated, truncated, info = self.env.step(key)
            self._frames = [self._frames[1], frame]
            self._agent.step(key)
            if terminated or truncated or self._agent.on_ground:
                return np.stack(self._frames), reward, terminated, truncated, info
            key = RIGHT

    @property
    def is_blocked(self) -> bool:
        """Whether the agent stands before a wall, where running leads nowhere."""
        return self._agent.is_blocked


class RunAndJumpExpert:
    """A policy of this game as an `Expert`: the better key by its logits wherever it stands, RIGHT in the air; UP is held for `UP_FRAMES`.

    Raises ValueError for a policy of another shape than this game's.
    """

    def __init__(self, policy: Policy) -> None:
        check_policy(policy.config)
        self.policy = policy.eval()
        self._planner = make_teacher()

    def begin(self, env: ProcgenEnv) -> bool:
        self._agent = AgentTracker(env)
        self._frame_before: np.ndarray | None = None
        self._frames_of_up = 0
        return self._planner.plan(env.get_state().simulator) is not None

    @torch.inference_mode()
    def act(self, obs: np.ndarray) -> int:
        if self._agent.on_ground:
            frames = np.stack([obs if self._frame_before is None else self._frame_before, obs])
            logits = self.policy(torch.from_numpy(frames)[None], torch.full((1, 2), -1))[0, -1]
            self._frames_of_up = 0 if int(logits.argmax()) == RUN else UP_FRAMES
        action = RIGHT_UP if self._frames_of_up > 0 else RIGHT
        self._frames_of_up -= 1
        self._frame_before = obs
        self._agent.step(action)
        return action
