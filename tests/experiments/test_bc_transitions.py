"""What tells of transitions in bc_coinrun.py, on data of which the answer is known."""

import dataclasses

import numpy as np
from bc_coinrun import Study
from bc_settings import PRESETS

from genie_agents.cloning import Videos
from genie_agents.coinrun import LEFT, RIGHT, RIGHT_UP

# What is known of videos is a cached_property: put into the instance's __dict__, it is not made from recordings first.


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
        study = Study(dataclasses.replace(PRESETS["smoke"], middle_pixels=0, mirrored_samples=False, airborne_frames=airborne_frames))
        videos, transitions = study.videos, study.agents.transitions
        monkeypatch.setitem(videos.__dict__, "latent_actions", {"easy": np.where(end, -1, 0)})
        monkeypatch.setitem(videos.__dict__, "true_actions", {"easy": keys})
        monkeypatch.setitem(videos.__dict__, "frame_features", {"easy": features})
        classifier = transitions.fit_keys("easy", np.flatnonzero(~end)[:200])
        named[airborne_frames] = classifier.predict(transitions.features("easy", np.arange(1000)))
    assert (named[0][rising] == RIGHT_UP).mean() > 0.5
    np.testing.assert_array_equal(named[2][~end], np.where(take_off, RIGHT_UP, RIGHT)[~end])


def study_of(frames, keys, monkeypatch, **changes) -> Study:
    """A study whose videos are these frames (N, 64, 64, 3), and what lam-platformers finds in them; a key (N,) of -1 ends an episode."""
    study = Study(dataclasses.replace(PRESETS["smoke"], difficulties=("easy",), airborne_frames=0, **changes))
    videos, ends = study.videos, np.flatnonzero(keys == -1) + 1
    features = [videos.labeller.describe(episode).features for episode in np.split(frames, ends[:-1])]
    monkeypatch.setitem(videos.__dict__, "latent_actions", {"easy": np.where(keys == -1, -1, 0)})
    monkeypatch.setitem(videos.__dict__, "true_actions", {"easy": keys})
    monkeypatch.setitem(videos.__dict__, "frame_features", {"easy": np.concatenate(features)})
    monkeypatch.setitem(videos.__dict__, "frames", Videos(frames, np.zeros(len(frames), dtype=np.int64)))
    return study


def test_mirrored_features_are_those_of_the_mirrored_video(monkeypatch):
    rng = np.random.default_rng(0)
    scene = rng.integers(0, 255, (64, 200, 3), dtype=np.uint8)
    frames = np.stack([scene[:, place : place + 64] for place in rng.integers(0, 8, 60).cumsum() % 130])
    keys = np.where(np.arange(60) % 30 == 29, -1, RIGHT)
    as_seen = study_of(frames, keys, monkeypatch)
    mirrored = study_of(frames[:, :, ::-1], keys, monkeypatch).agents.transitions
    usable = as_seen.videos.usable("easy")
    expected = mirrored.features("easy", usable)
    of_looks = expected.shape[1] - 1  # by another network, as it was learned from other pictures
    found = as_seen.agents.transitions.mirrored_features("easy", usable)
    episode_begins = np.isin(usable, (2, 32))  # the frame before the first usable transition was described from one frame less
    np.testing.assert_allclose(found[~episode_begins, :of_looks], expected[~episode_begins, :of_looks], atol=0.05)  # of bfloat16
    dimensions = (of_looks - 3 * 36) // 2
    np.testing.assert_allclose(found[:, dimensions:of_looks], expected[:, dimensions:of_looks], atol=0.05)
    assert np.abs(found - as_seen.agents.transitions.features("easy", usable)).mean() > 0.05
    np.testing.assert_array_equal(as_seen.agents.transitions.mirrored_features("easy", usable[::-1]), found[::-1])


def test_mirrored_samples_teach_a_key_that_no_sample_has(monkeypatch):
    """The face is on the left where LEFT was pressed, one frame in 30, and no LEFT is among the samples."""
    rng, count = np.random.default_rng(0), 900
    keys = np.where(rng.random(count) < 1 / 30, LEFT, RIGHT)
    frames = rng.integers(100, 110, (count, 64, 64, 3), dtype=np.uint8)
    frames[np.arange(1, count), 29:35, np.where(keys == LEFT, 30, 33)[:-1]] = 200
    keys[-1] = -1
    named = {}
    for mirrored_samples in (False, True):
        study = study_of(frames, keys, monkeypatch, mirrored_samples=mirrored_samples)
        samples = np.flatnonzero(keys == RIGHT)[3:67]
        transitions = study.agents.transitions
        named[mirrored_samples] = transitions.fit_keys("easy", samples).predict(transitions.features("easy", np.arange(2, count - 1)))
    assert (named[False] == RIGHT).all()
    assert (named[True] == keys[2:-1]).mean() > 0.98
    assert (named[True] == LEFT)[keys[2:-1] == LEFT].mean() > 0.6
    louder = transitions.fit_keys("easy", samples[:32]).scale, transitions.fit_keys("easy", np.tile(samples[:32], 2)).scale
    expected = np.ones(len(louder[0]))
    expected[-1] = 2  # by half as many samples, twice as loud
    np.testing.assert_allclose(louder[1] / louder[0], expected, rtol=1e-5)
