"""What the camera shows of a CoinRun level, read from the game's state instead of its pixels.

A player who is to be imitated from pictures may know no more than they show, but needs not learn to see: an expert that reads this map
learns faster, plays the same on levels of every look, and whoever sees the pictures can still learn all its reasons.
"""

from __future__ import annotations

import math

import numpy as np

from genie_agents.experts.game_state import COIN, LAVA_MID, LAVA_TOP, WALL_MID, WALL_TOP, GameState
from genie_agents.experts.physics import RUN_SPEED

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
    left, bottom = math.floor(now.x + SIGHT - 0.5) - SIDE + 1, math.floor(now.y + SIGHT - 0.5) - SIDE + 1
    layers = np.zeros((len(LAYERS), SIDE, SIDE), dtype=np.float32)
    rows, columns = np.arange(bottom, bottom + SIDE), np.arange(left, left + SIDE)
    inside = ((rows >= 0) & (rows < now.grid.shape[0]))[:, None] & ((columns >= 0) & (columns < now.grid.shape[1]))
    cells = np.where(inside, now.grid[rows.clip(0, now.grid.shape[0] - 1)][:, columns.clip(0, now.grid.shape[1] - 1)], WALL_MID)
    wall, lava, coin, crate, saw, enemy, enemy_place, enemy_way = layers
    wall[:] = (cells == WALL_MID) | (cells == WALL_TOP)
    lava[:] = (cells == LAVA_MID) | (cells == LAVA_TOP)
    coin[:] = cells == COIN

    def put(layer: np.ndarray, things: np.ndarray, values: float | np.ndarray) -> None:
        """Write one value, or one for each, to the cells of the things (N, 2 or 3) that are in view."""
        column, row = np.floor(things[:, 0]).astype(int) - left, np.floor(things[:, 1]).astype(int) - bottom
        seen = (column >= 0) & (column < SIDE) & (row >= 0) & (row < SIDE)
        layer[row[seen], column[seen]] = np.broadcast_to(values, len(things))[seen]

    put(crate, now.crates, 1)
    put(saw, now.saws, 1)
    put(enemy, now.enemies, 1)
    put(enemy_place, now.enemies, now.enemies[:, 0] % 1 - 0.5)
    put(enemy_way, now.enemies, np.sign(now.enemies[:, 2]))
    scalars = [now.x % 1 - 0.5, now.y % 1 - 0.5, now.vx / RUN_SPEED, now.vy / RUN_SPEED, now.on_crate]
    return np.concatenate([layers.ravel(), np.array(scalars, dtype=np.float32)])
