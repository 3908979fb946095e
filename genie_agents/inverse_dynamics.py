"""Inverse dynamics learned from true actions (as in VPT, Baker et al. 2022): what latent actions, learned without any, are measured by.

The network is that of a cloned policy, moved one frame into the future: of frames t-1, t and t+1 it says the action between the last two.

Shapes: N frames of all videos in a row, H, W, C pixels.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from genie_agents.cloning import Videos, clone
from genie_agents.coinrun import NUM_ACTIONS
from genie_agents.policy import Policy, PolicyConfig
from world_model.precision import bf16_autocast
from world_model.training import TrainingConfig

NUM_FRAMES = 3


def train_inverse_dynamics(
    videos: Videos,
    actions: np.ndarray,
    training: TrainingConfig,
    *,
    batch_size: int = 256,
    seed: int = 0,
    device: str | torch.device = "cpu",
    checkpoint: Path | None = None,
    on_step: Callable[[int, dict[str, Tensor]], None] | None = None,
) -> Policy:
    """Learn actions (N,) int64, each leading from its frame to the next and -1 where it is not to be learned, from what is seen.

    `checkpoint` and `on_step`: see `train`.

    Raises:
        ValueError: actions that do not fit the frames or are no keys of Procgen, or none at all.
    """
    config = PolicyConfig(num_actions=NUM_ACTIONS, num_frames=NUM_FRAMES, image_size=videos.frames.shape[1])
    return clone(
        config,
        training,
        videos,
        np.append(-1, actions[:-1]) if len(actions) == len(videos.frames) else actions,  # a wrong length is clone's to refuse
        samples=_frames_led_to(videos),
        batch_size=batch_size,
        seed=seed,
        device=device,
        checkpoint=checkpoint,
        on_step=on_step,
    )


@torch.inference_mode()
def infer_actions(model: Policy, videos: Videos, *, batch_size: int = 256) -> np.ndarray:
    """The likeliest action (N,) int64 from each frame to the next, -1 on the last frame of each episode.

    Raises:
        ValueError: a policy that does not see 3 frames.
    """
    if model.config.num_frames != NUM_FRAMES:
        raise ValueError(f"the policy sees {model.config.num_frames} frames, not {NUM_FRAMES}: give one of train_inverse_dynamics")
    device = next(model.parameters()).device
    actions, samples = np.full(len(videos.frames), -1), _frames_led_to(videos)
    for chosen in np.split(samples, range(batch_size, len(samples), batch_size)):
        frames = torch.from_numpy(videos.clips(chosen, NUM_FRAMES)).to(device)
        with bf16_autocast(device):
            logits = model(frames, torch.full(frames.shape[:2], -1, device=device))
        actions[chosen - 1] = logits[:, -1].argmax(-1).cpu().numpy()
    return actions


def _frames_led_to(videos: Videos) -> np.ndarray:
    """All frames but the first of each episode."""
    return np.flatnonzero(videos.first_frames != np.arange(len(videos.first_frames)))
