"""Which samples bc_coinrun.py has labelled, on data of which the answer is known."""

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest
from bc_coinrun import Study
from bc_samples import farthest_first
from bc_settings import PRESETS

from genie_agents.coinrun import LEFT, NOOP, RIGHT, RIGHT_UP

BLIND = dataclasses.replace(PRESETS["smoke"], middle_pixels=0, mirrored_samples=False)  # made-up features have no frames to look at

# What is known of videos is a cached_property: put into the instance's __dict__, it is not made from recordings first.


def test_labelled_samples_are_known_in_context_spread_over_the_codes_and_contain_the_fewer(monkeypatch):
    study = Study(BLIND)
    videos, samples = study.videos, study.agents.samples
    assert videos.labeller.model.config.context_frames == 4
    labels = np.array([7, 7, 0, 0, 0, 0, 0, 0, -1, 7, 7, 1, 0, -1, 7, -1])  # three episodes; the first two frames of each lack context
    monkeypatch.setitem(videos.__dict__, "latent_actions", {"easy": labels})
    monkeypatch.setitem(videos.__dict__, "true_actions", {"easy": np.where(labels == -1, -1, RIGHT)})
    np.testing.assert_array_equal(videos.usable("easy"), [2, 3, 4, 5, 6, 7, 11, 12])
    for seed in range(5):
        assert set(labels[samples.spread("easy", seed, 2)]) == {0, 1}
        few, many = samples.spread("easy", seed, 3), samples.spread("easy", seed, 6)
        np.testing.assert_array_equal(many[:3], few)
        assert len(set(many)) == 6
    assert any((samples.spread("easy", 0, 6) != samples.spread("easy", seed, 6)).any() for seed in range(1, 5))
    for ask in (samples.spread, samples.questioned):
        monkeypatch.setitem(videos.__dict__, "frame_features", {"easy": np.zeros((16, 2), np.float16)})
        with pytest.raises(ValueError, match="9 labelled samples were asked for, and the videos have 8"):
            ask("easy", 0, 9)


def test_the_farthest_come_first():
    points = np.array([[0.0, 0.0], [1.0, 0.0], [9.0, 0.0], [9.0, 0.0], [0.0, 5.0]])
    np.testing.assert_array_equal(farthest_first(points, points[:1], 3), [2, 4, 1])  # its twin is as near as can be
    np.testing.assert_array_equal(farthest_first(points, points[:1] + 8, 9)[:2], [0, 2])
    assert sorted(farthest_first(points, points[:1], 9)) == [0, 1, 2, 3, 4]


def test_questions_find_a_rare_key_and_the_fewer_are_contained(monkeypatch):
    """One transition in 250 is LEFT, lies apart in the features and has no latent action of its own; spread over latent actions, 200
    samples hold one or two of them."""
    study = Study(dataclasses.replace(BLIND, labelled_samples=(16,)))
    videos, samples = study.videos, study.agents.samples
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
    few = samples.questioned("easy", 0, 16), samples.questioned("easy", 0, 100)
    many = samples.questioned("easy", 0, 200)
    np.testing.assert_array_equal(few[0], many[:16])
    np.testing.assert_array_equal(few[1], many[:100])
    np.testing.assert_array_equal(samples.spread("easy", 0, 8), many[:8])
    assert len(set(many.tolist())) == 200
    for seed in range(5):
        assert (keys[samples.questioned("easy", seed, 16)] == LEFT).any()  # the first that look unlike all others
    assert (keys[many] == LEFT).sum() > 5 > (keys[samples.spread("easy", 0, 200)] == LEFT).sum()


def test_questions_find_a_rare_key_that_the_middle_of_the_picture_alone_shows(monkeypatch):
    study = Study(dataclasses.replace(BLIND, middle_pixels=2))
    videos, samples = study.videos, study.agents.samples
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
        assert (keys[samples.questioned("easy", seed, 16)] == LEFT).any()
        assert (keys[samples.spread("easy", seed, 16)] == RIGHT).all()


def test_later_questions_are_asked_at_the_border_between_two_keys(monkeypatch):
    study = Study(dataclasses.replace(BLIND, airborne_frames=0))
    videos, samples = study.videos, study.agents.samples
    height = np.random.default_rng(0).uniform(-1, 1, 5000)  # UP is pressed where it is above 0
    keys = np.append(np.where(height > 0, RIGHT_UP, RIGHT), -1)
    monkeypatch.setitem(videos.__dict__, "latent_actions", {"easy": np.where(keys == -1, -1, 0)})
    monkeypatch.setitem(videos.__dict__, "true_actions", {"easy": keys})
    monkeypatch.setitem(videos.__dict__, "frame_features", {"easy": np.append(0, height)[:, None].astype(np.float16)})
    asked = samples.questioned("easy", 0, 100)
    assert np.median(np.abs(height[asked[16:]])) < 0.1


def test_questions_are_asked_where_all_directions_are_met_equally_often(monkeypatch):
    study = Study(BLIND)
    videos, samples = study.videos, study.agents.samples
    monkeypatch.setattr("bc_samples.FIRST_QUESTIONS", 3)
    monkeypatch.setattr("bc_samples.UNLIKE_QUESTIONS", 3)
    keys = np.append(np.array([LEFT, NOOP, RIGHT])[np.arange(59) % 3], -1)
    monkeypatch.setitem(videos.__dict__, "latent_actions", {"easy": np.append(np.arange(59) % 3, -1)})
    monkeypatch.setitem(videos.__dict__, "true_actions", {"easy": keys})
    monkeypatch.setitem(videos.__dict__, "frame_features", {"easy": np.random.default_rng(0).normal(size=(61, 4)).astype(np.float16)})
    asked = samples.questioned("easy", 0, 20)
    assert len(set(asked.tolist())) == 20
    assert set(keys[asked[:3]]) == {LEFT, NOOP, RIGHT}
