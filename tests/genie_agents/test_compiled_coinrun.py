"""The compiled game is the real one: the same views, the same ends, asked on the ground alone."""

import numpy as np
import pytest
from gymnasium.vector import AutoresetMode

from genie_agents.coinrun import LEFT, RIGHT, ProcgenEnv
from genie_agents.experts.compiled_coinrun import KEYS, MAX_FRAMES, OBSERVATION_SIZE, CompiledCoinRun, read_levels
from genie_agents.experts.game_state import read_state
from genie_agents.experts.run_and_jump import AgentTracker
from genie_agents.experts.view import LAYERS, SIDE, look

LEVELS = range(900_000, 900_030)
BRAKE = KEYS.index(LEFT)


def make_games(num_envs=1, difficulty="easy", **changes):
    return CompiledCoinRun(read_levels(difficulty, LEVELS), num_envs, **{"blur": 0, "slip": 0, "braking_share": 1} | changes)


def decide(env: ProcgenEnv, key: int) -> tuple[bool, bool]:
    """A key, then RIGHT until the player of the real game stands: ended, solved."""
    while True:
        *_, terminated, _, info = env.step(key)
        if terminated or AgentTracker(env).on_ground:
            return terminated, info["level_solved"]
        key = RIGHT


@pytest.mark.parametrize("difficulty", ["easy", "hard"])
def test_it_is_the_real_game(difficulty):
    games, env, rng = make_games(difficulty=difficulty), ProcgenEnv(difficulty=difficulty), np.random.default_rng(0)
    enemies_turn = SIDE**2 * LAYERS.index("where an enemy goes")
    compared, turning, ends = 0, 0, []
    for level, level_seed in enumerate(LEVELS):
        env.reset(options={"level_seed": level_seed})
        obs, _ = games.reset(seed=0, options={"levels": [level]})
        ended = False
        while not ended and env.elapsed_steps < MAX_FRAMES - 30:
            view = look(read_state(env.get_state().simulator))
            assert obs.shape == (1, OBSERVATION_SIZE) and obs[0, -1] == 1
            np.testing.assert_allclose(obs[0, :enemies_turn], view[:enemies_turn], atol=1e-5)
            np.testing.assert_allclose(obs[0, enemies_turn + SIDE**2 : -1], view[enemies_turn + SIDE**2 :], atol=1e-5)
            turning += not np.allclose(obs[0, :-1], view, atol=1e-5)
            compared += 1
            action = int(rng.integers(len(KEYS))) if rng.random() < 0.3 else 0
            obs, _, (ended,), _, infos = games.step(np.array([action]))
            real_end, solved = decide(env, KEYS[action])
            assert ended == real_end
            if ended:
                assert infos["final_info"]["level_solved"][0] == solved
                ends.append(solved)
    assert compared > 300 and turning < 0.01 * compared
    assert 0 < np.mean(ends) < 1


def test_games_side_by_side_are_seeded_and_go_on_by_themselves():
    first, again, other = (make_games(6, blur=0.1, slip=0.2, braking_share=0.5) for _ in range(3))
    assert first.metadata["autoreset_mode"] == AutoresetMode.SAME_STEP
    obs, _ = first.reset(seed=1)
    np.testing.assert_array_equal(obs, again.reset(seed=1)[0])
    assert not np.array_equal(obs, other.reset(seed=2)[0])
    rng, num_ended = np.random.default_rng(0), 0
    for _ in range(300):
        actions = rng.integers(2, size=6)
        step, same = first.step(actions), again.step(actions)
        for mine, its in zip(step[:4], same[:4], strict=True):
            np.testing.assert_array_equal(mine, its)
        obs, rewards, ended, _, infos = step
        for game in np.flatnonzero(ended):
            assert infos["final_obs"][game].shape == (OBSERVATION_SIZE,)
            assert (rewards[game] > 0.9) == infos["final_info"]["level_solved"][game]
        assert (rewards[~ended] <= 0).all()
        num_ended += ended.sum()
    assert num_ended > 20


def test_a_level_that_takes_too_long_is_lost():
    """LEFT against the wall at the level's start."""
    games = make_games()
    games.reset(seed=0, options={"levels": [0]})
    for frame in range(1, MAX_FRAMES + 1):
        _, rewards, (ended,), _, infos = games.step(np.array([BRAKE]))
        assert ended == (frame == MAX_FRAMES)
    assert rewards[0] < 0 and not infos["final_info"]["level_solved"][0]


def test_who_may_not_brake_runs_on():
    free, barred = make_games(), make_games(braking_share=0)
    for games in (free, barred):
        games.reset(seed=0, options={"levels": [0]})
        for _ in range(5):
            games.step(np.array([0]))
    (braked, *_), (ran_on, *_) = free.step(np.array([BRAKE])), barred.step(np.array([BRAKE]))
    assert braked[0, -1] == 1 and ran_on[0, -1] == 0
    barred.reset(seed=0, options={"levels": [0]})
    for _ in range(6):
        expected, *_ = barred.step(np.array([0]))
    np.testing.assert_array_equal(ran_on, expected)
    assert not np.array_equal(ran_on[0, :-1], braked[0, :-1])


def test_a_blurred_view_moves_the_player_and_nothing_in_the_game():
    sharp, blurred = make_games(), make_games(blur=0.2)
    for games in (sharp, blurred):
        games.reset(seed=0, options={"levels": [3]})
    moved = False
    for _ in range(20):
        seen, *outcome = sharp.step(np.array([0]))
        seen_blurred, *same = blurred.step(np.array([0]))
        assert outcome[:3] == same[:3]
        moved |= not np.array_equal(seen, seen_blurred)
    assert moved


def test_no_levels_no_games_and_no_frames_are_refused():
    with pytest.raises(ValueError, match="0 levels and 2 games"):
        CompiledCoinRun([], 2)
    with pytest.raises(ValueError, match="30 levels and 0 games"):
        make_games(0)
    with pytest.raises(ValueError, match="brake_frames is 0; a key is held for 1 frame or more"):
        make_games(1, brake_frames=0)


def test_levels_that_there_are_not_are_refused():
    games = make_games(2)
    for levels in ([0, 50], [-1, 0], [0], [[0, 1]]):
        with pytest.raises(ValueError, match=r"need 2 levels in 0 \.\.\. 29"):
            games.reset(options={"levels": levels})


def test_keys_in_place_of_their_places_are_refused():
    games = make_games(2)
    games.reset(seed=0)
    for actions in ([LEFT, RIGHT], [0, -1], [0]):
        with pytest.raises(ValueError, match=r"need 2 actions in 0 \.\.\. 2"):
            games.step(np.array(actions))
