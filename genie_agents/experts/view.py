"""What the camera shows of a CoinRun level, read from the game's state instead of its pixels.

A player who is to be imitated from pictures may know no more than they show, but needs not learn to see: an expert that reads this map
learns faster, plays the same on levels of every look, and whoever sees the pictures can still learn all its reasons.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from genie_agents.experts.game_state import COIN, LAVA_MID, LAVA_TOP, GameState
from genie_agents.experts.physics import RUN_SPEED, Body, Real, cell_at, is_wall

SIGHT = 6.5
"""Cells that the camera shows on either side of the player's centre, above it and below it."""
SIDE = int(2 * SIGHT)
LAYERS = ("wall", "lava", "coin", "crate", "saw", "enemy", "where in its cell an enemy is", "where an enemy goes")
SCALARS = ("x of the player in its cell", "y of the player in its cell", "its speed along x", "along y", "whether it stands on a crate")
VIEW_SIZE = len(LAYERS) * SIDE**2 + len(SCALARS)


def look(now: GameState) -> np.ndarray:
    """(VIEW_SIZE,) float32: `LAYERS` of the SIDE x SIDE cells nearest to the player's centre, row by row from below, then `SCALARS`.

    A cell at the border is in view if its centre is. Enemies look the way they go, so a single picture shows that too.
    """
    view = np.empty(VIEW_SIZE, dtype=np.float32)
    draw_view((now.x, now.y, now.vx, now.vy, now.on_crate), now.grid, now.crates, now.saws, now.enemies, view)
    return view


@njit(cache=True)
def draw_view(body: Body, grid: np.ndarray, crates: np.ndarray, saws: np.ndarray, enemies: np.ndarray, view: np.ndarray) -> None:
    """`look`, compiled, into `view`; the arguments are the fields of `GameState`."""
    x, y, vx, vy, on_crate = body
    left, bottom = math.floor(x + SIGHT - 0.5) - SIDE + 1, math.floor(y + SIGHT - 0.5) - SIDE + 1
    layers = view[: VIEW_SIZE - len(SCALARS)].reshape((len(LAYERS), SIDE, SIDE))
    layers[:] = 0
    for row in range(SIDE):
        for column in range(SIDE):
            cell = cell_at(grid, left + column, bottom + row)
            if is_wall(cell):
                layers[0, row, column] = 1
            elif cell in (LAVA_MID, LAVA_TOP):
                layers[1, row, column] = 1
            elif cell == COIN:
                layers[2, row, column] = 1
    for index in range(len(crates)):
        _put(layers[3], crates[index, 0] - left, crates[index, 1] - bottom, 1)
    for index in range(len(saws)):
        _put(layers[4], saws[index, 0] - left, saws[index, 1] - bottom, 1)
    for index in range(len(enemies)):
        enemy_x, enemy_y, enemy_vx = enemies[index]
        _put(layers[5], enemy_x - left, enemy_y - bottom, 1)
        _put(layers[6], enemy_x - left, enemy_y - bottom, enemy_x - math.floor(enemy_x) - 0.5)
        _put(layers[7], enemy_x - left, enemy_y - bottom, np.sign(enemy_vx))
    scalars = view[VIEW_SIZE - len(SCALARS) :]
    scalars[0], scalars[1] = x - math.floor(x) - 0.5, y - math.floor(y) - 0.5
    scalars[2], scalars[3], scalars[4] = vx / RUN_SPEED, vy / RUN_SPEED, on_crate


@njit(cache=True)
def _put(layer: np.ndarray, x: Real, y: Real, value: Real) -> None:
    """Write to the cell of a thing, if it is in view; places are counted from the corner of the view."""
    column, row = math.floor(x), math.floor(y)
    if 0 <= column < SIDE and 0 <= row < SIDE:
        layer[row, column] = value
