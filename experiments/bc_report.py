"""What bc_coinrun.py tells beside the curve: how good the labels are, a film of the agent, settings and machine."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from bc_settings import RECIPES, Settings
from pictures import save
from PIL import Image
from plot_level_solve import Percents
from report import machine, write_json
from tqdm import tqdm

from genie_agents.coinrun import ACTION_NAMES, AIRBORNE_ALIASES, ALIASES, GROUND_ALIASES, TAKE_OFFS
from genie_agents.demonstrations import find_ground_frames
from genie_agents.evaluation import Agent, confidence_interval, evaluate
from world_model.data import VideoFile
from world_model.metrics import code_use, majority_agreement, mutual_information, precision_and_recall


def known_actions(files: Sequence[VideoFile]) -> tuple[np.ndarray, np.ndarray]:
    """The true actions (N,) of recordings, -1 on the last frame of each episode, and on which frames (N,) bool the player stands."""
    ground = [find_ground_frames(file) for file in tqdm(files, desc="find the ground", unit="file", dynamic_ncols=True)]
    return np.concatenate([file.actions() for file in files]), np.concatenate(ground)


def label_report(
    labels: np.ndarray, actions: np.ndarray, ground: np.ndarray, *, num_codes: int, named: dict[str, np.ndarray] | None = None
) -> dict[str, Any]:
    """How well labels (N,) name the true actions (N,), both -1 on the last frame of each episode, `ground` (N,) bool being
    the frames on which the player stands. `named`: the keys (N,) that mappings made of the labels.

    Agreement is counted on all frames and on ground frames (in the air the keys for up and down do nothing, and no video can show
    them), after merging keys that do the same. A take-off is any key for up on the ground.
    """
    known, air = actions >= 0, (actions >= 0) & ~ground
    codes, keys = labels[known], actions[known]
    ground_codes, ground_keys = labels[ground], GROUND_ALIASES[actions[ground]]
    precision, recall = precision_and_recall(ground_codes, np.isin(ground_keys, TAKE_OFFS))
    return {
        "frames": len(keys),
        "ground_frames": int(ground.sum()),
        "code_use": code_use(codes, num_codes=num_codes),
        "agreement": majority_agreement(codes, ALIASES[keys]),
        "agreement_on_ground": majority_agreement(ground_codes, ground_keys),
        "most_frequent_action_on_ground": float(np.bincount(ground_keys).max() / len(ground_keys)),
        "mutual_information_bits": mutual_information(codes, ALIASES[keys]),
        "mutual_information_bits_on_ground": mutual_information(ground_codes, ground_keys),
        "keys_on_ground": keys_of_codes(ground_codes, ground_keys),
        "keys_in_air": keys_of_codes(labels[air], AIRBORNE_ALIASES[actions[air]]),
        "take_off_precision": precision,
        "take_off_recall": recall,
        "mapping_agreement_on_ground": {
            name: float((GROUND_ALIASES[keys[ground]] == ground_keys).mean()) for name, keys in (named or {}).items()
        },
    }


def keys_of_codes(codes: np.ndarray, keys: np.ndarray) -> dict[int, dict[int, int]]:
    """How often each key went with each code that occurs, most frequent first."""
    counts = {code: np.bincount(keys[codes == code]) for code in np.unique(codes).tolist()}
    return {code: {int(key): int(row[key]) for key in np.argsort(-row) if row[key]} for code, row in counts.items()}


def name_keys(keys: dict[int, int], *, most: int = 3) -> str:
    """The keys that went most often with a code, in words: "RIGHT+UP 93 %, UP 5 %"."""
    return ", ".join(f"{ACTION_NAMES[key]} {100 * number / sum(keys.values()):.0f} %" for key, number in list(keys.items())[:most])


def film(agent: Agent, level_seeds: Sequence[int], difficulty: str, output: Path, *, max_steps: int = 200, scale: int = 2) -> None:
    """A GIF of the agent on some levels, side by side; a game that has ended holds its last frame."""
    pictures: list[Image.Image] = []

    steps = itertools.count()

    def on_step(running: int, obs: np.ndarray) -> None:
        if next(steps) % 2:  # every other frame is enough for the eye, and for the size of the file
            return
        row = np.concatenate(list(obs), axis=1).repeat(scale, axis=0).repeat(scale, axis=1)
        pictures.append(Image.fromarray(row).quantize(32))

    evaluate(agent, level_seeds, difficulty=difficulty, seed=0, max_steps=max_steps, on_step=on_step)
    save(pictures[0], output, save_all=True, append_images=pictures[1:], duration=133, loop=0)


def interval(values: Sequence[float], *, least: float, most: float) -> list[float] | None:
    """The confidence interval of a mean over seeds, cut to what values may be."""
    return np.clip(confidence_interval(values), least, most).round(2).tolist() if len(values) > 1 else None


def compare(values: Sequence[float], oracle: Sequence[float] | None) -> dict[str, Any] | None:
    """An agent's percents of levels solved less the oracle's, by seed: both play the same levels."""
    if oracle is None:
        return None
    differences = np.subtract(values, oracle)
    mean, by_seed = round(float(differences.mean()), 2), differences.round(2).tolist()
    return {"mean": mean, "confidence_interval_95": interval(differences, least=-100, most=100), "by_seed": by_seed}


def write_summary(
    output: Path,
    settings: Settings,
    seconds: dict[str, float],
    labeller: str,
    label_reports: dict[str, dict[str, Any]],
    percents: Percents,
) -> None:
    """summary.json: levels solved and the difference from the oracle, with confidence intervals, quality of the labels, wall time per
    stage, settings, machine."""
    solved = [
        {
            "agent": agent,
            "difficulty": difficulty,
            "labelled_samples": count or None,
            "percent_solved": round(float(np.mean(values)), 2),
            "confidence_interval_95": interval(values, least=0, most=100),
            "seeds": len(values),
            "less_the_oracle": compare(values, percents.get(("oracle", difficulty, 0))) if agent in RECIPES else None,
        }
        for (agent, difficulty, count), values in percents.items()
    ]
    summary = {
        "solved": solved,
        "labeller": labeller,
        "labels": label_reports,
        "seconds": {"total": round(sum(seconds.values()), 1), **seconds},
        "machine": machine(),
        "settings": dataclasses.asdict(settings),
    }
    write_json(output / "summary.json", summary)
