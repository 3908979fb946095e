"""What tells of transitions in bc_coinrun.py, on data of which the answer is known."""

import dataclasses

import numpy as np
from bc_coinrun import Study
from bc_settings import PRESETS

from genie_agents.coinrun import RIGHT, RIGHT_UP

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
        study = Study(dataclasses.replace(PRESETS["smoke"], middle_pixels=0, airborne_frames=airborne_frames))
        videos, transitions = study.videos, study.agents.transitions
        monkeypatch.setitem(videos.__dict__, "latent_actions", {"easy": np.where(end, -1, 0)})
        monkeypatch.setitem(videos.__dict__, "true_actions", {"easy": keys})
        monkeypatch.setitem(videos.__dict__, "frame_features", {"easy": features})
        classifier = transitions.fit_keys("easy", np.flatnonzero(~end)[:200])
        named[airborne_frames] = classifier.predict(transitions.features("easy", np.arange(1000)))
    assert (named[0][rising] == RIGHT_UP).mean() > 0.5
    np.testing.assert_array_equal(named[2][~end], np.where(take_off, RIGHT_UP, RIGHT)[~end])
