"""What each part of Genie learns from a batch of clips: one loss function a part, for the loop that all share (Genie, section 2.1).

The tokenizer comes first. Then the dynamics model learns on its tokens, together with the latent action model (the paper's way), after
it, or by teaching it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from world_model.data import ClipBatch
from world_model.dynamics import actions_to_frames, corrupt_tokens, draw_mask, dynamics_loss, previous_tokens
from world_model.genie import Genie
from world_model.latent_actions import latent_action_loss
from world_model.precision import bf16_autocast
from world_model.tokenizer import tokenizer_loss

LossFunction = Callable[[nn.Module, ClipBatch], tuple[Tensor, dict[str, Tensor]]]

LatentActionTraining = Literal["joint", "frozen", "through_dynamics"]
"""How the latent action model learns beside the dynamics model.

"joint", the paper's way: from its own reconstruction of pixels; the dynamics model sees its actions and sends no gradient back.
"frozen": not at all, it was trained before. "through_dynamics", Jasmine's way: from the dynamics model's gradient instead of from pixels.
"""


def tokenizer_objective(tokenizer: nn.Module, batch: ClipBatch) -> tuple[Tensor, dict[str, Tensor]]:
    """Reconstruct the clips."""
    frames = frames_of(batch, tokenizer)
    with bf16_autocast(frames.device):
        output = tokenizer(frames)
    return tokenizer_loss(output, frames)


def latent_action_objective(model: nn.Module, batch: ClipBatch) -> tuple[Tensor, dict[str, Tensor]]:
    """Predict each next frame from its past and the action found between the two."""
    frames = frames_of(batch, model)
    with bf16_autocast(frames.device):
        output = model(frames)
    return latent_action_loss(output, frames)


def dynamics_objective(
    genie: Genie, latent_actions: LatentActionTraining = "joint", *, max_corruption: float = 0.0, commitment_weight: float = 0.25
) -> LossFunction:
    """The loss function of the second phase, for `train(genie, ...)`; it freezes what is not to learn.

    `max_corruption`: see `corrupt_tokens`; the tokens to predict stay the original ones. `commitment_weight` is that of the VQ losses
    beside the cross-entropy in "through_dynamics".

    Raises ValueError for `latent_actions` that are none of the three ways, and a `max_corruption` that is no share.
    """
    if latent_actions not in get_args(LatentActionTraining):
        raise ValueError(f"latent_actions is {latent_actions!r}; choose one of {', '.join(get_args(LatentActionTraining))}")
    if not 0 <= max_corruption <= 1:
        raise ValueError(f"max_corruption is {max_corruption}; give a share of the tokens, 0 to 1")
    learning = [genie.dynamics, *([genie.latent_action_model] if latent_actions != "frozen" else [])]
    genie.requires_grad_(False)
    for part in learning:
        part.requires_grad_(True)
    if latent_actions == "through_dynamics":
        for unused in (genie.latent_action_model.from_code, genie.latent_action_model.decoder, genie.latent_action_model.head):
            unused.requires_grad_(False)

    def loss_function(model: nn.Module, batch: ClipBatch) -> tuple[Tensor, dict[str, Tensor]]:
        if not isinstance(model, Genie):
            raise TypeError(f"this objective trains a Genie, not a {type(model).__name__}: make it for the Genie that is trained")
        frames = frames_of(batch, model)
        model.tokenizer.eval()  # or its codebook would go on counting, and reviving, codes
        if latent_actions == "frozen":
            model.latent_action_model.eval()
        with bf16_autocast(frames.device):
            with torch.no_grad():
                tokens = model.tokenizer.encode(frames).indices
            mask_token, seeds = model.dynamics.config.mask_token, torch.from_numpy(batch.seeds)
            mask = draw_mask(tuple(tokens.shape), seeds).to(frames.device)
            seen = corrupt_tokens(tokens, seeds, num_codes=mask_token, max_rate=max_corruption) if max_corruption else tokens
            loss, metrics = torch.zeros((), device=frames.device), dict[str, Tensor]()
            if latent_actions == "joint":
                output = model.latent_action_model(frames)
                loss, metrics = latent_action_loss(output, frames)
                actions = output.quantized.vectors.detach()
            elif latent_actions == "frozen":
                with torch.no_grad():
                    actions = model.latent_action_model.encode(frames).vectors
            else:
                quantized = model.latent_action_model.encode(frames)
                loss = commitment_weight * (quantized.codebook_loss + quantized.commitment_loss)
                actions = quantized.vectors
                metrics = {"codes_used": (quantized.usage > 0).sum()}
            logits = model.dynamics(seen.masked_fill(mask, mask_token), actions_to_frames(actions), previous_tokens(seen, mask_token))
        cross_entropy, token_metrics = dynamics_loss(logits, tokens, mask)
        return loss + cross_entropy, metrics | token_metrics

    return loss_function


def frames_of(batch: ClipBatch, model: nn.Module) -> Tensor:
    """The batch's frames on the model's device."""
    return torch.from_numpy(batch.frames).to(next(model.parameters()).device, non_blocking=True)
