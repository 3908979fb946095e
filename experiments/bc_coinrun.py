"""Agents cloned from CoinRun videos without action labels (Genie, section 3.3 and Appendix E).

Expert videos -> a latent action model labels every transition -> a policy is cloned on the labels -> a mapping from latent to real
actions is fitted from a few labelled samples -> the agent plays levels nobody has seen -> percent of levels solved.

Agents: genie_lam (the above); oracle (same network and videos, true actions); n_label_bc (same network cloned on the N labelled
samples alone: what the mapping must beat); random; constant_right_up (solves about two thirds by itself: what a collapsed policy
would reach).

    python experiments/bc_coinrun.py                   # the demo: at most 20 minutes on 2 CPU cores
    python experiments/bc_coinrun.py --preset paper    # the paper's protocol: 100 levels x 5 seeds, a policy per seed
    python experiments/bc_coinrun.py --train-lam       # with a latent action model trained anew
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import os
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro
from bc_report import film, known_actions, label_report, write_summary
from bc_settings import PRESETS, Settings
from plot_level_solve import COLUMNS, plot, read_results
from progress import training_bar
from run_cache import RunCache
from tqdm import tqdm

from genie_agents.action_mapping import LatentToRealMapping
from genie_agents.cloning import Videos, clone
from genie_agents.coinrun import DEMONSTRATION_LEVELS, NUM_ACTIONS, RIGHT_UP, TEST_LEVELS, VALIDATION_LEVELS, WORLD_MODEL_LEVELS
from genie_agents.demonstrations import RecordingConfig, open_videos, record_videos
from genie_agents.evaluation import Agent, ClonedAgent, ConstantAgent, RandomAgent, evaluate
from genie_agents.experts.players import identify_expert
from genie_agents.policy import Policy
from world_model import LatentActionLabeller
from world_model.training import TrainingConfig, keep_freed_memory, train_latent_action_model

AGENTS = ("genie_lam", "oracle", "n_label_bc", "random", "constant_right_up")


class Study:
    """The stages of the study, in order. Each returns the folder of what it made; nothing is made twice."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.cache = RunCache(settings.runs)
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")

    # Videos, latent action model, labels

    def videos(self, name: str, levels: range, recording: RecordingConfig, expert: str = "planner") -> Path:
        def build(folder: Path) -> None:
            with tqdm(total=len(levels), desc=name, unit="level", dynamic_ncols=True) as bar:
                for levels_done in record_videos(folder, levels, recording, expert=expert, seed=self.settings.seed):
                    bar.update(levels_done)

        about = dataclasses.asdict(recording) | {"levels": [levels[0], levels[-1]], "seed": self.settings.seed}
        about |= {"expert": identify_expert(expert)}
        return self.cache.stage(name, about, [], build)

    def expert(self, difficulty: str) -> str:
        return f"apprentice-{difficulty}" if self.settings.expert == "apprentice" else self.settings.expert

    def demonstrations(self, difficulty: str) -> Path:
        recording = RecordingConfig(difficulty=difficulty, noise=self.settings.noise)
        return self.videos(f"videos-{difficulty}", DEMONSTRATION_LEVELS[: self.settings.levels], recording, self.expert(difficulty))

    def train_latent_action_model(self) -> Path:
        """Train on levels that cloning never sees: the noisy planner shows the game, random play what else the keys do."""
        settings, sources = self.settings, []
        random_levels = settings.lam_levels // 4
        for difficulty in settings.difficulties:
            recording = RecordingConfig(difficulty=difficulty, cut_noise=False, keep_unsolved=True, max_steps=200)
            levels = WORLD_MODEL_LEVELS[: settings.lam_levels]
            sources += [
                self.videos(f"lam-videos-random-{difficulty}", levels[:random_levels], recording, "random"),
                self.videos(f"lam-videos-planner-{difficulty}", levels[random_levels:], recording),
            ]

        def build(folder: Path) -> None:
            model = train_latent_action_model(
                [file for source in sources for file in open_videos(source)],
                settings.lam_model,
                settings.lam_training,
                clip_length=settings.lam_clip_length,
                batch_size=settings.lam_batch_size,
                seed=settings.seed,
                device=self.device,
                checkpoint=folder / "checkpoint.safetensors",
                on_step=training_bar("latent action model", settings.lam_training.steps),
            )
            model.save_pretrained(folder)

        about = {name: getattr(settings, name) for name in ("lam_clip_length", "lam_batch_size", "seed")}
        about |= {name: dataclasses.asdict(getattr(settings, name)) for name in ("lam_model", "lam_training")}
        return self.cache.stage("lam", about, sources, build)

    @cached_property
    def labeller(self) -> LatentActionLabeller:
        return LatentActionLabeller.from_pretrained(self.train_latent_action_model() if self.settings.train_lam else self.settings.lam)

    def labels(self, difficulty: str) -> Path:
        source = self.demonstrations(difficulty)

        def build(folder: Path) -> None:
            labels, files = [], open_videos(source)
            frames = sum(file.num_frames for file in files)
            with tqdm(total=frames, desc=f"labels-{difficulty}", unit="frame", dynamic_ncols=True) as bar:
                for file in files:
                    labels.append(self.labeller.label(file))
                    bar.update(file.num_frames)
            np.save(folder / "labels.npy", np.concatenate(labels))

        return self.cache.stage(f"labels-{difficulty}", {"labeller": self.labeller.identity}, [source], build)

    # What is held in memory: the frames of all difficulties in a row, and per difficulty one latent and one true action a frame

    @cached_property
    def frames(self) -> Videos:
        return Videos.load([file for d in self.settings.difficulties for file in open_videos(self.demonstrations(d))])

    @cached_property
    def true_actions(self) -> dict[str, np.ndarray]:
        return {d: np.concatenate([f.actions() for f in open_videos(self.demonstrations(d))]) for d in self.settings.difficulties}

    @cached_property
    def latent_actions(self) -> dict[str, np.ndarray]:
        return {d: np.load(self.labels(d) / "labels.npy") for d in self.settings.difficulties}

    def first_frame(self, difficulty: str) -> int:
        """Where a difficulty's frames begin among all frames."""
        before = self.settings.difficulties[: self.settings.difficulties.index(difficulty)]
        return sum(len(self.true_actions[d]) for d in before)

    def usable(self, difficulty: str) -> np.ndarray:
        """The frames (indices within a difficulty) to learn from: all but those too near an episode's start to be labelled in context.

        Where a video goes on after a cut, in mid-jump, the labeller cannot know that the agent was rising already, and sees a take-off.
        """
        context = self.labeller.model.config.context_frames - 2
        labels = self.latent_actions[difficulty]
        starts = np.flatnonzero(np.append(-1, labels[:-1]) == -1)
        early = (starts[:, None] + np.arange(context)).ravel()
        return np.setdiff1d(np.flatnonzero(labels >= 0), early)

    def labelled_samples(self, difficulty: str, seed: int, count: int) -> np.ndarray:
        """The frames of a difficulty whose true action may be seen, drawn evenly over the latent actions; more contain the fewer.

        Which frames to have labelled is ours to choose, and the latent actions are known for all: without the choice, 16 samples seldom
        hold a single take-off.
        """
        samples = np.random.default_rng((self.settings.seed, seed)).permutation(self.usable(difficulty))
        codes = self.latent_actions[difficulty][samples]
        rank = np.empty(len(samples), dtype=np.int64)  # a sample's place among those of its own latent action
        for code in np.unique(codes):
            rank[codes == code] = np.arange((codes == code).sum())
        return samples[np.argsort(rank, kind="stable")[:count]]

    # Cloning and mapping

    def clone(
        self,
        labels: dict[str, np.ndarray],
        num_actions: int,
        training: TrainingConfig,
        *,
        batch_size: int,
        seed: int,
        title: str | None = None,
        samples: np.ndarray | None = None,
        checkpoint: Path | None = None,
    ) -> Policy:
        return clone(
            dataclasses.replace(self.settings.policy, num_actions=num_actions),
            training,
            self.frames,
            np.concatenate([labels[d] for d in self.settings.difficulties]),
            samples=np.concatenate([self.first_frame(d) + self.usable(d) for d in self.settings.difficulties])
            if samples is None
            else samples,
            batch_size=batch_size,
            balance=self.settings.label_balance,
            seed=seed,
            device=self.device,
            checkpoint=checkpoint,
            on_step=training_bar(title, training.steps) if title else None,
        )

    def policy(self, agent: str, seed: int) -> Path:
        """Clone one policy from the videos of all difficulties, on latent or on true actions."""
        settings = self.settings
        sources = [self.labels(d) for d in settings.difficulties]  # the oracle too: labels say which frames are learned from

        def build(folder: Path) -> None:
            latent = agent == "genie_lam"
            policy = self.clone(
                self.latent_actions if latent else self.true_actions,
                self.labeller.num_codes if latent else NUM_ACTIONS,
                settings.cloning,
                batch_size=settings.cloning_batch_size,
                seed=seed,
                title=f"clone {agent}",
                checkpoint=folder / "checkpoint.safetensors",
            )
            policy.save_pretrained(folder)

        about = {"seed": seed, "batch_size": settings.cloning_batch_size, "balance": settings.label_balance}
        about |= {name: dataclasses.asdict(getattr(settings, name)) for name in ("policy", "cloning")}
        return self.cache.stage(f"clone-{agent}-seed{seed}", about, sources, build)

    def mapping(self, difficulty: str, seed: int, count: int) -> LatentToRealMapping:
        samples = self.labelled_samples(difficulty, seed, count)
        latent_actions, actions = self.latent_actions[difficulty][samples], self.true_actions[difficulty][samples]
        return LatentToRealMapping.fit(latent_actions, actions, num_codes=self.labeller.num_codes)

    def n_label_policy(self, difficulty: str, seed: int, count: int) -> Policy:
        """The same network cloned on the labelled samples alone."""
        return self.clone(
            self.true_actions,
            NUM_ACTIONS,
            self.settings.n_label_cloning,
            batch_size=self.settings.n_label_batch_size,
            seed=seed,
            samples=self.first_frame(difficulty) + self.labelled_samples(difficulty, seed, count),
        )

    # Play

    def agent(self, name: str, difficulty: str, seed: int, count: int, policies: dict[int, Path]) -> Agent:
        if name == "random":
            return RandomAgent()
        if name == "constant_right_up":
            return ConstantAgent(RIGHT_UP)
        temperature = self.settings.temperature
        if name == "n_label_bc":
            return ClonedAgent(self.n_label_policy(difficulty, seed, count), temperature=temperature)
        policy = Policy.from_pretrained(policies[seed], device=self.device)
        mapping = self.mapping(difficulty, seed, count) if name == "genie_lam" else None
        return ClonedAgent(policy, mapping, temperature=temperature)

    def results(self, name: str, difficulty: str) -> Path:
        """Play held-out levels: rows.csv has a row for each seed and number of labelled samples, written as they come."""
        settings = self.settings
        policies: dict[int, Path] = {}
        if name in ("genie_lam", "oracle"):
            policies = {s: self.policy(name, s if settings.policy_per_seed else settings.seed) for s in range(settings.seeds)}
        counts = settings.labelled_samples if name in ("genie_lam", "n_label_bc") else (0,)
        levels = VALIDATION_LEVELS if settings.validation else TEST_LEVELS

        def build(folder: Path) -> None:
            path = folder / "rows.csv"
            done = {(int(row[2] or 0), int(row[3])) for row in csv.reader(path.open())} if path.exists() else set()
            todo = [(count, seed) for seed in range(settings.seeds) for count in counts if (count, seed) not in done]
            for count, seed in tqdm(todo, desc=f"play {name}, {difficulty}", unit="evaluation", dynamic_ncols=True):
                level_seeds = levels[seed * settings.evaluation_levels : (seed + 1) * settings.evaluation_levels]
                agent = self.agent(name, difficulty, seed, count, policies)
                solved = evaluate(agent, level_seeds, difficulty=difficulty, seed=seed, max_steps=settings.max_steps).solved
                with path.open("a", newline="") as file:
                    csv.writer(file).writerow([name, difficulty, count or "", seed, len(solved), int(solved.sum())])

        about = {name: getattr(settings, name) for name in ("seeds", "seed", "evaluation_levels", "max_steps", "temperature")}
        about |= {"first_level": levels[0], "labelled_samples": counts}
        below = list(dict.fromkeys(policies.values()))
        if name == "n_label_bc":
            below = [self.labels(d) for d in settings.difficulties]
            about |= {n: dataclasses.asdict(getattr(settings, n)) for n in ("policy", "n_label_cloning")}
            about |= {n: getattr(settings, n) for n in ("n_label_batch_size", "label_balance")}
        return self.cache.stage(f"play-{name}-{difficulty}", about, below, build)

    def label_report(
        self, labeller: LatentActionLabeller, difficulty: str, mappings: dict[int, LatentToRealMapping] | None = None
    ) -> dict[str, Any]:
        """How well a labeller names the undisturbed expert's keys on levels that neither model nor mapping saw."""
        recording = RecordingConfig(difficulty=difficulty, noise=0, delay=0, keep_unsolved=True)
        files = open_videos(self.videos(f"report-videos-{difficulty}", VALIDATION_LEVELS[-100:], recording, self.expert(difficulty)))
        labels = np.concatenate([labeller.label(file) for file in files])
        return label_report(labels, *known_actions(files), num_codes=labeller.num_codes, mappings=mappings)

    def run(self) -> None:
        settings = self.settings
        settings.output.mkdir(parents=True, exist_ok=True)
        rows = [row for name in AGENTS for d in settings.difficulties for row in csv.reader((self.results(name, d) / "rows.csv").open())]
        results = settings.output / "results.csv"
        with (temporary := results.with_suffix(".tmp")).open("w", newline="") as file:
            csv.writer(file).writerows([COLUMNS, *rows])
        os.replace(temporary, results)
        plot(read_results([results]), settings.output / "level_solve.png")
        difficulty, count = settings.difficulties[0], settings.labelled_samples[-1]
        policies = {0: self.policy("genie_lam", settings.seed)}
        levels = VALIDATION_LEVELS if settings.validation else TEST_LEVELS
        film(self.agent("genie_lam", difficulty, 0, count, policies), levels[:4], difficulty, settings.output / "agent.gif")
        mappings = {d: {n: self.mapping(d, 0, n) for n in settings.labelled_samples} for d in settings.difficulties}
        reports = {d: self.label_report(self.labeller, d, mappings[d]) for d in settings.difficulties}
        write_summary(settings.output, settings, self.cache.seconds, self.labeller.identity, reports, read_results([results]))


def main() -> None:
    finder = argparse.ArgumentParser(add_help=False)
    finder.add_argument("--preset", default="demo", choices=PRESETS)
    preset = finder.parse_known_args()[0].preset
    settings = tyro.cli(Settings, default=PRESETS[preset], description=__doc__)
    keep_freed_memory()
    Study(settings).run()
    print(f"results.csv, summary.json, level_solve.png and agent.gif are in {settings.output}")


if __name__ == "__main__":
    main()
