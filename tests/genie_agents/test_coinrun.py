"""The real game: both check_envs, exact levels, exact save and restore, ends that stay ended."""

import dataclasses

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode
from stable_baselines3.common.env_checker import check_env as check_sb3_env

from genie_agents.coinrun import (
    AIRBORNE_ALIASES,
    ALIASES,
    DEMONSTRATION_LEVELS,
    GAMES,
    GROUND_ALIASES,
    MAX_EPISODE_STEPS,
    MAX_EPISODE_STEPS_OF,
    MIRRORED_ACTIONS,
    NOOP,
    NUM_ACTIONS,
    RIGHT,
    RIGHT_UP,
    SHORTEST_JUMP,
    TEST_LEVELS,
    UP,
    VALIDATION_LEVELS,
    WORLD_MODEL_LEVELS,
    ProcgenEnv,
    make_sb3_vec_env,
    make_vector_env,
)
from genie_agents.demonstrations import on_ground
from genie_agents.experts.game_state import _Reader, read_state


def play(env, actions):
    return [env.step(int(action)) for action in actions]


@pytest.mark.parametrize("game", ["coinrun", "climber", "jumper", "ninja"])
def test_passes_both_environment_checks(game):
    check_env(ProcgenEnv(game, render_mode="rgb_array"), skip_render_check=True)
    check_sb3_env(ProcgenEnv(game))


def test_a_level_seed_names_one_level_whatever_was_played_before():
    first, second = ProcgenEnv(), ProcgenEnv()
    second.reset(options={"level_seed": 7})
    play(second, [RIGHT_UP] * 20)
    obs_first, info = first.reset(options={"level_seed": 123})
    obs_second, _ = second.reset(options={"level_seed": 123})
    assert info == {"level_seed": 123, "level_solved": False}
    np.testing.assert_array_equal(obs_first, obs_second)
    for a, b in zip(play(first, [RIGHT_UP, 7, 4] * 5), play(second, [RIGHT_UP, 7, 4] * 5), strict=True):
        np.testing.assert_array_equal(a[0], b[0])
    other, _ = first.reset(options={"level_seed": 124})
    assert (other != obs_first).any()


def test_easy_and_hard_are_different_games():
    easy, _ = ProcgenEnv(difficulty="easy").reset(options={"level_seed": 5})
    hard, _ = ProcgenEnv(difficulty="hard").reset(options={"level_seed": 5})
    assert (easy != hard).any()


def test_a_saved_game_of_another_kind_is_refused_and_a_closed_one_has_ended():
    env = ProcgenEnv("climber")
    env.reset(options={"level_seed": 3})
    state = env.get_state()
    for other, message in ((ProcgenEnv(), "plays easy coinrun"), (ProcgenEnv("climber", difficulty="hard"), "plays hard climber")):
        other.reset(options={"level_seed": 3})
        with pytest.raises(ValueError, match=f"the saved game is easy climber, and this environment {message}"):
            other.set_state(state)
        other.step(RIGHT)
    env.close()
    for use in (env.get_state, lambda: env.step(RIGHT)):
        with pytest.raises(gymnasium.error.ResetNeeded, match="reset"):
            use()


def test_restored_state_plays_on_identically_in_another_environment():
    env, other = ProcgenEnv(), ProcgenEnv()
    env.reset(options={"level_seed": 42})
    play(env, [RIGHT_UP] * 10)
    state = env.get_state()
    expected = play(env, [7, 8, 1] * 5)
    restored = other.set_state(state)
    assert restored.shape == (64, 64, 3)
    for (obs, reward, *ends, info), (obs2, reward2, *ends2, info2) in zip(expected, play(other, [7, 8, 1] * 5), strict=True):
        np.testing.assert_array_equal(obs, obs2)
        assert (reward, ends, info) == (reward2, ends2, info2)


def test_an_ended_episode_stays_ended_and_time_limit_truncates():
    env = ProcgenEnv()
    _, _ = env.reset(options={"level_seed": 3})
    for step in range(1, MAX_EPISODE_STEPS + 1):
        obs, reward, terminated, truncated, info = env.step(NOOP)
        assert (terminated or truncated) == (step == MAX_EPISODE_STEPS)
    assert truncated and not terminated and reward == 0 and not info["level_solved"]
    with pytest.raises(gymnasium.error.ResetNeeded):
        env.step(NOOP)
    with pytest.raises(gymnasium.error.ResetNeeded):
        env.get_state()
    env.reset(options={"level_seed": 3})
    env.step(NOOP)


@pytest.mark.parametrize("game", GAMES)
def test_each_game_is_truncated_by_its_own_time_limit(game):
    """A game whose own clock, in its saved bytes, is put just before the limit goes on for a step, and not for another."""
    env = ProcgenEnv(game)
    env.reset(options={"level_seed": 3})
    state, limit = env.get_state(), MAX_EPISODE_STEPS_OF.get(game, MAX_EPISODE_STEPS)
    reader = _Reader(state.simulator)
    reader.integer(), reader.text(), reader.integers(17), reader.random_generator(), reader.random_generator(), reader.integers(13)
    clock = slice(reader.offset, reader.offset + 4)
    assert reader.integer() == 0
    late = state.simulator[: clock.start] + (limit - 2).to_bytes(4, "little") + state.simulator[clock.stop :]
    env.set_state(dataclasses.replace(state, simulator=late, elapsed_steps=limit - 2))
    assert [env.step(NOOP)[2:4] for _ in range(2)] == [(False, False), (False, True)]


def test_no_jump_is_shorter_than_the_shortest():
    env, flights = ProcgenEnv(difficulty="hard"), []
    for level_seed in range(20_000, 20_020):
        env.reset(options={"level_seed": level_seed})
        took_off, terminated, truncated = None, False, False
        while not terminated and not truncated and env.elapsed_steps < 200:
            if on_ground(env):  # where UP is held the player takes off at once
                flights += [] if took_off is None else [env.elapsed_steps - took_off]
                took_off = env.elapsed_steps
            _, _, terminated, truncated, _ = env.step(RIGHT_UP)
    assert len(flights) > 40 and min(flights) >= SHORTEST_JUMP


def test_the_coin_terminates_with_reward_10_and_level_solved():
    env, outcomes = ProcgenEnv(), set()
    for level_seed in range(DEMONSTRATION_LEVELS[0], DEMONSTRATION_LEVELS[0] + 20):
        env.reset(options={"level_seed": level_seed})
        for _ in range(MAX_EPISODE_STEPS):
            _, reward, terminated, truncated, info = env.step(RIGHT_UP)
            if terminated or truncated:
                assert info["level_solved"] == (reward == 10)
                outcomes.add((reward, terminated))
                break
    assert (10.0, True) in outcomes and (0.0, True) in outcomes  # always RIGHT+UP solves some levels and dies in others


def test_bad_input_is_refused_with_a_remedy():
    with pytest.raises(ValueError, match="choose one of"):
        ProcgenEnv("pacman")
    with pytest.raises(ValueError, match="easy, hard"):
        ProcgenEnv(difficulty="medium")
    with pytest.raises(ValueError, match="at least one level seed"):
        ProcgenEnv(level_seeds=[])
    env = ProcgenEnv()
    for level_seed in (-1, 1.7, "5"):
        with pytest.raises(ValueError, match="out of range"):
            env.reset(options={"level_seed": level_seed})
    with pytest.raises(ValueError, match="dictionary with level_seed"):
        env.reset(options={"level": 5})
    env.reset(seed=0)
    for action in (NUM_ACTIONS, -1, 8.9):
        with pytest.raises(ValueError, match=r"0 \.\.\. 14"):
            env.step(action)


def test_vector_environments_draw_only_the_given_levels():
    levels = [11, 12, 13]
    env = make_vector_env(4, level_seeds=levels, autoreset_mode=AutoresetMode.NEXT_STEP)
    _, infos = env.reset(seed=0)
    assert set(infos["level_seed"]) <= set(levels)
    obs, rewards, *_ = env.step(np.full(4, RIGHT_UP))
    assert obs.shape == (4, 64, 64, 3) and rewards.shape == (4,)
    vec_env = make_sb3_vec_env(2, level_seeds=levels)
    vec_env.seed(0)
    vec_env.reset()
    for _ in range(MAX_EPISODE_STEPS):
        obs, _, dones, infos = vec_env.step(np.full(2, RIGHT_UP))
        if dones.any():
            break
    info = infos[int(np.flatnonzero(dones)[0])]
    assert info["level_seed"] in levels and {"r", "l", "level_solved"} <= set(info["episode"])
    assert info["terminal_observation"].shape == (64, 64, 3)


def test_level_ranges_are_disjoint():
    ranges = sorted((WORLD_MODEL_LEVELS, DEMONSTRATION_LEVELS, VALIDATION_LEVELS, TEST_LEVELS), key=lambda levels: levels.start)
    assert all(low.stop <= high.start for low, high in zip(ranges, ranges[1:], strict=False))


@pytest.mark.parametrize("height", ["ground", "air"])
def test_aliases_do_the_same_in_the_game(height):
    """Step every action and its representative from the same saved states: the pictures must agree (DOWN differs on crates alone)."""
    env, generator, states = ProcgenEnv(), np.random.default_rng(0), []
    for level_seed in range(20):
        obs, _ = env.reset(options={"level_seed": level_seed})
        if height == "air":
            play(env, [RIGHT_UP] * int(generator.integers(3, 8)))
        states.append(env.get_state())
    aliases = GROUND_ALIASES if height == "ground" else AIRBORNE_ALIASES
    for state in states:
        after = []
        for action in range(NUM_ACTIONS):
            env.set_state(state)
            after.append(env.step(action)[0])
        for table in (ALIASES, aliases):
            for action, representative in enumerate(table):
                np.testing.assert_array_equal(after[action], after[representative])


@pytest.mark.parametrize("keys", [[], [UP, UP]], ids=["ground", "air"])
def test_mirrored_actions_move_as_far_to_the_other_side(keys):
    env = ProcgenEnv()
    env.reset(options={"level_seed": 0})
    play(env, [RIGHT] * 4 + [NOOP] * 10 + keys)  # away from the wall, and at rest
    state, moved = env.get_state(), []
    before = read_state(state.simulator)
    for action in range(NUM_ACTIONS):
        env.set_state(state)
        env.step(action)
        after = read_state(env.get_state().simulator)
        moved.append([after.x - before.x, after.y - before.y])
    assert np.ptp(moved, axis=0)[0] > 0.02
    np.testing.assert_allclose(moved, np.array(moved)[MIRRORED_ACTIONS] * [-1, 1], atol=1e-5)
