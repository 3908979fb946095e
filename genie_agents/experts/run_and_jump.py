"""CoinRun in four moves, chosen on the ground alone: run, jump, and two shorter jumps; in the air RIGHT is held.

A jump from full speed lands 7.5 cells ahead, and the camera shows 6.5. A step or two of LEFT before it brake the run, and it lands
after 5 or 3 cells, in sight. The usual way to look before one lands is to brake in the air, by 0.15 pixels a step, which
no latent action model sees; braking on the ground moves the picture by a pixel. Every move leads on: nobody can dither at an edge.
Three frames in four are airborne, so a player asked only where an answer counts learns from a quarter of the frames.
"""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import torch

from genie_agents.coinrun import LEFT, MAX_EPISODE_STEPS, RIGHT, RIGHT_UP, ProcgenEnv
from genie_agents.experts.game_state import read_state
from genie_agents.experts.physics import has_support, step_agent, walk_enemies
from genie_agents.experts.planner import Planner, PlannerConfig
from genie_agents.policy import Policy

MOVES = ((RIGHT,), (RIGHT_UP,), (LEFT, RIGHT_UP), (LEFT, LEFT, RIGHT_UP))


def make_teacher() -> Planner:
    """The planner that has these moves and no other keys; in a hurry, for plans a little dearer than the best."""
    return Planner(PlannerConfig(ground_keys=(RIGHT, RIGHT_UP, LEFT), air_keys=(RIGHT,), heuristic_weight=1.6, max_nodes=20_000))


class AgentTracker:
    """Follows the agent from a saved state on by its physics: says what a newly saved state would, a hundred times faster."""

    def __init__(self, env: ProcgenEnv) -> None:
        now = read_state(env.get_state().simulator)
        self._grid, self._crates = now.grid, now.crates
        _, self._crate_grip_y_T = walk_enemies(now.enemies, now.grid, now.crates, MAX_EPISODE_STEPS)
        self._body, self._time = (now.x, now.y, now.vx, now.vy, now.on_crate), 0

    def step(self, action: int) -> None:
        *body, on_crate = step_agent(*self._body, action, self._crate_grip_y_T[self._time], self._grid, self._crates)
        x, y, vx, vy = map(np.float32, body)  # compiled code hands float32 back as Python's float
        self._body, self._time = (x, y, vx, vy, on_crate), self._time + 1

    @property
    def on_ground(self) -> bool:
        x, y, _, vy, on_crate = self._body
        return bool(has_support(x, y, vy, on_crate, self._grid))


class RunAndJump(gymnasium.Wrapper[np.ndarray, np.int64, np.ndarray, np.int64]):
    """One step is one of the four moves, and the game goes on until the agent stands again.

    Observations (2, 64, 64, 3) uint8: the game's frame before, and the present one.
    """

    env: ProcgenEnv

    def __init__(self, env: ProcgenEnv) -> None:
        if env.game != "coinrun":
            raise ValueError(f"only CoinRun can be played in these four moves, not {env.game!r}")
        super().__init__(env)
        self.observation_space = gymnasium.spaces.Box(0, 255, (2, 64, 64, 3), np.uint8)
        self.action_space = gymnasium.spaces.Discrete(len(MOVES))

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict[str, Any]]:
        frame, info = self.env.reset(seed=seed, options=options)
        self._frames = [frame, frame]
        self._agent = AgentTracker(self.env)
        return np.stack(self._frames), info

    def step(self, action: np.int64 | int) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        keys = list(MOVES[action])
        while True:
            key = keys.pop(0) if keys else RIGHT
            frame, reward, terminated, truncated, info = self.env.step(key)
            self._frames = [self._frames[1], frame]
            self._agent.step(key)
            if terminated or truncated or (self._agent.on_ground and not keys):
                return np.stack(self._frames), reward, terminated, truncated, info
            if not self._agent.on_ground:
                keys.clear()  # it has slid off an edge while braking


class RunAndJumpExpert:
    """A policy of this game of moves as an `Expert`: the best move by its logits wherever it stands, RIGHT in the air.

    Raises ValueError for a policy of another number of actions or frames.
    """

    def __init__(self, policy: Policy) -> None:
        if (policy.config.num_actions, policy.config.num_frames) != (len(MOVES), 2):
            raise ValueError(
                f"a policy of {policy.config.num_actions} actions and {policy.config.num_frames} frames does not play the game of "
                f"{len(MOVES)} moves and 2 frames; train one with experiments/train_apprentice.py"
            )
        self.policy = policy.eval()
        self._planner = make_teacher()

    def begin(self, env: ProcgenEnv) -> bool:
        self._agent, self._keys = AgentTracker(env), list[int]()
        self._frame_before: np.ndarray | None = None
        return self._planner.plan(env.get_state().simulator) is not None

    @torch.inference_mode()
    def act(self, obs: np.ndarray) -> int:
        if not self._agent.on_ground:
            self._keys = [RIGHT]
        elif not self._keys:
            frames = np.stack([obs if self._frame_before is None else self._frame_before, obs])
            logits = self.policy(torch.from_numpy(frames)[None], torch.full((1, 2), -1))[0, -1]
            self._keys = list(MOVES[int(logits.argmax())])
        self._frame_before = obs
        action = self._keys.pop(0)
        self._agent.step(action)
        return action
