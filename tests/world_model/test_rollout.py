"""Worlds roll on alone or together, repeat by their seeds, and equal the whole video computed at once."""

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from bold_world import BOLD, GREEDY, LAYERS, NUM_ACTIONS, WINDOW, actions_for, bold_genie, videos
from random_world import assert_same_frames
from torch import Tensor

from world_model import Genie, Rollout, SamplingConfig
from world_model.dynamics import actions_to_frames, previous_tokens


def play(rollout: Rollout, actions: Tensor) -> tuple[Tensor, Tensor]:
    """Frames (B, T, H, W, C) and tokens (B, T, N) along actions (T, B)."""
    frames, tokens = [], []
    for action in actions:
        frames.append(rollout.step(action))
        tokens.append(rollout.tokens)
    return torch.stack(frames, dim=1), torch.stack(tokens, dim=1)


@pytest.fixture(scope="module")
def genie() -> Genie:
    return bold_genie()


def test_frames_are_bytes_that_move_with_the_actions(genie: Genie) -> None:
    rollout = Rollout(genie, 2, sampling=GREEDY)
    first = rollout.reset(videos(2, 2))
    assert first.shape == (2, 16, 16, 3)
    assert first.dtype == torch.uint8
    assert (rollout.confidence == 1).all()
    state, played = rollout.get_state(), []
    for action in range(NUM_ACTIONS):
        rollout.set_state(state)
        played.append(play(rollout, torch.full((3, 2), action)))
    assert all(not torch.equal(played[0][1], tokens) for _, tokens in played[1:])
    assert all((played[0][0].int() - frames.int()).abs().max() > 10 for frames, _ in played[1:])
    assert ((rollout.confidence > 0) & (rollout.confidence < 1)).any()
    assert torch.equal(rollout.frames, played[-1][0][:, -1])


def test_the_same_seeds_give_the_same_frames(genie: Genie) -> None:
    def frames(seeds: list[int]) -> Tensor:
        rollout = Rollout(genie, 2)
        rollout.reset(videos(2, 1), seeds=seeds)
        return play(rollout, actions_for(5, 2))[0]

    expected = frames([7, 8])
    assert torch.equal(frames([7, 8]), expected)
    other = frames([7, 9])
    assert_same_frames(other[0], expected[0])
    assert (other[1].int() - expected[1].int()).abs().max() > 1


def test_the_global_generator_decides_nothing_and_is_left_alone(genie: Genie) -> None:
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    rollout = Rollout(genie, 2)
    rollout.reset()
    play(rollout, actions_for(2, 2))
    assert torch.equal(torch.rand(1), expected)


@pytest.mark.parametrize("num_frames", [1, 3])
def test_a_world_does_not_depend_on_its_neighbours(genie: Genie, num_frames: int) -> None:
    prompts, actions = videos(3, num_frames), actions_for(8, 3)
    together = Rollout(genie, 3)
    together.reset(prompts, seeds=[4, 5, 6])
    frames, tokens = play(together, actions)
    for world in range(3):
        alone = Rollout(genie, 1)
        alone.reset(prompts[world, None], seeds=[4 + world])
        single_frames, single_tokens = play(alone, actions[:, world, None])
        assert torch.equal(single_tokens[0], tokens[world])
        assert_same_frames(single_frames[0], frames[world])


@pytest.mark.parametrize("num_frames", [1, 2, WINDOW, WINDOW + 5])
@pytest.mark.parametrize("age", [0, 2, 3 * WINDOW])
def test_a_masked_reset_begins_some_worlds_anew_and_leaves_the_others_alone(genie: Genie, num_frames: int, age: int) -> None:
    actions, prompts = actions_for(age + 7, 3), videos(2, num_frames, seed=2)
    rollout, undisturbed, new = Rollout(genie, 3), Rollout(genie, 3), Rollout(genie, 2)
    rollout.reset(videos(3, 2), seeds=[1, 2, 3])
    undisturbed.reset(videos(3, 2), seeds=[1, 2, 3])
    play(rollout, actions[:age]) if age else None
    play(undisturbed, actions[:age]) if age else None

    shown = rollout.reset(prompts, seeds=[10, 11], mask=[True, False, True])
    assert torch.equal(shown[1], undisturbed.frames[1])
    assert_same_frames(shown[[0, 2]], new.reset(prompts, seeds=[10, 11]))
    frames, tokens = play(rollout, actions[age:])
    expected_frames, expected_tokens = play(undisturbed, actions[age:])
    assert torch.equal(frames[1], expected_frames[1])
    assert torch.equal(tokens[1], expected_tokens[1])
    new_frames, new_tokens = play(new, actions[age:, [0, 2]])
    assert torch.equal(tokens[[0, 2]], new_tokens)
    assert_same_frames(frames[[0, 2]], new_frames)


def test_a_reset_of_all_worlds_leaves_nothing_of_what_was(genie: Genie) -> None:
    rollout, new, prompts, actions = Rollout(genie, 2), Rollout(genie, 2), videos(2, 2), actions_for(8, 2)
    rollout.reset(videos(2, 3, seed=8))
    play(rollout, actions_for(7, 2, seed=1))
    for each in (rollout, new):
        each.reset(prompts, seeds=[1, 2])
    assert torch.equal(rollout.frames, new.frames)
    assert torch.equal(play(rollout, actions)[0], play(new, actions)[0])


def test_an_interrupted_step_can_be_taken_again(genie: Genie, monkeypatch: pytest.MonkeyPatch) -> None:
    rollout, undisturbed = Rollout(genie, 2, sampling=GREEDY), Rollout(genie, 2, sampling=GREEDY)
    for each in (rollout, undisturbed):
        each.reset(videos(2, 3), seeds=[0, 1])
    for part in (genie.dynamics.head, genie.tokenizer):
        with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
            patched.setattr(part, "decode" if part is genie.tokenizer else "forward", Mock(side_effect=KeyboardInterrupt))
            rollout.step([0, 1])
    expected = play(undisturbed, actions_for(4, 2))
    for found, wanted in zip(play(rollout, actions_for(4, 2)), expected, strict=True):
        assert torch.equal(found, wanted)


def test_worlds_whose_reset_fails_half_way_must_be_reset(genie: Genie, monkeypatch: pytest.MonkeyPatch) -> None:
    rollout = Rollout(genie, 2)
    rollout.reset()
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(genie.tokenizer, "encode", Mock(side_effect=KeyboardInterrupt))
        rollout.reset()
    with pytest.raises(RuntimeError, match="a world has no first frame yet"):
        rollout.step([0, 1])
    rollout.reset()
    rollout.step([0, 1])


def test_an_empty_mask_changes_nothing(genie: Genie) -> None:
    rollout, undisturbed = Rollout(genie, 2), Rollout(genie, 2)
    for each in (rollout, undisturbed):
        each.reset(videos(2, 1), seeds=[1, 2])
    assert torch.equal(rollout.reset(mask=[False, False]), undisturbed.frames)
    assert torch.equal(play(rollout, actions_for(3, 2))[0], play(undisturbed, actions_for(3, 2))[0])


def test_a_state_repeats_exactly_and_may_be_used_twice(genie: Genie) -> None:
    rollout, actions = Rollout(genie, 2), actions_for(9, 2)
    rollout.reset(videos(2, 2))
    play(rollout, actions[:2])
    state, shown = rollout.get_state(), rollout.frames.clone()
    tokens_then, confidence = rollout.tokens.clone(), rollout.confidence.clone()
    rollout.reset(videos(1, 1, seed=5), mask=[False, True])  # must not reach the state
    rollout.set_state(state)
    assert torch.equal(rollout.frames, shown)
    assert torch.equal(rollout.tokens, tokens_then)
    assert torch.equal(rollout.confidence, confidence)
    frames, tokens = play(rollout, actions[2:])
    rollout.reset(videos(1, 1, seed=5), mask=[False, True])
    for target in (rollout, Rollout(genie, 2), rollout):
        target.set_state(state)
        assert torch.equal(target.frames, shown)
        again_frames, again_tokens = play(target, actions[2:])
        assert torch.equal(again_frames, frames)
        assert torch.equal(again_tokens, tokens)
        target.reset(mask=[True, False])  # must not reach the state, nor the other rollout


def test_a_state_of_other_worlds_is_refused(genie: Genie) -> None:
    rollout = Rollout(genie, 2)
    rollout.reset()
    with pytest.raises(ValueError, match=r"shape \(2, 16, 16, 3\) and this rollout \(3, 16, 16, 3\)"):
        Rollout(genie, 3).set_state(rollout.get_state())
    deeper = bold_genie(replace(BOLD, dynamics=replace(BOLD.dynamics, transformer=replace(LAYERS, num_layers=3))))
    with pytest.raises(ValueError, match="the state is of another Genie"):
        Rollout(deeper, 2).set_state(rollout.get_state())
    with pytest.raises(ValueError, match=r"is of torch.float32 on cpu, and this rollout of torch.bfloat16 on cpu: give both the same"):
        Rollout(genie, 2, dtype=torch.bfloat16).set_state(rollout.get_state())
    learned = copy.deepcopy(genie)
    Rollout(learned, 2).set_state(rollout.get_state())
    with torch.no_grad():
        learned.dynamics.head.bias[0] += 1
    with pytest.raises(ValueError, match="another Genie, of other weights"):
        Rollout(learned, 2).set_state(rollout.get_state())


def read_prompt(genie: Genie, prompts: Tensor) -> tuple[Tensor, Tensor]:
    """Tokens of, and actions to, the last frames of a prompt, which begin a clip as those in training do."""
    prompts = prompts[:, -WINDOW:]
    tokens = genie.tokenizer.encode(prompts).indices
    if prompts.shape[1] == 1:
        return tokens, torch.zeros(len(prompts), 1, 8)
    return tokens, actions_to_frames(genie.latent_action_model.encode(prompts).vectors)


@pytest.mark.parametrize("num_frames", [1, 2, WINDOW, WINDOW + 5])
@torch.no_grad()
def test_a_long_rollout_equals_the_whole_video_computed_at_once(genie: Genie, num_frames: int) -> None:
    rollout, prompts, actions = Rollout(genie, 2, sampling=GREEDY), videos(2, num_frames), actions_for(5 * WINDOW, 2)
    first = rollout.reset(prompts)
    frames, played, confidence = [], [], []
    for action in actions:
        frames.append(rollout.step(action))
        played.append(rollout.tokens)
        confidence.append(rollout.confidence)

    tokens, led = read_prompt(genie, prompts)
    led = torch.cat([led, genie.latent_action_model.quantizer.lookup(actions.T)], dim=1)
    for time in range(len(actions)):
        masked = torch.cat([tokens, torch.full((2, 1, 16), genie.config.dynamics.mask_token)], dim=1)
        previous = previous_tokens(masked, genie.config.dynamics.mask_token)
        logits = genie.dynamics(masked, led[:, : masked.shape[1]], previous)[:, -1:]
        tokens = torch.cat([tokens, logits.argmax(dim=-1)], dim=1)
        assert torch.equal(played[time], tokens[:, -1])
        torch.testing.assert_close(confidence[time], logits.softmax(dim=-1).amax(dim=-1)[:, 0], rtol=1e-3, atol=1e-4)
    images = (genie.tokenizer.decode(tokens) * 255).round().to(torch.uint8)[:, -len(actions) - 1 :]
    assert_same_frames(torch.stack([first, *frames], dim=1), images)
    assert (images.int().diff(dim=1).abs().amax(dim=(2, 3, 4)) > 10).float().mean() > 0.5  # it does not stand still


def test_a_step_computes_one_frame_and_never_reads_pixels(genie: Genie) -> None:
    calls: dict[str, list[int]] = {"encoder": [], "latent": [], "dynamics": [], "decoder": []}
    modules = {
        "encoder": genie.tokenizer.encoder,
        "latent": genie.latent_action_model.encoder,
        "dynamics": genie.dynamics.transformer,
        "decoder": genie.tokenizer.decoder,
    }

    def count(name: str) -> Callable[[Any, Any, Tensor], None]:
        return lambda _module, _inputs, output: calls[name].append(output.shape[1])

    hooks = [module.register_forward_hook(count(name)) for name, module in modules.items()]
    try:
        rollout = Rollout(genie, 2)
        rollout.reset(videos(2, 3))
        assert calls == {"encoder": [3], "latent": [3], "dynamics": [2], "decoder": [3]}
        for _ in range(10):
            for record in calls.values():
                record.clear()
            rollout.step([0, 1])
            assert calls == {"encoder": [], "latent": [], "dynamics": [2, 1, 1], "decoder": [1]}
    finally:
        for hook in hooks:
            hook.remove()


@pytest.mark.parametrize("num_frames", [1, 4])
def test_the_callers_prompts_stay_as_they_were(genie: Genie, num_frames: int) -> None:
    rollout, prompts = Rollout(genie, 2), videos(2, num_frames).numpy()
    before = prompts.copy()
    shown = rollout.reset(prompts)
    shown.zero_()  # what is returned is the caller's
    assert rollout.frames.any()
    rollout.step(np.array([0, 1])).zero_()
    assert rollout.frames.any()
    assert np.array_equal(prompts, before)


def test_without_prompts_each_world_draws_one_of_the_genies_own() -> None:
    genie = bold_genie()
    shown = {tuple(Rollout(genie, 1).reset(prompt[None, None]).flatten().tolist()) for prompt in genie.prompts}
    assert len(shown) == 5
    rollout = Rollout(genie, 40)
    frames = rollout.reset(seeds=list(range(40)))
    drawn = [min(shown, key=lambda one: sum(abs(a - b) for a, b in zip(one, frame, strict=True))) for frame in frames.flatten(1).tolist()]
    assert set(drawn) == shown
    assert max(drawn.count(one) for one in shown) < 20
    assert torch.equal(Rollout(genie, 40).reset(seeds=list(range(40))), frames)


def test_worlds_begun_without_a_seed_go_on_drawing(genie: Genie) -> None:
    rollout, prompts = Rollout(genie, 1), videos(1, 1)
    rollout.reset(prompts, seeds=[3])
    _, first = play(rollout, actions_for(4, 1))
    rollout.reset(prompts)
    _, second = play(rollout, actions_for(4, 1))
    rollout.reset(prompts, seeds=[3])
    _, third = play(rollout, actions_for(4, 1))
    assert torch.equal(first, third)
    assert not torch.equal(first, second)


def test_a_rollout_in_bfloat16_runs_and_stays_close(genie: Genie) -> None:
    exact, short = Rollout(genie, 2), Rollout(genie, 2, dtype=torch.bfloat16)
    frames = [rollout.reset(videos(2, 2)).int() for rollout in (exact, short)]
    assert (frames[0] - frames[1]).float().abs().mean() < 4
    play(short, actions_for(5, 2))
    assert short.tokens.max() < 16


def test_a_genie_in_training_is_put_into_evaluation() -> None:
    genie = bold_genie().train()
    rollout = Rollout(genie, 1)
    rollout.reset(videos(1, 3))
    genie.train()
    with pytest.raises(RuntimeError, match="in training mode.*call genie.eval"):
        rollout.reset(videos(1, 3))
    assert int(genie.tokenizer.quantizer.steps) == int(genie.latent_action_model.quantizer.steps) == 0


@torch.no_grad()
def test_an_anchored_world_never_sees_a_longer_past_than_the_window(genie: Genie) -> None:
    """By the book: a clip that, once it is as long as the window, goes on with its last 2 frames as its first ones."""
    anchored = replace(GREEDY, anchor_frames=2)
    rollout, actions = Rollout(genie, 2, sampling=anchored), actions_for(4 * WINDOW, 2)
    rollout.reset(videos(2, 1))
    clip = genie.tokenizer.encode(videos(2, 1)).indices
    led = torch.zeros(2, 1, 8)
    for time, action in enumerate(actions):
        if clip.shape[1] == WINDOW:
            clip, led = clip[:, -2:], actions_to_frames(led[:, -1:])
        if time == 2 * WINDOW:
            state = rollout.get_state()
        rollout.step(action)
        led = torch.cat([led, genie.latent_action_model.quantizer.lookup(action)[:, None]], dim=1)
        masked = torch.cat([clip, torch.full((2, 1, 16), genie.config.dynamics.mask_token)], dim=1)
        logits = genie.dynamics(masked, led, previous_tokens(masked, genie.config.dynamics.mask_token))[:, -1:]
        clip = torch.cat([clip, logits.argmax(dim=-1)], dim=1)
        assert torch.equal(rollout.tokens, clip[:, -1]), time

    last = rollout.tokens
    rollout.set_state(state)
    for action in actions[2 * WINDOW :]:
        rollout.step(action)
    assert torch.equal(rollout.tokens, last)
    with pytest.raises(ValueError, match="the same sampling.anchor_frames"):
        Rollout(genie, 2, sampling=GREEDY).set_state(state)


def test_worlds_begun_at_different_times_are_anchored_each_in_its_own(genie: Genie) -> None:
    anchored, actions, prompts = replace(GREEDY, anchor_frames=2), actions_for(3 * WINDOW, 2), videos(2, 1)
    rollout = Rollout(genie, 2, sampling=anchored)
    rollout.reset(prompts)
    rollout.step(actions[0])
    rollout.reset(prompts[1:], mask=[False, True])  # a step later than the other one
    alone = Rollout(genie, 1, sampling=anchored)
    alone.reset(prompts[1:])
    for action in actions:
        rollout.step(action)
        alone.step(action[1:])
        assert torch.equal(rollout.tokens[1], alone.tokens[0])


@torch.no_grad()
def test_a_long_prompt_fills_all_of_the_window_but_the_frame_to_come(genie: Genie) -> None:
    """By the book; were the window filled, the past would begin anew and the actions that led to its first frame be forgotten."""
    rollout, prompts, action = Rollout(genie, 2, sampling=replace(GREEDY, anchor_frames=2)), videos(2, WINDOW + 2), torch.tensor([0, 1])
    rollout.reset(prompts)
    rollout.step(action)
    clip, led = read_prompt(genie, prompts[:, 1 - WINDOW :])
    masked = torch.cat([clip, torch.full((2, 1, 16), genie.config.dynamics.mask_token)], dim=1)
    led = torch.cat([led, genie.latent_action_model.quantizer.lookup(action)[:, None]], dim=1)
    logits = genie.dynamics(masked, led, previous_tokens(masked, genie.config.dynamics.mask_token))[:, -1]
    assert torch.equal(rollout.tokens, logits.argmax(dim=-1))


def test_anchoring_with_a_whole_window_is_refused(genie: Genie) -> None:
    with pytest.raises(ValueError, match="asks for fewer"):
        Rollout(genie, 1, sampling=replace(GREEDY, anchor_frames=WINDOW))
    with pytest.raises(ValueError, match="at least 2 frames"):
        SamplingConfig(anchor_frames=1)
