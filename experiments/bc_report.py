"""What bc_coinrun.py tells beside the curve: how good the labels are, a film of the agent, settings and machine."""

from __future__ import annotations

import dataclasses
import json
import os
import platform
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from bc_settings import Settings
from PIL import Image
from plot_level_solve import Percents

from genie_agents.action_mapping import LatentToRealMapping
from genie_agents.coinrun import ALIASES, GROUND_ALIASES, RIGHT_UP, ProcgenEnv
from genie_agents.evaluation import Agent, confidence_interval, evaluate
from genie_agents.experts.game_state import read_state
from genie_agents.experts.planner import Planner
from world_model import LatentActionLabeller
from world_model.metrics import code_use, majority_agreement, mutual_information, precision_and_recall


def label_report(
    labeller: LatentActionLabeller, difficulty: str, level_seeds: Sequence[int], mappings: dict[int, LatentToRealMapping]
) -> dict[str, Any]:
    """How well the labels name the expert's keys on levels that neither model nor mapping saw.

    Agreement is counted on all frames and on ground frames (in the air the keys for up and down do nothing, and no video can show
    them), after merging keys that do the same.
    """
    env, planner = ProcgenEnv(difficulty=difficulty), Planner()
    latent_actions, actions, grounded = [], [], []
    for level_seed in level_seeds:
        obs, _ = env.reset(options={"level_seed": level_seed})
        frames, level_actions, level_grounded = [obs], [], []
        for action in planner.plan(env.get_state().simulator):
            level_grounded.append(read_state(env.get_state().simulator).vy == 0)
            obs, _, terminated, truncated, _ = env.step(action)
            if terminated or truncated:
                break
            frames.append(obs)
            level_actions.append(action)
        latent_actions.append(labeller.label(np.stack(frames)))
        actions.append(level_actions)
        grounded.append(level_grounded[: len(level_actions)])
    env.close()
    codes, keys, ground = np.concatenate(latent_actions), np.concatenate(actions), np.concatenate(grounded)
    ground_keys = GROUND_ALIASES[keys[ground]]
    precision, recall = precision_and_recall(codes[ground], ground_keys == RIGHT_UP)
    return {
        "frames": len(keys),
        "ground_frames": int(ground.sum()),
        "code_use": code_use(codes, num_codes=labeller.num_codes),
        "agreement": majority_agreement(codes, ALIASES[keys]),
        "agreement_on_ground": majority_agreement(codes[ground], ground_keys),
        "most_frequent_action_on_ground": float(np.bincount(ground_keys).max() / len(ground_keys)),
        "mutual_information_bits": mutual_information(codes, ALIASES[keys]),
        "mutual_information_bits_on_ground": mutual_information(codes[ground], ground_keys),
        "keys_on_ground": keys_of_codes(codes[ground], ground_keys),
        "take_off_precision": precision,
        "take_off_recall": recall,
        "mapping_agreement_on_ground": {
            count: mapping.agreement(codes[ground], keys[ground], GROUND_ALIASES) for count, mapping in mappings.items()
        },
    }


def keys_of_codes(codes: np.ndarray, keys: np.ndarray) -> dict[int, dict[int, int]]:
    """How often each key went with each code that occurs, most frequent first."""
    counts = {code: np.bincount(keys[codes == code]) for code in np.unique(codes).tolist()}
    return {code: {int(key): int(row[key]) for key in np.argsort(-row) if row[key]} for code, row in counts.items()}


def film(agent: Agent, level_seeds: Sequence[int], difficulty: str, output: Path, *, max_steps: int = 200, scale: int = 3) -> None:
    """A GIF of the agent on some levels, side by side; a game that has ended holds its last frame."""
    pictures: list[Image.Image] = []

    def on_step(running: int, obs: np.ndarray) -> None:
        row = np.concatenate(list(obs), axis=1).repeat(scale, axis=0).repeat(scale, axis=1)
        pictures.append(Image.fromarray(row).quantize(64))

    evaluate(agent, level_seeds, difficulty=difficulty, seed=0, max_steps=max_steps, on_step=on_step)
    temporary = output.with_suffix(".tmp")
    pictures[0].save(temporary, format="GIF", save_all=True, append_images=pictures[1:], duration=66, loop=0)
    os.replace(temporary, output)


def machine() -> dict[str, Any]:
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=Path(__file__).parent, capture_output=True, text=True, check=False
    )
    processors = [line for line in _read_lines("/proc/cpuinfo") if line.startswith("model name")]
    return {
        "commit": commit.stdout.strip() or "not a git checkout",
        "processor": processors[0].split(":")[1].strip() if processors else platform.processor(),
        "cores": os.cpu_count(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "python": platform.python_version(),
        "torch": torch.__version__,
    }


def _read_lines(path: str) -> list[str]:
    try:
        return Path(path).read_text().splitlines()
    except OSError:  # not Linux
        return []


def write_summary(
    output: Path,
    settings: Settings,
    seconds: dict[str, float],
    labeller: str,
    label_reports: dict[str, dict[str, Any]],
    percents: Percents,
) -> None:
    """summary.json: levels solved with confidence intervals, quality of the labels, wall time per stage, settings, machine."""
    solved = [
        {
            "agent": agent,
            "difficulty": difficulty,
            "labelled_samples": count or None,
            "percent_solved": round(float(np.mean(values)), 2),
            "confidence_interval_95": [round(bound, 2) for bound in confidence_interval(values)] if len(values) > 1 else None,
            "seeds": len(values),
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
    temporary = output / "summary.json.tmp"
    temporary.write_text(json.dumps(summary, indent=1, default=str) + "\n")
    os.replace(temporary, output / "summary.json")
