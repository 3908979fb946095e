"""Agents cloned from CoinRun videos without action labels (Genie, section 3.3 and Appendix E).

Expert videos -> a latent action model says what happened in every transition -> a few labelled samples say which keys that means -> a
policy is cloned -> it plays levels nobody has seen -> percent of levels solved.

Agents, a curve each (--agents):

    genie_lam             the paper's: a policy is cloned on latent actions, a dictionary maps those that it chooses to keys
    genie_lam_linear      a linear layer maps them that sees the frame too; genie_lam_network: a small network
    relabelled            the dictionary comes first and names the keys in all videos, and the policy is cloned on these
    relabelled_linear     the same, but keys are read from the model's features and the middle of the picture, where the player is, by a
                          linear layer; relabelled_network: by a small network
    oracle                same network and videos, true actions, but for UP early in a jump, as in the relabelled ones
    n_label_bc            same network cloned on the N labelled samples alone: what the mapping must beat
    random, constant_right_up    the latter solves about two thirds by itself, as a collapsed policy would

    python experiments/bc_coinrun.py                   # the demo: half an hour to an hour on two CPU cores
    python experiments/bc_coinrun.py --preset paper    # the paper's protocol: 100 levels x 5 seeds, a policy per seed
    python experiments/bc_coinrun.py --agents genie_lam oracle             # the paper's agent
    python experiments/bc_coinrun.py --lam coinrun-small                   # labelled by a model that has seen CoinRun
    python experiments/bc_coinrun.py --train-lam       # with a latent action model trained anew, on CoinRun
    python experiments/bc_coinrun.py --train-lam --lam-games climber jumper ninja    # the same on other games
    python experiments/bc_coinrun.py --train-lam --lam-labels 5000                   # with one that saw a few true actions
    python experiments/bc_coinrun.py --finetune-steps 500000                         # and PPO from the cloned policy, and from nothing
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro
from bc_agents import Agents
from bc_report import film, known_actions, label_report, write_summary
from bc_samples import check_number
from bc_settings import PRESETS, RECIPES, Settings, check_options
from bc_videos import LabelledVideos
from plot_finetuning import plot_finetuning
from plot_level_solve import COLUMNS, plot, read_results
from run_cache import RunCache
from stopping import refusing, stoppable
from tqdm import tqdm

from genie_agents.coinrun import DEMONSTRATION_LEVELS, NUM_ACTIONS, TEST_LEVELS, VALIDATION_LEVELS
from genie_agents.demonstrations import RecordingConfig, open_videos
from genie_agents.evaluation import Agent, evaluate
from genie_agents.policy import Policy
from world_model import LatentActionLabeller
from world_model.files import replace_when_written
from world_model.training import tune_cpu


class Study:
    """The last stages of the study: play, with what it stands on, and fine-tuning. Nothing is made twice."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.cache = RunCache(settings.runs)
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.videos = LabelledVideos(settings, self.cache, self.device)
        self.agents = Agents(settings, self.cache, self.device, self.videos)

    # Play

    @property
    def evaluation_levels(self) -> range:
        return VALIDATION_LEVELS if self.settings.validation else TEST_LEVELS

    def play(
        self, name: str, difficulty: str, count: int, seed: int, make: Callable[[], Agent], about: dict[str, Any], below: list[Path]
    ) -> list[Any]:
        """A row of results.csv: how many of a seed's held-out levels the agent solves that `make` returns. solved.npy (L,) bool: which."""
        settings, first = self.settings, seed * self.settings.evaluation_levels
        levels = self.evaluation_levels[first : first + settings.evaluation_levels]

        def build(folder: Path) -> None:
            evaluation = evaluate(make(), levels, difficulty=difficulty, seed=seed, max_steps=settings.max_steps)
            np.save(folder / "solved.npy", evaluation.solved)

        about = about | {"levels": [levels[0], levels[-1]], "playing_seed": seed, "max_steps": settings.max_steps}
        folder = self.cache.stage(f"play-{name}-{difficulty}", about, below, build)
        solved = np.load(folder / "solved.npy")
        return [name, difficulty, count or "", seed, len(solved), int(solved.sum())]

    def results(self, name: str, difficulty: str) -> list[list[Any]]:
        """Play held-out levels: a row for each seed and number of labelled samples."""
        settings, policies = self.settings, self.agents.policies(name, difficulty)
        about: dict[str, Any] = {}
        if policies:
            temperature = settings.n_label_temperature if name == "n_label_bc" else settings.temperature
            about |= {"seed": settings.seed, "temperature": temperature}
        if name in RECIPES:
            about |= {"recipe": dataclasses.asdict(RECIPES[name])}
        places = [(seed, count) for seed in range(settings.seeds) for count in self.agents.counts(name)]
        rows = []
        for seed, count in tqdm(places, desc=f"play {name}, {difficulty}", unit="evaluation", dynamic_ncols=True):
            make = functools.partial(self.agents.make, name, difficulty, seed, count, policies)
            below = [policies[seed, count]] if policies else []
            rows.append(self.play(name, difficulty, count, seed, make, about | {"labelled_samples": count}, below))
        return rows

    # Fine-tuning by reward

    def finetuned(self, start: str, difficulty: str) -> Path:
        """PPO from the policy of an agent (`start` names it) or from an untrained network ("nothing"): returns.csv follows the mean return
        over environment steps."""
        settings = self.settings
        about = {name: getattr(settings, name) for name in ("finetune_steps", "seed")} | {"policy": dataclasses.asdict(settings.policy)}
        if start != "nothing":
            about |= {"labelled_samples": max(self.agents.counts(start)), "learning_rate": settings.finetune_learning_rate}
        return self.cache.stage(
            f"ppo-from-{start}-{difficulty}", about, self.cloned(start), lambda folder: self.finetune(start, difficulty, folder)
        )

    def finetuned_results(self, start: str, difficulty: str) -> list[list[Any]]:
        """Play held-out levels after it: a row a seed."""
        trained = self.finetuned(start, difficulty)
        name, count = ("ppo_from_nothing", 0) if start == "nothing" else ("ppo_from_clone", max(self.agents.counts(start)))
        agent = functools.cache(lambda: self.finetune(start, difficulty, trained))
        return [self.play(name, difficulty, count, seed, agent, {}, [trained]) for seed in range(self.settings.seeds)]

    def cloned(self, start: str) -> list[Path]:
        """The policy from which fine-tuning starts, if any."""
        return [] if start == "nothing" else [self.agents.policy(start, self.agents.training_seed(0), max(self.agents.counts(start)))]

    def finetune(self, start: str, difficulty: str, folder: Path) -> Agent:
        """The agent that is fine-tuned in `folder`; no step is taken where that is finished."""
        from genie_agents.finetuning import finetune  # here, because Stable-Baselines3 is slow to import and seldom needed

        settings, cloned, mapping = self.settings, self.cloned(start), None
        if start == "genie_lam":
            mapping = self.agents.dictionary(difficulty, 0, max(self.agents.counts(start)))
        if cloned:
            policy = Policy.from_pretrained(cloned[0])
        else:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(settings.seed)
                policy = Policy(dataclasses.replace(settings.policy, num_actions=NUM_ACTIONS))
        with tqdm(total=settings.finetune_steps, desc=f"PPO from {start}, {difficulty}", unit="step", dynamic_ncols=True) as bar:

            def on_rollout(steps: int, mean_return: float) -> None:
                bar.set_postfix({"mean return": f"{mean_return:.2f}"})
                bar.update(steps - bar.n)
                returns = folder / "returns.csv"
                rows = list(csv.reader(returns.open())) if returns.exists() else []
                with replace_when_written(returns) as temporary, temporary.open("w", newline="") as file:
                    before = [row for row in rows if int(row[0]) < steps]  # an interrupted update is done anew
                    csv.writer(file).writerows([*before, [steps, mean_return]])

            return finetune(
                folder,
                policy,
                mapping,
                total_steps=settings.finetune_steps,
                learning_rate=settings.finetune_learning_rate if cloned else 5e-4,
                difficulty=difficulty,
                level_seeds=DEMONSTRATION_LEVELS,
                seed=settings.seed,
                device=self.device,
                on_rollout=on_rollout,
            )

    # Report

    def label_report(self, labeller: LatentActionLabeller, difficulty: str, *, with_mappings: bool = True) -> dict[str, Any]:
        """How well a labeller names the undisturbed expert's keys on levels that neither model nor mapping saw."""
        settings, videos = self.settings, self.videos
        recording = RecordingConfig(difficulty=difficulty, noise=0, delay=0, keep_unsolved=True)
        folder = videos.record(f"report-videos-{difficulty}", VALIDATION_LEVELS[-100:], recording, settings.expert)
        files = open_videos(folder)
        described = [labeller.describe(file) for file in files]
        labels = np.concatenate([labels for labels, _ in described])
        if not with_mappings:
            return label_report(labels, *known_actions(files), num_codes=labeller.num_codes)
        features = np.concatenate([features for _, features in described])
        looks = bool(settings.middle_pixels)  # else nobody reads the frames
        frames = np.concatenate([file.frames[:] if looks else np.empty((file.num_frames, 0)) for file in files])
        named = {
            f"{name}, {count}": self.agents.name_keys(name, difficulty, self.agents.mapping_seed(name), count, labels, features, frames)
            for name in settings.agents
            if name in RECIPES
            for count in self.agents.counts(name)
        }
        return label_report(labels, *known_actions(files), num_codes=labeller.num_codes, named=named)

    def run(self) -> None:
        settings = self.settings
        settings.output.mkdir(parents=True, exist_ok=True)
        learning = (*settings.agents, *((settings.finetune_agent,) if settings.finetune_steps else ()))
        if most := max(count for name in learning for count in self.agents.counts(name)):
            for difficulty in settings.difficulties:  # before hours of cloning
                check_number(self.videos.usable(difficulty), most)
        rows = [row for name in settings.agents for d in settings.difficulties for row in self.results(name, d)]
        starts = (settings.finetune_agent, "nothing") if settings.finetune_steps else ()
        finetuned = {(start, d): self.finetuned(start, d) for start in starts for d in settings.difficulties}
        rows += [row for start, d in finetuned for row in self.finetuned_results(start, d)]
        results = settings.output / "results.csv"
        with replace_when_written(results) as temporary, temporary.open("w", newline="") as file:
            csv.writer(file).writerows([COLUMNS, *rows])
        plot(read_results([results]), settings.output / "level_solve.png")
        if finetuned:
            plot_finetuning({key: folder / "returns.csv" for key, folder in finetuned.items()}, settings.output / "finetuning.png")
        name = next((name for name in settings.agents if name in RECIPES), settings.agents[0])
        difficulty, count = settings.difficulties[0], max(self.agents.counts(name))
        agent = self.agents.make(name, difficulty, 0, count, self.agents.policies(name, difficulty))
        film(agent, self.evaluation_levels[:4], difficulty, settings.output / "agent.gif")
        reports = {d: self.label_report(self.videos.labeller, d) for d in settings.difficulties}
        write_summary(settings.output, settings, self.cache.seconds, self.videos.labeller.identity, reports, read_results([results]))


@refusing()
def main() -> None:
    finder = argparse.ArgumentParser(add_help=False)
    finder.add_argument("--preset", default="demo", choices=PRESETS)
    preset = finder.parse_known_args()[0].preset
    settings = tyro.cli(Settings, default=PRESETS[preset], description=__doc__)
    check_options(settings)
    tune_cpu()
    with stoppable(settings.runs, settings.minutes):
        Study(settings).run()
    print(f"results.csv, summary.json and the pictures are in {settings.output}")


if __name__ == "__main__":
    main()
