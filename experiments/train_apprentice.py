"""Train the planner's apprentice, as which the sighted expert begins; started again with the same folder, it goes on where it stopped.

The planner knows the whole level, the apprentice what the camera shows and no more (genie_agents/experts/apprentice.py). The one that the
expert that ships began as was made by

    python experiments/train_apprentice.py --folder runs/apprentice --devices 2
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import tyro
from checks import check_counts
from progress import training_bar
from stopping import refusing, stoppable

from genie_agents.experts.apprentice import ApprenticeConfig, train_apprentice
from world_model.training import TrainingConfig, make_fabric, tune_cpu


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What to train on, and for how long."""

    folder: Path
    """where the apprentice is saved, and found again"""
    minutes: float | None = None
    """end this call after so much time; the same command goes on"""
    network: ApprenticeConfig = ApprenticeConfig()
    """2 moves are run and jump, more brake before they jump; the sighted expert needs at least 3"""
    training: TrainingConfig = TrainingConfig(steps=5_500, learning_rate=1e-3)
    num_envs: int = 128
    """decisions played, and labelled by the planner, in a step"""
    batch_size: int = 512
    """decisions learned from in a step"""
    memory_size: int = 1_500_000
    """decisions remembered, 2.7 KiB each"""
    exploration: float = 0.1
    """share of decisions drawn at random"""
    devices: int = 1
    """processes that play and learn together; each has its own games and memory, and takes a core"""
    seed: int = 0

    def __post_init__(self) -> None:
        check_counts(self, "num_envs", "batch_size", "memory_size", "devices")


@refusing()
def main() -> None:
    settings = tyro.cli(Settings, description=__doc__)
    tune_cpu()
    options = dict(vars(settings))
    fabric = make_fabric(devices=options.pop("devices"), accelerator="cpu")  # most of the time goes into planning
    with stoppable(settings.folder):
        train_apprentice(
            options.pop("folder"),
            options.pop("network"),
            options.pop("training"),
            **options,
            fabric=fabric,
            on_step=training_bar("apprentice", settings.training.steps, hidden=not fabric.is_global_zero),
        )


if __name__ == "__main__":
    main()
