"""Train a latent action model of CoinRun by itself, and write its card. That of coinrun-small, which ships, was made by it.

    python experiments/train_lam.py
    python experiments/train_lam.py --lam-games climber jumper ninja --output runs/lam-platformers    # one that never saw CoinRun
    python experiments/train_world_model.py --latent-action-training frozen --lam runs/lam    # a world that obeys it

It learns from videos without their actions; the actions of other, validation levels of CoinRun serve to describe its codes in the
card. An interrupted run goes on where it stopped.
"""

from __future__ import annotations

import json
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import tyro
from bc_coinrun import Study
from bc_report import name_keys
from bc_settings import LatentActionSettings, Settings
from report import machine
from stopping import refusing, stoppable

from genie_agents.coinrun import DIFFICULTIES
from world_model import LatentActionLabeller, LatentActionModel
from world_model.serialization import save_model
from world_model.training import tune_cpu


@dataclass(frozen=True, kw_only=True)
class CardSettings(LatentActionSettings):
    """What to train, and who plays for the card."""

    output: Path = Path("runs/lam")
    """folder for the model and its card"""
    runs: Path = Path("runs/train_lam")
    difficulties: tuple[Literal["easy", "hard"], ...] = DIFFICULTIES
    expert: str = "planner"
    """who plays in the videos of the card's report; see bc_coinrun.py"""


def card(settings: CardSettings, reports: dict[str, dict[str, Any]], seconds: dict[str, float]) -> str:
    """A model card in Markdown: data, command, machine, metrics, what each code stands for, limits."""
    lines = [
        f"# A latent action model of {', '.join(settings.lam_games)}",
        "",
        f"- Data: {', '.join(settings.lam_games)}, {' and '.join(settings.difficulties)}, levels 0 to {settings.lam_levels - 1}: a quarter",
        "  played at random, the rest by CoinRun's planner or, in other games, with keys held for long; all disturbed, by a random key in",
        "  one of ten steps (on the ground, in CoinRun) and by late take-offs;",
        f"  frames only, but for the true actions of {settings.lam_labels} transitions.",
        f"- Command: `python {' '.join(map(shlex.quote, sys.argv))}`",
        f"- Training: {settings.lam_training.steps} steps of {settings.lam_batch_size} clips of {settings.lam_clip_length} frames, rate "
        f"{settings.lam_training.learning_rate}, seed {settings.seed}; {seconds['lam']:.0f} s.",
        f"- Machine: {json.dumps(machine())}",
        "- Limits: 64x64 frames. Keys that change nothing in the picture (UP and DOWN in the air) cannot be told apart.",
        "",
        f"Measured on 100 validation levels of CoinRun a difficulty, played by {settings.expert} without noise. Agreement: share of",
        "transitions whose key is the most frequent one of their code. Ground: only frames on which the player stands, where keys can",
        "be seen to act.",
        "",
        "| | " + " | ".join(reports) + " |",
        "|---|" + "---|" * len(reports),
    ]
    for name in (
        "agreement",
        "agreement_on_ground",
        "most_frequent_action_on_ground",
        "mutual_information_bits_on_ground",
        "take_off_precision",
        "take_off_recall",
    ):
        lines.append(f"| {name.replace('_', ' ')} | " + " | ".join(f"{report[name]:.3f}" for report in reports.values()) + " |")
    for difficulty, report in reports.items():
        lines += ["", f"Codes on the ground, {difficulty}: share of ground frames, and the keys that went with it.", ""]
        lines += ["| code | share | keys |", "|---|---|---|"]
        total = sum(sum(keys.values()) for keys in report["keys_on_ground"].values())
        for code, keys in report["keys_on_ground"].items():
            count = sum(keys.values())
            lines.append(f"| {code} | {100 * count / total:.1f} % | {name_keys(keys)} |")
    return "\n".join(lines) + "\n"


@refusing()
def main() -> None:
    settings = tyro.cli(CardSettings, description=__doc__)
    tune_cpu()
    study = Study(Settings(train_lam=True, **vars(settings)))
    with stoppable(settings.runs, settings.minutes):
        folder = study.videos.train_latent_action_model()
        save_model(settings.output, LatentActionModel.from_pretrained(folder), half=True)
        labeller = LatentActionLabeller.from_pretrained(settings.output)
        reports = {d: study.label_report(labeller, d, with_mappings=False) for d in settings.difficulties}
    (settings.output / "card.md").write_text(card(settings, reports, study.cache.seconds))
    print((settings.output / "card.md").read_text())


if __name__ == "__main__":
    main()
