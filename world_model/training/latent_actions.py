"""Train a latent action model on videos: random clips, reconstruction of each next frame, the shared loop.

With a few true actions, those transitions are also classified from their latent actions (LAOM; Nikulin et al. 2025): a little
supervision tells the model which of all changes are the player's doing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from world_model.data import ClipBatch, ClipSampler, VideoFile, check_same_source
from world_model.latent_actions import LatentActionConfig, LatentActionModel, latent_action_loss
from world_model.precision import bf16_autocast
from world_model.training.config import TrainingConfig
from world_model.training.loop import train
from world_model.training.objectives import latent_action_objective

if TYPE_CHECKING:
    from lightning.fabric import Fabric


@dataclass(frozen=True)
class LabelledTransitions:
    """Transitions whose true action is known: clips (L, T, H, W, C) uint8, and the actions (L,) int64 between their last two frames.

    Raises ValueError for no transition, clips of less than 2 frames, another number of actions, or negative ones.
    """

    clips: np.ndarray
    actions: np.ndarray

    def __post_init__(self) -> None:
        if self.clips.ndim != 5 or self.clips.shape[1] < 2 or self.actions.shape != self.clips.shape[:1] or len(self.actions) == 0:
            raise ValueError(
                f"need clips (L, T >= 2, H, W, C) and as many actions, at least one; got {self.clips.shape} and {self.actions.shape}"
            )
        if self.actions.min() < 0:
            raise ValueError(f"actions must be 0 or more; found {self.actions.min()}: leave transitions without an action out")


@dataclass(frozen=True)
class LabelledBatch:
    """Clips of the videos and, beside them, labelled ones, whose cross-entropy counts `weight` times."""

    clips: ClipBatch
    labelled: LabelledTransitions
    weight: float


class LabelledBatches:
    """The batches of a sampler, with a labelled clip for every fourth one of theirs, drawn by its seed."""

    def __init__(self, sampler: ClipSampler, labelled: LabelledTransitions, *, weight: float) -> None:
        self.sampler, self.labelled, self.weight = sampler, labelled, weight
        digest = sha256(labelled.clips.tobytes() + labelled.actions.astype(np.int64).tobytes()).hexdigest()
        self._identity = {"labels": digest[:16], "label_weight": weight}

    def __next__(self) -> LabelledBatch:
        clips = next(self.sampler)
        chosen = clips.seeds[::4] % len(self.labelled.actions)
        return LabelledBatch(clips, LabelledTransitions(self.labelled.clips[chosen], self.labelled.actions[chosen]), self.weight)

    def state_dict(self) -> dict[str, Any]:
        return self._identity | self.sampler.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where `state` was taken. Raises ValueError where it is from other labels, or a sampler of other videos or settings."""
        check_same_source(state, self._identity)
        self.sampler.load_state_dict(state)


class SupervisedLatentActions(nn.Module):
    """A latent action model and a linear layer that names the true action by the latent one; the layer is needed in training only."""

    def __init__(self, model: LatentActionModel, num_actions: int, *, seed: int) -> None:
        super().__init__()
        self.model = model
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            self.name_action = nn.Linear(model.config.code_dim, num_actions)


def supervised_objective(learner: nn.Module, batch: LabelledBatch) -> tuple[Tensor, dict[str, Tensor]]:
    """The model's own loss on all clips of the batch, and that of the labelled ones' actions."""
    if not isinstance(learner, SupervisedLatentActions):
        raise TypeError(f"this objective trains a SupervisedLatentActions, not a {type(learner).__name__}")
    labelled = batch.labelled
    device = learner.name_action.weight.device
    actions = torch.from_numpy(labelled.actions.astype(np.int64)).to(device)
    frames = torch.from_numpy(np.concatenate([batch.clips.frames, labelled.clips])).to(device)
    with bf16_autocast(device):
        output = learner.model(frames)
    loss, metrics = latent_action_loss(output, frames)
    logits = learner.name_action(output.quantized.vectors[-len(actions) :, -1].float())
    accuracy = (logits.argmax(-1) == actions).float().mean()
    return loss + batch.weight * F.cross_entropy(logits, actions), metrics | {"action_accuracy": accuracy}


def train_latent_action_model(
    files: Sequence[VideoFile],
    model_config: LatentActionConfig,
    training_config: TrainingConfig,
    *,
    clip_length: int,
    batch_size: int,
    labelled: LabelledTransitions | None = None,
    label_weight: float = 0.01,
    seed: int = 0,
    device: str | torch.device = "cpu",
    fabric: Fabric | None = None,
    checkpoint: Path | None = None,
    on_step: Callable[[int, dict[str, Tensor]], None] | None = None,
) -> LatentActionModel:
    """Train on clips of `clip_length` frames from all episodes of `files` (Genie, section 2.1). `on_step` and `checkpoint`: see `train`.

    `labelled` transitions, where there are any, are classified besides; `label_weight` is the weight of their cross-entropy. With `fabric`
    (see `make_fabric`) its devices share each batch of `batch_size` clips, and `device` is not used.

    Raises:
        ValueError: labelled clips of another shape than (clip_length, H, W, C), or a checkpoint of other videos, labels or settings.
    """
    model = LatentActionModel(model_config, seed=seed).to(device if fabric is None else fabric.device)
    rank, world_size = (0, 1) if fabric is None else (fabric.global_rank, fabric.world_size)
    batches = ClipSampler(files, clip_length=clip_length, batch_size=batch_size, seed=seed, rank=rank, world_size=world_size)
    if labelled is not None and labelled.clips.shape[1:] != (shape := (clip_length, *files[0].frame_shape)):
        raise ValueError(f"labelled clips are {labelled.clips.shape[1:]} and the others {shape}: give clips of one shape")
    if labelled is None:
        train(model, latent_action_objective, batches, training_config, fabric=fabric, checkpoint=checkpoint, on_step=on_step)
    else:
        learner = SupervisedLatentActions(model, int(labelled.actions.max()) + 1, seed=seed).to(next(model.parameters()).device)
        labelled_batches = LabelledBatches(batches, labelled, weight=label_weight)
        train(learner, supervised_objective, labelled_batches, training_config, fabric=fabric, checkpoint=checkpoint, on_step=on_step)
    return model
