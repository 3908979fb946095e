"""Train a PPO expert on a Procgen game; started again with the same folder, it goes on where it stopped.

python experiments/train_ppo.py --folder runs/ppo-easy --minutes 60
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro
from checks import check_counts
from stopping import refusing, stoppable
from tqdm import tqdm

from genie_agents.experts.ppo import train_ppo


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What to train on, and for how long."""

    folder: Path
    """where the expert is saved, and found again"""
    minutes: float = 60
    """wall time of this call; a rollout that its end cuts is played again, so that it must be enough for one"""
    total_steps: int = 25_000_000
    """environment steps over all calls"""
    game: str = "coinrun"
    """any Procgen game"""
    difficulty: Literal["easy", "hard"] = "easy"
    num_envs: int = 64
    steps_per_rollout: int = 256
    seed: int = 0

    def __post_init__(self) -> None:
        check_counts(self, "num_envs", "steps_per_rollout")


@refusing()
def main() -> None:
    settings = tyro.cli(Settings, description=__doc__)
    with tqdm(total=settings.total_steps, desc=f"PPO, {settings.game}", unit="step", dynamic_ncols=True) as bar:

        def on_rollout(steps: int, mean_return: float) -> None:
            bar.set_postfix({"mean return": f"{mean_return:.2f}"})
            bar.update(steps - bar.n)

        with stoppable(settings.folder):
            train_ppo(**vars(settings), on_rollout=on_rollout)


if __name__ == "__main__":
    main()
