import math
from dataclasses import replace
from itertools import pairwise
from typing import Any, Literal

import pytest
import torch
from torch import Tensor, nn

from world_model import DynamicsConfig, DynamicsModel, SamplingConfig
from world_model.dynamics import actions_to_frames, previous_tokens
from world_model.layers.st_transformer import TransformerConfig
from world_model.layers.temporal_cache import TemporalCache
from world_model.maskgit import Frame, draw_tokens, sample_next_frame

NUM_TOKENS, NUM_CODES, ACTION_DIM = 9, 12, 4
TINY = DynamicsConfig(
    num_tokens=NUM_TOKENS,
    num_codes=NUM_CODES,
    action_dim=ACTION_DIM,
    transformer=TransformerConfig(num_layers=2, d_model=16, num_heads=2, temporal_window=3),
)


def dynamics(conditioning: Literal["add", "prepend"] = "add", previous_frame: bool = False) -> DynamicsModel:
    model = DynamicsModel(replace(TINY, conditioning=conditioning, previous_frame=previous_frame)).eval()
    with torch.no_grad():
        model.head.weight *= 4  # an untrained model hardly prefers any token and hardly knows its places; a bold one shows mistakes
        model.transformer.places *= 30
    return model


def generators(num_worlds: int, seed: int = 0) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(100 * seed + world) for world in range(num_worlds)]


def unit_actions(num_worlds: int, num_frames: int) -> Tensor:
    vectors = torch.randn(num_worlds, num_frames, ACTION_DIM, generator=torch.Generator().manual_seed(7))
    return nn.functional.normalize(vectors, dim=-1)


def first_frame(num_worlds: int) -> Frame:
    tokens = torch.randint(NUM_CODES, (num_worlds, NUM_TOKENS), generator=torch.Generator().manual_seed(3))
    previous = torch.full_like(tokens, NUM_CODES)
    return Frame(tokens, torch.zeros(num_worlds, ACTION_DIM), torch.ones(num_worlds, NUM_TOKENS), previous)


@torch.no_grad()
def play(model: DynamicsModel, actions: Tensor, sampling: SamplingConfig, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Tokens and confidence (B, T, N) of the frames to which actions (B, T, E) lead from `first_frame`."""
    cache, last, draws = model.transformer.make_cache(len(actions)), first_frame(len(actions)), generators(len(actions), seed)
    frames = [last := sample_next_frame(model, cache, last, action, sampling, draws) for action in actions.unbind(dim=1)]
    return torch.stack([frame.tokens for frame in frames], dim=1), torch.stack([frame.confidence for frame in frames], dim=1)


@torch.no_grad()
def play_plainly(model: DynamicsModel, actions: Tensor, sampling: SamplingConfig, seed: int = 0) -> tuple[Tensor, Tensor]:
    """The same by the book, world by world: the whole video computed anew in every pass, one list of places, no cache."""
    worlds, certainties = [], []
    for world, generator in enumerate(generators(len(actions), seed)):
        video, certainty = first_frame(len(actions)).tokens[world, None], []
        all_actions = actions_to_frames(actions[world, None])
        for time in range(1, actions.shape[1] + 1):
            frame, sure = torch.full((NUM_TOKENS,), NUM_CODES), torch.zeros(NUM_TOKENS)
            masked = list(range(NUM_TOKENS))
            for step in range(sampling.steps):
                whole = torch.cat([video, frame[None]])[None]
                logits = model(whole, all_actions[:, : time + 1], previous_tokens(whole, NUM_CODES))[0, -1, masked]
                scores = logits.clone()
                if sampling.top_k is not None:
                    for row in scores:
                        row[row.argsort(descending=True)[sampling.top_k :]] = -torch.inf
                if sampling.temperature:
                    noise = torch.empty(scores.shape).exponential_(generator=generator)
                    scores = scores / sampling.temperature - noise.log()
                drawn = scores.argmax(dim=-1)
                probability = logits.softmax(dim=-1)[torch.arange(len(masked)), drawn]
                frame[masked], sure[masked] = drawn, probability
                if step == sampling.steps - 1:
                    break
                share = math.cos(math.pi / 2 * (step + 1) / sampling.steps)
                still_masked = min(math.floor(NUM_TOKENS * share), NUM_TOKENS - step - 1)
                if still_masked <= 0:
                    break
                noise = torch.empty(len(masked)).exponential_(generator=generator)
                fading = sampling.confidence_noise * (1 - (step + 1) / sampling.steps)
                order = (probability.log() - fading * noise.log()).argsort()
                masked = [masked[index] for index in order[:still_masked].tolist()]
                frame[masked] = NUM_CODES
            video, certainty = torch.cat([video, frame[None]]), [*certainty, sure]
        worlds.append(video[1:])
        certainties.append(torch.stack(certainty))
    return torch.stack(worlds), torch.stack(certainties)


@pytest.mark.parametrize("num_tokens", [1, 2, 3, 9, 16, 64, 960])
def test_every_step_leaves_fewer_masks_and_the_last_none(num_tokens: int) -> None:
    for steps in range(1, min(num_tokens, 64) + 6):
        counts = [num_tokens, *(SamplingConfig(steps=steps).num_masked_after(step, num_tokens) for step in range(steps))]
        assert counts[-1] == 0
        assert min(counts) == 0
        assert all(before > after or before == after == 0 for before, after in pairwise(counts)), steps


def test_the_schedule_is_a_cosine() -> None:
    sampling = SamplingConfig(steps=4)
    assert [sampling.num_masked_after(step, 100) for step in range(4)] == [92, 70, 38, 0]


@pytest.mark.parametrize(
    "sampling",
    [
        SamplingConfig(steps=4),
        SamplingConfig(steps=4, temperature=0.0),
        SamplingConfig(steps=3, temperature=0.7, top_k=3, confidence_noise=2.0),
        SamplingConfig(steps=5, confidence_noise=0.0),
        SamplingConfig(steps=1),
        SamplingConfig(steps=NUM_TOKENS),
        SamplingConfig(steps=2 * NUM_TOKENS),
    ],
    ids=["plain", "greedy", "top-k", "no noise", "one step", "a step a token", "more steps than tokens"],
)
@pytest.mark.parametrize(("conditioning", "previous_frame"), [("add", False), ("prepend", False), ("add", True), ("prepend", True)])
def test_sampling_equals_the_plain_algorithm_without_a_cache(
    conditioning: Literal["add", "prepend"], previous_frame: bool, sampling: SamplingConfig
) -> None:
    model, actions = dynamics(conditioning, previous_frame), unit_actions(2, 10)  # three times the window of 3
    tokens, confidence = play(model, actions, sampling)
    expected_tokens, expected_confidence = play_plainly(model, actions, sampling)
    assert torch.equal(tokens, expected_tokens)
    torch.testing.assert_close(confidence, expected_confidence, rtol=1e-3, atol=1e-4)
    assert tokens.max() < NUM_CODES  # no mask is left
    assert (confidence > 0).all()
    assert (confidence <= 1).all()


def test_a_seed_decides_the_draws_and_worlds_do_not_mix() -> None:
    model, actions, sampling = dynamics(), unit_actions(3, 5), SamplingConfig(steps=3)
    tokens, _ = play(model, actions, sampling)
    assert torch.equal(play(model, actions, sampling)[0], tokens)
    assert not torch.equal(play(model, actions, sampling, seed=1)[0], tokens)
    assert torch.equal(play(model, actions[:1], sampling)[0], tokens[:1])
    assert not torch.equal(tokens[0], tokens[1])


def test_greedy_sampling_needs_no_luck_and_is_what_one_token_to_choose_from_gives() -> None:
    model, actions, greedy = dynamics(), unit_actions(2, 6), SamplingConfig(steps=3, temperature=0.0, confidence_noise=0.0)
    tokens, _ = play(model, actions, greedy)
    assert torch.equal(play(model, actions, greedy, seed=1)[0], tokens)
    assert torch.equal(play(model, actions, replace(greedy, temperature=2.0, top_k=1))[0], tokens)
    assert not torch.equal(play(model, actions, replace(greedy, temperature=2.0))[0], tokens)


def test_the_actions_decide_where_it_goes() -> None:
    model, actions, sampling = dynamics(), unit_actions(2, 6), SamplingConfig(steps=3, temperature=0.0, confidence_noise=0.0)
    other = actions.clone()
    other[:, 3] *= -1
    tokens, changed = play(model, actions, sampling)[0], play(model, other, sampling)[0]
    assert torch.equal(tokens[:, :3], changed[:, :3])
    assert not torch.equal(tokens[:, 3], changed[:, 3])


def test_what_the_caller_gave_stays_as_it_was() -> None:
    model, last, action = dynamics(), first_frame(2), unit_actions(2, 1)[:, 0]
    given = [last.tokens, last.action, last.confidence, action]
    before = [tensor.clone() for tensor in given]
    cache = model.transformer.make_cache(2)
    clock = cache.clock
    with torch.no_grad():
        frame = sample_next_frame(model, cache, last, action, SamplingConfig(steps=3), generators(2))
    assert all(torch.equal(now, then) for now, then in zip(given, before, strict=True))
    assert torch.equal(frame.action, action)
    assert cache.clock == clock + 1


def draw_many(sampling: SamplingConfig) -> tuple[Tensor, Tensor, Tensor]:
    """Logits of 8 tokens, how often each was drawn from them, and the log-probabilities that came with them."""
    logits = torch.tensor([3.0, 1.0, 2.0, 0.0, -1.0, 1.5, -2.0, 0.5])
    tokens, log_probability = draw_tokens(logits.expand(1, 20_000, 8), sampling, generators(1))
    assert torch.equal(log_probability, logits.log_softmax(0)[tokens])  # of the model itself, whatever the sampling
    return logits, tokens[0].bincount(minlength=8) / 20_000, tokens


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_tokens_are_drawn_from_the_softmax_at_that_temperature(temperature: float) -> None:
    logits, frequencies, _ = draw_many(SamplingConfig(temperature=temperature))
    torch.testing.assert_close(frequencies, (logits / temperature).softmax(0), rtol=0, atol=0.015)


def test_entropy_grows_with_the_temperature() -> None:
    frequencies = [draw_many(SamplingConfig(temperature=temperature))[1] for temperature in (0.0, 0.3, 1.0, 3.0, 100.0)]
    entropies = [-torch.special.xlogy(frequency, frequency).sum().item() for frequency in frequencies]
    assert entropies[0] == 0.0
    assert all(later > earlier + 0.1 for earlier, later in pairwise(entropies))
    assert entropies[-1] == pytest.approx(math.log(8), abs=0.02)


def test_top_k_keeps_the_likeliest_and_their_odds() -> None:
    logits, frequencies, _ = draw_many(SamplingConfig(top_k=3))
    assert frequencies.nonzero().flatten().tolist() == [0, 2, 5]
    torch.testing.assert_close(frequencies[[0, 2, 5]], logits[[0, 2, 5]].softmax(0), rtol=0, atol=0.015)
    assert torch.equal(draw_many(SamplingConfig(top_k=1))[2], torch.zeros(1, 20_000, dtype=torch.int64))
    assert torch.equal(draw_many(SamplingConfig(top_k=99))[2], draw_many(SamplingConfig())[2])


class Oracle(DynamicsModel):
    """Knows the frame to come, is surer of some places than of others, and counts what it is asked."""

    def __init__(self, answer_BN: Tensor) -> None:
        super().__init__(TINY)
        sharpness_N = torch.linspace(3, 11, NUM_TOKENS)
        self.logits_BNV = nn.functional.one_hot(answer_BN, NUM_CODES) * sharpness_N[:, None]
        self.head = nn.Identity()  # type: ignore[assignment]
        self.asked: list[Tensor] = []

    def hidden(self, tokens: Tensor, actions: Tensor, previous: Tensor | None = None, cache: TemporalCache | None = None) -> Tensor:
        self.asked.append(tokens)
        return self.logits_BNV[:, None].expand(-1, tokens.shape[1], -1, -1)


@pytest.mark.parametrize("steps", [1, 4, NUM_TOKENS, 3 * NUM_TOKENS])
def test_an_oracles_frame_is_sampled_back_surest_tokens_first(steps: int) -> None:
    answer = first_frame(2).tokens.flip(1)
    oracle, sampling = Oracle(answer), SamplingConfig(steps=steps, temperature=0.0, confidence_noise=0.0)
    last, action = first_frame(2), unit_actions(2, 1)[:, 0]
    frame = sample_next_frame(oracle, oracle.transformer.make_cache(2), last, action, sampling, generators(2))
    assert torch.equal(frame.tokens, answer)
    torch.testing.assert_close(frame.confidence, oracle.logits_BNV.softmax(-1).amax(-1))

    assert len(oracle.asked) == min(steps, NUM_TOKENS)  # a pass for nothing is left out
    first = oracle.asked[0]
    assert torch.equal(first[:, 0], last.tokens)
    assert (first[:, 1] == NUM_CODES).all()
    for step, asked in enumerate(oracle.asked[1:]):
        num_masked = sampling.num_masked_after(step, NUM_TOKENS)
        assert asked.shape == (2, 1, NUM_TOKENS)
        assert (asked[:, 0, :num_masked] == NUM_CODES).all()  # the places grow surer from left to right
        assert torch.equal(asked[:, 0, num_masked:], answer[:, num_masked:])


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"steps": 0}, "at least 1 pass"),
        ({"temperature": -0.1}, "not( be)? negative"),
        ({"confidence_noise": -1.0}, "not( be)? negative"),
        ({"top_k": 0}, "at least 1 token"),
    ],
)
def test_bad_settings_are_refused(setting: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SamplingConfig(**setting)


@pytest.mark.parametrize("setting", [{"steps": 2.5}, {"steps": True}, {"top_k": 2.5}, {"temperature": math.nan}, {"steps": "4"}])
def test_settings_of_another_type_are_refused(setting: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        SamplingConfig(**setting)
