"""Which frames of the videos of bc_coinrun.py are chosen to have their true actions asked for."""

from __future__ import annotations

from typing import Any

import numpy as np
from bc_settings import POOL, Settings
from bc_transitions import Transitions
from bc_videos import LabelledVideos

FIRST_QUESTIONS = 8  # spread over the latent actions
UNLIKE_QUESTIONS = 8  # of frames that look least like those asked for before


class Samples:
    """Two ways to choose the samples of a difficulty. Which of them are chosen depends on a seed."""

    def __init__(self, settings: Settings, videos: LabelledVideos, transitions: Transitions) -> None:
        self.settings, self.videos, self.transitions = settings, videos, transitions
        self._questioned: dict[tuple[str, int], np.ndarray] = {}

    def about_questions(self) -> dict[str, Any]:
        """What `questioned` depends on, for stages made by it."""
        return {"questions": [FIRST_QUESTIONS, UNLIKE_QUESTIONS, POOL]} | self.transitions.about()

    def spread(self, difficulty: str, seed: int, count: int) -> np.ndarray:
        """The frames of a difficulty whose true action may be seen, drawn evenly over the latent actions; more contain the fewer.

        Which frames to have labelled is ours to choose, and the latent actions are known for all: without the choice, 16 samples seldom
        hold a single take-off.
        """
        samples = np.random.default_rng((self.settings.seed, seed)).permutation(self.videos.usable(difficulty))
        return check_number(spread_over(samples, self.videos.latent_actions[difficulty][samples])[:count], count)

    def questioned(self, difficulty: str, seed: int, count: int) -> np.ndarray:
        """The frames of a difficulty whose true action is asked for to read features by; more contain the fewer.

        First those of `spread`, then those that look least like all that were asked for (`farthest_first`), in the middle of the picture
        if that is read: a player who faces the other way stands out there, however seldom. From then on a linear layer is fitted again and
        again, and asks where it is least sure between two keys (margin sampling, Scheffer et al. 2001).
        """
        if len(self._questioned.get((difficulty, seed), ())) < count:
            self._questioned[difficulty, seed] = self._ask(difficulty, seed, count)
        return check_number(self._questioned[difficulty, seed][:count], count)

    def _ask(self, difficulty: str, seed: int, count: int) -> np.ndarray:
        """The first `count` questions or some more; fewer where there are no frames left to ask about."""
        videos, transitions = self.videos, self.transitions
        pool = np.random.default_rng((self.settings.seed, seed)).permutation(videos.usable(difficulty))[:POOL]
        features = transitions.features(difficulty, pool)
        looks = features[:, 2 * videos.frame_features[difficulty].shape[1] : -1] if self.settings.middle_pixels else features
        looks = (looks - looks.mean(axis=0)) / (looks.std(axis=0) + 1e-6)
        chosen = spread_over(np.arange(len(pool)), videos.latent_actions[difficulty][pool])[:FIRST_QUESTIONS]
        unasked = np.setdiff1d(np.arange(len(pool)), chosen)
        chosen = np.append(chosen, unasked[farthest_first(looks[unasked], looks[chosen], UNLIKE_QUESTIONS)])
        while len(chosen) < min(count, len(pool)):
            unasked = np.setdiff1d(np.arange(len(pool)), chosen)
            logits = np.sort(transitions.fit_keys(difficulty, pool[chosen]).logits(features[unasked]), axis=1)
            nearest = unasked[np.argsort(logits[:, -1] - logits[:, -2], kind="stable")]
            # few at a time, as each answer moves the border, and some of many there, as those nearest to it look alike
            number = max(1, len(chosen) // 16)
            generator = np.random.default_rng((self.settings.seed, seed, len(chosen)))
            chosen = np.append(chosen, generator.permutation(nearest[: 5 * number])[:number])
        return pool[chosen]


def spread_over(samples: np.ndarray, groups: np.ndarray) -> np.ndarray:
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
    return np.array(chosen, dtype=np.int64)


def check_number(samples: np.ndarray, count: int) -> np.ndarray:
    """The samples; raises ValueError where they are fewer than `count`."""
    if len(samples) < count:
        raise ValueError(f"{count} labelled samples were asked for, and the videos have {len(samples)} to choose: record more levels")
    return samples
