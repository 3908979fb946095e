"""The videos of bc_coinrun.py and what is known of them: latent actions and features for every frame, true actions for a few."""

from __future__ import annotations

import dataclasses
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from bc_settings import POOL, Settings
from progress import training_bar
from recording import record
from run_cache import RunCache
from scipy.special import softmax
from tqdm import tqdm

from genie_agents.action_mapping import FeatureClassifier
from genie_agents.cloning import Videos
from genie_agents.coinrun import AIRBORNE_ALIASES, DEMONSTRATION_LEVELS, FRAME_SHAPE, TAKE_OFFS, WORLD_MODEL_LEVELS
from genie_agents.demonstrations import RecordingConfig, open_videos
from genie_agents.experts.players import identify_expert
from genie_agents.mirror import MirrorClassifier
from genie_agents.selection import Proxy
from world_model import LatentActionLabeller
from world_model.data import VideoFile
from world_model.files import replace_when_written
from world_model.training import LabelledTransitions, train_latent_action_model

FIRST_QUESTIONS = 8  # spread over the latent actions
UNLIKE_QUESTIONS = 8  # of frames that look least like those asked for before
UNLIKE_AT_A_TIME = 4
HELD = 8  # frames of a press that are asked for
MIRROR_FRAMES = 20_000  # from which it is learned which way the player faces
MIRROR_COPIES = 8  # of what was learned of that, as one of some hundred features would count for little


class LabelledVideos:
    """The first stages of the study. Each returns the folder of what it made; nothing is made twice."""

    def __init__(self, settings: Settings, cache: RunCache, device: torch.device) -> None:
        self.settings, self.cache, self.device = settings, cache, device
        self._questioned: dict[tuple[str, int], np.ndarray] = {}
        self._mirror_classifiers: dict[str, MirrorClassifier] = {}
        identify_expert(settings.expert)  # a name that is none is found out before hours of recording
        if settings.proxy:
            Proxy(settings.proxy)
        if not settings.train_lam:
            config = self.labeller.model.config
            if (shape := (config.image_height, config.image_width, config.channels)) != FRAME_SHAPE:
                raise ValueError(f"lam {settings.lam} looks at frames of {shape}, and CoinRun's are {FRAME_SHAPE}: give another one")

    # Videos and the latent action model

    def record(self, name: str, levels: range, recording: RecordingConfig, expert: str, proxy: Path | None = None) -> Path:
        return record(self.cache, name, levels, recording, expert, seed=self.settings.seed, proxy=proxy)

    def demonstrations(self, difficulty: str) -> Path:
        settings = self.settings
        recording = RecordingConfig(difficulty=difficulty, noise=settings.noise, lead_in=self.context)
        return self.record(f"videos-{difficulty}", DEMONSTRATION_LEVELS[: settings.levels], recording, settings.expert, settings.proxy)

    def latent_action_videos(self) -> list[Path]:
        """Videos of levels that cloning never sees. CoinRun: the noisy planner shows the game, random play what else the keys do. Other
        games have no planner: there keys are held at random, for a short or a long time. All are disturbed on camera: a random key in
        one of ten steps (on the ground, in CoinRun) for one step or two, and one in five take-offs put off."""
        settings, folders = self.settings, []
        levels = WORLD_MODEL_LEVELS[: settings.lam_levels]
        random_levels = settings.lam_levels // 4
        for game in settings.lam_games:
            prefix, player = ("lam-videos", "planner") if game == "coinrun" else (f"lam-videos-{game}", "sticky")
            for difficulty in settings.difficulties:
                recording = RecordingConfig(game=game, difficulty=difficulty, cut_noise=False, keep_unsolved=True, max_steps=200)
                folders += [
                    self.record(f"{prefix}-random-{difficulty}", levels[:random_levels], recording, "random"),
                    self.record(f"{prefix}-{player}-{difficulty}", levels[random_levels:], recording, player),
                ]
        return folders

    def train_latent_action_model(self) -> Path:
        settings, sources = self.settings, self.latent_action_videos()

        def build(folder: Path) -> None:
            files = open_videos(*sources)
            model = train_latent_action_model(
                files,
                settings.lam_model,
                settings.lam_training,
                clip_length=settings.lam_clip_length,
                batch_size=settings.lam_batch_size,
                labelled=draw_labelled_transitions(files, settings) if settings.lam_labels else None,
                seed=settings.seed,
                device=self.device,
                checkpoint=folder / "checkpoint.safetensors",
                on_step=training_bar("latent action model", settings.lam_training.steps),
            )
            model.save_pretrained(folder)

        about = {name: getattr(settings, name) for name in ("lam_clip_length", "lam_batch_size", "lam_labels", "seed")}
        about |= {name: dataclasses.asdict(getattr(settings, name)) for name in ("lam_model", "lam_training")}
        return self.cache.stage("lam", about, sources, build)

    # What the latent action model says of the demonstrations

    @cached_property
    def labeller(self) -> LatentActionLabeller:
        return LatentActionLabeller.from_pretrained(self.train_latent_action_model() if self.settings.train_lam else self.settings.lam)

    @property
    def context(self) -> int:
        """How many frames the labeller must have seen before the one from which a transition leads that it is to label."""
        return self.labeller.model.config.context_frames - 2

    def labels(self, difficulty: str) -> Path:
        """labels.npy (N,): the latent action from each frame to the next, -1 on the last of an episode; features.npy (N, D) float16: what
        the model sees in each frame. Row t+1 describes the transition from t to t+1."""
        source = self.demonstrations(difficulty)

        def build(folder: Path) -> None:
            files = open_videos(source)
            parts = [folder / f"{file.path.stem}.npz" for file in files]  # an interrupted stage goes on with the next file
            frames = sum(file.num_frames for file in files)
            with tqdm(total=frames, desc=f"labels-{difficulty}", unit="frame", dynamic_ncols=True) as bar:
                for file, path in zip(files, parts, strict=True):
                    if not path.exists():
                        labels, features = self.labeller.describe(file)
                        with replace_when_written(path) as temporary, temporary.open("wb") as part:
                            np.savez(part, labels=labels, features=features.astype(np.float16))
                    bar.update(file.num_frames)
            for name in ("labels", "features"):
                np.save(folder / f"{name}.npy", np.concatenate([np.load(path)[name] for path in parts]))
            for path in parts:
                path.unlink(missing_ok=True)  # where two commands made the same labels

        return self.cache.stage(f"labels-{difficulty}", {"labeller": self.labeller.identity, "with": "features"}, [source], build)

    # What is held in memory: the frames of all difficulties in a row, and per difficulty one row a frame of all else

    @cached_property
    def frames(self) -> Videos:
        return Videos.load(open_videos(*(self.demonstrations(d) for d in self.settings.difficulties)))

    @cached_property
    def true_actions(self) -> dict[str, np.ndarray]:
        return {d: np.concatenate([f.actions() for f in open_videos(self.demonstrations(d))]) for d in self.settings.difficulties}

    @cached_property
    def latent_actions(self) -> dict[str, np.ndarray]:
        return {d: np.load(self.labels(d) / "labels.npy") for d in self.settings.difficulties}

    @cached_property
    def frame_features(self) -> dict[str, np.ndarray]:
        return {d: np.load(self.labels(d) / "features.npy") for d in self.settings.difficulties}

    def first_frame(self, difficulty: str) -> int:
        """Where a difficulty's frames begin among all frames."""
        before = self.settings.difficulties[: self.settings.difficulties.index(difficulty)]
        return sum(len(self.true_actions[d]) for d in before)

    def usable(self, difficulty: str) -> np.ndarray:
        """The frames (indices within a difficulty) to learn from: all but those too near an episode's start to be labelled in context,
        and those by which a cut video leads to where the expert takes over.

        Of a jump that began before the first frame, the labeller cannot know that the agent was rising already, and sees a take-off.
        """
        actions = self.true_actions[difficulty]  # of which only where there is none is looked at: on an episode's last frame
        starts = np.flatnonzero(np.append(-1, actions[:-1]) == -1)
        early = (starts[:, None] + np.arange(self.context)).ravel()
        return np.setdiff1d(np.flatnonzero(actions >= 0), early)

    def labelled_samples(self, difficulty: str, seed: int, count: int) -> np.ndarray:
        """The frames of a difficulty whose true action may be seen, drawn evenly over the latent actions; more contain the fewer.

        Which frames to have labelled is ours to choose, and the latent actions are known for all: without the choice, 16 samples seldom
        hold a single take-off.
        """
        samples = np.random.default_rng((self.settings.seed, seed)).permutation(self.usable(difficulty))
        return check_number(spread(samples, self.latent_actions[difficulty][samples])[:count], count)

    def mirror_classifier(self, difficulty: str) -> MirrorClassifier:
        """Which way the middle of a difficulty's pictures faces, learned from them without a label."""
        if difficulty not in self._mirror_classifiers:
            frames = np.random.default_rng(self.settings.seed).permutation(self.usable(difficulty))[:MIRROR_FRAMES]
            pictures = self.frames.frames[self.first_frame(difficulty) + frames + 1]
            middles = middle(pictures, self.settings.middle_pixels)
            self._mirror_classifiers[difficulty] = MirrorClassifier.fit(middles, seed=self.settings.seed)
        return self._mirror_classifiers[difficulty]

    def looks(self, difficulty: str, pictures: np.ndarray) -> np.ndarray:
        """What the `middle` of pictures (n, H, W, 3) uint8 shows of the player, (n, 3 P^2 + W): its P x P pixels, and, W times, how much
        they look like a mirror image. (n, 0) where `middle_pixels` are none.

        Of a player's stance the latent action model's features tell little: there motion counts, as it changes most of the picture. Which
        way a player faces, a linear layer cannot read from the pixels of players that look differently, as on hard levels."""
        if not self.settings.middle_pixels:
            return np.empty((len(pictures), 0), np.float32)
        middles = middle(pictures, self.settings.middle_pixels)
        mirrored = self.mirror_classifier(difficulty).log_odds(middles)
        return np.concatenate([middles.reshape(len(middles), -1) / np.float32(255), np.repeat(mirrored[:, None], MIRROR_COPIES, 1)], axis=1)

    def transition_features(self, difficulty: str, frames: np.ndarray) -> np.ndarray:
        """What tells of the transitions that lead from the frames (n,) of a difficulty, (n, 2 D + 3 P^2 + W): what the latent action model
        sees before and after them, and how the player `looks` after them, where that is read."""
        features, after = self.frame_features[difficulty], frames + 1
        parts = [features[frames], features[after]]
        if self.settings.middle_pixels:
            parts.append(self.looks(difficulty, self.frames.frames[self.first_frame(difficulty) + after]))
        return np.concatenate(parts, axis=1, dtype=np.float32)

    def past_features(self, difficulty: str, frames: np.ndarray) -> np.ndarray:
        """What the latent action model sees in the frames (n,) of a difficulty and in those before them: (n, 2 D)."""
        features, labels = self.frame_features[difficulty], self.latent_actions[difficulty]
        before = np.where(labels[frames - 1] == -1, frames, frames - 1)  # an episode's first frame stands in for its past
        return np.concatenate([features[before], features[frames]], axis=1).astype(np.float32)

    def fit_keys(self, difficulty: str, samples: np.ndarray, *, hidden: int = 0, seed: int = 0) -> FeatureClassifier:
        """From what tells of transitions to keys, by the true actions of the frames (n,) of a difficulty.

        Held on after a take-off UP does nothing, and learned as UP it makes every rising frame look like a take-off. So samples in the
        `airborne_frames` after a frame that a first fit names a take-off with confidence teach their direction alone, by two further fits.
        """
        settings, features, keys = self.settings, self.transition_features(difficulty, samples), self.true_actions[difficulty][samples]
        classifier = FeatureClassifier.fit(features, keys, hidden=hidden, seed=seed)
        jumping = np.isin(keys, TAKE_OFFS)
        before = samples[jumping, None] - np.arange(1, settings.airborne_frames + 1)
        same_episode = np.logical_and.accumulate((before >= 0) & (self.latent_actions[difficulty][before] >= 0), axis=1)  # -1 ends one
        if not same_episode.any():
            return classifier
        features_before = self.transition_features(difficulty, before[same_episode])
        for _ in range(2):
            chances = softmax(classifier.logits(features_before), axis=1)
            risen = np.zeros(before.shape, dtype=bool)
            risen[same_episode] = np.isin(chances.argmax(axis=1), TAKE_OFFS) & (chances.max(axis=1) >= settings.relabelling_confidence)
            held = risen.any(axis=1)
            if held.all():  # that would leave no take-off to learn
                break
            learned = keys.copy()
            learned[jumping] = np.where(held, AIRBORNE_ALIASES[keys[jumping]], keys[jumping])
            classifier = FeatureClassifier.fit(features, learned, hidden=hidden, seed=seed)
        return classifier

    def about_questions(self) -> dict[str, Any]:
        """What `questioned_samples` and `fit_keys` depend on, for stages made by them."""
        settings = self.settings
        return {
            "questions": [FIRST_QUESTIONS, UNLIKE_QUESTIONS],
            "middle_pixels": settings.middle_pixels,
            "mirror": [MIRROR_FRAMES, MIRROR_COPIES] if settings.middle_pixels else None,
            "airborne_samples": [settings.airborne_frames, settings.relabelling_confidence] if settings.airborne_frames else None,
        }

    def questioned_samples(self, difficulty: str, seed: int, count: int) -> np.ndarray:
        """The frames of a difficulty whose true action is asked for to read features by; more contain the fewer.

        First `labelled_samples`, then those that look least like all that were asked for (`farthest_first`), in the middle of the picture
        if that is read: a player who faces the other way stands out there, however seldom. From then on a linear layer is fitted again and
        again, and asks where it is least sure between two keys (margin sampling, Scheffer et al. 2001). Of each press of a direction that
        is not the common one the following frames are asked for, until the common one is back: held on, a key does not look as when just
        pressed.
        """
        if len(self._questioned.get((difficulty, seed), ())) < count:
            keys, usable = self.true_actions[difficulty], self.usable(difficulty)
            directions = AIRBORNE_ALIASES[keys]
            unasked = np.isin(np.arange(len(keys)), usable)
            pool = np.random.default_rng((self.settings.seed, seed)).permutation(usable)[:POOL]
            pool_features = self.transition_features(difficulty, pool)
            first_look = 2 * self.frame_features[difficulty].shape[1] if self.settings.middle_pixels else 0
            mean, scale = pool_features[:, first_look:].mean(axis=0), pool_features[:, first_look:].std(axis=0) + 1e-6
            questions = self.labelled_samples(difficulty, seed, min(FIRST_QUESTIONS, len(usable)))
            common = np.bincount(directions[questions], minlength=1).argmax()
            chosen: list[int] = []
            while True:
                unasked[questions] = False
                chosen += questions.tolist()
                for frame in questions[directions[questions] != common]:
                    for follower in range(frame + 1, frame + 1 + HELD):
                        if not unasked[follower]:
                            break
                        unasked[follower] = False
                        chosen.append(follower)
                        if directions[follower] == common:
                            break
                candidates = np.flatnonzero(unasked[pool])
                if len(chosen) >= count or not len(candidates):
                    break
                if len(chosen) < FIRST_QUESTIONS + UNLIKE_QUESTIONS:
                    asked = self.transition_features(difficulty, np.array(chosen))[:, first_look:]
                    looks = (pool_features[candidates][:, first_look:] - mean) / scale
                    questions = pool[candidates[farthest_first(looks, (asked - mean) / scale, UNLIKE_AT_A_TIME)]]
                    continue
                logits = np.sort(self.fit_keys(difficulty, np.array(chosen)).logits(pool_features[candidates]), axis=1)
                nearest = candidates[np.argsort(logits[:, -1] - logits[:, -2], kind="stable")]
                # few at a time, as each answer moves the border, and some of many there, as those nearest to it look alike
                number = max(1, len(chosen) // 16)
                generator = np.random.default_rng((self.settings.seed, seed, len(chosen)))
                questions = generator.permutation(pool[nearest[: 5 * number]])[:number]
            self._questioned[difficulty, seed] = np.array(chosen)
        return check_number(self._questioned[difficulty, seed][:count], count)


def middle(pictures: np.ndarray, pixels: int) -> np.ndarray:
    """The middle `pixels` x `pixels` of pictures (n, H, W, 3), where CoinRun's camera keeps the player."""
    top, left = (size // 2 - pixels // 2 for size in pictures.shape[1:3])
    return pictures[:, top : top + pixels, left : left + pixels]


def spread(samples: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """The samples (N,), first of each group (N,) the first one, then the second ones, and so on."""
    rank = np.empty(len(samples), dtype=np.int64)  # a sample's place in its own group
    for group in np.unique(groups):
        rank[groups == group] = np.arange((groups == group).sum())
    return samples[np.argsort(rank, kind="stable")]


def farthest_first(points: np.ndarray, known: np.ndarray, number: int) -> np.ndarray:
    """Indices (number,) of the points (N, D), each the one farthest from those known (M, D) and those chosen before it, by which every
    region of the points is soon met (Gonzalez 1985; for choosing samples to label, Sener and Savarese 2018). Fewer where N is less."""
    distance, chosen = np.full(len(points), np.inf), []
    for point in known:
        distance = np.minimum(distance, np.square(points - point).sum(axis=1))
    for _ in range(min(number, len(points))):
        chosen.append(int(distance.argmax()))
        distance = np.minimum(distance, np.square(points - points[chosen[-1]]).sum(axis=1))
        distance[chosen[-1]] = -1  # of points that are alike, none is chosen twice
    return np.array(chosen)


def check_number(samples: np.ndarray, count: int) -> np.ndarray:
    """The samples; raises ValueError where they are fewer than `count`."""
    if len(samples) < count:
        raise ValueError(f"{count} labelled samples were asked for, and the videos have {len(samples)} to choose: record more levels")
    return samples


def draw_labelled_transitions(files: list[VideoFile], settings: Settings) -> LabelledTransitions:
    """`lam_labels` clips of the latent action model's videos, drawn at random, with the true action between their last two frames."""
    clip_length, places = settings.lam_clip_length, []
    for index, file in enumerate(files):
        for start, stop in zip(file.episode_starts[:-1].tolist(), file.episode_starts[1:].tolist(), strict=True):
            places += [(index, first) for first in range(start, stop - clip_length + 1)]
    if len(places) < settings.lam_labels:
        raise ValueError(
            f"lam_labels is {settings.lam_labels}, and the videos have {len(places)} clips of {clip_length} frames: record more"
        )
    chosen = np.random.default_rng(settings.seed).choice(len(places), settings.lam_labels, replace=False)
    clips, actions = [], []
    for index, first in (places[place] for place in np.sort(chosen)):
        clips.append(files[index].frames[first : first + clip_length])
        actions.append(files[index].actions()[first + clip_length - 2])
    return LabelledTransitions(np.stack(clips), np.array(actions))
