"""The clip sampler."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numbered_video import FRAME_SHAPE, frame_numbers, make_episode, write_episodes

from world_model.data import ClipSampler, VideoFile, VideoWriter


@pytest.fixture
def video_path(tmp_path: Path) -> Path:
    return write_episodes(tmp_path / "video.h5", [5, 2, 21])


@settings(max_examples=25, deadline=None)
@given(
    lengths_per_file=st.lists(st.lists(st.integers(2, 12), min_size=1, max_size=5), min_size=1, max_size=3),
    clip_length=st.integers(1, 12),
    seed=st.integers(0, 2**32),
)
def test_clips_never_cross_an_end_and_reach_every_start(
    tmp_path_factory: pytest.TempPathFactory, lengths_per_file: list[list[int]], clip_length: int, seed: int
) -> None:
    folder = tmp_path_factory.mktemp("clips")
    lengths = [length for in_file in lengths_per_file for length in in_file]
    bounds = np.cumsum([0, *lengths])
    valid = {start for low, high in zip(bounds[:-1], bounds[1:], strict=True) for start in range(low, high - clip_length + 1)}
    first_frames = np.cumsum([0, *map(sum, lengths_per_file)])
    files = [
        VideoFile(write_episodes(folder / f"{index}.h5", in_file, first=first_frames[index]))
        for index, in_file in enumerate(lengths_per_file)
    ]
    if not valid:
        with pytest.raises(ValueError, match=f"longest episode has {max(lengths)}"):
            ClipSampler(files, clip_length=clip_length, batch_size=1, seed=seed)
        return
    # Chance of missing one given start: (1 - 1/n)^(20 n), less than 3e-9, for each of at most 180 starts.
    batch = next(ClipSampler(files, clip_length=clip_length, batch_size=20 * len(valid), seed=seed))
    assert set(batch.positions.tolist()) == valid
    np.testing.assert_array_equal(frame_numbers(batch.frames), batch.positions[:, None] + np.arange(clip_length))


def test_clips_are_uniform_over_starts(tmp_path: Path) -> None:
    files = [VideoFile(write_episodes(tmp_path / "a.h5", [2, 12])), VideoFile(write_episodes(tmp_path / "b.h5", [3, 4]))]
    positions = next(ClipSampler(files, clip_length=3, batch_size=13_000, seed=0)).positions
    starts, counts = np.unique(positions, return_counts=True)
    assert starts.tolist() == [*range(2, 12), 14, 17, 18]
    assert ((counts - 1000) ** 2 / 1000).sum() < 32.9  # chi-squared, 12 degrees of freedom, p = 0.001


def test_positions_index_labels_of_several_files(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    files = []
    for index, lengths in enumerate(([5, 9], [12], [4, 6, 8])):
        with VideoWriter(tmp_path / f"{index}.h5", frame_shape=FRAME_SHAPE, with_actions=True) as writer:
            for length in lengths:  # frames whose number is the action that was taken from them
                actions = rng.integers(1000, size=length - 1)
                frames = make_episode(length)
                frames[:-1, 0, 0, 0], frames[:-1, 0, 0, 1] = actions // 256, actions % 256
                writer.append(frames, actions=actions)
        files.append(VideoFile(tmp_path / f"{index}.h5"))
    batch = next(ClipSampler(files, clip_length=4, batch_size=200, seed=0))
    labels = np.concatenate([file.actions() for file in files])[batch.positions[:, None] + np.arange(3)]
    np.testing.assert_array_equal(labels, frame_numbers(batch.frames)[:, :3])


def test_sampler_resumes_bit_identically(video_path: Path) -> None:
    with VideoFile(video_path) as video:
        sampler = ClipSampler([video], clip_length=4, batch_size=8, seed=3)
        for _ in range(5):
            next(sampler)
        state = json.loads(json.dumps(sampler.state_dict()))
        expected = [next(sampler) for _ in range(5)]
        resumed = ClipSampler([video], clip_length=4, batch_size=8, seed=3)
        resumed.load_state_dict(state)
        for batch, wanted in zip(resumed, expected, strict=False):
            np.testing.assert_array_equal(batch.positions, wanted.positions)
            np.testing.assert_array_equal(batch.frames, wanted.frames)
        again, other = (next(ClipSampler([video], clip_length=4, batch_size=8, seed=seed)).positions for seed in (3, 99))
        assert not np.array_equal(again, other)
        with pytest.raises(ValueError, match="batch_size 8 and this one has 9"):
            ClipSampler([video], clip_length=4, batch_size=9, seed=3).load_state_dict(state)
        with pytest.raises(ValueError, match="seed 3 and this one has 99"):
            ClipSampler([video], clip_length=4, batch_size=8, seed=99).load_state_dict(state)
    equally_long = write_episodes(video_path.with_name("other.h5"), [5, 2, 21], first=100)
    with VideoFile(equally_long) as video, pytest.raises(ValueError, match="a run with videos .* resume with the same data"):
        ClipSampler([video], clip_length=4, batch_size=8, seed=3).load_state_dict(state)


def test_sampler_refuses_what_it_cannot_sample(video_path: Path) -> None:
    with VideoFile(video_path) as video:
        with pytest.raises(ValueError, match="longest episode has 21"):
            ClipSampler([video], clip_length=22, batch_size=1, seed=0)
        with pytest.raises(ValueError, match="seed is -1"):
            ClipSampler([video], clip_length=2, batch_size=1, seed=-1)
        with pytest.raises(ValueError, match="at least 1"):
            ClipSampler([video], clip_length=0, batch_size=1, seed=0)
        with VideoWriter(video_path.with_name("wide.h5"), frame_shape=(4, 8, 3)) as writer:
            writer.append(np.zeros((30, 4, 8, 3), np.uint8))
        with VideoFile(video_path.with_name("wide.h5")) as wide, pytest.raises(ValueError, match="wide.h5"):
            ClipSampler([video, wide], clip_length=2, batch_size=1, seed=0)
    with pytest.raises(ValueError, match="no video file"):
        ClipSampler([], clip_length=2, batch_size=1, seed=0)
