"""What tells of the transitions in the videos of bc_coinrun.py, and the layer that reads keys from it."""

from __future__ import annotations

from typing import Any

import numpy as np
from bc_settings import Settings
from bc_videos import LabelledVideos
from scipy.special import softmax

from genie_agents.action_mapping import FeatureClassifier
from genie_agents.coinrun import AIRBORNE_ALIASES, MIRRORED_ACTIONS, TAKE_OFFS
from genie_agents.mirror import HIDDEN, STEPS, WEIGHT_DECAY, MirrorClassifier

MIRROR_FRAMES = 20_000  # from which it is learned which way the player faces
MIRROR_EMPHASIS = 2048  # on what was learned of that, over the number of samples: the fewer, the more is trusted to what needs none


class Transitions:
    """The frames of a difficulty stand for the transitions that lead from them; all but an episode's last one have one."""

    def __init__(self, settings: Settings, videos: LabelledVideos) -> None:
        self.settings, self.videos = settings, videos
        self._mirror_classifiers: dict[str, MirrorClassifier] = {}
        self._mirrored_features: dict[tuple[str, int], np.ndarray] = {}

    def about(self) -> dict[str, Any]:
        """What `features` and `fit_keys` depend on, for stages made by them."""
        settings = self.settings
        return {
            "mirrored_samples": settings.mirrored_samples,
            "middle_pixels": settings.middle_pixels,
            "mirror": [MIRROR_FRAMES, MIRROR_EMPHASIS, HIDDEN, STEPS, WEIGHT_DECAY] if settings.middle_pixels else None,
            "airborne_samples": [settings.airborne_frames, settings.relabelling_confidence] if settings.airborne_frames else None,
        }

    def features(self, difficulty: str, frames: np.ndarray) -> np.ndarray:
        """What tells of the transitions that lead from the frames (n,) of a difficulty, (n, 2 D + 3 P^2 + 1): what the latent action model
        sees before and after them, and how the player `looks` after them, where that is read."""
        features, after = self.videos.frame_features[difficulty], frames + 1
        parts = [features[frames], features[after]]
        if self.settings.middle_pixels:
            parts.append(self.looks(difficulty, self.videos.frames.frames[self.videos.first_frame(difficulty) + after]))
        return np.concatenate(parts, axis=1, dtype=np.float32)

    def mirrored_features(self, difficulty: str, frames: np.ndarray) -> np.ndarray:
        """What would tell of the same transitions as `features` had the video been mirrored, of frames (n,) that are usable."""
        unknown = np.array([frame for frame in frames.tolist() if (difficulty, frame) not in self._mirrored_features], dtype=np.int64)
        if len(unknown):
            videos, labeller = self.videos, self.videos.labeller
            clips = unknown[:, None] + np.arange(1 - labeller.model.config.context_frames, 2)
            clips[:, 0] += videos.latent_actions[difficulty][clips[:, 0]] == -1  # an episode's first frame stands in for its past
            pictures = np.stack([videos.frames.frames[clip] for clip in videos.first_frame(difficulty) + clips])[:, :, :, ::-1]
            parts = [*labeller.describe(pictures).features[:, -2:].swapaxes(0, 1), self.looks(difficulty, pictures[:, -1])]
            rows = np.concatenate(parts, axis=1, dtype=np.float32)
            self._mirrored_features |= {(difficulty, frame): row for frame, row in zip(unknown.tolist(), rows, strict=True)}
        return np.stack([self._mirrored_features[difficulty, frame] for frame in frames.tolist()])

    def past_features(self, difficulty: str, frames: np.ndarray) -> np.ndarray:
        """What the latent action model sees in the frames (n,) of a difficulty and in those before them: (n, 2 D)."""
        features, labels = self.videos.frame_features[difficulty], self.videos.latent_actions[difficulty]
        before = np.where(labels[frames - 1] == -1, frames, frames - 1)  # an episode's first frame stands in for its past
        return np.concatenate([features[before], features[frames]], axis=1).astype(np.float32)

    def mirror_classifier(self, difficulty: str) -> MirrorClassifier:
        """Which way the middle of a difficulty's pictures faces, learned from them without a label."""
        if difficulty not in self._mirror_classifiers:
            frames = np.random.default_rng(self.settings.seed).permutation(self.videos.usable(difficulty))[:MIRROR_FRAMES]
            pictures = self.videos.frames.frames[self.videos.first_frame(difficulty) + frames + 1]
            middles = middle(pictures, self.settings.middle_pixels)
            self._mirror_classifiers[difficulty] = MirrorClassifier.fit(middles, seed=self.settings.seed)
        return self._mirror_classifiers[difficulty]

    def looks(self, difficulty: str, pictures: np.ndarray) -> np.ndarray:
        """What the `middle` of pictures (n, H, W, 3) uint8 shows of the player, (n, 3 P^2 + 1): its P x P pixels, and how much they
        look like a mirror image. (n, 0) where `middle_pixels` are none.

        Of a player's stance the latent action model's features tell little: there motion counts, as it changes most of the picture. Which
        way a player faces, a linear layer cannot read from the pixels of players that look differently, as on hard levels."""
        if not self.settings.middle_pixels:
            return np.empty((len(pictures), 0), np.float32)
        middles = middle(pictures, self.settings.middle_pixels)
        mirrored = self.mirror_classifier(difficulty).log_odds(middles)
        return np.concatenate([middles.reshape(len(middles), -1) / np.float32(255), mirrored[:, None]], axis=1)

    def fit_keys(self, difficulty: str, samples: np.ndarray, *, hidden: int = 0, seed: int = 0) -> FeatureClassifier:
        """From what tells of transitions to keys, by the true actions of the frames (n,) of a difficulty.

        Held on after a take-off UP does nothing, and learned as UP it makes every rising frame look like a take-off. So samples in the
        `airborne_frames` after a frame that a first fit names a take-off with confidence teach their direction alone, by two further fits.
        With `mirrored_samples` each is learned from as the mirrored video would show it, too, unless its key is then LEFT+UP, or any
        other than a direction, and no sample has it: the videos seem to have none.
        """
        settings, videos = self.settings, self.videos
        features, keys = self.features(difficulty, samples), videos.true_actions[difficulty][samples]
        mirrored_features = self.mirrored_features(difficulty, samples) if settings.mirrored_samples else features[:0]
        emphasis = np.ones(features.shape[1], dtype=np.float32)
        if settings.middle_pixels:
            emphasis[-1] = MIRROR_EMPHASIS / len(samples)

        def fit(keys: np.ndarray) -> FeatureClassifier:
            mirrored = MIRRORED_ACTIONS[keys[: len(mirrored_features)]]
            learned = np.isin(mirrored, [*AIRBORNE_ALIASES, *keys])
            both, their_keys = np.concatenate([features, mirrored_features[learned]]), np.concatenate([keys, mirrored[learned]])
            return FeatureClassifier.fit(both, their_keys, emphasis=emphasis, hidden=hidden, seed=seed)

        classifier = fit(keys)
        jumping = np.isin(keys, TAKE_OFFS)
        before = samples[jumping, None] - np.arange(1, settings.airborne_frames + 1)
        same_episode = np.logical_and.accumulate((before >= 0) & (videos.latent_actions[difficulty][before] >= 0), axis=1)  # -1 ends one
        if not same_episode.any():
            return classifier
        features_before = self.features(difficulty, before[same_episode])
        for _ in range(2):
            chances = softmax(classifier.logits(features_before), axis=1)
            risen = np.zeros(before.shape, dtype=bool)
            risen[same_episode] = np.isin(chances.argmax(axis=1), TAKE_OFFS) & (chances.max(axis=1) >= settings.relabelling_confidence)
            held = risen.any(axis=1)
            if held.all():  # that would leave no take-off to learn
                break
            learned = keys.copy()
            learned[jumping] = np.where(held, AIRBORNE_ALIASES[keys[jumping]], keys[jumping])
            classifier = fit(learned)
        return classifier


def middle(pictures: np.ndarray, pixels: int) -> np.ndarray:
    """The middle `pixels` x `pixels` of pictures (n, H, W, 3), where CoinRun's camera keeps the player."""
    top, left = (size // 2 - pixels // 2 for size in pictures.shape[1:3])
    return pictures[:, top : top + pixels, left : left + pixels]
