"""The videos of bc_coinrun.py, on data of which the answer is known."""

import dataclasses

import numpy as np
import pytest
from bc_coinrun import Study
from bc_settings import PRESETS, Settings
from bc_videos import draw_labelled_transitions

from world_model.data import VideoFile, VideoWriter


def test_labelled_transitions_end_in_the_action_that_was_played(tmp_path):
    with VideoWriter(tmp_path / "video.h5", frame_shape=(8, 8, 3), with_actions=True) as video:
        for length in (6, 9):
            video.append(
                np.arange(length, dtype=np.uint8)[:, None, None, None] + np.zeros((8, 8, 3), np.uint8), actions=np.arange(length - 1)
            )
    settings = Settings(train_lam=True, lam_labels=3, lam_clip_length=5)
    with VideoFile(tmp_path / "video.h5") as file:
        labelled = draw_labelled_transitions([file], settings)
        np.testing.assert_array_equal(labelled.clips[:, -2, 0, 0, 0], labelled.actions)  # frame t has brightness t, and action t
        assert labelled.clips.shape == (3, 5, 8, 8, 3) and len(set(labelled.actions.tolist())) > 1
        with pytest.raises(ValueError, match="lam_labels is 8, and the videos have 7 clips of 5 frames"):
            draw_labelled_transitions([file], dataclasses.replace(settings, lam_labels=8))


def test_labels_go_on_with_the_video_before_which_they_were_stopped(monkeypatch, tmp_path):
    for number in range(3):
        with VideoWriter(tmp_path / f"{number}.h5") as video:
            video.append(np.random.default_rng(number).integers(0, 256, (6, 64, 64, 3), dtype=np.uint8))
    study = Study(dataclasses.replace(PRESETS["smoke"], runs=tmp_path / "runs"))
    labeller, described, stops = study.videos.labeller, [], [1, 10]
    monkeypatch.setattr(study.videos, "demonstrations", lambda _: tmp_path)
    describe = labeller.describe
    expected = [describe(tmp_path / f"{number}.h5") for number in range(3)]

    def interrupted(file: VideoFile):
        if len(described) == stops[0]:
            stops.pop(0)
            raise KeyboardInterrupt
        described.append(file.path.stem)
        return describe(file)

    monkeypatch.setattr(labeller, "describe", interrupted)
    with pytest.raises(KeyboardInterrupt):
        study.videos.labels("easy")
    folder = study.videos.labels("easy")
    assert described == ["0", "1", "2"] and {path.name for path in folder.iterdir()} == {"labels.npy", "features.npy", "stage.json"}
    np.testing.assert_array_equal(np.load(folder / "labels.npy"), np.concatenate([labels for labels, _ in expected]))
    np.testing.assert_array_equal(np.load(folder / "features.npy"), np.concatenate([part for _, part in expected]).astype(np.float16))


def test_labels_that_another_command_finished_meanwhile_stay_finished(monkeypatch, tmp_path):
    for number in range(2):
        with VideoWriter(tmp_path / f"{number}.h5") as video:
            video.append(np.random.default_rng(number).integers(0, 256, (6, 64, 64, 3), dtype=np.uint8))
    slower, faster = (Study(dataclasses.replace(PRESETS["smoke"], runs=tmp_path / "runs")).videos for _ in range(2))
    for videos in (slower, faster):
        monkeypatch.setattr(videos, "demonstrations", lambda _: tmp_path)
    describe, made = slower.labeller.describe, []

    def overtaken(file: VideoFile):
        description = describe(file)
        if file.path.stem == "1":
            made.append(np.load(faster.labels("easy") / "labels.npy"))
        return description

    monkeypatch.setattr(slower.labeller, "describe", overtaken)
    folder = slower.labels("easy")
    assert {path.name for path in folder.iterdir()} == {"labels.npy", "features.npy", "stage.json"}
    np.testing.assert_array_equal(np.load(folder / "labels.npy"), made[0])
