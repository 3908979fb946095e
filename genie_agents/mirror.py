"""Which way a picture faces, learned without a label: by telling pictures from their mirror images (Visual Chirality, Lin et al. 2020).

Where nearly all pictures face one way, those that look like mirror images are the few that face the other.

Shapes: N pictures, H, W, C pixels.
"""

from __future__ import annotations

import numpy as np

from genie_agents.action_mapping import FeatureClassifier

HIDDEN = 64  # units of the small network
STEPS, WEIGHT_DECAY = 100, 3.0  # with more of the one and less of the other it learns by heart that the few are none


class MirrorClassifier:
    """How much pictures look like mirror images of others, by a small network on their pixels."""

    def __init__(self, classifier: FeatureClassifier) -> None:
        self.classifier = classifier

    @classmethod
    def fit(cls, pictures: np.ndarray, *, seed: int = 0) -> MirrorClassifier:
        """Learn from pictures (N, H, W, C) uint8 and their mirror images; 20,000 of 6 x 6 pixels take some three seconds on one core.

        Raises:
            ValueError: no pictures, or an array of another shape.
        """
        if pictures.ndim != 4 or pictures.size == 0:
            raise ValueError(f"need pictures (N, H, W, C), at least one; got shape {pictures.shape}")
        inputs = np.concatenate([_flat(pictures), _flat(_mirrored(pictures))])
        is_mirrored = np.repeat([0, 1], len(pictures))
        classifier = FeatureClassifier.fit(
            inputs, is_mirrored, num_actions=2, hidden=HIDDEN, steps=STEPS, weight_decay=WEIGHT_DECAY, seed=seed
        )
        return cls(classifier)

    def log_odds(self, pictures: np.ndarray) -> np.ndarray:
        """(N,) float32 for pictures (N, H, W, C) uint8: above 0 where a picture looks more like a mirror image than its own mirror image
        does, which has the same with the other sign."""
        as_seen, mirrored = (self.classifier.logits(_flat(side)) for side in (pictures, _mirrored(pictures)))
        return (as_seen[:, 1] - as_seen[:, 0]) - (mirrored[:, 1] - mirrored[:, 0])


def _mirrored(pictures: np.ndarray) -> np.ndarray:
    return pictures[:, :, ::-1]


def _flat(pictures: np.ndarray) -> np.ndarray:
    return pictures.reshape(len(pictures), np.prod(pictures.shape[1:])) / np.float32(255)
