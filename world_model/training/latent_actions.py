"""Train a latent action model on videos: random clips, reconstruction of each next frame, the shared loop."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from world_model.data import ClipSampler, VideoFile
from world_model.latent_actions import LatentActionConfig, LatentActionModel
from world_model.training.config import TrainingConfig
from world_model.training.loop import train
from world_model.training.objectives import latent_action_objective

if TYPE_CHECKING:
    from lightning.fabric import Fabric


def train_latent_action_model(
    files: Sequence[VideoFile],
    model_config: LatentActionConfig,
    training_config: TrainingConfig,
    *,
    clip_length: int,
    batch_size: int,
    seed: int = 0,
    device: str | torch.device = "cpu",
    fabric: Fabric | None = None,
    checkpoint: Path | None = None,
    on_step: Callable[[int, dict[str, Tensor]], None] | None = None,
) -> LatentActionModel:
    """Train on clips of `clip_length` frames from all episodes of `files` (Genie, section 2.1). `on_step` and `checkpoint`: see `train`.

    With `fabric` (see `make_fabric`) its devices share each batch of `batch_size` clips, and `device` is not used.
    """
    model = LatentActionModel(model_config, seed=seed).to(device if fabric is None else fabric.device)
    rank, world_size = (0, 1) if fabric is None else (fabric.global_rank, fabric.world_size)
    batches = ClipSampler(files, clip_length=clip_length, batch_size=batch_size, seed=seed, rank=rank, world_size=world_size)
    train(model, latent_action_objective, batches, training_config, fabric=fabric, checkpoint=checkpoint, on_step=on_step)
    return model
