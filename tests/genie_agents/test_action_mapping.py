"""The paper's dictionary: sampled in proportion, falls back. Mappings that look at features or at the frame."""

import numpy as np
import pytest
import torch

from genie_agents.action_mapping import FeatureClassifier, FrameMapping, LatentToRealMapping
from world_model import LatentActionConfig, LatentActionModel


def test_draws_each_latents_actions_in_the_proportion_seen():
    mapping = LatentToRealMapping.fit(np.array([0, 0, 0, 0, 2]), np.array([7, 7, 7, 8, 4]), num_codes=3)
    drawn = mapping.sample(np.zeros(20_000, dtype=int), np.random.default_rng(0))
    assert set(drawn) == {7, 8}
    assert abs((drawn == 8).mean() - 0.25) < 0.02
    assert set(mapping.sample(np.full(100, 2), np.random.default_rng(0))) == {4}


def test_temperature_sharpens_the_draw():
    mapping = LatentToRealMapping.fit(np.array([0, 0, 0, 0, 1]), np.array([7, 7, 7, 8, 8]), num_codes=2)
    codes = np.zeros(20_000, dtype=int)
    drawn = mapping.sample(codes, np.random.default_rng(0), temperature=0.5)
    assert abs((drawn == 8).mean() - 0.1) < 0.02  # 3 to 1 squared: 9 to 1
    assert set(mapping.sample(codes, np.random.default_rng(0), temperature=0)) == {7}


def test_an_unseen_latent_falls_back_on_all_samples():
    mapping = LatentToRealMapping.fit(np.array([0, 0, 2]), np.array([7, 7, 4]), num_codes=4)
    drawn = mapping.sample(np.array([1, 3, 0] * 3000), np.random.default_rng(0))
    unseen = np.concatenate([drawn[0::3], drawn[1::3]])
    assert abs((unseen == 4).mean() - 1 / 3) < 0.03


def test_bad_samples_are_refused():
    with pytest.raises(ValueError, match="at least one"):
        LatentToRealMapping.fit(np.array([], dtype=int), np.array([], dtype=int), num_codes=2)
    with pytest.raises(ValueError, match="0 ... 1"):
        LatentToRealMapping.fit(np.array([2]), np.array([0]), num_codes=2)
    with pytest.raises(ValueError, match="0 ... 14; found 3 ... 15"):
        LatentToRealMapping.fit(np.array([0, 1]), np.array([3, 15]), num_codes=2)


def test_the_end_of_an_episode_has_no_key():
    mapping = LatentToRealMapping.fit(np.array([0, 1]), np.array([7, 8]), num_codes=2)
    for ask in (mapping.predict, lambda codes: mapping.sample(codes, np.random.default_rng(0))):
        with pytest.raises(ValueError, match=r"0 \.\.\. 1; found -1 \.\.\. 1"):
            ask(np.array([0, 1, -1]))


def test_the_most_frequent_action_of_a_list_is_predicted():
    mapping = LatentToRealMapping.fit(np.array([0, 0, 0, 2]), np.array([7, 7, 8, 4]), num_codes=3)
    np.testing.assert_array_equal(mapping.predict(np.array([0, 1, 2])), [7, 7, 4])
    np.testing.assert_allclose(mapping.chances()[0, [7, 8]], [2 / 3, 1 / 3])
    np.testing.assert_allclose(mapping.chances().sum(axis=1), 1)


def samples_of_a_corner(count, seed):
    """Features whose first two signs together say which of two keys was pressed; the first alone says LEFT."""
    features = np.random.default_rng(seed).normal(size=(count, 6)).astype(np.float32) * [5, 5, 1, 1, 1, 1] + 3
    x, y = features[:, 0] > 3, features[:, 1] > 3
    return features.astype(np.float32), np.where(x, 1, 7), np.where(x == y, 7, 8)


def test_a_linear_layer_reads_features_and_a_network_reads_what_a_line_cannot_part():
    features, straight, corner = samples_of_a_corner(200, seed=0)
    others, straight_too, corner_too = samples_of_a_corner(500, seed=1)
    accuracy = {
        (hidden, name): (FeatureClassifier.fit(features, actions, hidden=hidden).predict(others) == true).mean()
        for hidden in (0, 64)
        for name, actions, true in (("straight", straight, straight_too), ("corner", corner, corner_too))
    }
    assert accuracy[0, "straight"] > 0.95 and accuracy[64, "straight"] > 0.95
    assert accuracy[0, "corner"] < 0.7 and accuracy[64, "corner"] > 0.85
    again = FeatureClassifier.fit(features, corner, hidden=64)
    np.testing.assert_array_equal(again.logits(others), FeatureClassifier.fit(features, corner, hidden=64).logits(others))


def test_a_frame_mapping_answers_by_the_code_and_by_the_frame():
    config = LatentActionConfig(image_height=32, image_width=32, patch_size=8, d_model=16, num_layers=1, num_heads=2, num_codes=3)
    model = LatentActionModel(config).eval()
    rng = np.random.default_rng(0)
    frames = np.stack([rng.integers(0, 40, (100, 3, 32, 32, 3)), rng.integers(200, 240, (100, 3, 32, 32, 3))], axis=1).astype(np.uint8)
    frames = frames.reshape(200, 3, 32, 32, 3)  # dark, bright, dark, ...
    codes, bright = rng.integers(3, size=200), np.arange(200) % 2
    actions = np.where(codes == 0, 4, np.where(bright, 8, 7))
    with torch.inference_mode():
        features = model.describe(torch.from_numpy(frames))[0][:, -1].numpy()
    mapping = FrameMapping(model, FeatureClassifier.fit(FrameMapping.join(codes, features, num_codes=3), actions, hidden=32))
    longer = torch.from_numpy(rng.integers(0, 256, (20, 8, 32, 32, 3), dtype=np.uint8))
    with torch.inference_mode():
        seen = [model.describe(longer[:, -length:])[0][:, -1] for length in (mapping.num_frames - 1, mapping.num_frames, 8)]
    torch.testing.assert_close(seen[1], seen[2])  # it sees as much as the features depend on, and no less
    assert (seen[0] - seen[2]).abs().max() > 0.01
    answers = mapping.sample(codes, frames, rng, temperature=0)
    assert (answers == actions).mean() > 0.95
    assert (mapping.sample(np.zeros(200, dtype=int), frames, rng, temperature=0) == 4).mean() > 0.95
    assert set(mapping.sample(codes[:1].repeat(200), frames[:1].repeat(200, axis=0), rng, temperature=20).tolist()) == {4, 7, 8}


def test_a_code_that_no_sample_has_leaves_the_answer_to_the_features():
    actions = np.random.default_rng(0).integers(15, size=400)
    features = np.concatenate([np.zeros((400, 2)), np.eye(15)[actions]], axis=1).astype(np.float32)
    classifier = FeatureClassifier.fit(features, actions)
    features[:, 0] = 1
    assert (classifier.predict(features) == actions).mean() > 0.95


def test_bad_features_are_refused():
    for features, actions, message in (
        (np.zeros((0, 4)), np.zeros(0, dtype=int), "at least one"),
        (np.zeros((3, 4)), np.zeros(2, dtype=int), r"\(3, 4\) and \(2,\)"),
        (np.zeros((3, 4)), np.array([0, 15, 1]), "0 ... 14; found 0 ... 15"),
        (np.full((2, 4), np.nan), np.zeros(2, dtype=int), "must be finite"),
    ):
        with pytest.raises(ValueError, match=message):
            FeatureClassifier.fit(features, actions)
    with pytest.raises(ValueError, match=r"each of 4 features; got shape \(3,\)"):
        FeatureClassifier.fit(np.eye(4), np.arange(4), emphasis=np.ones(3))


def test_a_classifier_names_no_action_that_no_sample_had():
    features, actions = np.eye(3, dtype=np.float32).repeat(5, axis=0), np.array([7, 1, 8]).repeat(5)
    classifier = FeatureClassifier.fit(features, actions)
    np.testing.assert_array_equal(classifier.predict(features), actions)
    unlike = np.random.default_rng(0).normal(scale=100, size=(1000, 3))
    assert set(classifier.predict(unlike)) == {1, 7, 8}
    np.testing.assert_array_equal(np.flatnonzero(np.isfinite(classifier.logits(unlike)).any(axis=0)), [1, 7, 8])


def test_a_classifier_may_have_any_number_of_labels_of_any_width():
    features = np.eye(20, dtype=np.float32).repeat(5, axis=0)
    labels = np.arange(20, dtype=np.int32).repeat(5)
    classifier = FeatureClassifier.fit(features, labels, num_actions=20)
    np.testing.assert_array_equal(classifier.predict(features), labels)


def test_a_layer_alone_begins_the_same_whatever_the_seed_and_a_network_does_not():
    rng = np.random.default_rng(0)
    features, actions = rng.normal(size=(16, 40)).astype(np.float32), rng.integers(0, 2, 16)
    for hidden, same in ((0, True), (8, False)):
        first, second = (FeatureClassifier.fit(features, actions, hidden=hidden, steps=3, seed=seed).logits(features) for seed in (0, 1))
        assert np.array_equal(first, second) == same


def test_few_samples_read_the_feature_that_is_emphasised_from_among_noise():
    """The last of 200 features tells the action."""
    rng = np.random.default_rng(0)
    actions = rng.integers(0, 2, 1000)
    features = rng.normal(size=(1000, 200)).astype(np.float32)
    features[:, -1] += np.where(actions == 1, 2, -2)
    right = {}
    for loud in (1, 50):
        emphasis = np.ones(200, dtype=np.float32)
        emphasis[-1] = loud
        classifier = FeatureClassifier.fit(features[:16], actions[:16], emphasis=emphasis)
        right[loud] = (classifier.predict(features[16:]) == actions[16:]).mean()
    assert right[1] < 0.6 and right[50] > 0.95
