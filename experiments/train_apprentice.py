"""Train an expert that plays CoinRun by pictures alone; started again with the same folder, it goes on where it stopped.

The planner, which knows the whole level, teaches it (genie_agents/experts/apprentice.py). The experts that ship were made by

    python experiments/train_apprentice.py --folder runs/apprentice-easy
    python experiments/train_apprentice.py --folder runs/apprentice-hard --difficulty hard
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
import tyro
from progress import training_bar

from genie_agents.experts.apprentice import train_apprentice
from genie_agents.policy import PolicyConfig
from world_model.training import TrainingConfig, keep_freed_memory


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What to train on, and for how long."""

    folder: Path
    """where the expert is saved, and found again"""
    difficulty: Literal["easy", "hard"] = "easy"
    minutes: float | None = None
    """end this call after so much time; the same command goes on"""
    policy: PolicyConfig = PolicyConfig(num_actions=5)
    """its number of actions is that of the moves it may make: 2 runs and jumps, more brake before they jump"""
    training: TrainingConfig = TrainingConfig(steps=10_000, learning_rate=5e-4)
    num_envs: int = 32
    """decisions played, and labelled by the planner, in a step"""
    batch_size: int = 256
    """decisions learned from in a step"""
    memory_size: int = 200_000
    """decisions remembered, 24 KiB each"""
    exploration: float = 0.1
    """share of decisions drawn at random"""
    seed: int = 0


def main() -> None:
    settings = tyro.cli(Settings, description=__doc__)
    keep_freed_memory()
    options = dict(vars(settings))
    train_apprentice(
        options.pop("folder"),
        options.pop("policy"),
        options.pop("training"),
        **options,
        device="cuda" if torch.cuda.is_available() else "cpu",
        on_step=training_bar(f"apprentice, {settings.difficulty}", settings.training.steps),
    )


if __name__ == "__main__":
    main()
