"""The planner and its physics against the unmodified game."""

import dataclasses
import struct
from collections.abc import Iterator

import numpy as np
import procgen
import pytest

from genie_agents.experts.game_state import COIN, GameState, read_state
from genie_agents.experts.physics import COLLECTED, DIED, PLAYING, judge, step_agent, walk_enemies
from genie_agents.experts.planner import Planner, PlannerConfig

MODES = ("easy", "hard")


class Level:
    """One level of the unmodified game."""

    def __init__(self, level_seed: int, mode: str, name: str = "coinrun") -> None:
        self.env = procgen.ProcgenGym3Env(
            num=1, env_name=name, num_levels=1, start_level=level_seed, distribution_mode=mode, rand_seed=0, num_threads=0
        )

    def save(self) -> bytes:
        return bytes(self.env.callmethod("get_state")[0])

    def step(self, action: int) -> int:
        self.env.act(np.array([action], dtype=np.int32))
        reward, _, first = self.env.observe()
        if not first[0]:
            return PLAYING
        return COLLECTED if reward[0] > 0 else DIED

    def replay(self, actions: np.ndarray) -> list[int]:
        """The outcome of each step, up to the end of the episode."""
        outcomes = []
        for action in actions:
            outcomes.append(self.step(int(action)))
            if outcomes[-1] != PLAYING:
                break
        return outcomes


def predict(now: GameState, action: int) -> tuple[tuple[float, float, float, float], bool, int]:
    """Body, crate mark and outcome one step after `now`, by our physics."""
    paths, crate_grip_y = walk_enemies(now.enemies, now.grid, now.crates, 1)
    *body, on_crate = step_agent(now.x, now.y, now.vx, now.vy, now.on_crate, action, crate_grip_y[0], now.grid, now.crates)
    hazards_x = np.concatenate([now.saws[:, 0], paths[1]])
    hazards_y = np.concatenate([now.saws[:, 1], now.enemies[:, 1]])
    outcome = judge(np.float32(body[0]), np.float32(body[1]), hazards_x, hazards_y, now.grid)
    return (body[0], body[1], body[2], body[3]), on_crate, outcome


def random_actions(rng: np.random.Generator) -> Iterator[int]:
    """Play that gets somewhere: any of the fifteen actions, or RIGHT and jumps held for a while."""
    while True:
        action = int(rng.integers(15)) if rng.random() < 0.5 else int(rng.choice([7, 8]))
        for _ in range(rng.integers(1, 8)):
            yield action


@pytest.mark.parametrize("mode", MODES)
def test_physics_equals_the_game_bit_for_bit(mode: str) -> None:
    rng = np.random.default_rng(7)
    seen = {PLAYING: 0, COLLECTED: 0, DIED: 0}
    crate_marks = 0
    for level_seed in rng.integers(0, 10_000, size=40):
        level = Level(int(level_seed), mode)
        now = read_state(level.save())
        for _, action in zip(range(250), random_actions(rng), strict=False):
            body, on_crate, predicted = predict(now, action)
            outcome = level.step(action)
            assert predicted == outcome, f"level {level_seed}"
            seen[outcome] += 1
            if outcome != PLAYING:
                break
            now = read_state(level.save())
            assert body == (now.x, now.y, now.vx, now.vy), f"level {level_seed}"
            assert on_crate == now.on_crate, f"level {level_seed}"
            crate_marks += on_crate
    assert seen[PLAYING] > 2000
    assert seen[COLLECTED] > 3
    assert seen[DIED] > 3
    assert crate_marks > 20


def test_enemies_walk_as_in_the_game() -> None:
    num_enemies = 0
    for level_seed in range(30):
        level = Level(level_seed, "hard")
        now = read_state(level.save())
        paths, _ = walk_enemies(now.enemies, now.grid, now.crates, 150)
        for time in range(150):  # the agent stands still
            np.testing.assert_array_equal(read_state(level.save()).enemies[:, 0], paths[time])
            assert level.step(4) == PLAYING
        num_enemies += len(now.enemies)
    assert num_enemies > 20


@pytest.mark.parametrize("mode", MODES)
def test_plans_win_unseen_levels(mode: str) -> None:
    planner = Planner()
    for level_seed in range(900_000, 900_030):
        level = Level(level_seed, mode)
        actions = planner.plan(level.save())
        assert actions is not None, f"level {level_seed}"
        outcomes = level.replay(actions)
        assert outcomes == [PLAYING] * (len(actions) - 1) + [COLLECTED], f"level {level_seed}"
        assert set(actions) <= {1, 2, 4, 5, 7, 8}


@pytest.mark.parametrize("mode", MODES)
def test_up_is_pressed_on_take_off_frames_only(mode: str) -> None:
    for level_seed in range(900_030, 900_040):
        level = Level(level_seed, mode)
        actions = Planner().plan(level.save())
        assert actions is not None
        for action in actions:
            before = read_state(level.save())
            outcome = level.step(int(action))
            if action in (2, 5, 8) and outcome == PLAYING:
                assert before.vy == 0
                assert read_state(level.save()).vy > 1


@pytest.mark.parametrize("mode", MODES)
def test_replans_from_any_moment(mode: str) -> None:
    """Random bursts leave the agent in the air, at walls, at any speed; from there a plan still wins, where there is one."""
    rng = np.random.default_rng(3)
    planner = Planner()
    num_planned = num_lost = num_airborne = 0
    for level_seed in range(900_040, 900_070):
        level = Level(level_seed, mode)
        for _ in range(2):
            actions = planner.plan(level.save())
            if actions is None:
                num_lost += 1
                break
            num_planned += 1
            upto = rng.integers(max(1, len(actions) // 2))
            burst = rng.integers(15, size=rng.integers(1, 5))
            if level.replay(np.concatenate([actions[:upto], burst]))[-1] != PLAYING:
                break
        else:
            state = level.save()
            num_airborne += bool(read_state(state).vy != 0)
            actions = planner.plan(state)
            if actions is not None:
                assert level.replay(actions)[-1] == COLLECTED, f"level {level_seed}"
    assert num_planned >= 50
    assert num_lost <= 3
    assert num_airborne >= 5


@pytest.mark.parametrize("mode", MODES)
def test_a_plan_through_what_is_seen_ignores_the_rest_and_leads_out_of_sight(mode: str) -> None:
    sight, rng, num_cut = 6.5, np.random.default_rng(0), 0
    for level_seed in range(900_000, 900_020):
        level = Level(level_seed, mode)
        for _ in range(3):
            state = level.save()
            now = read_state(state)
            actions = Planner().plan(state, sight=sight)
            if actions is None or now.coin_column <= now.x + sight:
                break
            first_hidden = int(now.x + sight) + 1
            grid = now.grid.copy()
            coin_row = int(np.argwhere(grid == COIN)[0, 0])
            hidden = grid[:, first_hidden:]
            hidden[hidden != COIN] = rng.choice([15, 17, 100], size=int((hidden != COIN).sum()))
            assert (now.grid != grid).any() and grid[coin_row, now.coin_column] == COIN
            saws = np.concatenate([now.saws, np.float32([[first_hidden + 1.5, 3.5]])])
            seen, seen_otherwise = now.within_sight(sight), dataclasses.replace(now, grid=grid, saws=saws).within_sight(sight)
            for field in dataclasses.fields(seen):
                np.testing.assert_array_equal(getattr(seen, field.name), getattr(seen_otherwise, field.name))
            assert level.replay(actions) == [PLAYING] * len(actions)
            assert read_state(level.save()).x > first_hidden - 1.5
            num_cut += 1
    assert num_cut > 20


def test_a_coin_in_sight_is_planned_for_as_ever() -> None:
    state = Level(900_000, "easy").save()
    np.testing.assert_array_equal(Planner().plan(state, sight=100.0), Planner().plan(state))


def test_no_plan_for_a_lost_agent_or_too_small_a_search() -> None:
    state = Level(900_247, "easy").save()
    assert Planner().plan(state) is not None
    assert Planner(PlannerConfig(max_nodes=20)).plan(state) is None
    at_start, in_deep_pit = struct.pack("<2f", 1.5, 1.5787001), struct.pack("<2f", 14.5, 1.5787001)
    moved = state.replace(at_start, in_deep_pit, 1)  # the agent is the first to stand there in the buffer
    assert read_state(moved).x == 14.5
    assert Planner().plan(moved) is None


def test_a_wider_hazard_margin_keeps_farther_away() -> None:
    def closest_pass(margin: float) -> float:
        gaps = []
        for level_seed in range(900_000, 900_040):
            level = Level(level_seed, "easy")
            actions = Planner(PlannerConfig(hazard_margin=margin, hazard_cost=4.0)).plan(level.save())
            assert actions is not None
            for action in actions[:-1]:
                level.step(int(action))
                now = read_state(level.save())
                if len(now.saws):
                    gap = np.maximum(abs(now.saws[:, 0] - now.x), abs(now.saws[:, 1] - now.y))
                    gaps.append(min(float(gap.min()), 3.0))
        return float(np.mean(gaps))

    assert closest_pass(2.0) > closest_pass(0.0)


def test_refuses_what_is_no_coinrun_state() -> None:
    state = Level(0, "easy").save()
    planner = Planner()
    with pytest.raises(ValueError, match="maze"):
        planner.plan(Level(0, "easy", name="maze").save())
    with pytest.raises(ValueError, match="cut off"):
        planner.plan(state[:-100])
    with pytest.raises(ValueError, match="cut off"):
        planner.plan(b"")
    with pytest.raises(ValueError, match="not laid out"):
        planner.plan(state + b"\0\0\0\0")


def test_config_refuses_bad_values() -> None:
    with pytest.raises(ValueError, match="hazard_margin"):
        PlannerConfig(hazard_margin=-1.0)
    with pytest.raises(ValueError, match="jump_cost"):
        PlannerConfig(jump_cost=float("nan"))
    with pytest.raises(ValueError, match="max_nodes"):
        PlannerConfig(max_nodes=0)
