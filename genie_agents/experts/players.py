"""Whoever plays the game while it is filmed, behind one interface: planners, random play, trained experts."""

from __future__ import annotations

from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Protocol

import numpy as np

from genie_agents.coinrun import RIGHT, ProcgenEnv
from genie_agents.experts.planner import Planner, PlannerConfig
from genie_agents.experts.sighted import SightedExpert, SightedPolicy
from genie_agents.experts.view import SIGHT
from world_model.serialization import CONFIG_FILE, identify_model


class Expert(Protocol):
    """Anything that plays. `begin` is called at the start of a level and whenever noise has moved the game off the expert's course."""

    def begin(self, env: ProcgenEnv) -> bool:
        """Look at the game; False if it is lost from here."""
        ...

    def act(self, obs: np.ndarray) -> int | None:
        """The next action; None gives the level up."""
        ...


class PlannerExpert:
    """CoinRun's planner as an `Expert`: plans to the coin from the present state, then plays the plan."""

    def __init__(self, planner: Planner | None = None) -> None:
        self.planner = planner or Planner()
        self._plan: Iterator[int] = iter(())

    def begin(self, env: ProcgenEnv) -> bool:
        plan = self.planner.plan(env.get_state().simulator)
        self._plan = iter(() if plan is None else plan.tolist())
        return plan is not None

    def act(self, obs: np.ndarray) -> int | None:
        return next(self._plan, None)


class SightedPlannerExpert(PlannerExpert):
    """The planner with a player's eyes: before every step it plans through what the camera shows, and no further.

    A jump carries 7.5 cells, further than the camera sees. A planner that knows the whole level times its jumps by where they will
    land, which no pupil can see and none can learn. This one loses about one level in ten, but its reasons are in the picture.
    """

    def __init__(self) -> None:
        super().__init__()
        self._sighted = Planner(PlannerConfig(max_nodes=20_000))  # enough for a screenful; the search sets up tables of that size

    def begin(self, env: ProcgenEnv) -> bool:
        self._env = env
        return super().begin(env)

    def act(self, obs: np.ndarray) -> int:
        plan = self._sighted.plan(self._env.get_state().simulator, sight=SIGHT)
        return RIGHT if plan is None else int(plan[0])


class RandomExpert:
    """Not an expert at all: uniform over the actions, each held for 1 to `max_hold` steps. It shows what else can happen."""

    def __init__(self, seed: int, *, max_hold: int = 4) -> None:
        self.max_hold = max_hold
        self._generator = np.random.default_rng(seed)
        self._action, self._steps_left = 0, 0

    def begin(self, env: ProcgenEnv) -> bool:
        self._steps_left = 0
        return True

    def act(self, obs: np.ndarray) -> int:
        if self._steps_left == 0:
            self._action, self._steps_left = int(self._generator.integers(9)), int(self._generator.integers(1, self.max_hold + 1))
        self._steps_left -= 1
        return self._action


PLANNERS = {"planner": PlannerExpert, "sighted_planner": SightedPlannerExpert}
RANDOM_PLAYERS = {"random": 4, "sticky": 16}  # steps that a key is held at most


SHIPPED = Path(__file__).parent / "pretrained"
PPO_CHECKPOINT = "ppo.zip"


def make_expert(name: str, seed: int, game: str = "coinrun") -> Expert:
    """ "planner", "sighted_planner", "random", "sticky" (random, keys held for long), "sighted", which ships, or the folder of an
    expert trained by train_sighted.py or train_ppo.py. "sighted:2" plays with its first two keys alone: it never brakes.

    Raises FileNotFoundError when there is no such expert, ValueError when it is none that plays by one frame, or not with so many keys, or
    learned another game by train_ppo.py.
    """
    if name in PLANNERS:
        return PLANNERS[name]()
    if name in RANDOM_PLAYERS:
        return RandomExpert(seed, max_hold=RANDOM_PLAYERS[name])
    folder, num_keys = _find_expert(name)
    if (folder / CONFIG_FILE).is_file():
        return SightedExpert(SightedPolicy.from_pretrained(folder), num_keys=num_keys)
    if num_keys is not None:
        raise ValueError(f"{folder} was trained by train_ppo.py, and plays with all keys: leave out ':{num_keys}'")
    from genie_agents.experts.ppo import PPOExpert  # here, because Stable-Baselines3 is slow to import and seldom needed

    return PPOExpert(folder, seed, game)


def identify_expert(name: str, game: str = "coinrun") -> str:
    """The name, for a trained expert with a hash of its weights: says who plays in a video. Raises what `make_expert` does."""
    if name in PLANNERS or name in RANDOM_PLAYERS:
        return name
    make_expert(name, 0, game)  # one that cannot play is found out before anything is recorded
    folder, num_keys = _find_expert(name)
    if (folder / CONFIG_FILE).is_file():
        return identify_model(folder) + (f":{num_keys}" if num_keys else "")
    return f"{folder.resolve().name}-{sha256((folder / PPO_CHECKPOINT).read_bytes()).hexdigest()[:12]}"


def _find_expert(name: str) -> tuple[Path, int | None]:
    """The folder of a trained expert, and with how many keys it is to play, if the name says so."""
    base, _, num_keys = name.rpartition(":")
    if not num_keys.isdecimal():
        base, num_keys = name, ""
    for folder in (Path(base), SHIPPED / base):
        if (folder / CONFIG_FILE).is_file() or (folder / PPO_CHECKPOINT).is_file():
            return folder, int(num_keys) if num_keys else None
    names = [*PLANNERS, *RANDOM_PLAYERS, *sorted(path.name for path in SHIPPED.iterdir())]
    raise FileNotFoundError(
        f"no expert {name!r}: choose {', '.join(names)}, or the folder of one trained by train_sighted.py or train_ppo.py"
    )
