import random
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from world_model.layers.st_transformer import STTransformer, TransformerConfig
from world_model.layers.temporal_cache import TemporalCache

WINDOW, NUM_TOKENS, D_MODEL = 3, 3, 16
HEADS = {"multi-head": None, "grouped": 2, "multi-query": 1}


@pytest.fixture(autouse=True)
def _no_grad() -> object:
    with torch.no_grad():
        yield


def transformer(
    key_value_heads: int | None = None, *, window: int | None = WINDOW, attention: str = "st", num_layers: int = 2
) -> STTransformer:
    torch.manual_seed(0)
    config = TransformerConfig(
        num_layers=num_layers,
        d_model=D_MODEL,
        num_heads=4,
        num_key_value_heads=key_value_heads,
        temporal_window=window,
        attention=attention,  # type: ignore[arg-type]
    )
    return STTransformer(config, num_tokens=NUM_TOKENS)


def video(batch: int, time: int, seed: int = 0) -> Tensor:
    return torch.randn(batch, time, NUM_TOKENS, D_MODEL, generator=torch.Generator().manual_seed(seed))


def noise_like(tokens_BTND: Tensor) -> Tensor:
    return torch.randn(tokens_BTND.shape, generator=torch.Generator().manual_seed(99))


def begin(model: STTransformer, cache: TemporalCache, rows: list[int], past_BTND: Tensor) -> Tensor:
    """Restart the worlds `rows` with a past of `past_BTND`, as a Rollout does; what the model says of it."""
    part = cache.restart(torch.tensor(rows), past_BTND.shape[1])
    output = model(past_BTND, part)
    part.advance(past_BTND.shape[1])
    cache.put(torch.tensor(rows), part)
    return output


def step(model: STTransformer, cache: TemporalCache, frame_BND: Tensor) -> Tensor:
    output = model(frame_BND[:, None], cache)[:, 0]
    cache.advance()
    return output


def close(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("key_value_heads", HEADS.values(), ids=HEADS.keys())
def test_frame_by_frame_equals_the_whole_video_at_once(key_value_heads: int | None) -> None:
    model, tokens = transformer(key_value_heads), video(2, 5 * WINDOW + 2)
    whole, cache = model(tokens), model.make_cache(2)
    for time in range(tokens.shape[1]):
        close(step(model, cache, tokens[:, time]), whole[:, time])


def test_the_window_and_the_past_matter_so_that_the_comparison_can_fail() -> None:
    tokens = video(1, 8)
    outputs = [transformer(window=window)(tokens) for window in (1, 2, 3, 4, None)]
    for first, second in pairwise(outputs):
        assert (first[:, 5:] - second[:, 5:]).abs().max() > 1e-2


def test_the_past_has_an_order() -> None:
    model, tokens = transformer(num_layers=1), video(1, 3)  # of more layers, each would see how much the one below could see
    assert (model(tokens)[:, 2] - model(tokens[:, [1, 0, 2]])[:, 2]).abs().max() > 1e-2


@pytest.mark.parametrize("key_value_heads", HEADS.values(), ids=HEADS.keys())
@pytest.mark.parametrize("num_frames", range(1, WINDOW + 1))
@pytest.mark.parametrize("restarted", [False, True], ids=["first pass", "restart"])
def test_a_prompt_can_be_computed_in_one_pass(key_value_heads: int | None, num_frames: int, restarted: bool) -> None:
    model, tokens = transformer(key_value_heads), video(2, 3 * WINDOW + num_frames)
    whole, cache = model(tokens), model.make_cache(2)
    if restarted:
        prompt = begin(model, cache, [0, 1], tokens[:, :num_frames])
    else:
        prompt = model(tokens[:, :num_frames], cache)
        cache.advance(num_frames)
    close(prompt, whole[:, :num_frames])
    for time in range(num_frames, tokens.shape[1]):
        close(step(model, cache, tokens[:, time]), whole[:, time])


def test_a_window_of_one_frame_has_no_past() -> None:
    model, tokens = transformer(window=1), video(2, 4)
    whole, cache = model(tokens), model.make_cache(2)
    for time in range(4):
        close(step(model, cache, tokens[:, time]), whole[:, time])


def test_space_attention_runs_on_a_cache_too() -> None:
    model, tokens = transformer(attention="space"), video(2, 6)
    whole, cache = model(tokens), model.make_cache(2)
    for time in range(6):
        close(step(model, cache, tokens[:, time]), whole[:, time])


def test_rewriting_the_present_frame_leaves_no_trace() -> None:
    model, tokens = transformer(), video(2, 4 * WINDOW)
    whole, cache, noise = model(tokens), model.make_cache(2), noise_like(tokens)
    for time in range(tokens.shape[1]):
        for _ in range(time % 4):
            assert not torch.allclose(model(noise[:, time, None], cache)[:, 0], whole[:, time], atol=1e-2)
        close(step(model, cache, tokens[:, time]), whole[:, time])


@pytest.mark.parametrize("key_value_heads", HEADS.values(), ids=HEADS.keys())
def test_the_last_frame_and_the_next_in_one_pass_as_in_sampling(key_value_heads: int | None) -> None:
    model, tokens = transformer(key_value_heads), video(2, 4 * WINDOW)
    whole, cache, noise = model(tokens), model.make_cache(2), noise_like(tokens)
    for time in range(tokens.shape[1] - 1):
        pair = model(torch.stack([tokens[:, time], noise[:, time]], dim=1), cache)  # keeps `time`; what follows is not yet known
        close(pair[:, 0], whole[:, time])
        cache.advance()
        model(noise[:, time, None], cache)
        close(model(tokens[:, time + 1, None], cache)[:, 0], whole[:, time + 1])
        model(noise[:, time, None], cache)


@pytest.mark.parametrize("num_frames", range(WINDOW + 1))
@pytest.mark.parametrize("age", [1, 2 * WINDOW + 1])
def test_restarted_worlds_are_new_and_the_others_do_not_notice(num_frames: int, age: int) -> None:
    model, old, new = transformer(), video(3, age + 2 * WINDOW), video(2, num_frames + 2 * WINDOW, seed=1)
    cache = model.make_cache(3)
    for time in range(age):
        step(model, cache, old[:, time])
    untouched = cache.take(torch.arange(3))
    if num_frames:
        begin(model, cache, [2, 0], new[:, :num_frames])
    else:
        cache.put(torch.tensor([2, 0]), cache.restart(torch.tensor([2, 0]), 0))
    whole = model(new)
    for time in range(2 * WINDOW):
        expected = step(model, untouched, old[:, age + time])
        frame = old[:, age + time].clone()
        frame[[2, 0]] = new[:, num_frames + time]
        output = step(model, cache, frame)
        assert torch.equal(output[1], expected[1])
        close(output[[2, 0]], whole[:, num_frames + time])


@pytest.mark.parametrize("seed", range(6))
def test_any_play_of_steps_rewrites_and_restarts_equals_each_world_by_itself(seed: int) -> None:
    rng, model, num_worlds = random.Random(seed), transformer(2), 3
    cache, videos = model.make_cache(num_worlds), [video(1, 40, seed=world) for world in range(num_worlds)]
    lengths = [0] * num_worlds  # frames that each world has had
    for turn in range(30):
        rows = [world for world in range(num_worlds) if rng.random() < 0.15]
        if rows:
            num_frames = rng.randint(0, WINDOW)
            for row in rows:
                videos[row], lengths[row] = video(1, 40, seed=100 * turn + row), num_frames
            past = torch.cat([videos[row][:, :num_frames] for row in rows])
            rng.shuffle(order := list(range(len(rows))))
            if num_frames:
                begin(model, cache, [rows[index] for index in order], past[order])
            else:
                cache.put(torch.tensor(rows), cache.restart(torch.tensor(rows), 0))
        for _ in range(rng.randint(0, 2)):
            model(noise_like(videos[0][:, :1]).expand(num_worlds, -1, -1, -1), cache)
        output = step(model, cache, torch.cat([videos[world][:, lengths[world]] for world in range(num_worlds)]))
        for world in range(num_worlds):
            lengths[world] += 1
            close(output[world], model(videos[world][:, : lengths[world]])[0, -1])


def test_a_taken_copy_goes_its_own_way() -> None:
    model, tokens = transformer(), video(3, 8)
    cache = model.make_cache(3)
    for time in range(4):
        step(model, cache, tokens[:, time])
    rows = torch.tensor([2, 0])
    part = cache.take(rows)
    for time in range(4):
        step(model, part, noise_like(tokens)[rows, time])  # must not reach the original
    whole = model(tokens)
    for time in range(4, 8):
        close(step(model, cache, tokens[:, time]), whole[:, time])


def test_the_memory_is_constant() -> None:
    model, tokens = transformer(), video(2, 1)
    cache = model.make_cache(2)

    def storage() -> list[tuple[int, tuple[int, ...]]]:
        tensors = [tensor for layer in cache.layers for tensor in (layer.keys, layer.values)]
        return [(tensor.data_ptr(), tuple(tensor.shape)) for tensor in tensors]

    before = storage()
    for _ in range(300):
        step(model, cache, tokens[:, 0])
    assert storage() == before
    assert before[0][1] == (2 * NUM_TOKENS, 4, WINDOW + 1, D_MODEL // 4)


def test_grouped_keys_make_the_cache_smaller() -> None:
    sizes = [transformer(heads).make_cache(2).layers[0].keys.numel() for heads in (4, 2, 1)]
    assert sizes[0] == 2 * sizes[1] == 4 * sizes[2]


def test_a_world_may_run_for_millions_of_frames() -> None:
    model, tokens = transformer(), video(2, 4 * WINDOW)
    whole, cache = model(tokens), model.make_cache(2)
    cache.clock = torch.tensor(10_000_000)
    cache.begin.fill_(cache.clock)
    for time in range(tokens.shape[1]):
        close(step(model, cache, tokens[:, time]), whole[:, time])


def test_a_bfloat16_cache_is_close() -> None:
    model, tokens = transformer(), video(2, 4 * WINDOW)
    whole, cache = model(tokens), model.make_cache(2, dtype=torch.bfloat16)
    assert cache.layers[0].keys.dtype == torch.bfloat16
    with torch.autocast("cpu", dtype=torch.bfloat16):
        outputs = torch.stack([step(model, cache, tokens[:, time]) for time in range(tokens.shape[1])], dim=1)
    assert (outputs - whole).abs().max() < 0.15


def test_a_past_longer_than_the_window_is_refused() -> None:
    cache = transformer().make_cache(2)
    cache.restart(torch.tensor([0]), WINDOW)
    with pytest.raises(ValueError, match=f"{WINDOW + 1} frames is longer than the window of {WINDOW}"):
        cache.restart(torch.tensor([0]), WINDOW + 1)


def test_worlds_of_another_time_are_refused_and_change_nothing() -> None:
    cache = transformer().make_cache(2)
    before = cache.begin.clone()
    with pytest.raises(ValueError, match="advance them first"):
        cache.put(torch.tensor([0]), cache.restart(torch.tensor([0]), 2))
    late = cache.take(torch.tensor([1]))
    late.advance()
    with pytest.raises(ValueError, match="advance them first"):
        cache.put(torch.tensor([1]), late)
    assert torch.equal(cache.begin, before)


@pytest.mark.parametrize(("window", "attention"), [(None, "st"), (None, "space"), (3, "joint")])
def test_what_cannot_be_computed_frame_by_frame_gets_no_cache(window: int | None, attention: str) -> None:
    with pytest.raises(ValueError, match="temporal_window"):
        transformer(window=window, attention=attention).make_cache(1)


def test_a_pass_that_does_not_fit_beside_its_past_is_refused() -> None:
    model, tokens = transformer(), video(1, 2 * WINDOW)
    cache = model.make_cache(1)
    model(tokens[:, :WINDOW], cache)
    cache.advance(WINDOW)
    with pytest.raises(ValueError, match="frames"):
        model(tokens[:, WINDOW:], cache)
