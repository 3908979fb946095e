"""CoinRun in a few moves, chosen on the ground alone: run, jump, or brake and jump; in the air RIGHT is held.

The first two moves solve practically every level for who knows it (a planner that has no others: 198 of 200 easy and 199 of 200 hard
ones). But a jump from full speed lands 7.5 cells ahead, and the camera shows 6.5. Steps of LEFT before it brake the run, and it lands
in sight. The usual way to look before one lands is to brake in the air, by 0.15 pixels a step, which hardly anyone can see in a video;
braking on the ground moves the picture by a pixel. Every move leads on: nobody can dither at an edge. Half to two thirds of
the frames are airborne, and nobody is asked there, where no answer counts.
"""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np

from genie_agents.coinrun import LEFT, MAX_EPISODE_STEPS, RIGHT, RIGHT_UP, ProcgenEnv
from genie_agents.experts.game_state import read_state
from genie_agents.experts.physics import Body, has_support, step_agent, walk_enemies
from genie_agents.experts.planner import Planner, PlannerConfig
from genie_agents.experts.view import VIEW_SIZE, look

MOVES = ((RIGHT,), (RIGHT_UP,), (LEFT, RIGHT_UP), (LEFT, LEFT, RIGHT_UP), (LEFT, LEFT, LEFT, RIGHT_UP))
"""The keys of each move. A player of n moves has the first n, at least two."""
RUN = 0  # the move that does not jump


def make_teacher(num_moves: int) -> Planner:
    """The planner that has the keys of these moves and no others. The heavy heuristic makes it four times as fast and overlooks fewer
    narrow ways; what it says a move costs is a step too much on average."""
    keys = tuple(dict.fromkeys(key for move in MOVES[:num_moves] for key in move))
    return Planner(PlannerConfig(ground_keys=keys, air_keys=(RIGHT,), heuristic_weight=2.0, max_nodes=20_000))


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
    def vertical_speed(self) -> float:
        """In cells a step, upwards."""
        return float(self._body[3])

    @property
    def is_blocked(self) -> bool:
        """Whether it stands and a step of RIGHT would not move it."""
        return self.on_ground and bool(self._after(RIGHT)[0] == self._body[0])


class RunAndJump(gymnasium.Wrapper[np.ndarray, np.int64, np.ndarray, np.int64]):
    """One step is one of the first `num_moves` moves, and the game goes on until it is over and the agent stands again.

    Observations (VIEW_SIZE,) float32: what the camera shows, see `view.look`; after the end the last one. Who slides off an edge while
    braking falls with RIGHT held. `simulator_state` is the state that the last observation shows.
    """

    env: ProcgenEnv
    simulator_state: bytes

    def __init__(self, env: ProcgenEnv, *, num_moves: int = len(MOVES)) -> None:
        if env.game != "coinrun":
            raise ValueError(f"only CoinRun can be played by running and jumping, not {env.game!r}")
        super().__init__(env)
        self.num_moves = num_moves
        self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (VIEW_SIZE,), np.float32)
        self.action_space = gymnasium.spaces.Discrete(num_moves)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict[str, Any]]:
        _, info = self.env.reset(seed=seed, options=options)
        self._agent = AgentTracker(self.env)
        return self._look(), info

    def step(self, action: np.int64 | int) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        keys = list(MOVES[action])
        while True:
            key = keys.pop(0) if keys else RIGHT
            key = key if self._agent.on_ground else RIGHT
            _, reward, terminated, truncated, info = self.env.step(key)
            self._agent.step(key)
            if terminated or truncated:  # the simulator is at another level already
                return self._view, reward, terminated, truncated, info
            if self._agent.on_ground and not keys:
                return self._look(), reward, terminated, truncated, info

    def _look(self) -> np.ndarray:
        self.simulator_state = self.env.get_state().simulator
        self._view = look(read_state(self.simulator_state))
        return self._view

    @property
    def is_blocked(self) -> bool:
        """Whether the agent stands before a wall, where running leads nowhere."""
        return self._agent.is_blocked
