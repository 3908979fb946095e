import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from world_model import (
    DynamicsConfig,
    Genie,
    GenieConfig,
    LatentActionConfig,
    LatentActionLabeller,
    LatentActionModel,
    VideoTokenizerConfig,
)
from world_model.data import VideoFile, VideoWriter
from world_model.layers.st_transformer import TransformerConfig

CONFIG = LatentActionConfig(image_height=16, image_width=16, patch_size=4, d_model=32, num_heads=2, num_codes=6, code_dim=8)
LENGTHS = [2, 5, 16, 17, 40, 3]


@pytest.fixture(autouse=True)
def float32_everywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """In bfloat16, on processors that are fast at it, 4 labels in 10,000 depend on what is computed beside them."""
    monkeypatch.setattr("world_model.precision._cpu_is_fast", lambda: False)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose codes lie on its own outputs, so that labels differ from transition to transition."""
    model = LatentActionModel(CONFIG, seed=1)
    frames = torch.from_numpy(np.stack([episode(8, seed) for seed in range(16)]))
    for _ in range(150):
        model(frames)
    folder = tmp_path_factory.mktemp("models") / "tiny"
    model.save_pretrained(folder)
    return folder


@pytest.fixture
def labeller(folder: Path) -> LatentActionLabeller:
    return LatentActionLabeller.from_pretrained(folder, device="cpu")


@pytest.fixture
def video_path(tmp_path: Path) -> Path:
    with VideoWriter(tmp_path / "video.h5", frame_shape=(16, 16, 3)) as writer:
        for seed, length in enumerate(LENGTHS):
            writer.append(episode(length, seed))
    return tmp_path / "video.h5"


def episode(length: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (length, 16, 16, 3), np.uint8)


def test_a_genie_labels_with_its_latent_action_model(labeller: LatentActionLabeller, tmp_path: Path) -> None:
    tokenizer = VideoTokenizerConfig(image_height=16, image_width=16, patch_size=8, num_codes=16)
    dynamics = DynamicsConfig(
        num_tokens=4, num_codes=16, action_dim=8, transformer=TransformerConfig(num_layers=1, d_model=16, num_heads=2)
    )
    genie = Genie(GenieConfig(tokenizer=tokenizer, latent_actions=CONFIG, dynamics=dynamics))
    genie.latent_action_model.load_state_dict(labeller.model.state_dict())
    genie.save_pretrained(tmp_path / "world")
    by_genie = LatentActionLabeller.from_pretrained(tmp_path / "world", device="cpu")
    assert by_genie.identity.startswith("world-")
    np.testing.assert_array_equal(by_genie.label(episode(20, seed=3)), labeller.label(episode(20, seed=3)))


def test_labels_do_not_depend_on_how_a_video_is_cut(labeller: LatentActionLabeller) -> None:
    video = episode(60, seed=100)
    whole = labeller.label(video)
    assert whole.shape == (59,)
    assert whole.dtype == np.int64
    assert len(np.unique(whole)) >= 3
    context = labeller.model.config.context_frames
    for start in range(1, 40, 3):
        piece = labeller.label(video[start : start + 20])
        np.testing.assert_array_equal(piece[context - 2 :], whole[start + context - 2 : start + 19])


def test_labels_do_not_depend_on_batches_or_on_neighbouring_episodes(labeller: LatentActionLabeller, video_path: Path) -> None:
    with VideoFile(video_path) as video:
        together = labeller.label(video)
        for batch_size in (1, 3, 100):
            np.testing.assert_array_equal(labeller.label(video, batch_size=batch_size), together)
        for index, (start, stop) in enumerate(zip(video.episode_starts[:-1], video.episode_starts[1:], strict=True)):
            assert together[stop - 1] == -1
            np.testing.assert_array_equal(labeller.label(video.episode(index)), together[start : stop - 1])
    assert (together >= 0).sum() == sum(LENGTHS) - len(LENGTHS)


def test_labels_are_what_the_model_encodes(labeller: LatentActionLabeller) -> None:
    video = episode(12, seed=7)
    with torch.inference_mode():
        expected = labeller.model.encode(torch.from_numpy(video)[None]).indices[0].numpy()
    np.testing.assert_array_equal(labeller.label(video), expected)


def test_features_are_what_the_codes_are_made_from_however_a_video_is_cut(labeller: LatentActionLabeller, video_path: Path) -> None:
    with VideoFile(video_path) as video:
        labels, features = labeller.describe(video)
        np.testing.assert_array_equal(labels, labeller.label(video))
        np.testing.assert_array_equal(labeller.describe(video_path).features, features)
        assert features.shape == (sum(LENGTHS), CONFIG.d_model) and features.dtype == np.float32
        for index, (start, stop) in enumerate(zip(video.episode_starts[:-1], video.episode_starts[1:], strict=True)):
            np.testing.assert_allclose(labeller.describe(video.episode(index)).features, features[start:stop], atol=1e-4)
    model = labeller.model
    with torch.inference_mode():
        codes = model.quantizer(model.standardize(model.to_code(torch.from_numpy(features)))).indices.numpy()
    known = np.flatnonzero(labels >= 0)
    assert (codes[known + 1] == labels[known]).mean() > 0.99  # all but those that rounding turns
    batch = np.stack([episode(21, seed) for seed in range(2)])
    described = labeller.describe(batch)
    assert described.features.shape == (2, 21, CONFIG.d_model) and described.latent_actions.shape == (2, 20)


def test_features_of_a_model_that_sees_two_frames_do_not_depend_on_parts() -> None:
    """With a window of one frame a part needs no context, but its first frame is still described without the one before it."""
    model = LatentActionModel(dataclasses.replace(CONFIG, temporal_window=1), seed=1)
    labeller, video = LatentActionLabeller(model, identity="two frames", device="cpu"), episode(40, seed=3)
    assert labeller.part_frames < len(video)
    with torch.inference_mode():
        expected = model.describe(torch.from_numpy(video)[None])[0][0].float().numpy()
    np.testing.assert_allclose(labeller.describe(video).features, expected, atol=1e-4)


def test_a_batch_of_episodes_is_labelled_one_by_one(labeller: LatentActionLabeller) -> None:
    videos = np.stack([episode(21, seed) for seed in range(3)])
    labels = labeller.label(videos)
    assert labels.shape == (3, 20)
    for video, label in zip(videos, labels, strict=True):
        np.testing.assert_array_equal(labeller.label(video), label)
    none = labeller.describe(videos[:0])
    assert none.latent_actions.shape == labeller.label(videos[:0]).shape == (0, 20) and none.features.shape == (0, 21, CONFIG.d_model)


def test_labels_are_written_beside_the_frames_with_their_origin(labeller: LatentActionLabeller, video_path: Path) -> None:
    labels = labeller.label(video_path, write_back=True)
    with VideoFile(video_path) as video:
        stored, identity = video.latent_actions()
    np.testing.assert_array_equal(stored, labels)
    assert identity == labeller.identity


def test_identity_follows_the_weights(folder: Path, tmp_path: Path, labeller: LatentActionLabeller) -> None:
    assert labeller.identity.startswith("tiny-")
    assert LatentActionLabeller.from_pretrained(folder).identity == labeller.identity
    LatentActionModel(CONFIG, seed=2).save_pretrained(tmp_path / "tiny")
    assert LatentActionLabeller.from_pretrained(tmp_path / "tiny").identity != labeller.identity


def test_progress_counts_up_to_all_frames(labeller: LatentActionLabeller, video_path: Path) -> None:
    calls: list[tuple[int, int]] = []
    labeller.label(video_path, batch_size=2, progress=lambda done, total: calls.append((done, total)))
    assert calls == sorted(calls)
    assert len(calls) > 1
    assert calls[-1] == (sum(LENGTHS), sum(LENGTHS))


@pytest.mark.parametrize(
    ("video", "message"),
    [
        (np.zeros((5, 32, 32, 3), np.uint8), r"shape \(16, 16, 3\), got uint8 frames of shape \(32, 32, 3\): resize"),
        (np.zeros((5, 16, 16, 3), np.float32), "got float32 frames"),
        (np.zeros((1, 16, 16, 3), np.uint8), "T of at least 2"),
        (np.zeros((16, 16, 3), np.uint8), "expected frames"),
    ],
)
def test_bad_videos_are_refused(labeller: LatentActionLabeller, video: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        labeller.label(video)


def test_a_list_of_frames_is_labelled_as_an_array(labeller: LatentActionLabeller) -> None:
    frames = episode(6, seed=0)
    np.testing.assert_array_equal(labeller.label(list(frames)), labeller.label(frames))
    np.testing.assert_array_equal(labeller.describe(list(frames)).features, labeller.describe(frames).features)


def test_an_array_cannot_be_written_back(labeller: LatentActionLabeller) -> None:
    with pytest.raises(ValueError, match="give a VideoFile or its path"):
        labeller.label(episode(4, seed=0), write_back=True)
