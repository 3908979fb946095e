"""Ordinary video files become HDF5 videos."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from evaluate_video_import import write_video

from world_model.data import VideoFile, VideoImportConfig, import_video, is_cut, is_imported, video_import


def uncut(**settings: Any) -> VideoImportConfig:
    return VideoImportConfig(**{"height": 16, "width": 16, "cut_threshold": None, "shortest_episode": 4} | settings)


def write_lossless(path: Path, frames: np.ndarray, *, rate: int = 10) -> Path:
    times = [round(1000 * index / rate) for index in range(len(frames))]
    return write_video(path, frames, times, codec="ffv1", pixel_format="bgr0")


def grey(levels: Sequence[int], height: int = 16, width: int = 16) -> np.ndarray:
    """Frames of one grey each."""
    return np.repeat(np.array(levels, np.uint8), height * width * 3).reshape(len(levels), height, width, 3)


def landscape(seed: int, size: int = 256) -> np.ndarray:
    """A picture in which every place looks different."""
    return np.random.default_rng(seed).integers(0, 256, (size // 8, size // 8, 3), dtype=np.uint8).repeat(8, axis=0).repeat(8, axis=1)


def scroll(seed: int, length: int, pixels: int = 4) -> np.ndarray:
    """Frames of 64 x 64 that move over a landscape by so many pixels a frame."""
    return np.stack([landscape(seed)[:64, pixels * step : pixels * step + 64] for step in range(length)])


def levels_of(path: Path) -> list[int]:
    with VideoFile(path) as video:
        return video.frames[:, 0, 0, 0].tolist()


@pytest.mark.parametrize(("frames_per_second", "taken"), [(10, range(0, 60, 3)), (30, range(60)), (100, range(60)), (7.5, range(0, 60, 4))])
def test_frames_are_taken_at_the_rate_that_was_asked_for(tmp_path: Path, frames_per_second: float, taken: range) -> None:
    source = write_lossless(tmp_path / "a.mkv", grey(range(60)), rate=30)
    import_video(source, tmp_path / "a.h5", uncut(frames_per_second=frames_per_second))
    assert levels_of(tmp_path / "a.h5") == list(taken)


def test_of_an_unsteady_video_each_period_gives_one_frame_at_most(tmp_path: Path) -> None:
    source = write_video(tmp_path / "a.mkv", grey(range(7)), [0, 40, 80, 120, 500, 540, 610], codec="ffv1", pixel_format="bgr0")
    import_video(source, tmp_path / "a.h5", uncut())
    assert levels_of(tmp_path / "a.h5") == [0, 3, 4, 6]


def test_the_middle_is_scaled_to_the_size(tmp_path: Path) -> None:
    frames = grey([0] * 20, height=32, width=64)
    frames[:, :, 16:48] = [255, 0, 0]
    frames[:, :16, 16:48] = [0, 0, 255]
    source = write_lossless(tmp_path / "wide.mkv", frames)
    import_video(source, tmp_path / "a.h5", uncut())
    with VideoFile(tmp_path / "a.h5") as video:
        assert video.frame_shape == (16, 16, 3)
        np.testing.assert_allclose(video.frames[0, :7], np.broadcast_to([0, 0, 255], (7, 16, 3)), atol=20)  # smoothed at the rim
        np.testing.assert_allclose(video.frames[0, 9:], np.broadcast_to([255, 0, 0], (7, 16, 3)), atol=20)


def test_episodes_end_at_cuts_and_not_where_the_picture_scrolls(tmp_path: Path) -> None:
    scenes = [scroll(seed, length) for seed, length in ((0, 20), (1, 30), (2, 5), (3, 17))]
    source = write_lossless(tmp_path / "a.mkv", np.concatenate(scenes), rate=10)
    import_video(source, tmp_path / "a.h5")
    with VideoFile(tmp_path / "a.h5") as video:  # the third scene is too short for an episode
        assert np.diff(video.episode_starts).tolist() == [20, 30, 17]
        for index, scene in enumerate((scenes[0], scenes[1], scenes[3])):
            np.testing.assert_array_equal(video.episode(index), scene)
    import_video(source, tmp_path / "a.h5", VideoImportConfig(cut_threshold=None))
    with VideoFile(tmp_path / "a.h5") as video:
        assert np.diff(video.episode_starts).tolist() == [72]


def test_a_shift_of_a_sixth_is_no_cut_and_another_place_is_one() -> None:
    assert not is_cut(landscape(0)[:64, :64], landscape(0)[8:72, 10:74], 14.0)
    assert is_cut(landscape(0)[:64, :64], landscape(0)[64:128, 64:128], 14.0)
    assert is_cut(grey([0])[0], grey([15])[0], 14.0) and not is_cut(grey([0])[0], grey([13])[0], 14.0)


def test_what_is_longer_than_memory_allows_is_divided(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(video_import, "LONGEST_EPISODE", 25 * 16 * 16 * 3)
    source = write_lossless(tmp_path / "a.mkv", grey(range(70)), rate=10)
    import_video(source, tmp_path / "a.h5", uncut())
    with VideoFile(tmp_path / "a.h5") as video:
        assert np.diff(video.episode_starts).tolist() == [25, 25, 20]


def test_progress_counts_seconds(tmp_path: Path) -> None:
    source, calls = write_lossless(tmp_path / "a.mkv", grey(range(40)), rate=20), []
    import_video(source, tmp_path / "a.h5", uncut(), progress=lambda done, in_all: calls.append((done, in_all)))
    assert [round(done, 3) for done, _ in calls] == [round(0.1 * step, 3) for step in range(20)]
    assert all(in_all == pytest.approx(2.0, abs=0.06) for _, in_all in calls)


def test_a_result_is_known_again_by_source_and_settings(tmp_path: Path) -> None:
    source, target, config = write_lossless(tmp_path / "a.mkv", grey(range(40))), tmp_path / "a.h5", uncut()
    assert not is_imported(source, target, config)
    target.write_bytes(b"something else")
    assert not is_imported(source, target, config)
    import_video(source, target, config)
    assert is_imported(source, target, config)
    assert not is_imported(source, target, uncut(frames_per_second=5))
    write_lossless(source, grey(range(60)))
    assert not is_imported(source, target, config)


def test_what_is_no_video_is_refused_and_nothing_is_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, target, config = (
        write_video(tmp_path / "a.mp4", grey(range(40)), range(0, 4000, 100), codec="mpeg4"),
        tmp_path / "a.h5",
        uncut(),
    )
    import_video(source, target, config)
    before = target.read_bytes()
    with pytest.raises(FileNotFoundError, match="no video at .*none.mp4"):
        import_video(tmp_path / "none.mp4", target, config)
    (tmp_path / "text.mp4").write_text("no video at all, only words")
    with pytest.raises(ValueError, match=r"text.mp4 cannot be read as a video .*repaired"):
        import_video(tmp_path / "text.mp4", target, config)
    (tmp_path / "half.mp4").write_bytes(source.read_bytes()[: source.stat().st_size // 2])
    with pytest.raises(ValueError, match="half.mp4 holds no pictures, or none that can be found.*repaired"):
        import_video(tmp_path / "half.mp4", target, config)
    with pytest.raises(ValueError, match="sound.wav holds no pictures"):
        import_video(write_sound(tmp_path / "sound.wav"), target, config)
    with pytest.raises(ValueError, match="no episode of 50 frames.*longer video"):
        import_video(source, target, uncut(shortest_episode=50))
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(ImportError, match=r"genie-agents\[video\]"):
        import_video(source, target, config)
    assert target.read_bytes() == before
    assert sorted(path.suffix for path in tmp_path.iterdir()) == [".h5", ".mp4", ".mp4", ".mp4", ".wav"]


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("height", 0),
        ("width", -1),
        ("frames_per_second", 0.0),
        ("frames_per_second", float("nan")),
        ("cut_threshold", 0.0),
        ("shortest_episode", 1),
    ],
)
def test_settings_that_make_no_sense_are_refused(setting: str, value: float) -> None:
    with pytest.raises(ValueError, match=setting):
        VideoImportConfig(**{setting: value})


def write_sound(path: Path) -> Path:
    import av

    with av.open(str(path), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000)
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), format="s16", layout="mono")
        sound.sample_rate = 8000
        container.mux(stream.encode(sound))
        container.mux(stream.encode(None))
    return path
