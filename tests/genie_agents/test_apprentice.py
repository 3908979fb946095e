"""The game of moves asks only where an answer counts; the planner's answers are true; an apprentice learns from them."""

import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env

from genie_agents.coinrun import LEFT, NOOP, RIGHT, RIGHT_UP, ProcgenEnv
from genie_agents.experts.apprentice import (
    Apprentice,
    ApprenticeBatches,
    ApprenticeConfig,
    apprentice_loss,
    label,
    train_apprentice,
)
from genie_agents.experts.game_state import read_state
from genie_agents.experts.planner import Planner, PlannerConfig
from genie_agents.experts.run_and_jump import MOVES, RUN, AgentTracker, RunAndJump, make_teacher
from genie_agents.experts.view import look
from world_model.training import TrainingConfig

TINY = ApprenticeConfig(hidden=(16,))
JUMP = MOVES.index((RIGHT_UP,))
BOTH = pytest.mark.parametrize("difficulty", ["easy", "hard"])


@BOTH
def test_the_tracker_follows_the_game(difficulty):
    env, rng, compared = ProcgenEnv(difficulty=difficulty), np.random.default_rng(0), 0
    for level_seed in range(900_000, 900_020):
        env.reset(options={"level_seed": level_seed})
        agent, ended = AgentTracker(env), False
        while not ended:
            action = int(rng.choice([RIGHT, RIGHT, RIGHT_UP, LEFT]))
            *_, terminated, truncated, _ = env.step(action)
            agent.step(action)
            ended = terminated or truncated or env.elapsed_steps > 200
            if not (terminated or truncated):
                assert agent.on_ground == AgentTracker(env).on_ground
                compared += 1
    assert compared > 500


@BOTH
def test_it_asks_on_the_ground_only_and_shows_what_the_camera_does(difficulty):
    env, plain = RunAndJump(ProcgenEnv(difficulty=difficulty)), ProcgenEnv(difficulty=difficulty)
    rng, jumps, walls, brakes, slides = np.random.default_rng(1), 0, 0, 0, 0
    for level_seed in range(900_000, 900_025):
        obs, _ = env.reset(options={"level_seed": level_seed})
        plain.reset(options={"level_seed": level_seed})
        np.testing.assert_array_equal(obs, look(read_state(plain.get_state().simulator)))
        ended = False
        while not ended:
            action = int(rng.integers(1, len(MOVES))) if rng.random() < 0.2 else RUN
            before, blocked = env.env.elapsed_steps, env.is_blocked
            begun_at = read_state(plain.get_state().simulator).x
            shown_before = obs
            obs, reward, terminated, truncated, info = env.step(action)
            ended = terminated or truncated
            for step in range(env.env.elapsed_steps - before):
                standing = AgentTracker(plain).on_ground
                assert standing or step > 0
                assert not standing or step < len(MOVES[action])  # it would have asked
                slides += not standing and step < len(MOVES[action])
                key = MOVES[action][step] if standing else RIGHT
                brakes += key == LEFT
                _, plain_reward, *_ = plain.step(key)
            np.testing.assert_array_equal(obs, shown_before if ended else look(read_state(plain.get_state().simulator)))
            assert reward == plain_reward and info["level_solved"] == (reward == 10)
            assert ended or AgentTracker(env.env).on_ground
            jumps += env.env.elapsed_steps - before > 5
            if not ended and action == RUN:
                assert blocked == (read_state(plain.get_state().simulator).x == begun_at)
                walls += blocked
    assert jumps > 10 and walls > 10 and brakes > 10
    assert slides > 0 or difficulty == "hard"  # there it happened on none of these levels


@pytest.mark.filterwarnings("ignore:.*")  # what Gymnasium would like better, but does not ask for
def test_it_is_a_gymnasium_environment():
    check_env(RunAndJump(ProcgenEnv()), skip_render_check=True)


def test_another_game_has_no_such_moves():
    with pytest.raises(ValueError, match="'climber'"):
        RunAndJump(ProcgenEnv("climber"))


@BOTH
def test_the_cost_of_a_first_action_is_that_of_the_best_plan_that_begins_with_it(difficulty):
    env, rng = ProcgenEnv(difficulty=difficulty), np.random.default_rng(2)
    planner = Planner(PlannerConfig(ground_keys=(RIGHT, RIGHT_UP, LEFT), air_keys=(RIGHT,), heuristic_weight=1.0))
    dearer = 0
    for level_seed in range(900_000, 900_015):
        env.reset(options={"level_seed": level_seed})
        for _ in range(4):
            state = env.get_state()
            keys = (RIGHT, RIGHT_UP, LEFT) if AgentTracker(env).on_ground else (RIGHT,)
            costs = planner.costs(state.simulator, [[key] for key in keys])
            plan = planner.plan(state.simulator)
            if plan is None:
                assert np.isinf(costs).all()
                break
            assert np.isinf(planner.costs(state.simulator, [[NOOP]])).all()
            assert set(plan.tolist()) <= {RIGHT, RIGHT_UP, LEFT}
            assert costs[keys.index(plan[0])] == costs.min()
            dearer += bool((costs > costs.min()).any())
            *_, terminated, truncated, _ = env.step(int(rng.choice((RIGHT, RIGHT_UP, LEFT))))
            if terminated or truncated:
                break
    assert dearer > 10
    for keys in ({"air_keys": (RIGHT_UP,)}, {"ground_keys": ()}):
        with pytest.raises(ValueError, match="_keys must hold"):
            PlannerConfig(**keys)


@BOTH
def test_a_move_has_a_cost_just_where_the_teacher_still_finds_a_way_after_it(difficulty):
    """But for a few in a hundred: a search takes states that are much alike for one, and so may miss a narrow way."""
    env, teacher = RunAndJump(ProcgenEnv(difficulty=difficulty)), make_teacher(len(MOVES))
    rng, asked = np.random.default_rng(6), []
    for level_seed in range(900_000, 900_030):
        env.reset(options={"level_seed": level_seed})
        ended = False
        while not ended:
            move = int(rng.integers(len(MOVES))) if rng.random() < 0.5 else RUN
            has_cost = np.isfinite(teacher.costs(env.env.get_state().simulator, MOVES)[move])
            *_, terminated, truncated, info = env.step(move)
            ended = terminated or truncated
            has_way = info["level_solved"] if ended else teacher.plan(env.env.get_state().simulator) is not None
            asked.append((move > JUMP, has_cost, has_way))
            ended |= not has_way
    braked, has_cost, has_way = np.array(asked).T
    assert (has_cost == has_way).mean() > 0.97 and (has_cost == has_way)[braked].mean() > 0.95
    assert has_way[braked].sum() > 20 and (~has_way[braked]).sum() > 3


def test_a_first_action_that_loses_has_no_cost():
    """Where a key loses by the planner's word, the game in which it was pressed is lost by its word too, and never won."""
    env, planner, rng, lost = ProcgenEnv(), make_teacher(2), np.random.default_rng(3), 0
    for level_seed in range(900_000, 900_020):
        env.reset(options={"level_seed": level_seed})
        ended, hopeless = False, False
        while not ended and env.elapsed_steps < 100:
            key = RIGHT_UP if AgentTracker(env).on_ground and rng.random() < 0.2 else RIGHT
            hopeless_before = hopeless
            hopeless = bool(np.isinf(planner.costs(env.get_state().simulator, [[key]])[0]))
            assert hopeless or not hopeless_before
            *_, terminated, truncated, info = env.step(key)
            ended = terminated or truncated
        lost += hopeless
        assert not (hopeless and info["level_solved"])
    assert lost > 5


def test_labels_are_shares_of_a_lost_level():
    env, planner = RunAndJump(ProcgenEnv()), make_teacher(len(MOVES))
    labels, before_walls, rng = [], [], np.random.default_rng(4)
    for level_seed in range(900_000, 900_030):
        env.reset(options={"level_seed": level_seed})
        ended = False
        while not ended:
            costs = label(planner, env)
            if costs is None:
                break
            labels.append(costs)
            before_walls.append(env.is_blocked)
            *_, terminated, truncated, _ = env.step(RUN if rng.random() < 0.3 else int(costs.argmin()))
            ended = terminated or truncated
    labels, before_walls = np.array(labels), np.array(before_walls)
    assert before_walls.any() and (labels[before_walls, RUN] == 1).all()
    assert ((labels >= 0) & (labels <= 1)).all()
    assert (labels == 1).any() and ((labels > 0) & (labels <= 0.2)).any() and not ((labels > 0.2) & (labels < 1)).any()


def make_batches(apprentice, **changes):
    options = {"num_envs": 4, "batch_size": 8, "memory_size": 64, "exploration": 0.5, "seed": 0} | changes
    return ApprenticeBatches(apprentice, level_seeds=range(20_000, 20_100), **options)


def test_batches_are_seeded_and_bad_settings_are_refused():
    torch.manual_seed(0)
    apprentice = Apprentice(TINY)
    first, again = make_batches(apprentice), make_batches(apprentice)
    for _ in range(20):  # more than the memory holds
        a, b = next(first), next(again)
        assert torch.equal(a.views, b.views) and torch.equal(a.costs, b.costs)
        loss, metrics = apprentice_loss(apprentice, a)
        assert loss.isfinite() and 0 <= metrics["solved"] <= 1
    assert not torch.equal(next(make_batches(apprentice)).views, next(make_batches(apprentice, rank=1)).views)  # another process's games
    with pytest.raises(ValueError, match="batch_size 8 .* memory_size 4"):
        make_batches(apprentice, memory_size=4)
    with pytest.raises(ValueError, match="num_envs is 0"):
        make_batches(apprentice, num_envs=0)
    with pytest.raises(ValueError, match="exploration is 2"):
        make_batches(apprentice, exploration=2)


@pytest.mark.slow
def test_an_apprentice_learns_what_its_teacher_answers_and_goes_on(tmp_path):
    """On four levels it soon expects which key loses."""
    levels = range(30_000, 30_004)
    config = TrainingConfig(steps=300, learning_rate=3e-3, warmup_steps=10)
    options = {"level_seeds": levels, "num_envs": 8, "batch_size": 64, "memory_size": 5_000, "exploration": 0.1}
    losses = []

    def on_step(step, metrics):
        losses.append(metrics["loss"].item())
        if step == 100 and len(losses) == 100:
            raise KeyboardInterrupt  # the checkpoint of the last minute is lost, the folder is not

    with pytest.raises(KeyboardInterrupt):
        train_apprentice(tmp_path, ApprenticeConfig(hidden=(64,)), config, on_step=on_step, **options)
    train_apprentice(tmp_path, ApprenticeConfig(hidden=(64,)), config, on_step=on_step, minutes=0, **options)
    assert len(losses) < 300
    train_apprentice(tmp_path, ApprenticeConfig(hidden=(64,)), config, on_step=on_step, **options)
    assert np.mean(losses[-20:]) < 0.5 * losses[0]  # that of one who knows nothing
    assert Apprentice.from_pretrained(tmp_path).config == ApprenticeConfig(hidden=(64,))


def test_an_apprentice_plays_two_to_all_moves():
    for num_moves in (1, len(MOVES) + 1):
        with pytest.raises(ValueError, match=f"num_moves is {num_moves}; an apprentice plays 2 to 5 moves"):
            ApprenticeConfig(num_moves=num_moves)
    with pytest.raises(ValueError, match="at least one hidden layer"):
        ApprenticeConfig(hidden=())


def test_a_resumed_training_meets_other_levels():
    apprentice = Apprentice(TINY)  # the same one: another plays other moves on the same levels
    batches, again, fresh = (make_batches(apprentice) for _ in range(3))
    next(batches)
    saved = batches.state_dict()
    assert saved["num_states"] > 0
    again.load_state_dict(saved)
    assert not torch.equal(next(again).views, next(fresh).views)
