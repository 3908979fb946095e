from typing import Any

import numpy as np
import pytest
import torch

from world_model.layers.patches import ConvHead, ConvStem, patchify, unpatchify
from world_model.layers.st_transformer import STTransformer, TransformerConfig
from world_model.layers.vector_quantizer import VectorQuantizer


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def transformer(window: int | None = None, num_layers: int = 2) -> STTransformer:
    torch.manual_seed(0)
    config = TransformerConfig(num_layers=num_layers, d_model=16, num_heads=2, temporal_window=window)
    return STTransformer(config, num_tokens=4)


def test_a_frame_changes_itself_and_later_frames_only() -> None:
    model, tokens = transformer(), normal(2, 6, 4, 16)
    other = tokens.clone()
    other[:, 3, 1] += 1.0
    before, after = model(tokens), model(other)
    assert torch.equal(before[:, :3], after[:, :3])
    assert (before[:, 3:] != after[:, 3:]).any(dim=-1).all()  # every place of every later frame hears of it


def test_a_windowed_stack_forgets_frames_older_than_its_window() -> None:
    model, tokens = transformer(window=2, num_layers=2), normal(1, 6, 4, 16)
    other = tokens.clone()
    other[:, 0] += 1.0
    before, after = model(tokens), model(other)
    assert torch.equal(before[:, 3:], after[:, 3:])
    assert (before[:, :3] != after[:, :3]).any(dim=(0, 2, 3)).all()


def test_only_the_time_between_frames_counts() -> None:
    model, tokens = transformer(window=3, num_layers=1), normal(1, 9, 4, 16)
    torch.testing.assert_close(model(tokens)[:, 6:], model(tokens[:, 4:])[:, 2:], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"d_model": 12, "num_heads": 4}, "multiple of 2 \\* num_heads = 8"),
        ({"head_dim": 5}, "must be even"),
        ({"num_heads": 4, "num_key_value_heads": 3}, "multiple of num_key_value_heads"),
        ({"num_layers": 0}, "num_layers must be a whole number"),
        ({"attention": "global"}, "'st', 'space' or 'joint'"),
    ],
)
def test_shapes_that_cannot_be_built_are_refused(setting: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TransformerConfig(**setting)


def test_unpatchify_inverts_patchify_and_a_patch_is_a_square_of_the_image() -> None:
    images = normal(2, 8, 12, 3)
    patches = patchify(images, 4)
    assert torch.equal(unpatchify(patches, 4), images)
    assert torch.equal(patches[1, 0, 2], images[1, :4, 8:].flatten())


def test_conv_stem_keeps_the_size_of_its_signal() -> None:
    torch.manual_seed(0)
    tokens = ConvStem(in_channels=6, d_model=64, patch_size=16)(normal(8, 64, 64, 6))[-1]
    assert tokens.shape == (8, 4, 4, 64)
    assert 0.1 < tokens.std() < 3.0


def test_conv_head_draws_where_the_skips_say() -> None:
    torch.manual_seed(0)
    stem = ConvStem(in_channels=3, d_model=32, patch_size=8)
    head = ConvHead(in_channels=3, out_channels=3, d_model=32, patch_size=8)
    images = normal(1, 32, 32, 3)
    moved = images.clone()
    moved[:, 5, 7] += 1.0
    tokens = normal(1, 4, 4, 32)
    difference = (head(tokens, [images, *stem(images)]) - head(tokens, [moved, *stem(images)])).abs().sum(-1)[0]
    assert {tuple(place) for place in difference.nonzero().tolist()} <= {(y, x) for y in range(3, 8) for x in range(5, 10)}
    assert difference[5, 7] > 0


def quantizer(update: str = "gradient", reset_after: int = 3, seed: int = 0) -> VectorQuantizer:
    return VectorQuantizer(num_codes=4, code_dim=8, update=update, reset_after=reset_after, seed=seed)  # type: ignore[arg-type]


def test_the_nearest_code_by_angle_is_chosen_and_counted() -> None:
    vq, inputs = quantizer().eval(), normal(5, 6, 8)
    result = vq(inputs)
    cosines = torch.nn.functional.cosine_similarity(inputs[..., None, :], vq.lookup(torch.arange(4)), dim=-1)
    assert torch.equal(result.indices, cosines.argmax(-1))
    torch.testing.assert_close(result.vectors, vq.lookup(result.indices))
    assert result.usage.tolist() == np.bincount(result.indices.flatten(), minlength=4).tolist()


def test_the_gradient_passes_straight_through_to_the_direction_of_the_input() -> None:
    inputs = normal(3, 8).requires_grad_()
    target = normal(3, 8, seed=1)
    (quantizer().eval()(inputs).vectors * target).sum().backward()
    straight = inputs.detach().clone().requires_grad_()
    (torch.nn.functional.normalize(straight, dim=-1) * target).sum().backward()
    torch.testing.assert_close(inputs.grad, straight.grad)


def test_commitment_moves_inputs_and_codebook_loss_moves_codes() -> None:
    vq, inputs = quantizer(), normal(20, 8).requires_grad_()
    result = vq(inputs)
    result.commitment_loss.backward(retain_graph=True)
    assert vq.codes.grad is None
    assert inputs.grad is not None
    assert inputs.grad.abs().sum() > 0
    inputs.grad = None
    result.codebook_loss.backward()
    assert inputs.grad is None
    assert vq.codes.grad is not None
    assert vq.codes.grad.abs().sum() > 0


@pytest.mark.parametrize("update", ["gradient", "ema"])
def test_dead_codes_come_back_onto_current_inputs(update: str) -> None:
    vq = quantizer(update, reset_after=3)
    corner = torch.nn.functional.normalize(torch.ones(8), dim=0)
    inputs = corner + 0.05 * normal(64, 8)  # all in one corner of the sphere: one code wins everything
    used = [int((vq(inputs).usage > 0).sum()) for _ in range(12)]
    assert used[0] == used[2] < used[3]
    assert used[-1] == 4
    assert (vq.lookup(torch.arange(4)) @ corner).min() > 0.9


def test_codes_do_not_come_back_in_evaluation() -> None:
    vq, inputs = quantizer(reset_after=1).eval(), torch.ones(64, 8)
    before = vq.state_dict()["codes"].clone()
    for _ in range(5):
        vq(inputs)
    assert torch.equal(vq.state_dict()["codes"], before)


def test_moving_average_codes_settle_on_the_means_of_their_inputs() -> None:
    vq = VectorQuantizer(num_codes=2, code_dim=4, update="ema", ema_decay=0.9, reset_after=5)
    centres = torch.eye(4)[:2]
    for step in range(200):
        vq(centres.repeat_interleave(32, 0) + 0.1 * normal(64, 4, seed=step))
    assert (vq.lookup(torch.arange(2)) @ centres.T).max(dim=0).values.min() > 0.99
    assert vq.eval()(centres).indices.unique().numel() == 2


def test_the_same_seed_gives_the_same_resets_whatever_the_global_generator() -> None:
    def codes(global_seed: int, seed: int) -> torch.Tensor:
        torch.manual_seed(global_seed)
        vq = quantizer(reset_after=1, seed=seed)
        for step in range(5):
            vq(torch.ones(16, 8) + 0.1 * normal(16, 8, seed=step))
        return vq.codes.detach()

    assert torch.equal(codes(1, seed=0), codes(2, seed=0))
    assert not torch.equal(codes(1, seed=0), codes(1, seed=1))


def test_a_resumed_quantizer_goes_on_exactly() -> None:
    batches = [torch.ones(16, 8) + 0.1 * normal(16, 8, seed=step) for step in range(8)]
    whole, first, second = quantizer("ema"), quantizer("ema"), quantizer("ema")
    for batch in batches:
        whole(batch)
    for batch in batches[:4]:
        first(batch)
    second.load_state_dict(first.state_dict())
    for batch in batches[4:]:
        second(batch)
    assert torch.equal(second.codes, whole.codes)


def test_losses_stay_in_float32_under_autocast() -> None:
    vq, inputs = quantizer().eval(), normal(32, 8)
    expected = vq(inputs)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        result = vq(inputs)
    assert torch.equal(result.commitment_loss, expected.commitment_loss)
    assert torch.equal(result.indices, expected.indices)


def test_the_ramp_goes_from_the_input_to_its_code() -> None:
    vq = VectorQuantizer(num_codes=4, code_dim=8, ramp_steps=4)
    inputs = normal(10, 8)
    directions = torch.nn.functional.normalize(inputs, dim=-1)
    first = vq(inputs)
    torch.testing.assert_close(first.vectors, directions)
    assert first.commitment_loss == 0
    second = vq(inputs)
    torch.testing.assert_close(second.vectors, 0.75 * directions + 0.25 * vq.lookup(second.indices))
    for _ in range(2):
        vq(inputs)
    last = vq(inputs)
    torch.testing.assert_close(last.vectors, vq.lookup(last.indices))
    torch.testing.assert_close(last.commitment_loss, last.codebook_loss)
    fresh = VectorQuantizer(num_codes=4, code_dim=8, ramp_steps=4).eval()(inputs)
    torch.testing.assert_close(fresh.vectors, vq.lookup(fresh.indices))  # outside training a code is a code


@pytest.mark.parametrize("dead", [0, 500, 1023])
def test_a_dead_code_returns_where_inputs_are_served_worst(dead: int) -> None:
    served, neglected = normal(1, 8), -normal(1, 8)
    inputs = torch.cat([served.expand(900, 8), neglected.expand(100, 8)]) + 0.01 * normal(1000, 8, seed=1)
    vq = VectorQuantizer(num_codes=1024, code_dim=8, reset_after=3)
    with torch.no_grad():
        vq.codes.copy_(torch.nn.functional.normalize(served + 0.01 * normal(1024, 8, seed=2), dim=-1))
    vq.unused_steps[dead] = 3
    vq(inputs)
    assert torch.nn.functional.cosine_similarity(vq.codes[dead], neglected[0], dim=0) > 0.99
