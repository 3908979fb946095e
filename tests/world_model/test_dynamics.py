import math
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from torch import Tensor

from world_model import DynamicsConfig, DynamicsModel, SamplingConfig
from world_model.dynamics import actions_to_frames, corrupt_tokens, draw_mask, dynamics_loss, previous_tokens
from world_model.layers.st_transformer import TransformerConfig
from world_model.maskgit import Frame, sample_next_frame

LAYERS = TransformerConfig(num_layers=2, d_model=32, num_heads=2, temporal_window=3)
TINY = DynamicsConfig(num_tokens=9, num_codes=16, action_dim=4, transformer=LAYERS)
CONDITIONING = ("add", "prepend")


def random_tokens(batch: int, time: int, seed: int = 0, num_codes: int = 16) -> Tensor:
    return torch.randint(0, num_codes, (batch, time, 9), generator=torch.Generator().manual_seed(seed))


def random_actions(batch: int, time: int, seed: int = 0) -> Tensor:
    vectors = torch.randn(batch, time - 1, 4, generator=torch.Generator().manual_seed(seed))
    return actions_to_frames(torch.nn.functional.normalize(vectors, dim=-1))


def test_actions_enter_at_the_frames_they_lead_to() -> None:
    vectors = torch.arange(12.0).view(1, 3, 4) + 1
    actions = actions_to_frames(vectors)
    assert torch.equal(actions[:, 1:], vectors)
    assert not actions[:, 0].any()


@pytest.mark.parametrize("conditioning", CONDITIONING)
def test_tokens_and_actions_change_their_own_and_later_frames_only(conditioning: Literal["add", "prepend"]) -> None:
    model = DynamicsModel(replace(TINY, conditioning=conditioning)).eval()
    tokens, actions = random_tokens(2, 5), random_actions(2, 5)
    before = model(tokens, actions)
    assert before.shape == (2, 5, 9, 16)
    other_tokens, other_actions = tokens.clone(), actions.clone()
    other_tokens[:, 2, 4] = TINY.mask_token
    other_actions[:, 2] *= -1
    for after in (model(other_tokens, actions), model(tokens, other_actions)):
        assert torch.equal(before[:, :2], after[:, :2])
        assert (before[:, 2:] != after[:, 2:]).any(dim=-1).all()  # every place of every later frame in the window hears of it


@pytest.mark.parametrize(("conditioning", "loudness"), [("add", 0.5), ("prepend", 0.05)])
def test_every_place_of_a_new_frame_hears_its_action(conditioning: Literal["add", "prepend"], loudness: float) -> None:
    model = DynamicsModel(replace(TINY, conditioning=conditioning)).eval()
    masks, token = torch.full((1, 1, 9), TINY.mask_token), torch.zeros(1, 1, 9, dtype=torch.int64)
    north = torch.tensor([[[1.0, 0.0, 0.0, 0.0]]])
    by_action = (model(masks, north) - model(masks, -north)).abs().mean(dim=-1)
    by_token = (model(masks, north) - model(token, north)).abs().mean()
    assert by_action.min() > loudness * by_token


@pytest.mark.parametrize("previous_frame", [False, True])
@pytest.mark.parametrize("conditioning", CONDITIONING)
@torch.no_grad()
def test_frames_computed_one_by_one_are_those_of_the_whole_video(conditioning: Literal["add", "prepend"], previous_frame: bool) -> None:
    model = DynamicsModel(replace(TINY, conditioning=conditioning, previous_frame=previous_frame)).eval()
    tokens, actions = random_tokens(2, 11), random_actions(2, 11)
    previous = previous_tokens(tokens, TINY.mask_token)
    whole, cache = model(tokens, actions, previous), model.transformer.make_cache(2)
    for time in range(11):
        now = slice(time, time + 1)
        one_by_one = model.head(model.hidden(tokens[:, now], actions[:, now], previous[:, now], cache))[:, 0]
        torch.testing.assert_close(one_by_one, whole[:, time], rtol=1e-4, atol=1e-4)
        cache.advance()


@torch.no_grad()
def test_a_frame_sees_the_tokens_before_it_though_they_are_masked_only_with_previous_frame() -> None:
    masks, one, other = torch.full((1, 2, 9), TINY.mask_token), random_tokens(1, 2), random_tokens(1, 2, seed=1)
    for previous_frame in (False, True):
        model = DynamicsModel(replace(TINY, previous_frame=previous_frame)).eval()
        first, second = (model(masks, random_actions(1, 2), previous_tokens(tokens, TINY.mask_token)) for tokens in (one, other))
        assert torch.equal(first[:, 0], second[:, 0])  # nothing stands before the first frame
        assert torch.equal(first[:, 1], second[:, 1]) is not previous_frame
    with pytest.raises(ValueError, match="previous_tokens"):
        model(masks, random_actions(1, 2))


def test_corrupted_tokens_are_random_at_a_rate_of_each_clip_and_by_its_seed_alone() -> None:
    tokens, seeds = torch.zeros(300, 4, 100, dtype=torch.int64), torch.arange(300) * 2
    corrupted = corrupt_tokens(tokens, seeds, num_codes=16, max_rate=0.4)
    assert not tokens.any()
    rates = (corrupted > 0).float().mean(dim=(1, 2)) * 16 / 15  # a random token is the old one now and then
    assert rates.mean().item() == pytest.approx(0.2, abs=0.02)
    assert rates.std().item() == pytest.approx(0.4 / math.sqrt(12), abs=0.02)
    assert corrupted.max() == 15
    assert torch.equal(corrupt_tokens(tokens[:2], seeds[[5, 3]], num_codes=16, max_rate=0.4), corrupted[[5, 3]])
    assert torch.equal(corrupt_tokens(tokens, seeds, num_codes=16, max_rate=0.0), tokens)


def test_what_is_corrupted_has_nothing_to_do_with_what_is_hidden() -> None:
    """Drawn by the same numbers, corrupted tokens would be hidden ones, and nobody would meet them."""
    tokens, seeds = torch.zeros(200, 4, 100, dtype=torch.int64), torch.arange(200) * 7 + 1
    hidden = draw_mask((200, 4, 100), seeds)[:, 1:]
    corrupted = (corrupt_tokens(tokens, seeds, num_codes=16, max_rate=0.5) > 0)[:, 1:]
    both, chance = (hidden & corrupted).float().mean(), hidden.float().mean() * corrupted.float().mean()
    assert both.item() == pytest.approx(chance.item(), rel=0.1)


def test_no_first_frame_is_masked_and_each_clip_has_its_own_rate() -> None:
    mask = draw_mask((300, 4, 100), torch.arange(300))
    assert mask.dtype == torch.bool
    assert not mask[:, 0].any()
    rates = mask[:, 1:].float().mean(dim=(1, 2))
    assert rates.min() > 0.5 - 0.1  # three frames of 100 tokens: a standard deviation of 0.03 at most
    assert rates.max() <= 1.0
    assert rates.mean().item() == pytest.approx(0.75, abs=0.03)
    assert rates.std().item() == pytest.approx(0.5 / math.sqrt(12), abs=0.03)  # that of U(0.5, 1): one rate a batch has almost none
    assert draw_mask((50, 2, 100), torch.arange(50), min_rate=1.0)[:, 1:].all()
    assert mask[:, 1:].float().mean(dim=-1).diff(dim=1).abs().mean() < 0.1  # the frames of a clip share its rate


def test_a_clips_mask_depends_on_its_seed_alone() -> None:
    seeds = torch.tensor([7, 3, 123_456_789_012, 3])
    mask = draw_mask((4, 3, 20), seeds)
    assert torch.equal(draw_mask((2, 3, 20), seeds[[2, 1]]), mask[[2, 1]])
    assert torch.equal(mask[1], mask[3])
    assert not torch.equal(mask[0], mask[1])
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    draw_mask((4, 3, 20), seeds)
    assert torch.equal(torch.rand(1), expected)


def test_the_loss_is_the_cross_entropy_of_the_hidden_tokens() -> None:
    logits, tokens = torch.zeros(1, 2, 3, 4), torch.tensor([[[0, 1, 2], [3, 2, 1]]])
    mask = torch.tensor([[[False, False, False], [True, False, True]]])
    logits[0, 1, 0] = torch.tensor([0.0, 0.0, 0.0, math.log(5)])  # right with a probability of 5 / 8
    logits[0, 1, 2] = torch.tensor([0.0, 0.0, math.log(3), 0.0])  # the true token has 1 / 6
    loss, metrics = dynamics_loss(logits, tokens, mask)
    assert loss.item() == pytest.approx((math.log(8 / 5) + math.log(6)) / 2, rel=1e-5)
    assert metrics["cross_entropy"].item() == pytest.approx(loss.item())
    assert metrics["accuracy"].item() == 0.5
    assert not metrics["cross_entropy"].requires_grad


def test_what_stands_at_unmasked_places_does_not_reach_the_loss() -> None:
    logits, tokens, mask = torch.randn(2, 3, 9, 16, generator=torch.Generator().manual_seed(0)), random_tokens(2, 3), torch.zeros(2, 3, 9)
    mask[:, 1:, ::2] = 1
    mask = mask.bool()
    loss, _ = dynamics_loss(logits.requires_grad_(), tokens, mask)
    loss.backward()
    assert logits.grad is not None
    assert (logits.grad.abs().sum(dim=-1) > 0).equal(mask)
    other_tokens = torch.where(mask, tokens, (tokens + 1) % 16)
    other_logits = torch.where(mask[..., None], logits, -logits)
    assert dynamics_loss(other_logits, other_tokens, mask)[0] == loss
    assert dynamics_loss(logits, torch.where(mask, (tokens + 1) % 16, tokens), mask)[0] != loss


@pytest.mark.parametrize("conditioning", CONDITIONING)
def test_every_weight_learns(conditioning: Literal["add", "prepend"]) -> None:
    model, tokens = DynamicsModel(replace(TINY, conditioning=conditioning)), random_tokens(2, 4)
    mask = draw_mask((2, 4, 9), torch.arange(2))
    logits = model(tokens.masked_fill(mask, TINY.mask_token), random_actions(2, 4))
    dynamics_loss(logits, tokens, mask)[0].backward()
    idle = [name for name, weight in model.named_parameters() if weight.grad is None or not weight.grad.abs().sum()]
    assert idle == []


@pytest.mark.parametrize("conditioning", CONDITIONING)
def test_it_learns_a_batch_and_samples_it_back(conditioning: Literal["add", "prepend"]) -> None:
    """Two worlds that begin alike and part with their first action: memory of the frames alone would not do."""
    model = DynamicsModel(replace(TINY, conditioning=conditioning))
    tokens, actions = random_tokens(4, 5), random_actions(4, 5)
    tokens[1, 0] = tokens[0, 0]
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, total_iters=260)
    losses = []
    for step in range(260):
        mask = draw_mask((4, 5, 9), torch.arange(4) + 4 * step)
        if step % 2:  # draw_mask hides at least half of the past too, but a sampled frame's past is known in full
            mask[:, : 1 + step // 2 % 4] = False
        loss, metrics = dynamics_loss(model(tokens.masked_fill(mask, TINY.mask_token), actions), tokens, mask)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
    assert losses[0] == pytest.approx(math.log(16), abs=0.7)  # at first it knows nothing
    assert sum(losses[-20:]) / 20 < 0.1
    assert metrics["accuracy"] > 0.95

    model.eval()
    cache, sampling = model.transformer.make_cache(4), SamplingConfig(steps=4, temperature=0.0)
    last = Frame(tokens[:, 0], actions[:, 0], torch.ones(4, 9), torch.full((4, 9), TINY.mask_token))
    generators = [torch.Generator().manual_seed(world) for world in range(4)]
    for time in range(1, 5):
        with torch.no_grad():
            last = sample_next_frame(model, cache, last, actions[:, time], sampling, generators)
        assert torch.equal(last.tokens, tokens[:, time]), time
    assert last.confidence.min() > 0.5


def test_a_saved_model_comes_back_the_same(tmp_path: Path) -> None:
    model = DynamicsModel(replace(TINY, conditioning="prepend"), seed=3).eval()
    model.save_pretrained(tmp_path)
    loaded = DynamicsModel.from_pretrained(tmp_path)
    assert loaded.config == model.config
    assert not loaded.training
    assert torch.equal(loaded(random_tokens(1, 3), random_actions(1, 3)), model(random_tokens(1, 3), random_actions(1, 3)))


def test_the_seed_decides_the_weights_and_leaves_the_global_generator_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    first, second, third = (DynamicsModel(TINY, seed=seed).state_dict() for seed in (1, 1, 2))
    assert torch.equal(torch.rand(1), expected)
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(first["head.weight"], third["head.weight"])


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"num_tokens": 0}, "num_tokens must be a whole number"),
        ({"num_codes": 16.0}, "num_codes must be a whole number"),
        ({"action_dim": True}, "action_dim must be a whole number"),
        ({"conditioning": "concat"}, "'add' or 'prepend'"),
        ({"transformer": replace(LAYERS, attention="space")}, "must see the past"),
        ({"transformer": replace(LAYERS, attention="joint")}, "needs attention='st'"),
    ],
)
def test_bad_settings_are_refused(setting: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(TINY, **setting)
