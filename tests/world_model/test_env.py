"""Learned worlds behave as Gymnasium says environments do (many in a batch: test_vector_env.py)."""

import dataclasses
import os

os.environ.setdefault("SDL_VIDEODRIVER", "dummy")

import sys

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env
from PIL import Image
from random_world import picture, play, random_genie

from world_model import Genie, GenieEnv, GenieVectorEnv, SamplingConfig


@pytest.fixture(scope="module")
def genie() -> Genie:
    return random_genie()


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


@pytest.mark.parametrize("options", [{"promt": picture(16, 16)}, "photo.jpg"])
def test_options_that_are_none_are_refused(genie, options):
    with pytest.raises(ValueError, match="options of reset are a dictionary with prompt"):
        GenieEnv(genie).reset(options=options)


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
