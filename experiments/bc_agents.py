"""The agents of bc_coinrun.py: mappings from latent actions to keys, policies cloned from the videos, and who plays with which."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import torch
from bc_samples import Samples
from bc_settings import RECIPES, Settings
from bc_transitions import Transitions
from bc_videos import LabelledVideos
from progress import training_bar
from run_cache import RunCache
from scipy.special import softmax
from scipy.stats import entropy

from genie_agents.action_mapping import FeatureClassifier, FrameMapping, LatentToRealMapping
from genie_agents.cloning import clone
from genie_agents.coinrun import AIRBORNE_ALIASES, NUM_ACTIONS, RIGHT_UP
from genie_agents.evaluation import Agent, ClonedAgent, ConstantAgent, RandomAgent
from genie_agents.policy import Policy
from genie_agents.selection import find_airborne, find_doubtful
from world_model.files import replace_when_written
from world_model.training import TrainingConfig

HIDDEN = {"linear": 0, "network": 64}  # units of the mappings that look at features
FORETELLING_SAMPLES = 20_000  # frames from which it is learned how foreseeable a frame's label is
UNSURE = 0.14  # nats of uncertainty from which on a frame is drawn as often as any: on hard levels, 40 % of the frames and 92 % of the loss
SURE_CHANCE = 0.1  # how often, compared to those, a frame is drawn whose label is certain


class Agents:
    """From labelled videos to whoever plays. Cloned policies are stages of the study: none is made twice."""

    def __init__(self, settings: Settings, cache: RunCache, device: torch.device, videos: LabelledVideos) -> None:
        self.settings, self.cache, self.device, self.videos = settings, cache, device, videos
        self.transitions = Transitions(settings, videos)
        self.samples = Samples(settings, videos, self.transitions)

    # Mapping

    def dictionary(self, difficulty: str, seed: int, count: int) -> LatentToRealMapping:
        """The paper's mapping from latent actions to keys, by `count` labelled samples."""
        videos = self.videos
        samples = self.samples.spread(difficulty, seed, count)
        latent_actions, actions = videos.latent_actions[difficulty][samples], videos.true_actions[difficulty][samples]
        return LatentToRealMapping.fit(latent_actions, actions, num_codes=videos.labeller.num_codes)

    def frame_mapping(self, kind: str, difficulty: str, seed: int, count: int) -> FrameMapping:
        """From latent actions and the frames in which they are chosen to keys, by `count` labelled samples: not by those that relabelling
        asks for, of which so many are rare keys that a mapping without the middle of the picture names them far too often."""
        videos = self.videos
        samples = self.samples.spread(difficulty, seed, count)
        latent_actions, actions = videos.latent_actions[difficulty][samples], videos.true_actions[difficulty][samples]
        features = videos.frame_features[difficulty][samples].astype(np.float32)
        inputs = FrameMapping.join(latent_actions, features, num_codes=videos.labeller.num_codes)
        return FrameMapping(videos.labeller.model, FeatureClassifier.fit(inputs, actions, hidden=HIDDEN[kind], seed=seed))

    def relabeller(self, kind: str, difficulty: str, seed: int, count: int) -> FeatureClassifier:
        """From what tells of transitions to keys, by `count` labelled samples."""
        samples = self.samples.questioned(difficulty, seed, count)
        return self.transitions.fit_keys(difficulty, samples, hidden=HIDDEN[kind], seed=seed)

    def relabel(self, kind: str, difficulty: str, seed: int, count: int) -> tuple[np.ndarray, np.ndarray]:
        """The key (N,) of every frame of a difficulty by the labels of `count` samples, -1 where there is no latent action, and where
        (N,) bool a mapping that looks at features is in doubt.

        Early in a jump UP may be held and does nothing, so that its label is noise: with `airborne_frames`, the key is its direction
        alone there, and the doubt is about that.
        """
        latent_actions = self.videos.latent_actions[difficulty]
        keys, confidence, of_direction = np.full(len(latent_actions), -1), *np.ones((2, len(latent_actions)))
        labelled = np.flatnonzero(latent_actions >= 0)
        if kind == "dictionary":
            keys[labelled] = self.dictionary(difficulty, seed, count).predict(latent_actions[labelled])
        else:
            classifier = self.relabeller(kind, difficulty, seed, count)
            for part in np.array_split(labelled, len(labelled) // 10_000 + 1):
                chances = softmax(classifier.logits(self.transitions.features(difficulty, part)), axis=1)
                keys[part], confidence[part] = chances.argmax(axis=1), chances.max(axis=1)
                aliases = AIRBORNE_ALIASES[keys[part], None] == AIRBORNE_ALIASES
                of_direction[part] = chances.sum(axis=1, where=aliases)
        threshold = self.settings.relabelling_confidence
        airborne = find_airborne(keys, confidence >= threshold, self.settings.airborne_frames)
        keys = np.where(airborne, AIRBORNE_ALIASES[keys], keys)
        confidence = np.where(airborne, of_direction, confidence)
        return keys, find_doubtful(keys, confidence, threshold=threshold)

    def name_keys(
        self, name: str, difficulty: str, seed: int, count: int, latent_actions: np.ndarray, features: np.ndarray, frames: np.ndarray
    ) -> np.ndarray:
        """The keys (N,) that the mapping of an agent makes of latent actions (N,), of features (N, D) and of the frames
        (N, H, W, 3) uint8 in a row; on the last frame of an episode, from which no transition leads, any."""
        recipe = RECIPES[name]
        latent_actions = np.maximum(latent_actions, 0)  # an episode's last frame has -1
        if recipe.mapping == "dictionary":
            return self.dictionary(difficulty, seed, count).predict(latent_actions)
        if recipe.order == "clone_then_map":
            mapping = self.frame_mapping(recipe.mapping, difficulty, seed, count)
            return mapping.classifier.predict(mapping.join(latent_actions, features, num_codes=self.videos.labeller.num_codes))
        after = np.roll(np.concatenate([features, self.transitions.looks(difficulty, frames)], axis=1), -1, axis=0)
        transitions = np.concatenate([features, after], axis=1)
        return self.relabeller(recipe.mapping, difficulty, seed, count).predict(transitions)

    # Cloning

    def uncertainty(self, labels: np.ndarray, difficulty: str, samples: np.ndarray) -> np.ndarray:
        """How unsure (N,), in nats, a small network is of the labels (N,) of a difficulty's `samples` before the transition is seen.

        In the air, most of the time, there is nothing to decide. It looks at what the latent action model saw so far, learns from
        few frames in seconds, and says so for all; what it cannot foretell is left to cloning.
        """
        transitions = self.transitions
        samples = np.random.default_rng(self.settings.seed).permutation(samples)
        learned = samples[:FORETELLING_SAMPLES]
        features, num_labels = transitions.past_features(difficulty, learned), max(NUM_ACTIONS, int(labels.max()) + 1)  # keys, or codes
        classifier = FeatureClassifier.fit(features, labels[learned], num_actions=num_labels, hidden=HIDDEN["network"])
        entropies = np.zeros(len(labels))
        for part in np.array_split(samples, len(samples) // 10_000 + 1):
            entropies[part] = entropy(softmax(classifier.logits(transitions.past_features(difficulty, part)), axis=1), axis=1)
        return entropies

    def clone(
        self,
        labels: dict[str, np.ndarray],
        num_actions: int,
        training: TrainingConfig,
        *,
        samples: dict[str, np.ndarray],
        weights: dict[str, np.ndarray] | None = None,
        batch_size: int,
        seed: int,
        title: str | None = None,
        checkpoint: Path | None = None,
    ) -> Policy:
        """Clone from labels (N,) of all frames of each difficulty; `samples` are those to learn from, indices within a difficulty, and
        `weights` (N,) how often to draw each frame."""
        videos, difficulties = self.videos, self.settings.difficulties
        return clone(
            dataclasses.replace(self.settings.policy, num_actions=num_actions),
            training,
            videos.frames,
            np.concatenate([labels[d] for d in difficulties]),
            samples=np.concatenate([videos.first_frame(d) + chosen for d, chosen in samples.items()]),
            batch_size=batch_size,
            balance=self.settings.label_balance,
            weights=None if weights is None else np.concatenate([weights[d] for d in difficulties]),
            seed=seed,
            device=self.device,
            checkpoint=checkpoint,
            on_step=training_bar(title, training.steps) if title else None,
        )

    def lessons(self, agent: str, difficulty: str, seed: int, count: int) -> dict[str, np.ndarray]:
        """What an agent is cloned from: `labels` (N,) of all frames of a difficulty, `samples`, the frames to learn from, and `weights`
        (N,), how often to draw each, where they are not drawn alike."""
        settings, videos, recipe = self.settings, self.videos, RECIPES.get(agent)
        samples = videos.usable(difficulty)
        if recipe is None:  # the oracle
            keys = videos.true_actions[difficulty]
            airborne = find_airborne(keys, np.ones(len(keys), dtype=bool), settings.airborne_frames)
            labels = np.where(airborne, AIRBORNE_ALIASES[keys], keys)
        elif recipe.order == "clone_then_map":
            labels = videos.latent_actions[difficulty]
        else:
            labels, doubtful = self.relabel(recipe.mapping, difficulty, seed, count)
            samples = samples[~doubtful[samples]]
        lessons = {"labels": labels, "samples": samples}
        if settings.uncertainty_sampling:
            lessons["weights"] = np.clip(self.uncertainty(labels, difficulty, samples) / UNSURE, SURE_CHANCE, 1)
        return lessons

    def policy(self, agent: str, seed: int, count: int = 0) -> Path:
        """Clone one policy from the videos of all difficulties: on latent actions, on true ones, or on those that `count` labels give."""
        settings, videos = self.settings, self.videos
        recipe = RECIPES.get(agent)
        labelled = recipe is not None or settings.uncertainty_sampling  # the oracle too: it reads features that come with labels
        sources = [videos.labels(d) if labelled else videos.demonstrations(d) for d in settings.difficulties]
        about = {"seed": seed, "batch_size": settings.cloning_batch_size, "balance": settings.label_balance}
        about |= {"uncertainty_sampling": [FORETELLING_SAMPLES, UNSURE, SURE_CHANCE] if settings.uncertainty_sampling else None}
        about |= {name: dataclasses.asdict(getattr(settings, name)) for name in ("policy", "cloning")}
        if recipe is None:
            name = "oracle"
            about |= {"frames_after_take_offs": settings.airborne_frames} if settings.airborne_frames else {}
        elif recipe.order == "clone_then_map":
            name = "genie_lam"  # one policy of latent actions serves all mappings
        else:
            name = f"{agent}-{count}"
            about |= {"mapping": recipe.mapping, "labelled_samples": count}
            if recipe.mapping != "dictionary":
                about |= {"confidence": settings.relabelling_confidence} | self.samples.about_questions()
            about |= {"frames_after_sure_take_offs": settings.airborne_frames} if settings.airborne_frames else {}

        def build(folder: Path) -> None:
            lessons = folder / "lessons.npz"  # made once: fitted anew, on other cores, they may differ in a bit from what was begun with
            if not lessons.exists():
                made = {f"{what} {d}": array for d in settings.difficulties for what, array in self.lessons(agent, d, seed, count).items()}
                with replace_when_written(lessons) as temporary, temporary.open("wb") as file:
                    np.savez(file, **made)
            with np.load(lessons) as kept:
                labels, samples, weights = (
                    {d: kept[f"{what} {d}"] for d in settings.difficulties if f"{what} {d}" in kept}
                    for what in ("labels", "samples", "weights")
                )
            policy = self.clone(
                labels,
                videos.labeller.num_codes if name == "genie_lam" else NUM_ACTIONS,
                settings.cloning,
                samples=samples,
                weights=weights or None,
                batch_size=settings.cloning_batch_size,
                seed=seed,
                title=f"clone {name}",
                checkpoint=folder / "checkpoint.safetensors",
            )
            policy.save_pretrained(folder)
            lessons.unlink(missing_ok=True)  # another command that made the same clone may have been faster

        return self.cache.stage(f"clone-{name}-seed{seed}", about, sources, build)

    def n_label_policy(self, difficulty: str, seed: int, count: int) -> Path:
        """The same network cloned on the labelled samples alone; no other true action is seen, not even as a previous one."""
        settings, videos = self.settings, self.videos
        about = {"seed": seed, "labelled_samples": count, "batch_size": settings.n_label_batch_size, "balance": settings.label_balance}
        about |= {name: dataclasses.asdict(getattr(settings, name)) for name in ("policy", "n_label_cloning")}

        def build(folder: Path) -> None:
            samples = self.samples.spread(difficulty, seed, count)
            known = {d: np.full_like(actions, -1) for d, actions in videos.true_actions.items()}
            known[difficulty][samples] = videos.true_actions[difficulty][samples]
            policy = self.clone(
                known,
                NUM_ACTIONS,
                settings.n_label_cloning,
                samples={difficulty: samples},
                batch_size=settings.n_label_batch_size,
                seed=seed,
                title=f"clone n_label_bc-{count}, {difficulty}, seed {seed}",
            )
            policy.save_pretrained(folder)

        return self.cache.stage(f"clone-n_label_bc-{count}-{difficulty}-seed{seed}", about, [videos.labels(difficulty)], build)

    # Who plays

    def counts(self, name: str) -> tuple[int, ...]:
        """The numbers of labelled samples that an agent is made with; 0 for one that needs none."""
        if name not in RECIPES and name != "n_label_bc":
            return (0,)
        relabelled = name in RECIPES and RECIPES[name].order == "map_then_clone"
        return self.settings.relabelled_samples if relabelled else self.settings.labelled_samples

    def training_seed(self, seed: int) -> int:
        """The seed that the policy was cloned with which plays as `seed`."""
        if self.settings.policy_per_seed:
            return seed
        return self.settings.seed if self.settings.cloning_seed is None else self.settings.cloning_seed

    def mapping_seed(self, name: str) -> int:
        """The seed that chooses the labelled samples of an agent that plays as seed 0."""
        return 0 if RECIPES[name].order == "clone_then_map" else self.training_seed(0)

    def policies(self, name: str, difficulty: str) -> dict[tuple[int, int], Path]:
        """The policy of an agent that plays a difficulty for each seed and number of labelled samples."""
        places = [(seed, count) for count in self.counts(name) for seed in range(self.settings.seeds)]
        if name == "n_label_bc":
            return {(seed, count): self.n_label_policy(difficulty, seed, count) for seed, count in places}
        if name in RECIPES or name == "oracle":
            return {(seed, count): self.policy(name, self.training_seed(seed), count) for seed, count in places}
        return {}

    def make(self, name: str, difficulty: str, seed: int, count: int, policies: dict[tuple[int, int], Path]) -> Agent:
        """An agent by name, with the mapping that `count` labelled samples give it; `policies` are those of the name and difficulty."""
        if name == "random":
            return RandomAgent()
        if name == "constant_right_up":
            return ConstantAgent(RIGHT_UP)
        temperature = self.settings.n_label_temperature if name == "n_label_bc" else self.settings.temperature
        policy = Policy.from_pretrained(policies[seed, count], device=self.device)
        recipe = RECIPES.get(name)
        if recipe is None or recipe.order == "map_then_clone":
            return ClonedAgent(policy, temperature=temperature)
        if recipe.mapping == "dictionary":
            return ClonedAgent(policy, self.dictionary(difficulty, seed, count), temperature=temperature)
        return ClonedAgent(policy, self.frame_mapping(recipe.mapping, difficulty, seed, count), temperature=temperature)
