"""Behavioural cloning from video: cross-entropy on a discrete label per transition, latent actions or real ones alike.

Shapes: N frames of all videos in a row, B samples, T frames that a policy sees, H, W, C pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from genie_agents.compressed_frames import CompressedFrames
from genie_agents.policy import Policy, PolicyConfig
from world_model.data import VideoFile, check_same_source
from world_model.precision import bf16_autocast
from world_model.training import TrainingConfig, train

LOADED_AT_ONCE = 4096  # frames


@dataclass(frozen=True)
class Videos:
    """All frames of several videos in memory, and where their episodes begin.

    frames (N, H, W, C) uint8; first_frames (N,): the index of the first frame of each frame's episode.
    """

    frames: np.ndarray | CompressedFrames
    first_frames: np.ndarray

    @classmethod
    def load(cls, files: Sequence[VideoFile]) -> Videos:
        """Read all frames of the files; 64x64 CoinRun takes 1.6 to 2.4 kB a frame."""
        frames = CompressedFrames(files[0].frame_shape)
        first_frames: list[np.ndarray] = []
        for file in files:
            first_frames.append(len(frames) + np.repeat(file.episode_starts[:-1], np.diff(file.episode_starts)))
            for start in range(0, file.num_frames, LOADED_AT_ONCE):
                frames.append(file.frames[start : start + LOADED_AT_ONCE])
        return cls(frames, np.concatenate(first_frames))

    def clips(self, indices_B: np.ndarray, num_frames: int) -> np.ndarray:
        """The last `num_frames` frames (B, T, H, W, C) up to each of `indices`; an episode's first frame stands in for its past."""
        return self.frames[np.maximum(indices_B[:, None] + np.arange(1 - num_frames, 1), self.first_frames[indices_B][:, None])]


@dataclass(frozen=True)
class CloningBatch:
    """frames (B, T, H, W, C) uint8, previous_actions (B, T) with -1 where none, labels (B, T) with -1 where unknown."""

    frames: Tensor
    previous_actions: Tensor
    labels: Tensor


class CloningBatches:
    """Shuffled passes over the labelled frames, seeded, resumable. An episode's first frame is repeated to fill the policy's past.

    With `balance` above 0 a pass draws its frames at random, each by the frequency of its label to the power of -`balance`: 0.5 is the
    square-root sampling of long-tailed data (Mahajan et al. 2018), 1 draws all labels equally often. With `weights` (N,), one a frame,
    frames are drawn in proportion to them as well, and frequencies count them.
    """

    def __init__(
        self,
        videos: Videos,
        labels: np.ndarray,
        samples: np.ndarray,
        *,
        num_frames: int,
        batch_size: int,
        seed: int,
        balance: float = 0.0,
        weights: np.ndarray | None = None,
    ) -> None:
        if len(samples) == 0:
            raise ValueError("no labelled frames to clone from; record videos and label them first")
        if batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}; give at least 1")
        if not 0 <= balance <= 1:
            raise ValueError(f"balance is {balance}; give 0 to draw frames as they come, up to 1 to draw all labels equally often")
        self.videos, self.labels, self.samples = videos, labels, samples
        self.num_frames, self.batch_size, self.seed = num_frames, batch_size, seed
        self._learned = np.full_like(labels, -1)  # a policy that answers for earlier frames too learns from none but the samples
        self._learned[samples] = labels[samples]
        if weights is not None and (weights.shape != labels.shape or weights[samples].min() <= 0):
            raise ValueError(f"weights must be above 0, one for each of {len(labels)} frames; got shape {weights.shape}")
        shares = np.ones(len(samples)) if weights is None else weights[samples]
        chances = shares * np.bincount(labels[samples], shares)[labels[samples]] ** -float(balance)
        self._chances = chances / chances.sum() if balance or weights is not None else None
        digest = sha256(self.samples.tobytes() + self._learned.tobytes() + chances.tobytes()).hexdigest()
        self._identity = {"samples": digest[:16], "num_frames": num_frames, "batch_size": batch_size, "seed": seed}
        self.state = {"passes": 0, "position": 0}
        self._shuffle()

    def _shuffle(self) -> None:
        generator = np.random.default_rng((self.seed, self.state["passes"]))
        if self._chances is None:
            self._order = generator.permutation(self.samples)
        else:
            self._order = generator.choice(self.samples, len(self.samples), p=self._chances)

    def __next__(self) -> CloningBatch:
        parts, missing = [], self.batch_size
        while missing:  # few labelled samples take several passes to fill one batch
            part = self._order[self.state["position"] : self.state["position"] + missing]
            parts.append(part)
            missing -= len(part)
            self.state["position"] += len(part)
            if self.state["position"] == len(self._order):
                self.state = {"passes": self.state["passes"] + 1, "position": 0}
                self._shuffle()
        return self.gather(np.concatenate(parts))

    def gather(self, samples_B: np.ndarray) -> CloningBatch:
        indices_BT = samples_B[:, None] + np.arange(1 - self.num_frames, 1)
        first_B1 = self.videos.first_frames[samples_B][:, None]
        before_BT = indices_BT - 1
        previous_BT = np.where(before_BT >= first_B1, self.labels[np.maximum(before_BT, 0)], -1)
        labels_BT = np.where(indices_BT >= first_B1, self._learned[np.maximum(indices_BT, 0)], -1)
        frames = self.videos.clips(samples_B, self.num_frames)
        return CloningBatch(torch.from_numpy(frames), torch.from_numpy(previous_BT), torch.from_numpy(labels_BT))

    def state_dict(self) -> dict[str, Any]:
        return self._identity | self.state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where `state` was taken. Raises ValueError where it is from batches of other samples, labels or settings."""
        check_same_source(state, self._identity)
        self.state = {name: state[name] for name in self.state}
        self._shuffle()


def cloning_loss(policy: torch.nn.Module, batch: CloningBatch) -> tuple[Tensor, dict[str, Tensor]]:
    """Cross-entropy of the labels of the frames for which the policy gives logits, in nats."""
    device = next(policy.parameters()).device
    with bf16_autocast(device):
        logits_BLA = policy(batch.frames.to(device), batch.previous_actions.to(device))
    labels_BL = batch.labels[:, -logits_BLA.shape[1] :].to(device)
    logits, labels = logits_BLA.float().flatten(0, 1), labels_BL.flatten()
    loss = F.cross_entropy(logits, labels, ignore_index=-1)
    return loss, {"accuracy": (logits.argmax(-1) == labels)[labels >= 0].float().mean()}


def clone(
    policy_config: PolicyConfig,
    training_config: TrainingConfig,
    videos: Videos,
    labels: np.ndarray,
    *,
    samples: np.ndarray | None = None,
    batch_size: int = 256,
    balance: float = 0.0,
    weights: np.ndarray | None = None,
    seed: int = 0,
    device: str | torch.device = "cpu",
    checkpoint: Path | None = None,
    checkpoint_seconds: float = 60.0,
    on_step: Callable[[int, dict[str, Tensor]], None] | None = None,
) -> Policy:
    """Clone a policy from videos and labels (N,), -1 where a frame has none. `samples` restricts the frames to learn from,
    `balance` draws frames with rare labels more often, and `weights` (N,) those of greater weight (see CloningBatches).

    Raises:
        ValueError: frames of another size than the policy's, labels that do not fit them or lie outside its actions, no labelled frame,
            weights not above 0, or a checkpoint of other samples, labels or settings.
    """
    size = policy_config.image_size
    if videos.frames.shape[1:] != (size, size, 3):
        raise ValueError(f"frames are {videos.frames.shape[1:]} and the policy sees {(size, size, 3)}: give it another image_size")
    if labels.shape != (len(videos.frames),):
        raise ValueError(f"need one label a frame, -1 for none: {len(videos.frames)} frames, labels of shape {labels.shape}")
    if labels.max(initial=-1) >= policy_config.num_actions:
        raise ValueError(f"label {labels.max()} is out of range for a policy of {policy_config.num_actions} actions")
    labels = labels.astype(np.int64, copy=False)  # as torch wants the targets of a cross-entropy
    samples = np.flatnonzero(labels >= 0) if samples is None else samples[labels[samples] >= 0]
    batches = CloningBatches(
        videos,
        labels,
        samples,
        num_frames=policy_config.num_frames,
        batch_size=batch_size,
        seed=seed,
        balance=balance,
        weights=weights,
    )
    with torch.random.fork_rng(devices=[]):  # initial weights come from `seed` and leave the caller's generator alone
        torch.manual_seed(seed)
        policy = Policy(policy_config).to(device)
        train(
            policy,
            cloning_loss,
            batches,
            training_config,
            checkpoint=checkpoint,
            checkpoint_seconds=checkpoint_seconds,
            on_step=on_step,
        )
    return policy
