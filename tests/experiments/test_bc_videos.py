"""The videos of bc_coinrun.py, on data of which the answer is known: labels, and which samples are chosen to be labelled."""

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest
from bc_coinrun import Study
from bc_settings import PRESETS, Settings
from bc_videos import draw_labelled_transitions, farthest_first

from genie_agents.coinrun import LEFT, NOOP, RIGHT, RIGHT_UP
from world_model.data import VideoFile, VideoWriter

BLIND = dataclasses.replace(PRESETS["smoke"], middle_pixels=0)  # of made-up features there are no frames to look at

# What is known of videos is a cached_property: put into the instance's __dict__, it is not made from recordings first.


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


def test_labelled_samples_are_known_in_context_spread_over_the_codes_and_contain_the_fewer(monkeypatch):
    study = Study(BLIND)
    videos = study.videos
    assert videos.labeller.model.config.context_frames == 4
    labels = np.array([7, 7, 0, 0, 0, 0, 0, 0, -1, 7, 7, 1, 0, -1, 7, -1])  # three episodes; the first two frames of each lack context
    monkeypatch.setitem(videos.__dict__, "latent_actions", {"easy": labels})
    monkeypatch.setitem(videos.__dict__, "true_actions", {"easy": np.where(labels == -1, -1, RIGHT)})
    np.testing.assert_array_equal(videos.usable("easy"), [2, 3, 4, 5, 6, 7, 11, 12])
    for seed in range(5):
        assert set(labels[videos.labelled_samples("easy", seed, 2)]) == {0, 1}
        few, many = videos.labelled_samples("easy", seed, 3), videos.labelled_samples("easy", seed, 6)
        np.testing.assert_array_equal(many[:3], few)
        assert len(set(many)) == 6
    assert any((videos.labelled_samples("easy", 0, 6) != videos.labelled_samples("easy", seed, 6)).any() for seed in range(1, 5))
    for ask in (videos.labelled_samples, videos.questioned_samples):
        monkeypatch.setitem(videos.__dict__, "frame_features", {"easy": np.zeros((16, 2), np.float16)})
        with pytest.raises(ValueError, match="9 labelled samples were asked for, and the videos have 8"):
            ask("easy", 0, 9)


def test_samples_of_a_key_that_is_held_on_in_the_air_do_not_make_all_that_rises_a_take_off(monkeypatch):
    """UP is held on for two of the three frames that look like rising. One episode ends with a take-off, and the next begins with one."""
    place = np.arange(1000) % 10
    take_off, rising, end = np.isin(place, (5, 7)), np.isin(place, (8, 9, 0)), place == 6
    keys = np.where(end, -1, np.where(np.isin(place, (5, 7, 8, 9)), RIGHT_UP, RIGHT))
    features = np.random.default_rng(0).normal(scale=0.1, size=(1001, 16)).astype(np.float16)
    features[1:, :8] += np.where(take_off, 1, 0)[:, None]
    features[1:, 8:] += np.where(rising, 1, 0)[:, None]
    named = {}
    for airborne_frames in (0, 2):
        videos = Study(dataclasses.replace(BLIND, airborne_frames=airborne_frames)).videos
        monkeypatch.setitem(videos.__dict__, "latent_actions", {"easy": np.where(end, -1, 0)})
        monkeypatch.setitem(videos.__dict__, "true_actions", {"easy": keys})
        monkeypatch.setitem(videos.__dict__, "frame_features", {"easy": features})
        classifier = videos.fit_keys("easy", np.flatnonzero(~end)[:200])
        named[airborne_frames] = classifier.predict(videos.transition_features("easy", np.arange(1000)))
    assert (named[0][rising] == RIGHT_UP).mean() > 0.5
    np.testing.assert_array_equal(named[2][~end], np.where(take_off, RIGHT_UP, RIGHT)[~end])


def test_the_farthest_come_first():
    points = np.array([[0.0, 0.0], [1.0, 0.0], [9.0, 0.0], [9.0, 0.0], [0.0, 5.0]])
    np.testing.assert_array_equal(farthest_first(points, points[:1], 3), [2, 4, 1])  # its twin is as near as can be
    np.testing.assert_array_equal(farthest_first(points, points[:1] + 8, 9)[:2], [0, 2])
    assert sorted(farthest_first(points, points[:1], 9)) == [0, 1, 2, 3, 4]


def test_questions_find_a_rare_key_and_the_fewer_are_contained(monkeypatch):
    """One transition in 250 is LEFT, lies apart in the features and has no latent action of its own; spread over latent actions, 200
    samples hold one or two of them."""
    videos = Study(dataclasses.replace(BLIND, labelled_samples=(16,))).videos
    rng, count = np.random.default_rng(0), 20_000
    keys = np.where(rng.random(count) < 0.004, LEFT, np.where(rng.random(count) < 0.2, RIGHT_UP, RIGHT))
    features = rng.normal(size=(count + 1, 8)).astype(np.float16)
    features[1:, 0] += np.where(keys == LEFT, 8, 0)
    features[1:, 1] += np.where(keys == RIGHT_UP, 5, 0)
    keys[-1] = -1
    codes = np.where(keys == RIGHT_UP, 1, 0)
    codes[-1] = -1
    monkeypatch.setitem(videos.__dict__, "latent_actions", {"easy": codes})
    monkeypatch.setitem(videos.__dict__, "true_actions", {"easy": keys})
    monkeypatch.setitem(videos.__dict__, "frame_features", {"easy": features})
    few = videos.questioned_samples("easy", 0, 16), videos.questioned_samples("easy", 0, 100)
    many = videos.questioned_samples("easy", 0, 200)
    np.testing.assert_array_equal(few[0], many[:16])
    np.testing.assert_array_equal(few[1], many[:100])
    np.testing.assert_array_equal(videos.labelled_samples("easy", 0, 8), many[:8])
    assert len(set(many.tolist())) == 200
    for seed in range(5):
        assert (keys[videos.questioned_samples("easy", seed, 16)] == LEFT).any()  # the first that look unlike all others
    assert (keys[many] == LEFT).sum() > 5 > (keys[videos.labelled_samples("easy", 0, 200)] == LEFT).sum()


def test_questions_find_a_rare_key_that_the_middle_of_the_picture_alone_shows(monkeypatch):
    videos = Study(dataclasses.replace(BLIND, middle_pixels=2)).videos
    rng, count = np.random.default_rng(0), 5000
    keys = np.where(rng.random(count) < 0.004, LEFT, RIGHT)
    frames = rng.integers(100, 110, size=(count + 1, 64, 64, 3), dtype=np.uint8)
    frames[1:][keys == LEFT, 32, 32] = 200
    frames[:, 0, 0] = rng.integers(0, 255, size=(count + 1, 3))  # not in the middle
    keys[-1] = -1
    monkeypatch.setitem(videos.__dict__, "latent_actions", {"easy": np.where(keys == -1, -1, 0)})
    monkeypatch.setitem(videos.__dict__, "true_actions", {"easy": keys})
    monkeypatch.setitem(videos.__dict__, "frame_features", {"easy": 10 * rng.normal(size=(count + 1, 8)).astype(np.float16)})
    monkeypatch.setitem(videos.__dict__, "frames", SimpleNamespace(frames=frames))
    for seed in range(3):
        assert (keys[videos.questioned_samples("easy", seed, 16)] == LEFT).any()
        assert (keys[videos.labelled_samples("easy", seed, 16)] == RIGHT).all()


def test_later_questions_are_asked_at_the_border_between_two_keys(monkeypatch):
    videos = Study(dataclasses.replace(BLIND, airborne_frames=0)).videos
    height = np.random.default_rng(0).uniform(-1, 1, 5000)  # UP is pressed where it is above 0
    keys = np.append(np.where(height > 0, RIGHT_UP, RIGHT), -1)
    monkeypatch.setitem(videos.__dict__, "latent_actions", {"easy": np.where(keys == -1, -1, 0)})
    monkeypatch.setitem(videos.__dict__, "true_actions", {"easy": keys})
    monkeypatch.setitem(videos.__dict__, "frame_features", {"easy": np.append(0, height)[:, None].astype(np.float16)})
    asked = videos.questioned_samples("easy", 0, 100)
    assert np.median(np.abs(height[asked[16:]])) < 0.1


def test_questions_follow_a_rare_key_until_it_is_released(monkeypatch):
    """LEFT is held for three frames, of which the last two look like RIGHT to a layer that has met the first one alone."""
    videos = Study(BLIND).videos
    rng, count = np.random.default_rng(0), 20_000
    pressed = np.flatnonzero(rng.random(count // 10) < 0.1) * 10 + 5
    keys, features = np.full(count, RIGHT), rng.normal(size=(count + 1, 8)).astype(np.float16)
    keys[pressed] = keys[pressed + 1] = keys[pressed + 2] = LEFT
    keys[-1] = -1
    features[pressed + 1, 0] += 5
    features[np.append(pressed + 2, pressed + 3), 0] -= 5
    monkeypatch.setitem(videos.__dict__, "latent_actions", {"easy": np.zeros(count, dtype=np.int64)})
    monkeypatch.setitem(videos.__dict__, "true_actions", {"easy": keys})
    monkeypatch.setitem(videos.__dict__, "frame_features", {"easy": features})
    asked = videos.questioned_samples("easy", 0, 200)
    met = asked[:180][keys[asked[:180]] == LEFT]  # the last questions may lack what follows
    assert len(met) > 20
    assert np.isin(met + 1, asked).all()


def test_questions_are_asked_where_all_directions_are_met_equally_often(monkeypatch):
    videos = Study(BLIND).videos
    monkeypatch.setattr("bc_videos.FIRST_QUESTIONS", 3)
    monkeypatch.setattr("bc_videos.UNLIKE_QUESTIONS", 3)
    keys = np.append(np.array([LEFT, NOOP, RIGHT])[np.arange(59) % 3], -1)
    monkeypatch.setitem(videos.__dict__, "latent_actions", {"easy": np.append(np.arange(59) % 3, -1)})
    monkeypatch.setitem(videos.__dict__, "true_actions", {"easy": keys})
    monkeypatch.setitem(videos.__dict__, "frame_features", {"easy": np.random.default_rng(0).normal(size=(61, 4)).astype(np.float16)})
    samples = videos.questioned_samples("easy", 0, 20)
    assert len(set(samples.tolist())) == 20
    assert set(keys[samples[:3]]) == {LEFT, NOOP, RIGHT}
