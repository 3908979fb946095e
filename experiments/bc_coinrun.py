"""Agents cloned from CoinRun videos without action labels (Genie, section 3.3 and Appendix E).

Expert videos -> a latent action model says what happened in every transition -> a few labelled samples say which keys that means -> a
policy is cloned -> it plays levels nobody has seen -> percent of levels solved.

Agents, a curve each (--agents):

    genie_lam             the paper's: a policy is cloned on latent actions, a dictionary maps those that it chooses to keys
    genie_lam_linear      a linear layer maps them that sees the frame too; genie_lam_network: a small network
    relabelled            the dictionary comes first and names the keys in all videos, and the policy is cloned on these
    relabelled_linear     the same, but keys are read from the model's features by a linear layer; relabelled_network: by a small network
    oracle                same network and videos, true actions
    n_label_bc            same network cloned on the N labelled samples alone: what the mapping must beat
    random, constant_right_up    the latter solves about two thirds by itself, as a collapsed policy would

    python experiments/bc_coinrun.py                   # the demo: half an hour on one CPU core
    python experiments/bc_coinrun.py --preset paper    # the paper's protocol: 100 levels x 5 seeds, a policy per seed
    python experiments/bc_coinrun.py --agents genie_lam oracle             # the paper's agent
    python experiments/bc_coinrun.py --expert apprentice --lam coinrun-small    # an expert that brakes, a model that has seen CoinRun
    python experiments/bc_coinrun.py --train-lam       # with a latent action model trained anew, on CoinRun
    python experiments/bc_coinrun.py --train-lam --lam-games climber jumper ninja    # the same on other games
    python experiments/bc_coinrun.py --train-lam --lam-labels 5000                   # with one that saw a few true actions
    python experiments/bc_coinrun.py --finetune-steps 500000                         # and PPO from the cloned policy, and from nothing
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import os
import signal
import threading
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro
from bc_report import film, known_actions, label_report, write_summary
from bc_settings import PRESETS, RECIPES, Settings
from bc_videos import LabelledVideos
from plot_finetuning import plot_finetuning
from plot_level_solve import COLUMNS, plot, read_results
from progress import training_bar
from run_cache import RunCache
from tqdm import tqdm

from genie_agents.action_mapping import FeatureClassifier, FrameMapping, LatentToRealMapping
from genie_agents.cloning import clone
from genie_agents.coinrun import DEMONSTRATION_LEVELS, NUM_ACTIONS, RIGHT_UP, TEST_LEVELS, VALIDATION_LEVELS
from genie_agents.demonstrations import RecordingConfig, open_videos
from genie_agents.evaluation import Agent, ClonedAgent, ConstantAgent, RandomAgent, evaluate
from genie_agents.policy import Policy
from world_model import LatentActionLabeller
from world_model.training import TrainingConfig, keep_freed_memory

HIDDEN = {"linear": 0, "network": 64}  # units of the mappings that look at features


class Study:
    """The stages of the study from labelled videos on, in order. Each returns the folder of what it made; nothing is made twice."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.cache = RunCache(settings.runs)
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.videos = LabelledVideos(settings, self.cache, self.device)

    # Mapping

    def dictionary(self, difficulty: str, seed: int, count: int) -> LatentToRealMapping:
        """The paper's mapping from latent actions to keys, by `count` labelled samples."""
        videos = self.videos
        samples = videos.labelled_samples(difficulty, seed, count)
        latent_actions, actions = videos.latent_actions[difficulty][samples], videos.true_actions[difficulty][samples]
        return LatentToRealMapping.fit(latent_actions, actions, num_codes=videos.labeller.num_codes)

    def frame_mapping(self, kind: str, difficulty: str, seed: int, count: int) -> FrameMapping:
        """From latent actions and the frames in which they are chosen to keys, by `count` labelled samples."""
        videos = self.videos
        samples = videos.questioned_samples(difficulty, seed, count)
        latent_actions, actions = videos.latent_actions[difficulty][samples], videos.true_actions[difficulty][samples]
        features = videos.frame_features[difficulty][samples].astype(np.float32)
        inputs = FrameMapping.join(latent_actions, features, num_codes=videos.labeller.num_codes)
        return FrameMapping(videos.labeller.model, FeatureClassifier.fit(inputs, actions, hidden=HIDDEN[kind], seed=seed))

    def relabeller(self, kind: str, difficulty: str, seed: int, count: int) -> FeatureClassifier:
        """From features of transitions to keys, by `count` labelled samples."""
        videos = self.videos
        samples = videos.questioned_samples(difficulty, seed, count)
        features, actions = videos.transition_features(difficulty, samples), videos.true_actions[difficulty][samples]
        return FeatureClassifier.fit(features, actions, hidden=HIDDEN[kind], seed=seed)

    def relabel(self, kind: str, difficulty: str, seed: int, count: int) -> np.ndarray:
        """The key (N,) of every frame of a difficulty by the labels of `count` samples, -1 where there is no latent action."""
        latent_actions = self.videos.latent_actions[difficulty]
        keys = np.full(len(latent_actions), -1)
        labelled = np.flatnonzero(latent_actions >= 0)
        if kind == "dictionary":
            keys[labelled] = self.dictionary(difficulty, seed, count).predict(latent_actions[labelled])
        else:
            classifier = self.relabeller(kind, difficulty, seed, count)
            for part in np.array_split(labelled, len(labelled) // 10_000 + 1):
                keys[part] = classifier.predict(self.videos.transition_features(difficulty, part))
        return keys

    # Cloning

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
        videos, difficulties = self.videos, self.settings.difficulties
        if samples is None:
            samples = np.concatenate([videos.first_frame(d) + videos.usable(d) for d in difficulties])
        return clone(
            dataclasses.replace(self.settings.policy, num_actions=num_actions),
            training,
            videos.frames,
            np.concatenate([labels[d] for d in difficulties]),
            samples=samples,
            batch_size=batch_size,
            balance=self.settings.label_balance,
            seed=seed,
            device=self.device,
            checkpoint=checkpoint,
            on_step=training_bar(title, training.steps) if title else None,
        )

    def policy(self, agent: str, seed: int, count: int = 0) -> Path:
        """Clone one policy from the videos of all difficulties: on latent actions, on true ones, or on those that `count` labels give."""
        settings, videos = self.settings, self.videos
        sources = [videos.labels(d) for d in settings.difficulties]  # the oracle too: labels say which frames are learned from
        recipe = RECIPES.get(agent)
        about = {"seed": seed, "batch_size": settings.cloning_batch_size, "balance": settings.label_balance}
        about |= {name: dataclasses.asdict(getattr(settings, name)) for name in ("policy", "cloning")}
        if recipe is None:
            name = "oracle"
        elif recipe.order == "clone_then_map":
            name = "genie_lam"  # one policy of latent actions serves all mappings
        else:
            name = f"{agent}-{count}"
            about |= {"mapping": recipe.mapping, "labelled_samples": count}

        def build(folder: Path) -> None:
            if name == "oracle":
                labels, num_actions = videos.true_actions, NUM_ACTIONS
            elif name == "genie_lam":
                labels, num_actions = videos.latent_actions, videos.labeller.num_codes
            else:
                labels, num_actions = {d: self.relabel(recipe.mapping, d, seed, count) for d in settings.difficulties}, NUM_ACTIONS
            policy = self.clone(
                labels,
                num_actions,
                settings.cloning,
                batch_size=settings.cloning_batch_size,
                seed=seed,
                title=f"clone {name}",
                checkpoint=folder / "checkpoint.safetensors",
            )
            policy.save_pretrained(folder)

        return self.cache.stage(f"clone-{name}-seed{seed}", about, sources, build)

    def n_label_policy(self, difficulty: str, seed: int, count: int) -> Policy:
        """The same network cloned on the labelled samples alone."""
        return self.clone(
            self.videos.true_actions,
            NUM_ACTIONS,
            self.settings.n_label_cloning,
            batch_size=self.settings.n_label_batch_size,
            seed=seed,
            samples=self.videos.first_frame(difficulty) + self.videos.labelled_samples(difficulty, seed, count),
        )

    # Play

    @property
    def evaluation_levels(self) -> range:
        return VALIDATION_LEVELS if self.settings.validation else TEST_LEVELS

    def counts(self, name: str) -> tuple[int, ...]:
        """The numbers of labelled samples that an agent is made with; 0 for one that needs none."""
        if name not in RECIPES and name != "n_label_bc":
            return (0,)
        relabelled = name in RECIPES and RECIPES[name].order == "map_then_clone"
        return self.settings.relabelled_samples if relabelled else self.settings.labelled_samples

    def policies(self, name: str) -> dict[tuple[int, int], Path]:
        """The policy of an agent for each seed and number of labelled samples."""
        settings = self.settings
        if name not in RECIPES and name != "oracle":
            return {}
        return {
            (seed, count): self.policy(name, seed if settings.policy_per_seed else settings.seed, count)
            for count in self.counts(name)
            for seed in range(settings.seeds)
        }

    def agent(self, name: str, difficulty: str, seed: int, count: int, policies: dict[tuple[int, int], Path]) -> Agent:
        if name == "random":
            return RandomAgent()
        if name == "constant_right_up":
            return ConstantAgent(RIGHT_UP)
        temperature = self.settings.temperature
        if name == "n_label_bc":
            return ClonedAgent(self.n_label_policy(difficulty, seed, count), temperature=temperature)
        policy = Policy.from_pretrained(policies[seed, count], device=self.device)
        recipe = RECIPES.get(name)
        if recipe is None or recipe.order == "map_then_clone":
            return ClonedAgent(policy, temperature=temperature)
        if recipe.mapping == "dictionary":
            return ClonedAgent(policy, self.dictionary(difficulty, seed, count), temperature=temperature)
        return ClonedAgent(policy, self.frame_mapping(recipe.mapping, difficulty, seed, count), temperature=temperature)

    def levels_solved(self, agent: Agent, difficulty: str, seed: int) -> np.ndarray:
        """Which of the held-out levels (L,) bool of a seed the agent solves."""
        settings = self.settings
        levels = self.evaluation_levels[seed * settings.evaluation_levels : (seed + 1) * settings.evaluation_levels]
        return evaluate(agent, levels, difficulty=difficulty, seed=seed, max_steps=settings.max_steps).solved

    def results(self, name: str, difficulty: str) -> Path:
        """Play held-out levels: rows.csv has a row for each seed and number of labelled samples, written as they come."""
        settings, policies = self.settings, self.policies(name)

        def build(folder: Path) -> None:
            path = folder / "rows.csv"
            done = {(int(row[2] or 0), int(row[3])) for row in csv.reader(path.open())} if path.exists() else set()
            todo = [(count, seed) for seed in range(settings.seeds) for count in self.counts(name) if (count, seed) not in done]
            for count, seed in tqdm(todo, desc=f"play {name}, {difficulty}", unit="evaluation", dynamic_ncols=True):
                solved = self.levels_solved(self.agent(name, difficulty, seed, count, policies), difficulty, seed)
                with path.open("a", newline="") as file:
                    csv.writer(file).writerow([name, difficulty, count or "", seed, len(solved), int(solved.sum())])

        about = {name: getattr(settings, name) for name in ("seeds", "seed", "evaluation_levels", "max_steps", "temperature")}
        about |= {"first_level": self.evaluation_levels[0], "labelled_samples": self.counts(name)}
        below = list(dict.fromkeys(policies.values()))
        if name in RECIPES:
            about |= {"recipe": dataclasses.asdict(RECIPES[name])}
        if name == "n_label_bc":
            below = [self.videos.labels(d) for d in settings.difficulties]
            about |= {n: dataclasses.asdict(getattr(settings, n)) for n in ("policy", "n_label_cloning")}
            about |= {n: getattr(settings, n) for n in ("n_label_batch_size", "label_balance")}
        return self.cache.stage(f"play-{name}-{difficulty}", about, below, build)

    # Fine-tuning by reward

    def finetuned(self, start: str, difficulty: str) -> Path:
        """PPO from the policy of an agent (`start` names it) or from an untrained network ("nothing"): returns.csv follows the mean return
        over environment steps, rows.csv has the held-out levels solved at the end, a row a seed."""
        from genie_agents.finetuning import finetune  # here, because Stable-Baselines3 is slow to import and seldom needed

        settings, count = self.settings, self.counts(start)[-1]
        below = [self.policy(start, settings.seed, count)] if start != "nothing" else []

        def build(folder: Path) -> None:
            mapping = self.dictionary(difficulty, settings.seed, count) if start == "genie_lam" else None
            if below:
                policy = Policy.from_pretrained(below[0])
            else:
                with torch.random.fork_rng(devices=[]):
                    torch.manual_seed(settings.seed)
                    policy = Policy(dataclasses.replace(settings.policy, num_actions=NUM_ACTIONS))
            with tqdm(total=settings.finetune_steps, desc=f"PPO from {start}, {difficulty}", unit="step", dynamic_ncols=True) as bar:

                def on_rollout(steps: int, mean_return: float) -> None:
                    bar.set_postfix({"mean return": f"{mean_return:.2f}"})
                    bar.update(steps - bar.n)
                    with (folder / "returns.csv").open("a", newline="") as file:
                        csv.writer(file).writerow([steps, mean_return])

                agent = finetune(
                    folder,
                    policy,
                    mapping,
                    total_steps=settings.finetune_steps,
                    learning_rate=settings.finetune_learning_rate if below else 5e-4,
                    difficulty=difficulty,
                    level_seeds=DEMONSTRATION_LEVELS,
                    seed=settings.seed,
                    device=self.device,
                    on_rollout=on_rollout,
                )
            solved = [self.levels_solved(agent, difficulty, seed) for seed in range(settings.seeds)]
            name = "ppo_from_clone" if below else "ppo_from_nothing"
            rows = [[name, difficulty, "", seed, len(s), int(s.sum())] for seed, s in enumerate(solved)]
            with (folder / "rows.csv").open("w", newline="") as file:
                csv.writer(file).writerows(rows)

        about = {name: getattr(settings, name) for name in ("finetune_steps", "seeds", "seed", "evaluation_levels", "max_steps")}
        about |= {"first_level": self.evaluation_levels[0], "policy": dataclasses.asdict(settings.policy)}
        about |= {"labelled_samples": count, "learning_rate": settings.finetune_learning_rate} if below else {}
        return self.cache.stage(f"ppo-from-{start}-{difficulty}", about, below, build)

    # Report

    def label_report(self, labeller: LatentActionLabeller, difficulty: str, *, with_mappings: bool = True) -> dict[str, Any]:
        """How well a labeller names the undisturbed expert's keys on levels that neither model nor mapping saw."""
        settings, videos = self.settings, self.videos
        recording = RecordingConfig(difficulty=difficulty, noise=0, delay=0, keep_unsolved=True)
        folder = videos.record(f"report-videos-{difficulty}", VALIDATION_LEVELS[-100:], recording, videos.expert(difficulty))
        files = open_videos(folder)
        described = [labeller.describe(file) for file in files]
        labels = np.concatenate([labels for labels, _ in described])
        if not with_mappings:
            return label_report(labels, *known_actions(files), num_codes=labeller.num_codes)
        kinds = dict.fromkeys(RECIPES[name].mapping for name in settings.agents if name in RECIPES)
        features = np.concatenate([features for _, features in described])
        transitions = np.concatenate([features, np.roll(features, -1, axis=0)], axis=1)
        named = {}
        for kind in kinds:
            for count in settings.labelled_samples:
                if kind == "dictionary":
                    named[f"{kind}, {count}"] = self.dictionary(difficulty, settings.seed, count).predict(labels)
                else:
                    named[f"{kind}, {count}"] = self.relabeller(kind, difficulty, settings.seed, count).predict(transitions)
        return label_report(labels, *known_actions(files), num_codes=labeller.num_codes, named=named)

    def run(self) -> None:
        settings = self.settings
        settings.output.mkdir(parents=True, exist_ok=True)
        folders = [self.results(name, d) for name in settings.agents for d in settings.difficulties]
        starts = (settings.finetune_agent, "nothing") if settings.finetune_steps else ()
        finetuned = {(start, d): self.finetuned(start, d) for start in starts for d in settings.difficulties}
        rows = [row for folder in [*folders, *finetuned.values()] for row in csv.reader((folder / "rows.csv").open())]
        results = settings.output / "results.csv"
        with (temporary := results.with_suffix(".tmp")).open("w", newline="") as file:
            csv.writer(file).writerows([COLUMNS, *rows])
        os.replace(temporary, results)
        plot(read_results([results]), settings.output / "level_solve.png")
        if finetuned:
            plot_finetuning({key: folder / "returns.csv" for key, folder in finetuned.items()}, settings.output / "finetuning.png")
        name = next((name for name in settings.agents if name in RECIPES), settings.agents[0])
        difficulty, count = settings.difficulties[0], self.counts(name)[-1]
        agent = self.agent(name, difficulty, 0, count, self.policies(name))
        film(agent, self.evaluation_levels[:4], difficulty, settings.output / "agent.gif")
        reports = {d: self.label_report(self.videos.labeller, d) for d in settings.difficulties}
        write_summary(settings.output, settings, self.cache.seconds, self.videos.labeller.identity, reports, read_results([results]))


def main() -> None:
    finder = argparse.ArgumentParser(add_help=False)
    finder.add_argument("--preset", default="demo", choices=PRESETS)
    preset = finder.parse_known_args()[0].preset
    settings = tyro.cli(Settings, default=PRESETS[preset], description=__doc__)
    keep_freed_memory()
    try:
        if settings.minutes is not None:
            signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs are started to ignore it
            timer = threading.Timer(60 * settings.minutes, os.kill, (os.getpid(), signal.SIGINT))
            timer.daemon = True
            timer.start()
        Study(settings).run()
    except KeyboardInterrupt:
        raise SystemExit(f"stopped; what is done is kept in {settings.runs}, and the same command goes on from there") from None
    print(f"results.csv, summary.json and the pictures are in {settings.output}")


if __name__ == "__main__":
    main()
