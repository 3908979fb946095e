"""Which frames of a video are worth learning from.

Most frames of an expert's video teach nothing new: in the air there is nothing to decide, and on the ground mostly what was seen often.
`Proxy`, a policy cloned before, finds them (selection via proxy, Coleman et al. 2020). Others teach what is wrong, as their label is a
guess: `find_doubtful`.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from genie_agents.coinrun import TAKE_OFFS
from genie_agents.policy import Policy
from world_model.serialization import identify_model

UNSURE = 0.02  # nats
BATCH = 512
MAX_DOUBTFUL = 0.2  # of the frames of one label


def find_doubtful(labels: np.ndarray, confidence: np.ndarray, *, threshold: float) -> np.ndarray:
    """The frames (N,) bool whose guessed label (N,) had better not be learned: its `confidence` (N,), the probability that it is right,
    is below `threshold`.

    A rare label is seldom given with confidence: of none are more than `MAX_DOUBTFUL` of the frames doubtful, those of the least
    (class-balanced self-training, Zou et al. 2018). A label of -1 is none, and nothing to doubt.
    """
    doubtful = np.zeros(len(labels), dtype=bool)
    for label in np.unique(labels[labels >= 0]):
        own = np.flatnonzero(labels == label)
        enough = np.sort(confidence[own])[int(MAX_DOUBTFUL * len(own))]
        doubtful[own] = confidence[own] < min(threshold, enough)
    return doubtful


def find_airborne(keys: np.ndarray, sure: np.ndarray, num_frames: int) -> np.ndarray:
    """The first `num_frames` frames (N,) bool after each take-off: of a press of a key (N,) for jumping the first frame that is named
    with confidence, `sure` (N,) bool. One taken for a take-off in doubt may be the frame before it. Keys of -1 part episodes."""
    episodes, jumping = np.cumsum(keys == -1), np.isin(keys, TAKE_OFFS)
    candidates = np.flatnonzero(jumping & sure)
    _, first_of_press = np.unique(np.cumsum(~jumping)[candidates], return_index=True)
    take_offs = np.zeros(len(keys), dtype=bool)
    take_offs[candidates[first_of_press]] = True
    airborne = np.zeros(len(keys), dtype=bool)
    for later in range(1, num_frames + 1):
        airborne[later:] |= take_offs[:-later] & (episodes[later:] == episodes[:-later])
    return airborne


class Proxy:
    """A cloned policy, of latent actions or of keys, that tells the frames of which it is sure from those of which it is not.

    Raises:
        FileNotFoundError: no such folder.
        ValueError: the folder holds no policy, or one that reads the actions that it took before: of a video they are not known.
    """

    def __init__(self, folder: str | Path) -> None:
        self.policy, self.identity = Policy.from_pretrained(folder).eval(), identify_model(folder)
        if self.policy.config.architecture == "st_vivit":
            raise ValueError(f"{folder}: an st_vivit policy reads its previous actions, which a video lacks; give a nature or impala one")

    @torch.inference_mode()
    def unsure(self, frames: np.ndarray) -> np.ndarray:
        """The frames (T,) bool of one episode (T, H, W, C) uint8 in which the entropy of the policy's next action is above `UNSURE`.

        Raises ValueError for frames of another size than the policy's.
        """
        size = self.policy.config.image_size
        if frames.shape[1:] != (size, size, 3):
            raise ValueError(f"frames are {frames.shape[1:]} and the proxy sees {(size, size, 3)}: clone one from frames of this size")
        indices = np.maximum(np.arange(len(frames))[:, None] + np.arange(1 - self.policy.config.num_frames, 1), 0)
        entropies = []
        for part in np.array_split(indices, len(indices) // BATCH + 1):
            clips = torch.from_numpy(frames[part])
            logits = self.policy(clips, torch.full(part.shape, -1))[:, -1]
            entropies.append(torch.distributions.Categorical(logits=logits).entropy())
        return (torch.cat(entropies) > UNSURE).numpy()
