import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from bold_world import BOLD, actions_for, bold_genie, videos

from world_model import (
    Genie,
    GenieConfig,
    LatentActionModel,
    Rollout,
    SamplingConfig,
    VideoTokenizer,
)
from world_model.serialization import change_config, identify_model

TINY = replace(
    BOLD,
    dynamics=replace(BOLD.dynamics, conditioning="prepend", previous_frame=False),
    sampling=SamplingConfig(steps=2, temperature=0.5, top_k=7),
    num_prompts=3,
)


@pytest.fixture(scope="module")
def genie() -> Genie:
    return bold_genie(TINY)


@pytest.mark.parametrize("num_frames", [1, 4])
def test_imagine_is_a_rollout_stepped_by_hand(genie: Genie, num_frames: int) -> None:
    prompts, actions = videos(2, num_frames), actions_for(7, 2).T
    frames = genie.imagine(prompts, actions, seed=5)
    assert frames.shape == (2, 7, 16, 16, 3)
    assert frames.dtype == torch.uint8
    rollout = Rollout(genie, 2)
    rollout.reset(prompts, seeds=[5, 6])
    for time in range(7):
        assert torch.equal(frames[:, time], rollout.step(actions[:, time])), time
    assert torch.equal(genie.imagine(prompts.numpy(), actions.numpy(), seed=5), frames)
    assert not torch.equal(genie.imagine(prompts, actions, seed=6), frames)


def test_imagine_draws_as_it_is_told(genie: Genie) -> None:
    prompts, actions, greedy = videos(2, 2), actions_for(5, 2).T, SamplingConfig(steps=1, temperature=0.0)
    frames = genie.imagine(prompts, actions, sampling=greedy)
    assert torch.equal(genie.imagine(prompts, actions, sampling=greedy, seed=6), frames)
    assert not torch.equal(genie.imagine(prompts, actions), frames)
    cautious = replace(TINY, sampling=greedy)
    told = Genie(cautious).eval()
    told.load_state_dict(genie.state_dict())
    assert torch.equal(told.imagine(prompts, actions), frames)


@pytest.mark.parametrize("shape", [(2,), (3, 4), (2, 4, 1)])
def test_imagine_wants_as_many_rows_of_actions_as_prompts(genie: Genie, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"need latent actions \(B, T\) for the 2 prompts, got shape"):
        genie.imagine(videos(2, 1), torch.zeros(shape, dtype=torch.int64))


def test_imagine_refuses_actions_that_do_not_exist(genie: Genie) -> None:
    with pytest.raises(ValueError, match=r"whole numbers in 0 \.\.\. 3"):
        genie.imagine(videos(1, 1), np.array([[0, 4]]))
    with pytest.raises(ValueError, match=r"whole numbers in 0 \.\.\. 3"):
        genie.imagine(videos(1, 1), np.array([[0.0, 1.0]]))


def test_no_actions_lead_to_no_frames(genie: Genie) -> None:
    assert genie.imagine(videos(2, 1), torch.zeros(2, 0, dtype=torch.int64)).shape == (2, 0, 16, 16, 3)


def test_the_seed_decides_all_weights() -> None:
    first, second, third = (Genie(TINY, seed=seed).state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(first[name], second[name]) for name in first)
    for name in ("tokenizer.to_code.weight", "latent_action_model.to_code.weight", "dynamics.head.weight"):
        assert not torch.equal(first[name], third[name])


def test_a_saved_genie_comes_back_the_same(genie: Genie, tmp_path: Path) -> None:
    genie.save_pretrained(tmp_path / "model")
    loaded = Genie.from_pretrained(tmp_path / "model")
    assert loaded.config == TINY
    assert not loaded.training
    assert loaded.num_latent_actions == 4
    assert torch.equal(loaded.prompts, genie.prompts)
    assert torch.equal(loaded.imagine(videos(2, 2), actions_for(4, 2).T), genie.imagine(videos(2, 2), actions_for(4, 2).T))
    assert sorted(path.name for path in (tmp_path / "model").iterdir()) == ["config.json", "model.safetensors"]


def test_half_the_bytes_are_nearly_the_same_genie(tmp_path: Path) -> None:
    genie = bold_genie(TINY)
    genie.tokenizer.quantizer.steps.fill_(100_001)
    genie.save_pretrained(tmp_path / "whole")
    genie.save_pretrained(tmp_path / "half", half=True)
    sizes = [(tmp_path / name / "model.safetensors").stat().st_size for name in ("whole", "half")]
    assert sizes[1] < 0.7 * sizes[0]
    loaded = Genie.from_pretrained(tmp_path / "half")
    assert loaded.config == TINY
    assert torch.equal(loaded.prompts, genie.prompts)
    assert int(loaded.tokenizer.quantizer.steps) == 100_001  # whole numbers stay whole: 16 bits hold none so large
    assert all(weight.dtype == torch.float32 for weight in loaded.parameters())
    for name, weight in genie.named_parameters():
        torch.testing.assert_close(loaded.get_parameter(name), weight, rtol=1e-3, atol=1e-4)
    assert next(genie.parameters()).dtype == torch.float32  # saving does not change the one that is saved
    tokens = torch.randint(0, 16, (1, 4, 16), generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(loaded.tokenizer.decode(tokens), genie.tokenizer.decode(tokens), rtol=0, atol=0.02)
    loaded.imagine(videos(1, 2), actions_for(2, 1).T)


def test_a_full_disk_leaves_the_model_that_was_saved_before(genie: Genie, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    genie.save_pretrained(tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def fill_the_disk(path: Path, data: bytes) -> None:
        with path.open("wb") as file:
            file.write(data[:100])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", fill_the_disk)
    with pytest.raises(OSError, match="No space left"):
        Genie(TINY, seed=1).save_pretrained(tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_part_can_be_saved_by_itself(genie: Genie, tmp_path: Path) -> None:
    genie.tokenizer.save_pretrained(tmp_path)
    loaded, frames = VideoTokenizer.from_pretrained(tmp_path), videos(1, 3)
    assert torch.equal(loaded(frames).reconstruction, genie.tokenizer(frames).reconstruction)
    with pytest.raises(ValueError, match=r"describes a VideoTokenizer, not a Genie: load it with VideoTokenizer\.from_pretrained"):
        Genie.from_pretrained(tmp_path)


def test_the_latent_action_model_of_a_genie_loads_by_itself(genie: Genie, tmp_path: Path) -> None:
    genie.save_pretrained(tmp_path, half=True)
    alone, together = LatentActionModel.from_pretrained(tmp_path), Genie.from_pretrained(tmp_path).latent_action_model
    assert alone.config == TINY.latent_actions and not alone.training
    assert alone.state_dict().keys() == together.state_dict().keys()
    assert all(torch.equal(weight, together.state_dict()[name]) for name, weight in alone.state_dict().items())
    genie.tokenizer.save_pretrained(tmp_path / "tokenizer")
    with pytest.raises(ValueError, match="describes a VideoTokenizer, not a LatentActionModel"):
        LatentActionModel.from_pretrained(tmp_path / "tokenizer")
    for damage in ({"latent_actions": 5}, {"latent_actions": {"num_codes": 5}}):
        with pytest.raises(ValueError, match=r"config\.json"):
            LatentActionModel.from_pretrained(saved_with(genie, tmp_path / "damaged", lambda config, damage=damage: config.update(damage)))


def test_ones_own_model_comes_before_one_of_the_same_name_that_ships(genie: Genie, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "coinrun-small").mkdir()  # a folder, and not of a model
    assert Genie.from_pretrained("coinrun-small").config != genie.config
    genie.save_pretrained("coinrun-small")
    assert Genie.from_pretrained("coinrun-small").config == genie.config


def test_what_actions_mean_is_stored_beside_the_weights_and_unknown_in_older_folders(genie: Genie, tmp_path: Path) -> None:
    saved_with(genie, tmp_path, lambda config: config.pop("action_meanings"))
    assert Genie.from_pretrained(tmp_path).action_meanings == ("latent 0", "latent 1", "latent 2", "latent 3")
    weights, identity = (tmp_path / "model.safetensors").read_bytes(), identify_model(tmp_path)
    change_config(tmp_path, Genie, GenieConfig, action_meanings=("LEFT", "RIGHT", "UP", "DOWN"))
    loaded = Genie.from_pretrained(tmp_path)
    assert loaded.action_meanings == ("LEFT", "RIGHT", "UP", "DOWN")
    assert loaded.config == replace(TINY, action_meanings=loaded.action_meanings)
    assert (tmp_path / "model.safetensors").read_bytes() == weights
    assert identify_model(tmp_path) == identity
    change_config(tmp_path, Genie, GenieConfig, sampling=replace(loaded.config.sampling, steps=7))
    assert identify_model(tmp_path) == identity
    Genie(TINY, seed=1).save_pretrained(tmp_path / "retrained" / tmp_path.name)
    assert identify_model(tmp_path / "retrained" / tmp_path.name) != identity
    change_config(tmp_path, Genie, GenieConfig, sampling=loaded.config.sampling)
    with pytest.raises(ValueError, match="1 action_meanings for 4 latent actions"):
        change_config(tmp_path, Genie, GenieConfig, action_meanings=("LEFT",))
    with pytest.raises(ValueError, match="describes a Genie, not a VideoTokenizer"):
        change_config(tmp_path, VideoTokenizer, GenieConfig, action_meanings=())
    assert Genie.from_pretrained(tmp_path).config == loaded.config


def saved_with(genie: Genie, folder: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    genie.save_pretrained(folder)
    description = json.loads((folder / "config.json").read_text())
    change(description["config"])
    (folder / "config.json").write_text(json.dumps(description))
    return folder


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda config: config.update(num_wheels=4), "unknown settings num_wheels"),
        (lambda config: config["tokenizer"].update(num_wheels=4), "unknown settings num_wheels"),
        (lambda config: config["tokenizer"]["encoder"].update(wheels=4, doors=2), "unknown settings doors, wheels"),
        (lambda config: config["dynamics"].update(num_codes=17), "num_codes of tokenizer and dynamics"),
        (lambda config: config["sampling"].update(steps=0), "at least 1 pass"),
        (lambda config: config.update(num_prompts=2), "does not hold the weights"),
        (lambda config: config["dynamics"]["transformer"].update(num_layers=1), "does not hold the weights"),
    ],
)
def test_settings_that_do_not_fit_are_refused(
    genie: Genie, tmp_path: Path, change: Callable[[dict[str, Any]], object], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        Genie.from_pretrained(saved_with(genie, tmp_path, change))


@pytest.mark.parametrize("change", [{"tokenizer": 5}, {"tokenizer": None}, {"num_prompts": "three"}, {"num_prompts": {}}], ids=str)
def test_a_damaged_configuration_is_refused(genie: Genie, tmp_path: Path, change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"config\.json"):
        Genie.from_pretrained(saved_with(genie, tmp_path, lambda config: config.update(change)))


def test_what_is_damaged_or_missing_is_refused(genie: Genie, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no config\.json"):
        Genie.from_pretrained(tmp_path / "nowhere")
    genie.save_pretrained(tmp_path)
    weights = tmp_path / "model.safetensors"
    whole = weights.read_bytes()
    for broken in (whole[: len(whole) // 2], b"", b"x" * 100):
        weights.write_bytes(broken)
        with pytest.raises(ValueError, match="does not hold the weights"):
            Genie.from_pretrained(tmp_path)
    weights.unlink()
    with pytest.raises(FileNotFoundError, match=r"no model\.safetensors"):
        Genie.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"tokenizer": replace(TINY.tokenizer, image_height=32)}, "image_height of tokenizer and latent_actions .* got 32 and 16"),
        ({"tokenizer": replace(TINY.tokenizer, image_width=32)}, "image_width of tokenizer and latent_actions"),
        ({"tokenizer": replace(TINY.tokenizer, channels=1)}, "channels of tokenizer and latent_actions"),
        ({"sampling": SamplingConfig(anchor_frames=3)}, "anchor_frames of sampling is 3; a temporal_window of 3 frames asks for fewer"),
        ({"tokenizer": replace(TINY.tokenizer, patch_size=8)}, "num_tokens of tokenizer and dynamics must be the same, got 4 and 16"),
        ({"tokenizer": replace(TINY.tokenizer, num_codes=8)}, "num_codes of tokenizer and dynamics"),
        ({"latent_actions": replace(TINY.latent_actions, code_dim=4)}, "code_dim of latent_actions and action_dim of dynamics"),
        ({"num_prompts": -1}, "num_prompts .*-1"),
        ({"action_meanings": ("LEFT", "RIGHT")}, "2 action_meanings for 4 latent actions; give one for each"),
    ],
)
def test_parts_that_do_not_fit_together_are_refused(setting: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(TINY, **setting)


def test_the_default_parts_fit_together() -> None:
    GenieConfig()
