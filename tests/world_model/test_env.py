"""Learned worlds behave as Gymnasium says environments do, alone and in a batch."""

import dataclasses
import os

os.environ.setdefault("SDL_VIDEODRIVER", "dummy")

import sys

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from PIL import Image

from world_model import (
    DynamicsConfig,
    Genie,
    GenieConfig,
    GenieEnv,
    GenieVectorEnv,
    LatentActionConfig,
    SamplingConfig,
    VideoTokenizerConfig,
)
from world_model.layers.st_transformer import TransformerConfig


@pytest.fixture(scope="module")
def genie() -> Genie:
    """A random world of 16 x 16 frames: which frames it shows depends on everything, and it takes 3 ms a step."""
    size, layers = {"image_height": 16, "image_width": 16}, TransformerConfig(num_layers=1, d_model=16, num_heads=2, temporal_window=4)
    genie = Genie(
        GenieConfig(
            tokenizer=VideoTokenizerConfig(patch_size=4, encoder=layers, decoder=layers, num_codes=32, code_dim=8, **size),
            latent_actions=LatentActionConfig(patch_size=8, d_model=16, num_layers=1, num_heads=2, num_codes=4, code_dim=8, **size),
            dynamics=DynamicsConfig(num_tokens=16, num_codes=32, action_dim=8, transformer=layers),
            sampling=SamplingConfig(steps=2),
            num_prompts=5,
        )
    )
    genie.prompts.copy_(torch.randint(256, genie.prompts.shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0)))
    return genie


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(256, size=(height, width, 3), dtype=np.uint8)


def play(env: GenieEnv, actions, **reset) -> np.ndarray:
    return np.stack([env.reset(**reset)[0], *(env.step(action)[0] for action in actions)])


def assert_same_frames(frames, others):
    """Equal but for the last bit: batches of other sizes are added up in another order."""
    assert np.abs(np.asarray(frames).astype(int) - np.asarray(others)).max() <= 1


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


# ----------------------------------------------------------------------------------------------------------------- one world


@pytest.mark.filterwarnings("error")
def test_gymnasium_finds_nothing_to_complain_about(genie, tmp_path):
    pytest.importorskip("pygame")
    genie.save_pretrained(tmp_path)
    check_env(gymnasium.make("Genie-v0", model=tmp_path).unwrapped)


def test_stable_baselines_finds_nothing_to_complain_about(genie):
    from stable_baselines3.common.env_checker import check_env as check_env_of_sb3

    check_env_of_sb3(GenieEnv(genie, render_mode="rgb_array"), warn=False, skip_render_check=False)


@pytest.mark.parametrize("name", ["Genie-v0", "world_model:Genie-v0"])
def test_it_is_registered_with_a_time_limit(genie, name):
    env = gymnasium.make(name, model=genie, max_episode_steps=2)
    env.reset(seed=0)
    assert [env.step(0)[2:4] for _ in range(2)] == [(False, False), (False, True)]
    assert gymnasium.spec(name.split(":")[-1]).max_episode_steps == 1000


def test_a_model_that_is_not_there_is_named():
    with pytest.raises(FileNotFoundError, match="no-such-model"):
        gymnasium.make("Genie-v0", model="no-such-model")
    with pytest.raises(FileNotFoundError, match="no-such-model"):
        gymnasium.make_vec("Genie-v0", model="no-such-model")


def test_a_seed_fixes_this_episode_and_the_following_ones(genie):
    actions = [0, 1, 2, 3]
    env, other = GenieEnv(genie), GenieEnv(genie)
    first, second = play(env, actions, seed=7), play(env, actions)
    np.testing.assert_array_equal(play(other, actions, seed=7), first)
    np.testing.assert_array_equal(play(other, actions, seed=7), first)
    np.testing.assert_array_equal(play(other, actions), second)
    assert (first != second).any()
    assert (play(other, actions, seed=8) != first).any()


def test_the_info_says_what_the_world_is(genie):
    env = GenieEnv(genie)
    _, info = env.reset(seed=0)
    assert (info["latent_action"], info["confidence"]) == (-1, 1.0)
    _, reward, terminated, truncated, info = env.step(np.int64(3))
    assert (info["tokens"].shape, info["tokens"].dtype, info["latent_action"]) == ((16,), np.int64, 3)
    assert 0 < info["confidence"] < 1
    assert (reward, terminated, truncated) == (0.0, False, False)


def test_actions_have_names_one_by_one_and_in_a_batch(genie):
    unknown = ["latent 0", "latent 1", "latent 2", "latent 3"]
    assert GenieEnv(genie).get_action_meanings() == GenieVectorEnv(2, genie).get_action_meanings() == unknown
    named = Genie(dataclasses.replace(genie.config, action_meanings=("LEFT", "NOOP", "RIGHT", "UP")))
    assert gymnasium.make("Genie-v0", model=named).unwrapped.get_action_meanings() == ["LEFT", "NOOP", "RIGHT", "UP"]


def test_what_is_returned_is_the_callers_own(genie):
    env, other = GenieEnv(genie, render_mode="rgb_array"), GenieEnv(genie, render_mode="rgb_array")
    frame, info = env.reset(seed=0)
    other.reset(seed=0)
    for returned in (frame, info["tokens"], env.render()):
        returned[...] = 0
    np.testing.assert_array_equal(env.render(), other.render())
    np.testing.assert_array_equal(env.step(1)[0], other.step(1)[0])


def test_the_reward_is_that_of_the_callers_function(genie):
    seen = []
    env = GenieEnv(genie, reward_fn=lambda *transition: seen.append(transition) or 2.5)
    before, _ = env.reset(seed=0)
    after, reward, *_ = env.step(np.int64(1))
    assert reward == 2.5
    np.testing.assert_array_equal(seen[0][0], before)
    assert seen[0][1] == 1
    np.testing.assert_array_equal(seen[0][2], after)


def test_sampling_settings_override_the_models(genie):
    likeliest = SamplingConfig(steps=2, temperature=0, confidence_noise=0)
    prompt, actions = picture(16, 16), [0, 1, 2]
    frames = [play(GenieEnv(genie, sampling=likeliest), actions, seed=seed, options={"prompt": prompt}) for seed in (1, 2)]
    np.testing.assert_array_equal(*frames)


def test_a_saved_state_is_returned_to_whatever_happened_since(genie):
    env = GenieEnv(genie)
    play(env, [0, 1], seed=0)
    state = env.get_state()
    after = [env.step(action)[0] for action in (2, 3)] + [env.reset()[0]]
    play(env, [1, 1, 1], seed=5)
    env.set_state(state)
    np.testing.assert_array_equal([env.step(action)[0] for action in (2, 3)] + [env.reset()[0]], after)
    other = GenieEnv(genie)
    other.set_state(state)
    np.testing.assert_array_equal(other.step(2)[0], after[0])


@pytest.mark.parametrize("action", [-1, 4, 1.0, [1]])
def test_other_actions_are_refused(genie, action):
    env = GenieEnv(genie)
    env.reset(seed=0)
    with pytest.raises(ValueError, match=r"0 \.\.\. 3"):
        env.step(action)


def test_a_model_without_prompts_asks_for_one(genie):
    bare = Genie(dataclasses.replace(genie.config, num_prompts=0))
    env = GenieEnv(bare)
    with pytest.raises(ValueError, match="options=.*prompt"):
        env.reset(seed=0)
    env.reset(seed=0, options={"prompt": picture(16, 16)})


def test_a_world_must_be_begun_first(genie):
    for act in (lambda env: env.step(0), lambda env: env.get_state()):
        with pytest.raises(gymnasium.error.ResetNeeded, match="reset"):
            act(GenieEnv(genie))


def test_a_prompt_is_what_the_world_begins_with(genie):
    env, still = GenieEnv(genie), picture(16, 16)
    frame, info = env.reset(seed=0, options={"prompt": still})
    tokens = genie.tokenizer.encode(torch.as_tensor(still)[None, None]).indices.flatten()
    np.testing.assert_array_equal(info["tokens"], tokens)
    several = np.stack([picture(16, 16, 1), still])
    assert (play(env, [1, 2], seed=0, options={"prompt": several})[1:] != play(env, [1, 2], seed=0, options={"prompt": still})[1:]).any()


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        (np.zeros((16, 16, 3)), "uint8.*float64"),
        (np.zeros((16, 16), np.uint8), "shape"),
        (np.zeros((3, 16, 16), np.uint8), "shape"),
        (np.zeros((0, 16, 16, 3), np.uint8), "shape"),
        (np.zeros((16, 0, 3), np.uint8), "shape"),
        (Image.new("F", (16, 16)), "floating-point"),
    ],
)
def test_other_prompts_are_refused(genie, prompt, message):
    with pytest.raises(ValueError, match=message):
        GenieEnv(genie).reset(options={"prompt": prompt})


# --------------------------------------------------------------------------------------------------------- N worlds in a batch


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
        for values, others in zip(outcome[1:-1], other[1:-1], strict=True):
            assert values.dtype == others.dtype
            np.testing.assert_allclose(values, others, atol=1)
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
    with pytest.raises(ValueError, match="2 prompts for 3 worlds"):
        envs.reset(options={"prompt": different[:2]})


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
    with pytest.raises(ValueError, match="3 seeds for 2 worlds"):
        envs.reset(seed=[1, 2, 3])


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
    with pytest.raises(ValueError, match="max_episode_steps"):
        GenieVectorEnv(2, genie, max_episode_steps=0)
    with pytest.raises(ValueError, match="render_mode"):
        GenieVectorEnv(2, genie, render_mode="ansi")


# ------------------------------------------------------------------------------------------------------------- seen and played


def test_frames_are_rendered(genie):
    env, envs = GenieEnv(genie, render_mode="rgb_array"), GenieVectorEnv(2, genie, render_mode="rgb_array")
    np.testing.assert_array_equal(env.reset(seed=0)[0], env.render())
    np.testing.assert_array_equal(envs.reset(seed=0)[0], envs.render())
    assert GenieEnv(genie).render() is None


def test_a_window_shows_the_world_enlarged(genie):
    pygame = pytest.importorskip("pygame")
    env = gymnasium.make("Genie-v0", model=genie, render_mode="human")
    frame, _ = env.reset(seed=0)
    shown = pygame.surfarray.array3d(pygame.display.get_surface()).swapaxes(0, 1)
    np.testing.assert_array_equal(shown, frame.repeat(32, axis=0).repeat(32, axis=1))
    frame = env.step(1)[0]
    np.testing.assert_array_equal(pygame.display.get_surface().get_at((0, 0))[:3], frame[0, 0])
    assert env.render() is None
    env.close()
    assert not pygame.display.get_init()
    envs = GenieVectorEnv(3, genie, render_mode="human")
    frames, _ = envs.reset(seed=0)
    shown = pygame.surfarray.array3d(pygame.display.get_surface()).swapaxes(0, 1)
    np.testing.assert_array_equal(shown[256::16, :256:16], frames[2])
    envs.close()


def test_a_missing_pygame_is_named_with_its_remedy(genie, monkeypatch):
    monkeypatch.setitem(sys.modules, "pygame", None)
    with pytest.raises(gymnasium.error.DependencyNotInstalled, match=r'pip install "genie-agents\[play\]"'):
        GenieEnv(genie, render_mode="human")


def test_gymnasiums_play_maps_keys_to_latent_actions(genie, monkeypatch):
    pygame = pytest.importorskip("pygame")
    from gymnasium.utils import play as play_module

    down, up = (lambda key, kind=kind: pygame.event.Event(kind, key=key) for kind in (pygame.KEYDOWN, pygame.KEYUP))
    script = iter([[down(ord("2"))], [up(ord("2")), down(ord("0"))], [up(ord("0")), down(ord("3"))], [pygame.event.Event(pygame.QUIT)]])
    monkeypatch.setattr(pygame.event, "get", lambda: next(script))
    played: list[int] = []
    env = gymnasium.make("Genie-v0", model=genie, render_mode="rgb_array")
    play_module.play(env, zoom=4, seed=0, fps=1000, wait_on_player=True, callback=lambda *step: played.append(step[2]))
    assert played == [2, 0, 3]


def test_the_world_that_ships_plays_at_once_and_its_actions_differ() -> None:
    env = gymnasium.make("Genie-v0").unwrapped
    assert env.observation_space.shape == (64, 64, 3)
    assert env.action_space.n == 8
    reached = []
    for action in (1, 5):
        env.reset(seed=0)
        for _ in range(4):
            obs, *_ = env.step(action)
        reached.append(obs.astype(float))
    assert np.abs(reached[0] - reached[1]).mean() > 5
