"""Take off in the middle of the time window in which a jump succeeds.

A* jumps when that is cheapest, often one step before it would be too late. A clone's timing is blurred by a step or two, and so are
the demonstrations it learns from the more use to it the further their take-offs lie from both edges of the window.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from genie_agents.coinrun import RIGHT, RIGHT_UP
from genie_agents.experts.physics import COLLECTED, PLAYING, has_support, judge, step_agent


@njit(cache=True)
def _fly(body: np.ndarray, on_crate: bool, time: int, level: Any) -> tuple[np.ndarray, bool, int, int]:
    """Jump with RIGHT held until landing: the body (4,) then, whether it stands on a crate, the time, and how it ended."""
    x, y, vx, vy = body
    action, outcome = RIGHT_UP, PLAYING
    while outcome == PLAYING and time < len(level.crate_grip_y_T):
        x, y, vx, vy, on_crate = step_agent(x, y, vx, vy, on_crate, action, level.crate_grip_y_T[time], level.grid_HW, level.crates)
        outcome = judge(x, y, level.hazards_x_TN[time + 1], level.hazards_y_N, level.grid_HW)
        time, action = time + 1, RIGHT
        if has_support(x, y, vy, on_crate, level.grid_HW):
            break
    return np.array([x, y, vx, vy], np.float32), on_crate, time, outcome


@njit(cache=True)
def centre_take_off(
    body: np.ndarray, on_crate: bool, plan_T: np.ndarray, level: Any, jumps_to_coin: Any, max_shift: int
) -> tuple[np.ndarray, np.ndarray, bool]:
    """Move the first jump to the right of `plan_T`, from `body` (4,) on, to the middle of its window.

    A take-off at another step of the same run is as good if RIGHT held until landing leads, alive, to a place no more jumps from the
    coin. Returns the actions up to the landing, and the body and crate flag there; no actions when the plan holds no such jump, or
    collects the coin by it.
    """
    x, y, vx, vy = body
    bodies, crates = np.empty((len(plan_T), 4), np.float32), np.empty(len(plan_T), np.bool_)
    run, take_off = 0, -1
    for time in range(len(plan_T)):
        supported = has_support(x, y, vy, on_crate, level.grid_HW)
        bodies[time], crates[time] = np.array([x, y, vx, vy], np.float32), on_crate
        if plan_T[time] == RIGHT_UP and supported:
            take_off = time
            break
        if plan_T[time] != RIGHT or not supported:
            run = time + 1
        x, y, vx, vy, on_crate = step_agent(x, y, vx, vy, on_crate, plan_T[time], level.crate_grip_y_T[time], level.grid_HW, level.crates)
    nothing = np.empty(0, np.int64), body, on_crate
    if take_off < 0:
        return nothing
    landing_body, landing_crate, landing, outcome = _fly(bodies[take_off], crates[take_off], take_off, level)
    if outcome != PLAYING or landing >= len(plan_T) or np.any(plan_T[take_off + 1 : landing] != RIGHT):
        return nothing
    jumps = jumps_to_coin(level, landing_body, landing_crate)

    first, last = take_off, take_off
    for time in range(take_off - 1, max(run, take_off - max_shift) - 1, -1):
        landed, landed_crate, _, outcome = _fly(bodies[time], crates[time], time, level)
        if outcome != COLLECTED and (outcome != PLAYING or jumps_to_coin(level, landed, landed_crate) > jumps):
            break
        first = time
    x, y, vx, vy = bodies[take_off]
    on_crate = crates[take_off]
    for time in range(take_off, take_off + max_shift):
        x, y, vx, vy, on_crate = step_agent(x, y, vx, vy, on_crate, RIGHT, level.crate_grip_y_T[time], level.grid_HW, level.crates)
        alive = judge(x, y, level.hazards_x_TN[time + 1], level.hazards_y_N, level.grid_HW) == PLAYING
        if not alive or not has_support(x, y, vy, on_crate, level.grid_HW):
            break
        here = np.array([x, y, vx, vy], np.float32)
        landed, landed_crate, _, outcome = _fly(here, on_crate, time + 1, level)
        if outcome != COLLECTED and (outcome != PLAYING or jumps_to_coin(level, landed, landed_crate) > jumps):
            break
        last = time + 1
    middle = (first + last) // 2
    x, y, vx, vy = bodies[min(middle, take_off)]
    on_crate = crates[min(middle, take_off)]
    for time in range(take_off, middle):
        x, y, vx, vy, on_crate = step_agent(x, y, vx, vy, on_crate, RIGHT, level.crate_grip_y_T[time], level.grid_HW, level.crates)
    landing_body, landing_crate, landing, outcome = _fly(np.array([x, y, vx, vy], np.float32), on_crate, middle, level)
    if outcome != PLAYING:
        return nothing
    actions = np.full(landing, RIGHT, np.int64)
    actions[: min(middle, take_off)] = plan_T[: min(middle, take_off)]
    actions[middle] = RIGHT_UP
    return actions, landing_body, landing_crate
