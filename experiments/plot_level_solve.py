"""Draw percent of levels solved over the number of labelled samples, from one or several results.csv.

python experiments/plot_level_solve.py experiments/results/bc_coinrun/demo/results.csv --output level_solve.png
"""

from __future__ import annotations

import csv
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np
import tyro

from genie_agents.evaluation import confidence_interval

matplotlib.use("Agg")
import matplotlib.pyplot as plt

COLUMNS = ["agent", "difficulty", "labelled_samples", "seed", "levels", "levels_solved"]
STYLES = {
    "genie_lam": ("Genie LAM (no action labels in cloning)", "#d1495b", "o"),
    "n_label_bc": ("N-label BC (cloned on the N samples only)", "#30638e", "s"),
    "oracle": ("oracle (all true actions)", "#2e7d32", None),
    "constant_right_up": ("constant RIGHT+UP", "#7a7a7a", None),
    "random": ("random", "#b5b5b5", None),
}

Percents = dict[tuple[str, str, int], list[float]]


def read_results(paths: list[Path]) -> Percents:
    """Percent solved per seed, by agent, difficulty and number of labelled samples (0 where that does not apply).

    Raises:
        FileNotFoundError, ValueError: a path that does not exist, or is no results.csv.
    """
    percents: Percents = defaultdict(list)
    for path in paths:
        if not path.is_file():
            raise FileNotFoundError(f"{path} does not exist; give the results.csv of a finished run")
        with path.open(newline="") as file:
            rows = csv.DictReader(file)
            if rows.fieldnames != COLUMNS:
                raise ValueError(f"{path} is no results.csv of bc_coinrun.py: its columns are {rows.fieldnames}, not {COLUMNS}")
            for row in rows:
                key = (row["agent"], row["difficulty"], int(row["labelled_samples"] or 0))
                percents[key].append(100 * int(row["levels_solved"]) / int(row["levels"]))
    return percents


def plot(percents: Percents, output: Path) -> None:
    """One panel a difficulty: curves with 95 % bands over seeds for agents that use N samples, lines for those that do not."""
    difficulties = sorted({difficulty for _, difficulty, _ in percents})
    figure, axes = plt.subplots(1, len(difficulties), figsize=(6.2 * len(difficulties), 4.8), sharey=True, squeeze=False)
    for axis, difficulty in zip(axes[0], difficulties, strict=True):
        samples = sorted({n for _, d, n in percents if d == difficulty and n > 0})
        for agent, (label, color, marker) in STYLES.items():
            if marker is None and (agent, difficulty, 0) in percents:
                values = percents[agent, difficulty, 0]
                mean, (low, high) = np.mean(values), confidence_interval(values)
                axis.axhline(mean, color=color, linestyle="--", label=f"{label}: {mean:.1f}")
                axis.axhspan(low, high, color=color, alpha=0.08, linewidth=0)
            elif marker is not None:
                counts = [n for n in samples if (agent, difficulty, n) in percents]
                if counts:
                    means = [np.mean(percents[agent, difficulty, n]) for n in counts]
                    bands = np.array([confidence_interval(percents[agent, difficulty, n]) for n in counts])
                    axis.plot(counts, means, color=color, marker=marker, label=label)
                    axis.fill_between(counts, bands[:, 0], bands[:, 1], color=color, alpha=0.18, linewidth=0)
        axis.set_title(f"CoinRun, {difficulty}")
        axis.set_xlabel("labelled samples N")
        if samples:
            axis.set_xscale("log", base=2)
            axis.set_xticks(samples, [str(n) for n in samples])
        axis.set_ylim(0, 100)
        axis.grid(alpha=0.25)
        axis.legend(fontsize=8, loc="lower right")
    axes[0, 0].set_ylabel("held-out levels solved, percent")
    figure.tight_layout()
    output.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(output, dpi=130)
    plt.close(figure)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Draw percent of levels solved over labelled samples; several runs are pooled as further seeds."""

    results: tyro.conf.Positional[tuple[Path, ...]]
    """results.csv of one or several runs"""
    output: Path = Path("level_solve.png")
    """picture to write"""


if __name__ == "__main__":
    settings = tyro.cli(Settings, description=__doc__)
    plot(read_results(list(settings.results)), settings.output)
    print(f"wrote {settings.output}")
