"""Draw what PPO gains from a cloned policy: mean return over environment steps, against the same network started from nothing."""

from __future__ import annotations

import csv
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt


def plot_finetuning(returns: dict[tuple[str, str], Path], output: Path) -> None:
    """One panel a difficulty; `returns` names by start and difficulty the returns.csv of each run: steps, mean return of 100 episodes."""
    difficulties = sorted({difficulty for _, difficulty in returns})
    figure, axes = plt.subplots(1, len(difficulties), figsize=(6.2 * len(difficulties), 4), sharey=True, squeeze=False)
    for axis, difficulty in zip(axes[0], difficulties, strict=True):
        for start, path in ((start, path) for (start, d), path in returns.items() if d == difficulty):
            with path.open() as file:
                points = [(int(steps), float(mean_return)) for steps, mean_return in csv.reader(file)]
            axis.plot(*zip(*points, strict=True), label=f"PPO from {start}")
        axis.set_title(f"CoinRun, {difficulty}")
        axis.set_xlabel("environment steps")
        axis.set_ylim(0, 10)
        axis.grid(alpha=0.25)
        axis.legend(loc="lower right")
    axes[0, 0].set_ylabel("mean return of the last 100 episodes")
    figure.tight_layout()
    output.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(output, dpi=130)
    plt.close(figure)
