"""Train the expert of CoinRun, easy and hard, that sees what the camera shows and decides anew on every frame; started again with the same
folder, it goes on where it stopped.

It begins as an apprentice of the planner (train_apprentice.py), or as another expert of this kind, and learns on from reward
(genie_agents/experts/sighted_training.py). The expert that ships was made by

    python experiments/train_apprentice.py --folder runs/apprentice --devices 2
    python experiments/train_sighted.py --folder runs/sighted --apprentice runs/apprentice

and one that holds LEFT for three frames, so that videos show it, by

    python experiments/train_sighted.py --folder runs/sighted_held --expert sighted --brake-frames 3 --total-decisions 12000000
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import tyro
from checks import check_counts
from stopping import refusing, stoppable
from tqdm import tqdm

from genie_agents.coinrun import DEMONSTRATION_LEVELS, DIFFICULTIES
from genie_agents.experts.apprentice import Apprentice
from genie_agents.experts.compiled_coinrun import read_levels
from genie_agents.experts.players import make_expert
from genie_agents.experts.sighted import SightedExpert, SightedPolicy
from genie_agents.experts.sighted_training import train_sighted
from world_model.training import tune_cpu


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What to train on, and for how long."""

    folder: Path
    """where the expert is saved, and found again, with what it has learned and the settings that it began with"""
    apprentice: Path | None = None
    """folder of the apprentice that it begins as"""
    expert: str | None = None
    """or the sighted expert that it begins as instead: the folder of one, or sighted, which ships"""
    brake_frames: int | None = None
    """frames for which it holds LEFT at least, by default as many as the expert that it begins as, or 1: a key held for three is seen
    better in a video"""
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
        check_counts(self, "num_envs", "decisions_per_rollout", "batch_size")
        if (self.apprentice is None) == (self.expert is None):
            raise ValueError("it begins as an apprentice or as another expert: give one of --apprentice and --expert")

    def begin(self) -> SightedPolicy:
        """What it begins as."""
        changes = {} if self.brake_frames is None else {"brake_frames": self.brake_frames}
        if self.apprentice is not None:
            return SightedPolicy.from_apprentice(Apprentice.from_pretrained(self.apprentice), **changes)
        expert = make_expert(str(self.expert), self.seed)
        if not isinstance(expert, SightedExpert):
            raise ValueError(f"{self.expert} is no sighted expert: give sighted, or the folder of one trained by train_sighted.py")
        policy = SightedPolicy(replace(expert.policy.config, **changes))
        policy.load_state_dict(expert.policy.state_dict())
        return policy


@refusing()
def main() -> None:
    settings = tyro.cli(Settings, description=__doc__)
    tune_cpu()
    options = dict(vars(settings))
    policy = settings.begin()
    for name in ("apprentice", "expert", "brake_frames"):
        options.pop(name)
    level_seeds = DEMONSTRATION_LEVELS[: options.pop("levels")]
    with tqdm(total=len(DIFFICULTIES) * len(level_seeds), desc="levels", unit="level", dynamic_ncols=True) as bar:
        beginnings = [now for difficulty in DIFFICULTIES for now in read_levels(difficulty, level_seeds, bar.update)]
    with tqdm(total=settings.total_decisions, desc="sighted", unit="decision", unit_scale=True, dynamic_ncols=True) as bar:

        def on_rollout(decisions: int, mean_return: float) -> None:
            bar.set_postfix({"mean return": f"{mean_return:.3f}"})
            bar.update(decisions - bar.n)

        with stoppable(settings.folder):
            train_sighted(options.pop("folder"), policy, beginnings, **options, on_rollout=on_rollout)


if __name__ == "__main__":
    main()
