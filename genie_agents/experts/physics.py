"""CoinRun's motion, compiled, equal to the game's own to the last bit.

A planner tries thousands of steps a level; here one costs less than a microsecond, in the simulator fifty. The rules were learned
from the public source of procgen (coinrun.cpp, basic-abstract-game.cpp). Every operation is kept in the precision the game
uses (float32, here and there a float64 rounded once), because a plan is only as good as its last bit: one frame of difference
at a ledge ends the level.

What the game draws at random, the order of the two directions when both speeds are equal, is not modelled; a moving agent never
meets it, for gravity and the running speed share no value.

Units: positions in cells, speeds in cells per step. Shape letters: T steps, N things of one kind, H, W rows and columns.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import njit

from genie_agents.experts.game_state import COIN, ENEMY_BARRIER, LAVA_MID, LAVA_TOP, WALL_MID, WALL_TOP

Real = Any  # float32 throughout; the type stubs of numpy do not follow it through the compiled code
Body = tuple[Real, Real, Real, Real, bool]  # x, y, vx, vy, on_crate

PLAYING, COLLECTED, DIED = 0, 1, 2

HALF_WIDTH = np.float32(0.5)
HALF_HEIGHT = np.float32(0.5787)
RUN_SPEED = np.float32(0.5)
JUMP_SPEED = np.float32(1.5)
_GROUND_CONTROL = np.float32(0.2)
_AIR_CONTROL = np.float32(0.2) * np.float32(0.15)
_GRAVITY = np.float32(0.2)

# Boxes are tested a little inside their outline: corners against cells, and overlaps with crates and cells.
_CORNER_X = HALF_WIDTH * np.float32(0.98)
_CORNER_Y = HALF_HEIGHT * np.float32(0.98)
_OVERLAP = np.float32(-0.001)
_FOOT_REACH = float(HALF_WIDTH) - 0.01
_FOOT_DEPTH = float(HALF_HEIGHT) + 0.01

_MAX_PUSHES = 5  # the game gives up after so many crates in one sub-step

# The best jump, in whole cells: its rise and its generous length (15 steps in the air and half a body at either end).
JUMP_HEIGHT, JUMP_LENGTH = 6, 9
NEVER = 1_000_000

_ZERO, _ONE, _TWO = np.float32(0), np.float32(1), np.float32(2)


@njit(cache=True)
def cell_at(grid: np.ndarray, x: Real, y: Real) -> int:
    """Type of the cell that holds the point; everything outside the level is wall."""
    column, row = math.floor(x), math.floor(y)
    if column < 0 or row < 0 or column >= grid.shape[1] or row >= grid.shape[0]:
        return WALL_MID
    return grid[row, column]


@njit(cache=True)
def is_wall(cell: int) -> bool:
    """Whether the agent is stopped by a cell of this type."""
    return cell in (WALL_MID, WALL_TOP)


@njit(cache=True)
def has_support(x: Real, y: Real, vy: Real, on_crate: bool, grid: np.ndarray) -> bool:
    """Whether the agent stands on something, so that UP jumps and the legs grip."""
    if vy != 0:
        return False
    below = np.float32(float(y) - _FOOT_DEPTH)
    left, right = np.float32(float(x) - _FOOT_REACH), np.float32(float(x) + _FOOT_REACH)
    return on_crate or is_wall(cell_at(grid, left, below)) or is_wall(cell_at(grid, right, below))


@njit(cache=True)
def _velocity(vx: Real, vy: Real, supported: bool, horizontal: int, vertical: int) -> tuple[Real, Real]:
    """Speeds after one step of the keys, gravity included; without support the keys steer weakly."""
    control = _GROUND_CONTROL if supported else _AIR_CONTROL
    vx = (_ONE - control) * vx + control * RUN_SPEED * np.float32(horizontal)
    if abs(vx) < control * RUN_SPEED:
        vx = _ZERO
    if supported and vertical > 0:
        return vx, JUMP_SPEED
    if supported:
        vy = np.float32(float(vy) + 0.2 * vertical)
    return vx, min(max(vy - _GRAVITY, -JUMP_SPEED), JUMP_SPEED)


@njit(cache=True)
def _hits_wall(x: Real, y: Real, grid: np.ndarray) -> bool:
    """Whether a corner of the agent lies in a wall."""
    return (
        is_wall(cell_at(grid, x - _CORNER_X, y - _CORNER_Y))
        or is_wall(cell_at(grid, x - _CORNER_X, y + _CORNER_Y))
        or is_wall(cell_at(grid, x + _CORNER_X, y - _CORNER_Y))
        or is_wall(cell_at(grid, x + _CORNER_X, y + _CORNER_Y))
    )


@njit(cache=True)
def _snap(position: Real, motion: Real, half_size: Real) -> Real:
    """The place flush with the wall that `motion` ran into."""
    if motion > 0:
        return np.float32(math.floor(position + half_size)) - half_size
    return np.float32(math.ceil(position - half_size)) + half_size


@njit(cache=True)
def _crate_below(x: Real, y: Real, last_y: Real, crates: np.ndarray) -> int:
    """Index of the crate that overlaps the agent and was wholly below it a step ago, -1 without one."""
    for index in range(len(crates) - 1, -1, -1):  # the game looks at the youngest first
        if (
            abs(x - crates[index, 0]) < HALF_WIDTH + HALF_WIDTH + _OVERLAP
            and abs(y - crates[index, 1]) < HALF_WIDTH + HALF_HEIGHT + _OVERLAP
            and last_y >= crates[index, 1] + HALF_WIDTH + HALF_HEIGHT
        ):
            return index
    return -1


@njit(cache=True)
def _move(
    x: Real, y: Real, vy: Real, dx: Real, dy: Real, last_y: Real, catches_crates: bool, grid: np.ndarray, crates: np.ndarray
) -> tuple[Real, Real, Real, bool, bool]:
    """One sub-step along one axis: (x, y, vy, stands on a crate, was blocked).

    Crates block only an agent that falls onto them from above their top and does not press DOWN (`catches_crates`).
    """
    x, y = x + dx, y + dy
    blocked = _hits_wall(x, y, grid)
    if blocked and dx != 0:
        x = _snap(x, dx, HALF_WIDTH)
    elif blocked:
        y = _snap(y, dy, HALF_HEIGHT)
    if dx != 0 or vy >= 0 or not catches_crates:
        return x, y, vy, False, blocked

    on_crate = False
    for _ in range(_MAX_PUSHES):
        crate = _crate_below(x, y, last_y, crates)
        if crate < 0:
            break
        crate_y = crates[crate, 1]
        side = 1.0 if y > crate_y else (-1.0 if y < crate_y else 0.0)
        push = np.float32(float(crate_y) + side * float(HALF_WIDTH + HALF_HEIGHT) - float(y))
        y += push
        if _hits_wall(x, y, grid):
            y = _snap(y, push, HALF_HEIGHT)
        on_crate = True
    return x, y, _ZERO if on_crate else vy, on_crate, blocked or on_crate


@njit(cache=True)
def step_agent(
    x: Real, y: Real, vx: Real, vy: Real, on_crate: bool, action: int, crate_grip_y: Real, grid: np.ndarray, crates: np.ndarray
) -> Body:
    """The agent one step later.

    Args:
        x, y, vx, vy: centre and speed, float32.
        on_crate: whether the last step ended on a crate.
        action: 0 to 14, as the game counts them.
        crate_grip_y: from `walk_enemies`, for this step.
        grid: cell types, (H, W) int32.
        crates: centres, (N, 2) float32.

    Returns:
        (x, y, vx, vy, on_crate) of the next state.
    """
    keys = action if action < 9 else 4
    horizontal, vertical = keys // 3 - 1, keys % 3 - 1
    supported = has_support(x, y, vy, on_crate, grid)
    if not supported:
        vertical = min(vertical, 0)
    vx, vy = _velocity(vx, vy, supported, horizontal, vertical)

    last_y = y
    catches_crates = vertical >= 0
    on_crate = vy < 0 and catches_crates and last_y >= crate_grip_y
    num_sub_steps = max(4, int(4 * math.sqrt(vx * vx + vy * vy)))
    fraction = np.float32(1.0 / num_sub_steps)
    x_first = vertical == 0 and (horizontal != 0 or abs(vx) > abs(vy))

    free_x = free_y = 0
    for _ in range(num_sub_steps):
        num_blocked = 0
        for along_x in (x_first, not x_first):
            dx, dy = (vx * fraction, _ZERO) if along_x else (_ZERO, vy * fraction)
            x, y, vy, caught, blocked = _move(x, y, vy, dx, dy, last_y, catches_crates, grid, crates)
            on_crate |= caught
            num_blocked += blocked
            free_x += along_x and not blocked
            free_y += not along_x and not blocked
        if num_blocked == 2:
            break
    vx *= np.float32(free_x) / np.float32(num_sub_steps)
    vy *= np.float32(free_y) / np.float32(num_sub_steps)
    return x, y, vx, vy, on_crate


@njit(cache=True)
def judge(x: Real, y: Real, hazards_x: np.ndarray, hazards_y: np.ndarray, grid: np.ndarray) -> int:
    """PLAYING, COLLECTED or DIED for an agent that has come to (x, y); hazards are saws and enemies, after the same step."""
    reach_x = HALF_WIDTH + _OVERLAP
    reach_y = HALF_HEIGHT + _OVERLAP
    outcome = PLAYING
    for column in range(int(x - reach_x), int(x + reach_x) + 1):
        for row in range(int(y - reach_y), int(y + reach_y) + 1):
            cell = cell_at(grid, column, row)
            if cell == COIN:  # pays even on the step that kills
                return COLLECTED
            if cell in (LAVA_MID, LAVA_TOP):
                outcome = DIED
    for index in range(len(hazards_x)):
        near_x = abs(hazards_x[index] - x) < HALF_WIDTH + HALF_WIDTH
        near_y = abs(hazards_y[index] - y) < HALF_WIDTH + HALF_HEIGHT
        if near_x and near_y:
            outcome = DIED
    return outcome


@njit(cache=True)
def walk_enemies(enemies: np.ndarray, grid: np.ndarray, crates: np.ndarray, num_steps: int) -> tuple[np.ndarray, np.ndarray]:
    """Where the enemies walk: they turn at walls and barriers and never mind the agent.

    Args:
        enemies: centre x, y and speed vx, (N, 3) float32.
        grid: cell types, (H, W) int32.
        crates: centres, (N, 2) float32.
        num_steps: T.

    Returns:
        Their x after 0 to T steps, (T + 1, N) float32, and for each of the T steps the height from which a falling agent
        counts as standing on a crate without touching one, (T,) float32: the game sets that mark for any body, and an enemy
        that walks through a crate sets it for the agent.
    """
    paths_TN = np.empty((num_steps + 1, len(enemies)), np.float32)
    crate_grip_y_T = np.full(num_steps, np.inf, np.float32)
    quarter = np.float32(0.25)
    for index in range(len(enemies)):
        x, y, vx = enemies[index]
        paths_TN[0, index] = x
        for time in range(num_steps):
            free = 4
            for _ in range(4):
                motion = vx * quarter
                x += motion
                left, right = cell_at(grid, x - _CORNER_X, y), cell_at(grid, x + _CORNER_X, y)
                if is_wall(left) or is_wall(right) or left == ENEMY_BARRIER or right == ENEMY_BARRIER:
                    side = x + (HALF_WIDTH if motion > 0 else -HALF_WIDTH)
                    x += _TWO * (np.float32(math.floor(side) if motion > 0 else math.ceil(side)) - side)
                    vx = -vx
                    free -= left == WALL_MID or right == WALL_MID
                for crate in range(len(crates)):
                    if abs(x - crates[crate, 0]) < (_ONE + _OVERLAP) and abs(y - crates[crate, 1]) < (_ONE + _OVERLAP):
                        top = crates[crate, 1] + HALF_WIDTH + HALF_HEIGHT
                        crate_grip_y_T[time] = min(crate_grip_y_T[time], top)
            vx *= np.float32(free) / np.float32(4)
            paths_TN[time + 1, index] = x
    return paths_TN, crate_grip_y_T


@njit(cache=True)
def jumps_to_coin(grid: np.ndarray, ground: np.ndarray) -> np.ndarray:
    """The fewest jumps from each piece of ground to a coin, judged generously by the length of the best jump.

    Args:
        grid: cell types, (H, W) int32.
        ground: cells that carry the agent, walls and crates, (H, W) bool.

    Returns:
        (H, W) int64; `NEVER` for ground from which the coin is lost for sure (most often the bottom of a pit), and for cells
        that are no ground.
    """
    is_solid = (grid == WALL_MID) | (grid == WALL_TOP)
    rows, columns = np.nonzero(ground[:-1] & ~is_solid[1:])
    coin_rows, coin_columns = np.nonzero(grid == COIN)
    jumps = np.full(grid.shape, NEVER)
    pending = [(coin_rows[index] - 2, coin_columns[index], 0) for index in range(len(coin_rows))]  # the head may touch a coin from below
    while len(pending) > 0:
        to_row, to_column, to_jumps = pending.pop()
        for index in range(len(rows)):
            row, column = rows[index], columns[index]
            drop, distance = row - to_row, abs(to_column - column)
            needed = to_jumps + (0 if drop >= 0 and distance <= 2 + 2 * min(drop, 1) + drop else 1)
            if needed >= jumps[row, column] or -drop > JUMP_HEIGHT or distance > JUMP_LENGTH + max(0, drop):
                continue
            low, high = max(0, min(row, to_row)) + 1, row + JUMP_HEIGHT + 2
            open_columns = 0
            for between in range(min(column, to_column) + 1, max(column, to_column)):
                open_columns += not np.all(is_solid[low:high, between])
            if open_columns >= distance - 1:
                jumps[row, column] = needed
                pending.append((row, column, needed))
    return jumps
