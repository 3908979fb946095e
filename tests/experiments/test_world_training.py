"""The parts of train_world_model.py: which stages a changed setting redoes, what is refused before anything is learned, what is saved."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from run_cache import RunCache
from torch.testing import assert_close
from train_world_model import Training, save_world
from world_model_settings import PRESETS, Phase

from world_model import Genie, GenieConfig, LatentActionModel, SamplingConfig, VideoTokenizer
from world_model.data import VideoFile, VideoWriter
from world_model.presets import tiny
from world_model.serialization import change_config, identify_model, save_model
from world_model.training import TrainingConfig


def write_video(path: Path, seed: int, length: int = 20) -> Path:
    with VideoWriter(path, frame_shape=(32, 32, 3)) as video:
        video.append(np.random.default_rng(seed).integers(0, 256, (length, 32, 32, 3), dtype=np.uint8))
    return path


def test_a_changed_setting_or_other_videos_redo_a_stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stage = RunCache.stage
    monkeypatch.setattr(RunCache, "stage", lambda cache, name, about, below, _: stage(cache, name, about, below, lambda folder: None))
    Genie(tiny()).save_pretrained(tmp_path / "one")
    Genie(tiny(), seed=1).save_pretrained(tmp_path / "other")
    data = write_video(tmp_path / "a.h5", 0)
    settings = replace(PRESETS["tiny"], runs=tmp_path / "runs", data=(data,))

    def tokenizer(**changes) -> Path:
        return Training(replace(settings, **changes)).tokenizer()

    def dynamics(tokenizer: str = "one", **changes) -> Path:
        return Training(replace(settings, tokenizer_from=str(tmp_path / tokenizer), **changes)).genie()

    longer = replace(settings.dynamics, training=replace(settings.dynamics.training, steps=301))
    assert tokenizer(dynamics=longer, minutes=1.0) == tokenizer()
    others = tokenizer(data=(write_video(tmp_path / "b.h5", 1),)), tokenizer(seed=1), tokenizer(start_from=str(tmp_path / "one"))
    assert len({tokenizer(), *others}) == 4
    for unlearned in (
        {"sampling": SamplingConfig(temperature=0.1)},
        {"action_meanings": ("LEFT",) * settings.model.latent_actions.num_codes},
    ):
        assert dynamics(model=replace(settings.model, **unlearned)) == dynamics()
    assert len({dynamics(), dynamics("other"), dynamics(dynamics=longer), dynamics(max_corruption=0.1)}) == 4


def test_a_world_is_made_of_the_parts_that_were_trained_and_of_frames_of_its_videos(tmp_path: Path) -> None:
    data, phase = write_video(tmp_path / "a.h5", 0), Phase(training=TrainingConfig(steps=1), clip_length=8, batch_size=2)
    settings = replace(PRESETS["tiny"], runs=tmp_path / "runs", data=(data,), latent_action_training="frozen")
    training = Training(replace(settings, tokenizer=phase, latent_actions=phase, dynamics=phase))
    world = Genie.from_pretrained(training.genie())
    tokenizer = VideoTokenizer.from_pretrained(training.tokenizer())
    assert_close(world.tokenizer.state_dict(), tokenizer.state_dict(), rtol=0, atol=0)
    latent_action_model = LatentActionModel.from_pretrained(training.latent_action_model())
    assert_close(world.latent_action_model.state_dict(), latent_action_model.state_dict(), rtol=0, atol=0)
    with VideoFile(data) as video:
        assert {prompt.numpy().tobytes() for prompt in world.prompts} <= {frame.tobytes() for frame in video.frames[:]}


def test_videos_that_are_too_short_are_refused_before_anything_is_learned(tmp_path: Path) -> None:
    settings = replace(PRESETS["tiny"], runs=tmp_path / "runs", data=(write_video(tmp_path / "short.h5", 0, length=6),))
    with pytest.raises(SystemExit, match="dynamics: it learns from clips of 8 frames, and the longest episode has 6"):
        Training(settings).genie()
    assert not settings.runs.exists()


def test_validation_videos_that_are_too_short_are_named(tmp_path: Path) -> None:
    data, short = write_video(tmp_path / "a.h5", 0), write_video(tmp_path / "short.h5", 0, length=6)
    settings = replace(PRESETS["tiny"], runs=tmp_path / "runs", data=(data,), validation_data=(short,))
    with pytest.raises(SystemExit, match="validation_data: its clips are of 8 frames, .* the longest episode has 6"):
        Training(settings).tokenizer()


def test_a_tokenizer_that_cannot_draw_frame_by_frame_is_refused_at_once(tmp_path: Path) -> None:
    settings = replace(PRESETS["tiny"], runs=tmp_path / "runs")
    tokenizer = settings.model.tokenizer
    for changes in ({"attention": "joint"}, {"temporal_window": None}):
        unfit = replace(tokenizer, decoder=replace(tokenizer.decoder, **changes))
        save_model(tmp_path / "unfit", VideoTokenizer(unfit))
        with pytest.raises(SystemExit, match=r"tokenizer\.decoder: a world is played frame by frame"):
            Training(replace(settings, tokenizer_from=str(tmp_path / "unfit")))
    with pytest.raises(SystemExit, match=r"tokenizer\.decoder: a world is played frame by frame"):
        joint = replace(tokenizer.decoder, attention="joint")
        Training(replace(settings, model=replace(settings.model, tokenizer=replace(tokenizer, decoder=joint))))


def test_what_cannot_be_split_is_refused_at_once() -> None:
    """The paper's CoinRun models have codebooks that learn by gradient, coinrun-small's dynamics model learns by Muon."""
    small, paper = PRESETS["coinrun-small"], PRESETS["coinrun-paper"]
    with pytest.raises(ValueError, match="dynamics: Muon needs whole matrices"):
        replace(small, strategy="fsdp")
    with pytest.raises(ValueError, match=r"set model\.tokenizer\.codebook-update to ema"):
        replace(paper, strategy="fsdp")
    with pytest.raises(ValueError, match=r"set model\.latent-actions\.codebook-update to ema"):
        replace(paper, strategy="fsdp", tokenizer_from="anyone's")
    replace(paper, strategy="fsdp", tokenizer_from="anyone's", lam="anyone's", latent_action_training="frozen")
    replace(PRESETS["platformers"], strategy="fsdp")
    with pytest.raises(ValueError, match="validation_data is looked at in one process"):
        replace(PRESETS["platformers"], strategy="fsdp", validation_data=("a.h5",))


def test_frozen_latent_actions_need_two_transitions_a_batch() -> None:
    frames = replace(PRESETS["coinrun-small"].latent_actions, clip_length=1)
    replace(PRESETS["coinrun-small"], latent_actions=frames)  # beside the dynamics model its clips count
    with pytest.raises(ValueError, match="latent_actions: its batches have 0 transitions"):
        replace(PRESETS["coinrun-small"], latent_actions=frames, latent_action_training="frozen")


def test_a_number_of_prompts_that_no_world_would_get_is_refused() -> None:
    small = PRESETS["coinrun-small"]
    with pytest.raises(ValueError, match="num_prompts is 8, and every world gets 64"):
        replace(small, model=replace(small.model, num_prompts=8))


def test_batches_that_the_processes_cannot_share_are_refused_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The paper's batches are of 48 and of 36 clips."""
    settings = replace(PRESETS["coinrun-paper"], runs=tmp_path)
    monkeypatch.setattr("train_world_model.make_fabric", lambda **_: SimpleNamespace(world_size=8))
    with pytest.raises(SystemExit, match="dynamics: a batch of 36 clips cannot be divided among 8 processes"):
        Training(settings)
    monkeypatch.setattr("train_world_model.make_fabric", lambda **_: SimpleNamespace(world_size=4))
    Training(settings)


def test_a_world_that_lies_there_already_keeps_the_words_for_its_actions(tmp_path: Path) -> None:
    config = tiny()
    Genie(config).save_pretrained(tmp_path / "stage")
    save_world(tmp_path / "stage", tmp_path / "world", config)
    words = tuple("abcdefgh"[: config.latent_actions.num_codes])
    change_config(tmp_path / "world", Genie, GenieConfig, action_meanings=words)
    bolder = replace(config.sampling, temperature=0.9)
    save_world(tmp_path / "stage", tmp_path / "world", replace(config, sampling=bolder))
    assert Genie.from_pretrained(tmp_path / "world").config == replace(config, sampling=bolder, action_meanings=words)
    save_world(tmp_path / "stage", tmp_path / "world", replace(config, action_meanings=words[::-1]))
    assert Genie.from_pretrained(tmp_path / "world").config == replace(config, action_meanings=words[::-1])
    Genie(config, seed=1).save_pretrained(tmp_path / "stage")
    save_world(tmp_path / "stage", tmp_path / "world", config)  # another one: its actions mean something else
    assert Genie.from_pretrained(tmp_path / "world").config == config
    assert identify_model(tmp_path / "world")[-12:] == identify_model(tmp_path / "stage")[-12:]
