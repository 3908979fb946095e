"""Many worlds in a batch behave as the same worlds one by one, and as Gymnasium says that batches do."""

import gymnasium
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from PIL import Image
from random_world import assert_same_frames, picture, play, random_genie

from world_model import Genie, GenieEnv, GenieVectorEnv


@pytest.fixture(scope="module")
def genie() -> Genie:
    return random_genie()


def assert_same_infos(infos, others):
    assert infos.keys() == others.keys()
    for key, value in infos.items():
        if isinstance(value, dict):
            assert_same_infos(value, others[key])
        elif key == "final_obs":
            assert [frame is None for frame in value] == [frame is None for frame in others[key]]
            for frame, other in zip(value, others[key], strict=True):
                if frame is not None:
                    assert_same_frames(frame, other)
        else:
            assert value.dtype == others[key].dtype
            np.testing.assert_allclose(value, others[key], atol=1e-5, err_msg=key)


def test_make_vec_computes_all_worlds_in_one_batch(genie):
    envs = gymnasium.make_vec("Genie-v0", num_envs=64, model=genie)
    assert isinstance(envs, GenieVectorEnv)
    assert envs.max_episode_steps == 1000
    frames, _ = envs.reset(seed=0)
    assert envs.observation_space.contains(frames) and frames.shape == (64, 16, 16, 3)
    frames, rewards, terminations, truncations, infos = envs.step(envs.action_space.sample())
    assert envs.observation_space.contains(frames)
    assert infos["tokens"].shape == (64, 16) and infos["_tokens"].all()
    assert not (rewards.any() or terminations.any() or truncations.any())


def test_world_i_is_the_single_world_with_seed_plus_i(genie):
    envs = GenieVectorEnv(3, genie)
    actions = np.random.default_rng(0).integers(4, size=(20, 3))
    frames = np.stack([envs.reset(seed=10)[0], *(envs.step(action)[0] for action in actions)])
    for world in range(3):
        assert_same_frames(frames[:, world], play(GenieEnv(genie), actions[:, world], seed=10 + world))


@pytest.mark.parametrize("autoreset_mode", AutoresetMode)
def test_episodes_end_and_begin_as_in_gymnasiums_own_vector_env(genie, autoreset_mode):
    num_envs = 3
    reward_fn = lambda before, action, frame: frame.mean(axis=(-3, -2, -1)) + action  # noqa: E731
    settings = {"model": genie, "max_episode_steps": 4, "reward_fn": reward_fn}
    batch = gymnasium.make_vec("Genie-v0", num_envs, autoreset_mode=autoreset_mode, **settings)
    vector_kwargs = {"autoreset_mode": autoreset_mode}
    single = gymnasium.make_vec("Genie-v0", num_envs, vectorization_mode="sync", vector_kwargs=vector_kwargs, **settings)
    assert isinstance(single, SyncVectorEnv)
    assert batch.metadata == single.metadata
    assert (batch.observation_space, batch.action_space) == (single.observation_space, single.action_space)

    def compare(outcome, other):
        assert_same_frames(outcome[0], other[0])
        for values, others in zip(outcome[1:-1], other[1:-1], strict=True):  # after a step: rewards, terminations, truncations
            assert values.dtype == others.dtype
            np.testing.assert_allclose(values, others, atol=0 if values.dtype == bool else 1)
        assert_same_infos(outcome[-1], other[-1])

    rng = np.random.default_rng(0)
    compare(batch.reset(seed=3), single.reset(seed=3))
    out_of_step = np.array([False, True, False])  # from here on the worlds do not end together
    for time in range(14):
        if time == 2:
            compare(batch.reset(options={"reset_mask": out_of_step}), single.reset(options={"reset_mask": out_of_step.copy()}))
        actions = rng.integers(4, size=num_envs)
        outcome, other = batch.step(actions), single.step(actions)
        compare(outcome, other)
        if autoreset_mode == AutoresetMode.DISABLED and outcome[3].any():
            reset = {"seed": 100 + time, "options": {"reset_mask": outcome[3]}}
            compare(batch.reset(**reset), single.reset(**reset))


def test_an_ended_world_waits_for_its_reset_where_autoreset_is_disabled(genie):
    envs = GenieVectorEnv(2, genie, max_episode_steps=1, autoreset_mode="Disabled")
    envs.reset(seed=0)
    envs.step(np.array([0, 0]))
    envs.reset(options={"reset_mask": np.array([True, False])})
    with pytest.raises(gymnasium.error.ResetNeeded, match=r"\[1\].*reset_mask"):
        envs.step(np.array([0, 0]))


def test_worlds_beside_one_that_is_reset_go_on(genie):
    envs = GenieVectorEnv(2, genie, autoreset_mode=AutoresetMode.DISABLED)
    envs.reset(seed=0)
    alone = play(GenieEnv(genie), [1, 2, 3], seed=1)
    envs.step(np.array([0, 1]))
    frames, infos = envs.reset(seed=50, options={"reset_mask": np.array([True, False])})
    assert infos["_tokens"].tolist() == [True, False]
    assert_same_frames(frames[1], alone[1])
    assert_same_frames(frames[0], GenieEnv(genie).reset(seed=50)[0])
    for time in (2, 3):
        assert_same_frames(envs.step(np.array([0, time]))[0][1], alone[time])


def test_worlds_begin_from_one_prompt_or_each_from_its_own(genie, tmp_path):
    Image.fromarray(picture(50, 30)).save(tmp_path / "a.png")
    different = [tmp_path / "a.png", picture(20, 20), np.stack([picture(16, 16, 1), picture(16, 16, 2)])]
    envs = GenieVectorEnv(3, genie)
    for prompt, each in ((different, different), (different[2], [different[2]] * 3), (np.stack([different[2]] * 3), [different[2]] * 3)):
        frames = [envs.reset(seed=4, options={"prompt": prompt})[0], envs.step(np.array([1, 2, 3]))[0]]
        for world in range(3):
            single = play(GenieEnv(genie), [world + 1], seed=4 + world, options={"prompt": each[world]})
            assert_same_frames([frame[world] for frame in frames], single)
    episodes = []
    for _ in range(2):  # the second after others, which leave no trace, to the last bit
        envs.reset(seed=4, options={"prompt": different})
        episodes.append([envs.step(np.array([1, 2, 3]))[4]["confidence"] for _ in range(3)])
    np.testing.assert_array_equal(*episodes)
    with pytest.raises(ValueError, match="2 prompts for 3 worlds"):
        envs.reset(options={"prompt": different[:2]})
    with pytest.raises(ValueError, match="a clip for all or a picture for each"):
        envs.reset(options={"prompt": np.stack([picture(16, 16)] * 3)})


def test_a_batch_returns_to_its_saved_state_and_resets_alike_afterwards(genie):
    envs = GenieVectorEnv(2, genie, max_episode_steps=3)
    actions = np.random.default_rng(0).integers(4, size=(6, 2))
    envs.reset(seed=0)
    envs.step(actions[0])
    state = envs.get_state()
    after = [envs.step(action) for action in actions]
    envs.reset(seed=9)
    envs.set_state(state)
    for outcome, action in zip(after, actions, strict=True):
        again = envs.step(action)
        np.testing.assert_array_equal(again[0], outcome[0])
        np.testing.assert_array_equal(again[3], outcome[3])


def test_seeds_may_be_given_for_each_world(genie):
    envs = GenieVectorEnv(2, genie)
    frames, _ = envs.reset(seed=[5, 3])
    assert_same_frames(frames, [GenieEnv(genie).reset(seed=seed)[0] for seed in (5, 3)])
    assert envs.np_random_seed == (5, 3)
    assert_same_frames(envs.reset(seed=np.array([5, 3]))[0], frames)
    drawn = [world.integers(2**60) for world in envs.np_random]
    envs.reset(seed=[5, 3])
    assert drawn == [world.integers(2**60) for world in envs.np_random]
    with pytest.raises(ValueError, match="3 seeds for 2 worlds"):
        envs.reset(seed=[1, 2, 3])


@pytest.mark.parametrize("autoreset_mode", [AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP])
def test_worlds_of_a_genie_without_prompts_begin_again_from_the_ones_they_were_given(autoreset_mode):
    genie = random_genie()
    genie.prompts = genie.prompts[:0]
    envs = GenieVectorEnv(2, genie, max_episode_steps=2, autoreset_mode=autoreset_mode)
    with pytest.raises(ValueError, match="no prompts of its own"):
        envs.reset(seed=0)
    begun, _ = envs.reset(seed=0, options={"prompt": [picture(16, 16), picture(16, 16, seed=1)]})
    assert (begun[0] != begun[1]).any()
    state = envs.get_state()

    others = GenieVectorEnv(2, genie, max_episode_steps=2, autoreset_mode=autoreset_mode)
    others.set_state(state)
    for _ in range(2 + (autoreset_mode == AutoresetMode.NEXT_STEP)):
        frames, *_ = envs.step(np.array([1, 2]))
        frames_of_others, *_ = others.step(np.array([1, 2]))
    assert_same_frames(frames, begun)
    assert_same_frames(frames_of_others, begun)


@pytest.mark.parametrize("mask", [[True, False], np.zeros(2, bool), np.ones(3, bool), np.ones(2)])
def test_other_reset_masks_are_refused(genie, mask):
    with pytest.raises(ValueError, match="reset_mask"):
        GenieVectorEnv(2, genie).reset(options={"reset_mask": mask})


def test_batches_refuse_what_they_cannot_do(genie):
    envs = GenieVectorEnv(2, genie, reward_fn=lambda before, actions, frames: 1.0)
    with pytest.raises(gymnasium.error.ResetNeeded, match="reset"):
        envs.step(np.array([0, 0]))
    envs.reset(seed=0)
    for actions in ([0, 4], [0], [0.0, 1.0]):
        with pytest.raises(ValueError, match=r"0 \.\.\. 3"):
            envs.step(np.array(actions))
    with pytest.raises(ValueError, match="reward_fn gave rewards of shape"):
        envs.step(np.array([0, 0]))
    with pytest.raises(ValueError, match="prompt and reset_mask"):
        envs.reset(options={"prompts": []})
    with pytest.raises(ValueError, match="max_episode_steps"):
        GenieVectorEnv(2, genie, max_episode_steps=0)
    with pytest.raises(ValueError, match="render_mode"):
        GenieVectorEnv(2, genie, render_mode="ansi")
