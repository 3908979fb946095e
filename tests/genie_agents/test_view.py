"""The view holds what the camera shows, where the camera shows it, and nothing from beyond the picture."""

import dataclasses
import math

import numpy as np
import pytest

from genie_agents.coinrun import ProcgenEnv
from genie_agents.experts.game_state import COIN, LAVA_MID, LAVA_TOP, WALL_MID, read_state
from genie_agents.experts.physics import cell_at, is_wall
from genie_agents.experts.planner import Planner
from genie_agents.experts.view import LAYERS, SCALARS, SIDE, SIGHT, VIEW_SIZE, look


def visited_states(difficulty, levels, every=7):
    """Frames and states on the planner's way through some levels."""
    env, planner = ProcgenEnv(difficulty=difficulty), Planner()
    for level_seed in levels:
        frame, _ = env.reset(options={"level_seed": level_seed})
        for step, action in enumerate(planner.plan(env.get_state().simulator)[:-1]):
            if step % every == 0:
                yield frame, read_state(env.get_state().simulator)
            frame, *_ = env.step(action)


@pytest.mark.parametrize("difficulty", ["easy", "hard"])
def test_cells_and_things_stand_where_they_are_around_the_player(difficulty):
    found = dict.fromkeys(LAYERS, 0)
    for _, now in visited_states(difficulty, range(900_000, 900_040), every=14):
        view = look(now)
        assert view.shape == (VIEW_SIZE,) and view.dtype == np.float32
        layers = dict(zip(LAYERS, view[: -len(SCALARS)].reshape(len(LAYERS), SIDE, SIDE), strict=True))
        nearest_x, nearest_y = (
            sorted(range(-20, 90), key=lambda cell, centre=centre: abs(cell + 0.5 - centre))[:SIDE] for centre in (now.x, now.y)
        )
        for row, y in enumerate(sorted(nearest_y)):
            for column, x in enumerate(sorted(nearest_x)):
                cell = cell_at(now.grid, x, y)
                enemies = [enemy for enemy in now.enemies if (math.floor(enemy[0]), math.floor(enemy[1])) == (x, y)]
                expected = {
                    "wall": is_wall(cell),
                    "lava": cell in (LAVA_MID, LAVA_TOP),
                    "coin": cell == COIN,
                    "crate": any((math.floor(crate[0]), math.floor(crate[1])) == (x, y) for crate in now.crates),
                    "saw": any((math.floor(saw[0]), math.floor(saw[1])) == (x, y) for saw in now.saws),
                    "enemy": bool(enemies),
                    "where in its cell an enemy is": enemies[-1][0] - x - 0.5 if enemies else 0,
                    "where an enemy goes": np.sign(enemies[-1][2]) if enemies else 0,
                }
                for name, value in expected.items():
                    assert layers[name][row, column] == pytest.approx(float(value), abs=1e-5), name
                    found[name] += value != 0
        scalars = [now.x - math.floor(now.x) - 0.5, now.y - math.floor(now.y) - 0.5, 2 * now.vx, 2 * now.vy, now.on_crate]
        assert view[-len(SCALARS) :] == pytest.approx(np.array(scalars, dtype=np.float32), abs=1e-5)
    assert min(found.values()) > 0, found


def test_the_coin_is_in_view_just_where_the_picture_shows_it():
    seen = 0
    for frame, now in visited_states("easy", range(900_000, 900_012), every=3):
        coins = look(now)[: -len(SCALARS)].reshape(len(LAYERS), SIDE, SIDE)[LAYERS.index("coin")]
        (row, column), *_ = np.argwhere(now.grid == COIN)
        right, up = (64 / (2 * SIGHT) * (offset + SIGHT) for offset in (column + 0.5 - now.x, row + 0.5 - now.y))
        in_picture = 0 <= right < 64 and 0 <= up < 64
        assert coins.sum() == in_picture
        if in_picture:
            red, green, blue = frame[63 - int(up), int(right)].astype(int)
            assert red > 150 and green > 120 and blue < 120  # gold
            seen += 1
    assert seen > 20


def test_what_lies_beyond_the_picture_changes_nothing():
    for _, now in visited_states("easy", range(900_000, 900_006)):
        grid = now.grid.copy()
        grid[:, math.floor(now.x + SIGHT) + 1 :] = WALL_MID
        grid[math.floor(now.y + SIGHT) + 1 :] = WALL_MID
        far = np.array([[now.x + 8, now.y], [now.x, now.y + 8]], np.float32)
        changed = dataclasses.replace(now, grid=grid, saws=np.concatenate([now.saws, far]), crates=np.concatenate([now.crates, far]))
        np.testing.assert_array_equal(look(changed), look(now))
