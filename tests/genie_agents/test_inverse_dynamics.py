"""Inverse dynamics: the supervised model sees the next frame, and says for each transition what led to it."""

import numpy as np
import pytest

from genie_agents.cloning import Videos
from genie_agents.inverse_dynamics import infer_actions, train_inverse_dynamics
from genie_agents.policy import Policy, PolicyConfig
from world_model.training import TrainingConfig

TRAINING = TrainingConfig(steps=120, learning_rate=2e-3, warmup_steps=5)


def square_videos(num_episodes: int, length: int, seed: int) -> tuple[Videos, np.ndarray]:
    """A square on a ring of 40 pixels that action 0 moves left and action 2 right: nothing in a frame tells what comes next."""
    generator = np.random.default_rng(seed)
    actions = generator.choice([0, 2], size=(num_episodes, length))
    places = generator.integers(40, size=(num_episodes, 1)) + np.cumsum(np.pad(6 * (actions[:, :-1] - 1), ((0, 0), (1, 0))), axis=1)
    frames = np.full((num_episodes, length, 40, 40, 3), 20, np.uint8)
    for episode, time in np.ndindex(num_episodes, length):
        frames[episode, time, 10:24, (places[episode, time] + np.arange(10)) % 40] = 200
    actions[:, -1] = -1
    first_frames = np.repeat(np.arange(num_episodes) * length, length)
    return Videos(frames.reshape(-1, 40, 40, 3), first_frames), actions.ravel()


def test_actions_are_read_from_the_frames_on_both_sides_of_them():
    model = train_inverse_dynamics(*square_videos(100, 6, seed=0), TRAINING, batch_size=32)
    videos, actions = square_videos(20, 6, seed=1)
    inferred = infer_actions(model, videos, batch_size=7)
    np.testing.assert_array_equal(inferred == -1, actions == -1)
    assert (inferred == actions).mean() > 0.95


def test_only_labelled_transitions_are_learned_and_no_episode_runs_into_the_next():
    videos, actions = square_videos(100, 6, seed=0)
    actions[5::6] = 2  # not to be learned: the next frame belongs to another episode
    actions[::6] = -1
    constant = np.where(actions == 0, -1, actions)
    model = train_inverse_dynamics(videos, constant, TrainingConfig(steps=30), batch_size=32)
    inferred = infer_actions(model, videos)
    assert set(inferred[inferred >= 0]) == {2}


def test_bad_input_is_refused():
    videos, actions = square_videos(3, 4, seed=0)
    for bad, message in ((actions[:-1], "one label a frame"), (actions + 20, "out of range"), (np.full_like(actions, -1), "no labelled")):
        with pytest.raises(ValueError, match=message):
            train_inverse_dynamics(videos, bad, TrainingConfig(steps=1))
    with pytest.raises(ValueError, match="sees 2 frames, not 3"):
        infer_actions(Policy(PolicyConfig(num_actions=15, image_size=40)), videos)
