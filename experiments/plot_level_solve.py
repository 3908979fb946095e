"""Draw percent of levels solved over the number of labelled samples, from one or several results.csv.

python experiments/plot_level_solve.py A/results.csv --others "LAM of other games" B/results.csv --output level_solve.png
"""

from __future__ import annotations

import csv
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import cycle
from pathlib import Path
from types import MappingProxyType

import matplotlib
import numpy as np
import tyro
from stopping import refusing

from genie_agents.evaluation import confidence_interval

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.backend_bases import FigureCanvasBase

COLUMNS = ["agent", "difficulty", "labelled_samples", "seed", "levels", "levels_solved"]
STYLES = {
    "genie_lam": ("Genie LAM (no action labels in cloning)", "#d1495b", "o"),
    "genie_lam_linear": ("Genie LAM, linear mapping that sees the frame", "#e08e45", "v"),
    "genie_lam_network": ("Genie LAM, network mapping that sees the frame", "#b5651d", "^"),
    "relabelled": ("Genie LAM, videos relabelled by the dictionary", "#8e6c8a", "D"),
    "relabelled_linear": ("Genie LAM, videos relabelled by a linear layer", "#7b2cbf", "P"),
    "relabelled_network": ("Genie LAM, videos relabelled by a network", "#3c096c", "X"),
    "n_label_bc": ("N-label BC (cloned on the N samples only)", "#30638e", "s"),
    "oracle": ("oracle (all true actions)", "#2e7d32", None),
    "ppo_from_clone": ("cloned agent, fine-tuned by PPO", "#0a9396", "*"),
    "ppo_from_nothing": ("PPO from nothing, same steps", "#94d2bd", None),
    "constant_right_up": ("constant RIGHT+UP", "#7a7a7a", None),
    "random": ("random", "#b5b5b5", None),
}

OTHERS_LINES = (":", "-.", (0, (5, 1)))

Percents = dict[tuple[str, str, int], list[float]]


def read_results(paths: list[Path]) -> Percents:
    """Percent solved per seed, by agent, difficulty and number of labelled samples (0 where that does not apply).

    Raises:
        FileNotFoundError, ValueError: a path that does not exist, or is no results.csv, or tells of what another one has told already: a
            seed plays the same levels in every run, so that it is no further one.
    """
    percents, seen = defaultdict(list), set()
    for path in paths:
        if not path.is_file():
            raise FileNotFoundError(f"{path} does not exist; give the results.csv of a finished run")
        with path.open(newline="", errors="replace") as file:  # of a picture, say, which has no such columns
            rows = csv.DictReader(file)
            if rows.fieldnames != COLUMNS:
                raise ValueError(f"{path} is no results.csv of bc_coinrun.py: its columns are {rows.fieldnames}, not {COLUMNS}")
            for row in rows:
                try:
                    key = (row["agent"], row["difficulty"], int(row["labelled_samples"] or 0))
                    percent = 100 * int(row["levels_solved"]) / int(row["levels"])
                except (TypeError, ValueError, ZeroDivisionError):
                    raise ValueError(f"{path}: line {rows.line_num} is damaged; run bc_coinrun.py again, which writes it anew") from None
                if (*key, row["seed"]) in seen:
                    raise ValueError(f"{path}: {row['agent']} on {row['difficulty']} levels, seed {row['seed']}, was in another run or row")
                seen.add((*key, row["seed"]))
                percents[key].append(percent)
    return percents


def plot(percents: Percents, output: Path, others: Mapping[str, Percents] = MappingProxyType({})) -> None:
    """One panel a difficulty: curves with 95 % bands over seeds for agents that use N samples, lines for those that do not.

    `others` are results by name, with another latent action model, say: of these only what differs is drawn, the Genie agents' curves.

    Raises ValueError when there is nothing to draw, or no format of that name.
    """
    if not percents:
        raise ValueError("there is nothing to draw: give the results.csv of a finished run")
    if output.suffix[1:].lower() not in (formats := FigureCanvasBase.get_supported_filetypes()):
        raise ValueError(f"{output} cannot be drawn; end its name with one of {', '.join(formats)}")
    difficulties = sorted({difficulty for results in (percents, *others.values()) for _, difficulty, _ in results})
    figure, axes = plt.subplots(1, len(difficulties), figsize=(6.6 * len(difficulties), 7), sharey=True, squeeze=False)
    for axis, difficulty in zip(axes[0], difficulties, strict=True):
        for agent, (label, color, marker) in STYLES.items():
            if (agent, difficulty, 0) in percents:
                values = percents[agent, difficulty, 0]
                mean, (low, high) = np.mean(values), confidence_interval(values)
                axis.axhline(mean, color=color, linestyle="--", label=f"{label}: {mean:.1f}")
                axis.axhspan(low, high, color=color, alpha=0.08, linewidth=0)
            if marker is not None:
                draw_curve(axis, percents, agent, difficulty, label, color=color, marker=marker)
                there = [name for name in others if any((a, d) == (agent, difficulty) for a, d, _ in others[name])]
                for name, linestyle in zip(there, cycle(OTHERS_LINES)) if agent != "n_label_bc" else ():
                    style = {"color": color, "marker": marker, "linestyle": linestyle, "markerfacecolor": "white"}
                    draw_curve(axis, others[name], agent, difficulty, f"{label}; {name}", **style)
        axis.set_title(f"CoinRun, {difficulty}")
        axis.set_xlabel("labelled samples N")
        samples = sorted({n for results in (percents, *others.values()) for _, d, n in results if d == difficulty and n > 0})
        if samples:
            axis.set_xscale("log", base=2)
            axis.set_xticks(samples, [str(n) for n in samples])
        axis.set_ylim(0, 100)
        axis.grid(alpha=0.25)
        axis.legend(fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.12))
    axes[0, 0].set_ylabel("held-out levels solved, percent")
    figure.tight_layout()
    output.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(output, dpi=130)
    plt.close(figure)


def draw_curve(axis: Axes, percents: Percents, agent: str, difficulty: str, label: str, *, color: str, **style: str) -> None:
    """Mean and 95 % band of an agent over the number of labelled samples, if it played."""
    counts = sorted(n for a, d, n in percents if (a, d) == (agent, difficulty) and n > 0)
    if counts:
        means = [np.mean(percents[agent, difficulty, n]) for n in counts]
        bands = np.array([confidence_interval(percents[agent, difficulty, n]) for n in counts])
        if len(counts) == 1:  # a band over a single N has no width
            axis.errorbar(counts, means, yerr=np.abs(bands.T - means), color=color, label=label, capsize=4, **style)
        else:
            axis.plot(counts, means, color=color, label=label, **style)
            axis.fill_between(counts, bands[:, 0], bands[:, 1], color=color, alpha=0.12, linewidth=0)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Draw percent of levels solved over labelled samples, of the agents of several runs together."""

    results: tyro.conf.Positional[tuple[Path, ...]]
    """results.csv of one or several runs, of other agents each"""
    others: dict[str, Path] = field(default_factory=dict)
    """a name and the results.csv of a run with other options, another latent action model, say, whose Genie agents are drawn beside the
    first"""
    output: Path = Path("level_solve.png")
    """picture to write"""


@refusing()
def main() -> None:
    settings = tyro.cli(Settings, description=__doc__)
    others = {name: read_results([path]) for name, path in settings.others.items()}
    plot(read_results(list(settings.results)), settings.output, others)
    print(f"wrote {settings.output}")


if __name__ == "__main__":
    main()
