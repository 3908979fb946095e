"""Train a latent action model on videos: random clips, reconstruction of each next frame, the shared loop."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from world_model.data import ClipBatch, ClipSampler, VideoFile
from world_model.latent_actions import LatentActionConfig, LatentActionModel, latent_action_loss
from world_model.precision import bf16_autocast
from world_model.training.loop import TrainingConfig, train


def train_latent_action_model(
    files: Sequence[VideoFile],
    model_config: LatentActionConfig,
    training_config: TrainingConfig,
    *,
    clip_length: int,
    batch_size: int,
    seed: int = 0,
    device: str | torch.device = "cpu",
    checkpoint: Path | None = None,
    on_step: Callable[[int, dict[str, Tensor]], None] | None = None,
) -> LatentActionModel:
    """Train on clips of `clip_length` frames from all episodes of `files` (Genie, section 2.1). `on_step` and `checkpoint`: see `train`."""
    model = LatentActionModel(model_config, seed=seed).to(device)
    batches = ClipSampler(files, clip_length=clip_length, batch_size=batch_size, seed=seed)

    def loss_function(model: torch.nn.Module, batch: ClipBatch) -> tuple[Tensor, dict[str, Tensor]]:
        frames = torch.from_numpy(batch.frames).to(device)
        with bf16_autocast(frames.device):
            output = model(frames)
        return latent_action_loss(output, frames)

    train(model, loss_function, batches, training_config, checkpoint=checkpoint, on_step=on_step)
    return model
