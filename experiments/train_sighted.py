"""Train the expert of CoinRun, easy and hard, that sees what the camera shows and decides anew on every frame; started again with the same
folder, it goes on where it stopped.

It begins as an apprentice of the planner (train_apprentice.py) and learns on from reward (genie_agents/experts/sighted_training.py). The
expert that ships was made by

    python experiments/train_apprentice.py --folder runs/apprentice --devices 2
    python experiments/train_sighted.py --folder runs/sighted --apprentice runs/apprentice
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import tyro
from tqdm import tqdm

from genie_agents.coinrun import DEMONSTRATION_LEVELS, DIFFICULTIES
from genie_agents.experts.apprentice import Apprentice
from genie_agents.experts.compiled_coinrun import read_levels
from genie_agents.experts.sighted_training import train_sighted
from world_model.training import tune_cpu


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What to train on, and for how long."""

    folder: Path
    """where the expert is saved, and found again, with what it has learned and the settings that it began with"""
    apprentice: Path
    """folder of the apprentice that it begins as"""
    minutes: float = 60
    """wall time of this call, after the levels have been read"""
    total_decisions: int = 24_000_000
    """over all calls"""
    levels: int = 30_000
    """levels per difficulty, read from the real game in half a minute"""
    num_envs: int = 1024
    decisions_per_rollout: int = 64
    """played in each game between two updates"""
    batch_size: int = 8192
    learning_rate: float = 5e-4
    seed: int = 0

    def __post_init__(self) -> None:
        if not 1 <= self.levels <= len(DEMONSTRATION_LEVELS):
            raise ValueError(f"levels is {self.levels}; read from 1 to {len(DEMONSTRATION_LEVELS)}")


def main() -> None:
    settings = tyro.cli(Settings, description=__doc__)
    tune_cpu()
    options = dict(vars(settings))
    apprentice = Apprentice.from_pretrained(options.pop("apprentice"))
    level_seeds = DEMONSTRATION_LEVELS[: options.pop("levels")]
    with tqdm(total=len(DIFFICULTIES) * len(level_seeds), desc="levels", unit="level", dynamic_ncols=True) as bar:
        beginnings = [now for difficulty in DIFFICULTIES for now in read_levels(difficulty, level_seeds, bar.update)]
    with tqdm(total=settings.total_decisions, desc="sighted", unit="decision", unit_scale=True, dynamic_ncols=True) as bar:

        def on_rollout(decisions: int, mean_return: float) -> None:
            bar.set_postfix({"mean return": f"{mean_return:.3f}"})
            bar.update(decisions - bar.n)

        train_sighted(options.pop("folder"), apprentice, beginnings, **options, on_rollout=on_rollout)


if __name__ == "__main__":
    main()
