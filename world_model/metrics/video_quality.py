"""How close predicted frames are to real ones, and how much the actions have to do with it.

All take frames (B, T, H, W, C) uint8 and give one figure a frame, (B, T), or their mean; ValueError for others.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from world_model.genie import Genie
    from world_model.maskgit import SamplingConfig


def check_frames(predicted: Tensor, real: Tensor) -> None:
    """Raises ValueError for frames that are not both (B, T, H, W, C) uint8 of one shape."""
    found = [f"{tuple(frames.shape)} {frames.dtype}" for frames in (predicted, real)]
    if found[0] != found[1] or real.ndim != 5 or real.dtype != torch.uint8:
        raise ValueError(f"cannot compare frames {found[0]} with frames {found[1]}: give two (B, T, H, W, C) of torch.uint8 (see to_uint8)")


def psnr(predicted: Tensor, real: Tensor) -> Tensor:
    """Peak signal-to-noise ratio of each frame in dB, (B, T); equal frames count as 100 dB."""
    check_frames(predicted, real)
    mse = (predicted.float() / 255 - real.float() / 255).square().mean(dim=(2, 3, 4))
    return -10 * mse.clamp(min=1e-10).log10()


def ssim(predicted: Tensor, real: Tensor) -> Tensor:
    """Structural similarity (Wang et al. 2004) of each frame, at most 1, (B, T)."""
    from torchmetrics.functional.image import structural_similarity_index_measure  # see tokenizer_loss

    check_frames(predicted, real)
    first, second = (frames.flatten(0, 1).permute(0, 3, 1, 2).float() / 255 for frames in (predicted, real))
    values = structural_similarity_index_measure(first, second, data_range=1.0, reduction="none")
    return torch.as_tensor(values).unflatten(0, predicted.shape[:2])


def delta_psnr(genie: Genie, frames: Tensor, *, time: int = 4, sampling: SamplingConfig | None = None, seed: int = 0) -> dict[str, float]:
    """Controllability (Genie, section 3.1): how much closer the rollout comes to real frames when it plays their own actions.

    From the first of the frames (B, > time, H, W, C) the actions inferred from the real frames, and actions drawn at random, are played for
    `time` steps. Gives `psnr_inferred` and `psnr_random` of the frame reached, in dB, and their difference, `delta_psnr`; 0 means that
    actions change nothing that matters. The paper reports it at time 4.
    """
    if frames.shape[1] <= time:
        raise ValueError(f"frame {time} is to be predicted and the clips have {frames.shape[1]} frames: give longer clips")
    genie.eval()
    frames = frames.to(genie.prompts.device)
    with torch.no_grad():
        inferred = genie.latent_action_model.encode(frames[:, : time + 1]).indices
    generator = torch.Generator().manual_seed(seed)
    random = torch.randint(genie.num_latent_actions, tuple(inferred.shape), generator=generator)
    reached = {}
    for name, actions in (("inferred", inferred), ("random", random)):
        imagined = genie.imagine(frames[:, :1], actions, sampling=sampling, seed=seed)
        reached[f"psnr_{name}"] = psnr(imagined[:, -1:], frames[:, time : time + 1]).mean().item()
    return {**reached, "delta_psnr": reached["psnr_inferred"] - reached["psnr_random"]}
