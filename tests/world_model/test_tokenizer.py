import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from torch import Tensor
from torchmetrics.functional.image import structural_similarity_index_measure

from world_model import VideoTokenizer, VideoTokenizerConfig
from world_model.layers.st_transformer import TransformerConfig
from world_model.tokenizer import tokenizer_loss

LAYERS = TransformerConfig(num_layers=1, d_model=16, num_heads=2, temporal_window=3)
TINY = VideoTokenizerConfig(image_height=16, image_width=16, patch_size=8, encoder=LAYERS, decoder=LAYERS, num_codes=16, code_dim=8)

Attention = Literal["st", "space", "joint"]
ATTENTION: tuple[Attention, ...] = ("st", "space", "joint")


def with_attention(attention: Attention, config: VideoTokenizerConfig = TINY) -> VideoTokenizerConfig:
    layers = replace(LAYERS, attention=attention)
    return replace(config, encoder=layers, decoder=layers)


def random_frames(batch: int, time: int, height: int = 16, width: int = 16, seed: int = 0) -> Tensor:
    return torch.randint(0, 256, (batch, time, height, width, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def random_tokens(batch: int, time: int, seed: int = 0) -> Tensor:
    return torch.randint(0, 16, (batch, time, TINY.num_tokens), generator=torch.Generator().manual_seed(seed))


def codes_before_rounding(model: VideoTokenizer, frames: Tensor) -> Tensor:
    found: list[Tensor] = []
    handle = model.to_code.register_forward_hook(lambda _module, _inputs, output: found.append(output.detach()))
    model.encode(frames)
    handle.remove()
    return found[0]


@pytest.mark.parametrize("stem", ["patch", "conv"])
@pytest.mark.parametrize("attention", ATTENTION)
def test_no_frame_looks_ahead(attention: Attention, stem: Literal["patch", "conv"]) -> None:
    model, frames = VideoTokenizer(replace(with_attention(attention), stem=stem)).eval(), random_frames(2, 5)
    other = frames.clone()
    other[:, 2] = 255 - other[:, 2]
    before, after = codes_before_rounding(model, frames), codes_before_rounding(model, other)
    assert torch.equal(before[:, :2], after[:, :2])
    assert (before[:, 2] != after[:, 2]).any(dim=-1).all()
    assert torch.equal(model(frames).reconstruction[:, :2], model(other).reconstruction[:, :2])

    tokens = random_tokens(2, 5)
    changed = tokens.clone()
    changed[:, 2] = (changed[:, 2] + 1) % 16
    drawn, redrawn = model.decode(tokens), model.decode(changed)
    assert torch.equal(drawn[:, :2], redrawn[:, :2])
    assert (drawn[:, 2] != redrawn[:, 2]).float().mean() > 0.99

    later = slice(3, 5)  # within the window of 3 that began with the changed frame
    if attention == "space":
        assert torch.equal(before[:, later], after[:, later])
        assert torch.equal(drawn[:, later], redrawn[:, later])
    else:
        assert (before[:, later] != after[:, later]).any(dim=-1).all()
        assert (drawn[:, later] != redrawn[:, later]).flatten(2).any(dim=-1).all()


@pytest.mark.parametrize("attention", ["st", "joint"])
def test_a_layer_sees_no_further_back_than_its_window(attention: Attention) -> None:
    model, frames = VideoTokenizer(with_attention(attention)).eval(), random_frames(1, 6)
    other = frames.clone()
    other[:, 1] = 255 - other[:, 1]
    assert torch.equal(codes_before_rounding(model, frames)[:, 4:], codes_before_rounding(model, other)[:, 4:])


@pytest.mark.parametrize("stem", ["patch", "conv"])
@pytest.mark.parametrize("attention", ["st", "space"])
@torch.no_grad()
def test_frames_drawn_one_by_one_are_those_of_the_whole_video(attention: Attention, stem: Literal["patch", "conv"]) -> None:
    model, tokens = VideoTokenizer(replace(with_attention(attention), stem=stem)).eval(), random_tokens(2, 14)
    whole, cache = model.decode(tokens), model.decoder.make_cache(2)
    drawn = [model.decode(tokens[:, :2], cache)]
    cache.advance(2)
    for time in range(2, 14):
        drawn.append(model.decode(tokens[:, time, None], cache))
        cache.advance()
    torch.testing.assert_close(torch.cat(drawn, dim=1), whole, rtol=1e-4, atol=1e-4)
    assert whole.std(dim=1).max() > 1e-3  # the frames differ, so the comparison means something


def test_decode_draws_what_encode_found() -> None:
    model, frames = VideoTokenizer(TINY).eval(), random_frames(2, 4)
    output, quantized = model(frames), model.encode(frames)
    assert quantized.indices.shape == (2, 4, 4)
    assert quantized.indices.dtype == torch.int64
    assert torch.equal(output.quantized.indices, quantized.indices)
    torch.testing.assert_close(output.reconstruction, model.decode(quantized.indices), rtol=1e-4, atol=1e-5)
    assert output.reconstruction.shape == frames.shape
    assert output.reconstruction.min() >= 0
    assert output.reconstruction.max() <= 1
    of_bytes = VideoTokenizer(replace(TINY, num_codes=256)).eval()
    assert torch.equal(of_bytes.decode(quantized.indices.to(torch.uint8)), of_bytes.decode(quantized.indices))
    for wrong in (quantized.indices - quantized.indices.max() - 1, quantized.indices + 10_000, quantized.indices.float()):
        with pytest.raises(ValueError, match=r"need whole numbers in 0 \.\.\. \d+, got"):
            model.decode(wrong)


def test_images_need_not_be_square_and_tokens_go_row_by_row() -> None:
    model = VideoTokenizer(replace(TINY, image_height=16, image_width=24)).eval()
    frames = random_frames(1, 2, 16, 24)
    assert model.config.grid == (2, 3)
    assert model.encode(frames).indices.shape == (1, 2, 6)
    assert model(frames).reconstruction.shape == frames.shape

    seen: list[Tensor] = []
    reading = model.encoder.register_forward_pre_hook(lambda _module, inputs: seen.append(inputs[0]))
    other = frames.clone()
    other[:, 1, 8:16, 16:24] = 255 - other[:, 1, 8:16, 16:24]  # the patch in the lower right corner
    model.encode(frames), model.encode(other)
    reading.remove()
    assert (seen[0] != seen[1]).any(dim=-1).nonzero().tolist() == [[0, 1, 5]]

    def brighten(_module: torch.nn.Module, _inputs: object, output: Tensor) -> Tensor:
        output = output.clone()
        output[:, 1, 2] += 1.0  # the patch in the upper right corner
        return output

    tokens = torch.zeros(1, 2, 6, dtype=torch.int64)
    before = model.decode(tokens)
    model.decoder.register_forward_hook(brighten)
    changed = (model.decode(tokens) != before).any(dim=-1)[0]
    assert changed[1, :8, 16:].all()
    assert changed.sum() == 64


@pytest.mark.parametrize("stem", ["patch", "conv"])
def test_it_learns_to_draw_its_clips(stem: Literal["patch", "conv"]) -> None:
    generator = torch.Generator().manual_seed(0)
    colours = torch.randint(0, 256, (4, 3, 2, 2, 3), dtype=torch.uint8, generator=generator)
    frames = colours.repeat_interleave(8, 2).repeat_interleave(8, 3)
    model = VideoTokenizer(replace(TINY, num_codes=64, stem=stem, reset_after=10))
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    psnr = []
    for _ in range(120):
        loss, metrics = tokenizer_loss(model(frames), frames)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        psnr.append(metrics["psnr"].item())
    _, metrics = tokenizer_loss(output := model.eval()(frames), frames)
    assert metrics["psnr"] > psnr[0] + 6
    assert metrics["codes_used"] >= 12
    assert len(output.quantized.indices.unique()) == metrics["codes_used"]


@pytest.mark.parametrize("update", ["gradient", "ema"])
@pytest.mark.parametrize("stem", ["patch", "conv"])
@pytest.mark.parametrize("attention", ATTENTION)
def test_every_weight_learns(attention: Attention, stem: Literal["patch", "conv"], update: Literal["gradient", "ema"]) -> None:
    model, frames = VideoTokenizer(replace(with_attention(attention), stem=stem, codebook_update=update)), random_frames(2, 4)
    tokenizer_loss(model(frames), frames)[0].backward()
    idle = [name for name, weight in model.named_parameters() if weight.grad is None or not weight.grad.abs().sum()]
    assert idle == []


def test_the_loss_is_the_squared_error_the_dissimilarity_of_last_frames_and_the_weighted_vq_losses() -> None:
    model, frames = VideoTokenizer(TINY), random_frames(2, 3)
    output = model(frames)
    loss, metrics = tokenizer_loss(output, frames, ssim_weight=0.3, commitment_weight=0.5)
    last = (images[:, -1].detach().permute(0, 3, 1, 2) for images in (output.reconstruction, frames.float() / 255))
    similarity = structural_similarity_index_measure(*last, data_range=1.0).item()
    mse = (output.reconstruction.double() - frames.double() / 255).square().mean().item()
    vq = output.quantized.commitment_loss.item() + output.quantized.codebook_loss.item()
    assert loss.item() == pytest.approx(mse + 0.3 * (1 - similarity) + 0.5 * vq, rel=1e-4)
    assert metrics["ssim"].item() == pytest.approx(similarity, abs=1e-4)
    assert metrics["psnr"].item() == pytest.approx(-10 * math.log10(mse), rel=1e-4)
    assert all(not metric.requires_grad for metric in metrics.values())


def test_the_seed_decides_the_weights_and_leaves_the_global_generator_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    first, second, third = (VideoTokenizer(TINY, seed=seed).state_dict() for seed in (1, 1, 2))
    assert torch.equal(torch.rand(1), expected)
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(first["to_code.weight"], third["to_code.weight"])
    assert not torch.equal(first["quantizer.codes"], third["quantizer.codes"])


def test_a_saved_tokenizer_comes_back_the_same(tmp_path: Path) -> None:
    config = replace(with_attention("joint"), stem="conv", encoder=replace(LAYERS, num_layers=2, num_key_value_heads=1))
    model, frames = VideoTokenizer(config, seed=3), random_frames(2, 4)
    model(frames)  # counts a step, which must come back too
    model.save_pretrained(tmp_path / "model")
    loaded = VideoTokenizer.from_pretrained(tmp_path / "model")
    assert loaded.config == config
    assert not loaded.training
    assert torch.equal(loaded(frames).reconstruction, model.eval()(frames).reconstruction)
    assert int(loaded.quantizer.steps) == 1
    assert sorted(path.name for path in (tmp_path / "model").iterdir()) == ["config.json", "model.safetensors"]


def test_what_cannot_be_loaded_says_why(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no config\.json"):
        VideoTokenizer.from_pretrained(tmp_path)
    VideoTokenizer(TINY).save_pretrained(tmp_path)
    description = json.loads((tmp_path / "config.json").read_text())
    description["config"]["encoder"]["num_wheels"] = 3
    (tmp_path / "config.json").write_text(json.dumps(description))
    with pytest.raises(ValueError, match="unknown settings num_wheels"):
        VideoTokenizer.from_pretrained(tmp_path)
    del description["config"]["encoder"]["num_wheels"]
    description["config"]["encoder"]["num_layers"] = 2
    (tmp_path / "config.json").write_text(json.dumps(description))
    with pytest.raises(ValueError, match="does not hold the weights"):
        VideoTokenizer.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"patch_size": 5}, "16 x 16 does not divide into patches of 5"),
        ({"image_width": 20}, "16 x 20 does not divide into patches of 8"),
        ({"patch_size": 1, "stem": "conv"}, "power of 2"),
        ({"image_height": 24, "image_width": 24, "patch_size": 12, "stem": "conv"}, "power of 2"),
        ({"num_codes": 0}, "num_codes must be a whole number"),
        ({"code_dim": 8.0}, "code_dim must be a whole number"),
        ({"channels": True}, "channels must be a whole number"),
        ({"stem": "mlp"}, "'patch' or 'conv'"),
        ({"codebook_update": "magic"}, "'gradient' or 'ema'"),
    ],
)
def test_bad_settings_are_refused(setting: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(TINY, **setting)


@pytest.mark.parametrize(
    "frames",
    [random_frames(1, 2).float(), random_frames(1, 2)[..., :1], random_frames(1, 2, 8, 32), random_frames(1, 2)[0]],
    ids=["float", "channels", "size", "one video"],
)
def test_bad_frames_are_refused(frames: Tensor) -> None:
    with pytest.raises(ValueError, match=r"expected frames \(B, T, 16, 16, 3\) of dtype uint8.*resize or convert"):
        VideoTokenizer(TINY).encode(frames)
