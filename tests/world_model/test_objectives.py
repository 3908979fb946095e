"""What the dynamics model learns from, and whom its gradient teaches."""

from copy import deepcopy

import numpy as np
import pytest
import torch
from bold_world import bold_genie, videos
from torch import nn

from world_model import Genie
from world_model.data import ClipBatch
from world_model.dynamics import actions_to_frames, corrupt_tokens, draw_mask, dynamics_loss, previous_tokens
from world_model.latent_actions import latent_action_loss
from world_model.training.objectives import dynamics_objective

FRAMES, SEEDS = videos(4, 6), torch.arange(4) + 1
BATCH = ClipBatch(FRAMES.numpy(), np.arange(4), SEEDS.numpy())


@pytest.fixture(autouse=True)
def float32_everywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("world_model.precision._cpu_is_fast", lambda: False)


@pytest.fixture
def genie() -> Genie:
    return bold_genie()


def gradients(module: nn.Module) -> dict[str, torch.Tensor]:
    return {name: weight.grad for name, weight in module.named_parameters() if weight.grad is not None}


def test_the_tokens_to_predict_are_the_original_ones(genie: Genie) -> None:
    _, metrics = dynamics_objective(genie, "frozen", max_corruption=0.9)(genie, BATCH)
    tokens = genie.tokenizer.encode(FRAMES).indices
    mask, seen = draw_mask(tuple(tokens.shape), SEEDS), corrupt_tokens(tokens, SEEDS, num_codes=16, max_rate=0.9)
    assert (seen != tokens).any()
    actions = actions_to_frames(genie.latent_action_model.encode(FRAMES).vectors)
    logits = genie.dynamics(seen.masked_fill(mask, 16), actions, previous_tokens(seen, 16))
    torch.testing.assert_close(metrics["cross_entropy"], dynamics_loss(logits, tokens, mask)[0].detach())
    assert (dynamics_loss(logits, seen, mask)[0] - metrics["cross_entropy"]).abs() > 0.01


def test_jointly_the_latent_action_model_learns_from_pixels_alone(genie: Genie) -> None:
    genie.train()
    alone = deepcopy(genie.latent_action_model)
    latent_action_loss(alone(FRAMES), FRAMES)[0].backward()
    loss, _ = dynamics_objective(genie, "joint")(genie, BATCH)
    loss.backward()
    torch.testing.assert_close(gradients(genie.latent_action_model), gradients(alone))
    assert gradients(genie.dynamics) and not gradients(genie.tokenizer)


def test_through_dynamics_it_learns_from_what_is_to_be_predicted(genie: Genie) -> None:
    genie.train()
    loss, _ = dynamics_objective(genie, "through_dynamics", commitment_weight=0)(genie, BATCH)
    loss.backward()
    assert gradients(genie.latent_action_model)["to_code.weight"].abs().sum() > 0
    assert not any(name.startswith(("decoder", "head", "from_code")) for name in gradients(genie.latent_action_model))


def test_what_is_frozen_does_not_change(genie: Genie) -> None:
    genie.train()
    before = deepcopy(genie.state_dict())
    loss, _ = dynamics_objective(genie, "frozen")(genie, BATCH)
    loss.backward()
    assert gradients(genie.dynamics) and not gradients(genie.latent_action_model) and not gradients(genie.tokenizer)
    torch.testing.assert_close(genie.state_dict(), before, rtol=0, atol=0)  # nor do the buffers, by which codes are counted
