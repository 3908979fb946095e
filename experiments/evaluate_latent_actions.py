"""How well a world's latent actions name what the player really did, next to a model that learned it from the true actions.

    python experiments/evaluate_latent_actions.py                      # the world that ships, on validation levels
    python experiments/evaluate_latent_actions.py --test               # once, for reported figures
    python experiments/evaluate_latent_actions.py --write-meanings     # stores in words what each latent action does, in the world's config

Both name the key between two frames of the same videos and are counted alike: a label means the key that went with it most often. The
supervised model shows what the frames can tell. Keys for up and down do nothing in the air, so frames on which the player stands count.
Prints tables and writes results.json.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import tyro
from bc_report import known_actions, label_report, name_keys
from checks import check_counts
from progress import training_bar
from report import markdown_table, write_results
from run_cache import RunCache
from stopping import refusing
from world_videos import held_out, mixed_videos

from genie_agents.cloning import Videos
from genie_agents.coinrun import DIFFICULTIES, FRAME_SHAPE, GROUND_ALIASES, NUM_ACTIONS, TEST_LEVELS, WORLD_MODEL_LEVELS
from genie_agents.demonstrations import open_videos
from genie_agents.inverse_dynamics import infer_actions, train_inverse_dynamics
from genie_agents.policy import Policy
from world_model import Genie, GenieConfig, LatentActionLabeller
from world_model.serialization import change_config, name_model_class
from world_model.training import TrainingConfig, tune_cpu

BATCH_SIZE = 128  # of the supervised model's training


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What to measure."""

    model: str = "coinrun-small"
    """the name of a world that ships, or the folder of a world or of a latent action model"""
    output: Path = Path("runs/evaluate_latent_actions")
    """folder for results.json"""
    runs: Path = Path("runs/world_model/stages")
    """folder of the recorded videos and of the supervised model"""
    difficulties: tuple[Literal["easy", "hard"], ...] = DIFFICULTIES
    levels: int = 100
    """levels played for the videos, by the players that world_videos.py names"""
    test: bool = False
    """play test levels instead of validation levels"""
    write_meanings: bool = False
    """store in the world's config.json what each latent action does, by the keys that went with it on all difficulties"""
    idm_levels: int = 2000
    """levels a difficulty from which the supervised model learns, played by the same players"""
    idm_steps: int = 5000
    """training steps of the supervised model"""
    seed: int = 0
    """seed of recording and of the supervised model's training"""

    def __post_init__(self) -> None:
        check_counts(self, "idm_steps")
        if not self.difficulties:
            raise ValueError("difficulties is empty; choose easy, hard or both")
        for name, available in (("levels", TEST_LEVELS), ("idm_levels", WORLD_MODEL_LEVELS)):
            if not 4 <= getattr(self, name) <= len(available):
                raise ValueError(f"{name} is {getattr(self, name)}; give 4, one for each kind of player, to {len(available)}")


class Study:
    """The videos, what the supervised model and the latent actions say about them, and the reports."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.cache = RunCache(settings.runs)
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")

    def videos(self, name: str, levels: range, difficulty: str) -> list[Path]:
        return mixed_videos(self.cache, name, levels, game="coinrun", difficulties=[difficulty], seed=self.settings.seed)

    def supervised(self) -> Policy:
        """Learn the keys of ground frames, where they can be seen: these alone are judged."""
        settings, training = self.settings, TrainingConfig(steps=self.settings.idm_steps)
        levels = WORLD_MODEL_LEVELS[: settings.idm_levels]
        sources = [folder for difficulty in DIFFICULTIES for folder in self.videos("videos", levels, difficulty)]

        def build(folder: Path) -> None:
            files = open_videos(*sources)
            actions, ground = known_actions(files)
            model = train_inverse_dynamics(
                Videos.load(files),
                np.where(ground, GROUND_ALIASES[actions], -1),
                training,
                batch_size=BATCH_SIZE,
                seed=settings.seed,
                device=self.device,
                checkpoint=folder / "checkpoint.safetensors",
                on_step=training_bar("inverse dynamics", training.steps),
            )
            model.save_pretrained(folder)

        about = {"training": dataclasses.asdict(training), "batch_size": BATCH_SIZE, "seed": settings.seed}
        return Policy.from_pretrained(self.cache.stage("inverse-dynamics", about, sources, build), device=self.device)

    def reports(self, labeller: LatentActionLabeller) -> dict[str, dict[str, Any]]:
        """By difficulty: what label_report says of the codes and of the supervised model, and the share of the two agreements."""
        name, levels = held_out(self.settings.test)
        supervised, reports = self.supervised(), {}
        for difficulty in self.settings.difficulties:
            files = open_videos(*self.videos(name, levels[: self.settings.levels], difficulty))
            actions, ground = known_actions(files)
            codes = np.concatenate([labeller.label(file) for file in files])
            keys = infer_actions(supervised, Videos.load(files))
            found = {
                "latent_actions": label_report(codes, actions, ground, num_codes=labeller.num_codes),
                "supervised": label_report(keys, actions, ground, num_codes=NUM_ACTIONS),
            }
            latent, reference = (report["agreement_on_ground"] for report in found.values())
            reports[difficulty] = {"share_of_supervised": latent / reference, **found}
        return reports


def pool(tables: list[dict[int, dict[int, int]]]) -> dict[int, dict[int, int]]:
    """The keys of codes of several reports together, most frequent first."""
    total: dict[int, dict[int, int]] = {}
    for table in tables:
        for code, keys in table.items():
            counts = total.setdefault(code, {})
            for key, number in keys.items():
                counts[key] = counts.get(key, 0) + number
    return {code: dict(sorted(keys.items(), key=lambda item: -item[1])) for code, keys in sorted(total.items())}


def meaning(on_ground: dict[int, int], in_air: dict[int, int]) -> str:
    """What a code does in words, from the keys that went with it: "RIGHT+UP 93 % on the ground, RIGHT 60 % in the air"."""
    places = {"on the ground": on_ground, "in the air": in_air}
    return ", ".join(f"{name_keys(keys, most=1)} {place}" for place, keys in places.items() if keys) or "never seen"


def as_tables(reports: dict[str, dict[str, Any]], on_ground: dict[int, dict[int, int]], in_air: dict[int, dict[int, int]]) -> str:
    """The figures by difficulty, and what each code says."""
    rows = [
        ["ground frames", *(str(report["latent_actions"]["ground_frames"]) for report in reports.values())],
        ["most frequent key", *(f"{report['latent_actions']['most_frequent_action_on_ground']:.3f}" for report in reports.values())],
    ]
    for who in ("latent_actions", "supervised"):
        for measure in ("agreement_on_ground", "take_off_precision", "take_off_recall"):
            title = f"{who}, {measure}".replace("_", " ")
            rows.append([title, *(f"{report[who][measure]:.3f}" for report in reports.values())])
    rows.append(["agreement, share of the supervised", *(f"{100 * report['share_of_supervised']:.1f} %" for report in reports.values())])
    counts = {code: sum(on_ground.get(code, {}).values()) + sum(in_air.get(code, {}).values()) for code in sorted(on_ground | in_air)}
    codes = [
        [str(code), f"{100 * count / sum(counts.values()):.1f} %", name_keys(on_ground.get(code, {})), name_keys(in_air.get(code, {}))]
        for code, count in counts.items()
    ]
    columns = ["code", "share of all frames", "keys on the ground", "keys in the air"]
    return f"{markdown_table(['', *reports], rows)}\n\n{markdown_table(columns, codes)}"


@refusing()
def main() -> None:
    settings = tyro.cli(Settings, description=__doc__)
    labeller = LatentActionLabeller.from_pretrained(settings.model)
    if settings.write_meanings and name_model_class(settings.model) != "Genie":
        raise SystemExit(f"--write-meanings: {settings.model} is no world; give the folder of a Genie, or leave the option out")
    tune_cpu()
    config = labeller.model.config
    if (shape := (config.image_height, config.image_width, config.channels)) != FRAME_SHAPE:
        raise SystemExit(f"--model: {settings.model} takes frames {shape}, and CoinRun's, whose keys are known, are {FRAME_SHAPE}")
    reports = Study(settings).reports(labeller)
    codes = [report["latent_actions"] for report in reports.values()]
    on_ground, in_air = (pool([report[place] for report in codes]) for place in ("keys_on_ground", "keys_in_air"))
    meanings = tuple(meaning(on_ground.get(code, {}), in_air.get(code, {})) for code in range(labeller.num_codes))
    write_results(settings.output, settings, {"labeller": labeller.identity, "reports": reports, "meanings": meanings})
    print(f"{as_tables(reports, on_ground, in_air)}\n\nall figures are in {settings.output / 'results.json'}")
    if settings.write_meanings:
        change_config(settings.model, Genie, GenieConfig, action_meanings=meanings)


if __name__ == "__main__":
    main()
