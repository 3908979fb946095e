"""The real game: CoinRun, and any other Procgen game, behind Gymnasium's interface, with exact level seeds.

Procgen traps that this module closes: with `num_levels=0` Procgen ignores `start_level`; its random generator defaults to the system's;
and it starts the next episode by itself in the very step that ends one. Here each episode is one named level, an ended episode stays
ended until `reset`, and the observation returned with the end is the last frame that was visible (Procgen never draws the terminal one).
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import gymnasium
import numpy as np
from gymnasium.vector import AutoresetMode, SyncVectorEnv

with contextlib.redirect_stderr(io.StringIO()):  # procgen imports the retired `gym`, which prints a notice at every start
    import procgen

if TYPE_CHECKING:
    from stable_baselines3.common.vec_env import VecEnv

GAMES = procgen.env.ENV_NAMES
DIFFICULTIES = ("easy", "hard")
FRAME_SHAPE = (64, 64, 3)
MAX_EPISODE_STEPS = 1000  # Procgen's own limit
MAX_EPISODE_STEPS_OF = {"bigfish": 6000, "bossfight": 4000, "plunder": 4000, "leaper": 500, "maze": 500}  # games with another

# Level seeds, disjoint by use. Nothing else in the project writes these numbers.
WORLD_MODEL_LEVELS = range(0, 10_000)  # videos for the world model and the latent action model
DEMONSTRATION_LEVELS = range(10_000, 900_000)  # expert videos for cloning, and the labelled samples
VALIDATION_LEVELS = range(900_000, 910_000)  # choosing checkpoints and settings
TEST_LEVELS = range(1_000_000, 1_010_000)  # reported figures; looked at once per result

ACTION_NAMES = (
    "LEFT+DOWN", "LEFT", "LEFT+UP", "DOWN", "NOOP", "UP", "RIGHT+DOWN", "RIGHT", "RIGHT+UP",
    "D", "A", "W", "S", "Q", "E",
)  # fmt: skip
NUM_ACTIONS = len(ACTION_NAMES)
LEFT, LEFT_UP, NOOP, UP, RIGHT, RIGHT_UP = 1, 2, 4, 5, 7, 8
TAKE_OFFS = (LEFT_UP, UP, RIGHT_UP)
SHORTEST_JUMP = 11  # frames from a take-off to the next on which the player can stand

# CoinRun ignores the six special keys, so actions 9 to 14 are no-ops.
ALIASES = np.array([*range(9), *[NOOP] * 6], dtype=np.int64)
# In the air UP and DOWN change nothing: only left (1), none (4) and right (7) differ.
AIRBORNE_ALIASES = np.array([1, 1, 1, 4, 4, 4, 7, 7, 7, *[NOOP] * 6], dtype=np.int64)
# On the ground DOWN equals no vertical key, save on crates, which it drops through: 6 groups.
GROUND_ALIASES = np.array([1, 1, 2, 4, 4, 5, 7, 7, 8, *[NOOP] * 6], dtype=np.int64)
# CoinRun looks and plays the same from both sides: which key does in a mirror image of the game what each key does in the game.
MIRRORED_ACTIONS = np.array([6, 7, 8, 3, 4, 5, 0, 1, 2, *range(9, 15)], dtype=np.int64)


@dataclass(frozen=True)
class SavedGame:
    """A saved game: Procgen's own bytes, whose they are, and what the environment counts beside them."""

    game: str
    difficulty: str
    simulator: bytes
    level_seed: int
    elapsed_steps: int


class ProcgenEnv(gymnasium.Env[np.ndarray, np.int64]):
    """One Procgen game. Observations (64, 64, 3) uint8; 15 discrete actions (`ACTION_NAMES`); CoinRun pays 10 for the coin, else 0.

    `reset` plays the level in `options={"level_seed": k}`, or one drawn from `level_seeds`. `info` holds `level_seed` and `level_solved`.
    Step 1000, or Procgen's own limit of another game, truncates; a coin or a death terminates. `get_state` and `set_state` save and
    restore the game exactly.

    Raises:
        ValueError: unknown game or difficulty, no level seeds, or a seed outside 0 ... 2**31 - 2.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 15}

    def __init__(
        self,
        game: str = "coinrun",
        *,
        difficulty: str = "easy",
        level_seeds: Sequence[int] = DEMONSTRATION_LEVELS,
        render_mode: str | None = None,
    ) -> None:
        if game not in GAMES:
            raise ValueError(f"unknown Procgen game {game!r}; choose one of {', '.join(GAMES)}")
        if difficulty not in DIFFICULTIES:
            raise ValueError(f"unknown difficulty {difficulty!r}; choose one of {', '.join(DIFFICULTIES)}")
        if len(level_seeds) == 0:
            raise ValueError("level_seeds is empty; give at least one level seed, such as range(10_000, 11_000)")
        if render_mode not in (None, *self.metadata["render_modes"]):
            raise ValueError(f"unknown render_mode {render_mode!r}; choose 'rgb_array' or None")
        self.game, self.difficulty, self.level_seeds, self.render_mode = game, difficulty, level_seeds, render_mode
        self.observation_space = gymnasium.spaces.Box(0, 255, FRAME_SHAPE, np.uint8)
        self.action_space = gymnasium.spaces.Discrete(NUM_ACTIONS)
        self._max_steps = MAX_EPISODE_STEPS_OF.get(game, MAX_EPISODE_STEPS)
        self._simulator: Any = None
        self._level_seed = -1
        self.elapsed_steps = 0
        self._ended = True
        self._obs = np.zeros(FRAME_SHAPE, np.uint8)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        if options is not None and (not isinstance(options, dict) or set(options) - {"level_seed"}):  # it would play another level
            raise ValueError(f"the options of reset are a dictionary with level_seed, got {options!r}")
        level_seed = (options or {}).get("level_seed")
        if level_seed is None:
            level_seed = self.level_seeds[int(self.np_random.integers(len(self.level_seeds)))]
        self._start_level(level_seed)
        return self._obs.copy(), self._info(level_solved=False)

    def step(self, action: int | np.integer[Any]) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        if self._ended:
            raise gymnasium.error.ResetNeeded("the episode has ended (or none has begun); call reset() before step()")
        if not self.action_space.contains(action):
            raise ValueError(f"an action is one whole number in 0 ... {NUM_ACTIONS - 1}, got {action!r}")
        self._simulator.act(np.array([action], dtype=np.int32))
        self.elapsed_steps += 1
        reward, obs, first = self._simulator.observe()
        self._ended = bool(first[0])
        if not self._ended:
            self._obs = obs["rgb"][0]
        solved = self._ended and bool(self._simulator.get_info()[0]["prev_level_complete"])
        truncated = self._ended and not solved and self.elapsed_steps >= self._max_steps
        return self._obs.copy(), float(reward[0]), self._ended and not truncated, truncated, self._info(level_solved=solved)

    def render(self) -> np.ndarray | None:
        return self._obs.copy() if self.render_mode == "rgb_array" else None

    def close(self) -> None:
        if self._simulator is not None:
            self._simulator.close()
            self._simulator, self._ended = None, True

    def get_state(self) -> SavedGame:
        """The running game, to be restored later here or in another environment of the same game and difficulty."""
        if self._ended:
            raise gymnasium.error.ResetNeeded("there is no running episode to save; call reset() first")
        state = self._simulator.callmethod("get_state")[0]
        return SavedGame(self.game, self.difficulty, state, self._level_seed, self.elapsed_steps)

    def set_state(self, state: SavedGame) -> np.ndarray:
        """Restore a saved game and return its observation. Raises ValueError for one of another game or difficulty."""
        if (state.game, state.difficulty) != (self.game, self.difficulty):  # Procgen would end the process, or play on unlike itself
            raise ValueError(f"the saved game is {state.difficulty} {state.game}, and this environment plays {self.difficulty} {self.game}")
        if self._simulator is None:
            self._start_level(state.level_seed)
        self._simulator.callmethod("set_state", [state.simulator])
        self._level_seed, self.elapsed_steps, self._ended = state.level_seed, state.elapsed_steps, False
        self._obs = self._simulator.observe()[1]["rgb"][0]
        return self._obs.copy()

    def _start_level(self, level_seed: int | np.integer[Any]) -> None:
        if not isinstance(level_seed, int | np.integer) or not 0 <= level_seed < 2**31 - 1:
            raise ValueError(f"level_seed {level_seed!r} is out of range; Procgen takes whole numbers, 0 ... {2**31 - 2}")
        level_seed = int(level_seed)
        self.close()  # a fresh simulator pinned to one level costs 2 ms and cannot drift to another level
        self._simulator = procgen.ProcgenGym3Env(
            num=1,
            env_name=self.game,
            num_levels=1,
            start_level=level_seed,
            distribution_mode=self.difficulty,
            rand_seed=0,
            num_threads=0,
        )
        self._level_seed, self.elapsed_steps, self._ended = level_seed, 0, False
        self._obs = self._simulator.observe()[1]["rgb"][0]

    def _info(self, *, level_solved: bool) -> dict[str, Any]:
        return {"level_seed": self._level_seed, "level_solved": level_solved}


def make_vector_env(
    num_envs: int,
    game: str = "coinrun",
    *,
    difficulty: str = "easy",
    level_seeds: Sequence[int] = DEMONSTRATION_LEVELS,
    autoreset_mode: AutoresetMode = AutoresetMode.NEXT_STEP,
) -> SyncVectorEnv:
    """`num_envs` games as a Gymnasium vector environment, each drawing its own levels from `level_seeds`."""
    env_fns = [partial(ProcgenEnv, game, difficulty=difficulty, level_seeds=level_seeds)] * num_envs
    return SyncVectorEnv(env_fns, autoreset_mode=autoreset_mode)


def make_sb3_vec_env(
    num_envs: int, game: str = "coinrun", *, difficulty: str = "easy", level_seeds: Sequence[int] = DEMONSTRATION_LEVELS
) -> VecEnv:
    """`num_envs` games as a Stable-Baselines3 `VecEnv` with episode statistics; `level_solved` stands in each `info`."""
    from stable_baselines3.common.vec_env import DummyVecEnv, VecMonitor  # here, because it is slow to import and seldom needed

    env_fns = [partial(ProcgenEnv, game, difficulty=difficulty, level_seeds=level_seeds)] * num_envs
    return VecMonitor(DummyVecEnv(list(env_fns)), info_keywords=("level_solved",))
