"""A CoinRun expert that needs no training: A* over single steps, on an exact copy of the game's physics.

Its plays are there to be imitated by a network that sees one picture. So it does not look for the fastest way but for one
that a beginner could copy: run, jump seldom, take off well before a hazard and land well clear of one, stay off the edges.
All of that is priced in `PlannerConfig`; every step costs 1 beside.

Actions are the canonical ones among the game's fifteen: RIGHT in the run and in the air, UP on the frame that takes off and
on no other.

Shape letters: T steps, N things of one kind, H, W rows and columns of the level.
"""

from __future__ import annotations

import dataclasses
import heapq
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numba import njit

from genie_agents.coinrun import LEFT, LEFT_UP, NOOP, RIGHT, RIGHT_UP, UP
from genie_agents.experts.game_state import COIN, WALL_MID, WALL_TOP, GameState, read_state
from genie_agents.experts.physics import (
    COLLECTED,
    DIED,
    HALF_HEIGHT,
    HALF_WIDTH,
    NEVER,
    RUN_SPEED,
    Body,
    Real,
    has_support,
    judge,
    jumps_to_coin,
    step_agent,
    walk_enemies,
)

_GROUND_KEYS = (RIGHT, RIGHT_UP, NOOP, LEFT, UP, LEFT_UP)
_AIR_KEYS = (RIGHT, NOOP, LEFT)
_LONGEST_PLAN = 500
_NOTHING, _GOAL = -1, -1

Prices = tuple[float, ...]  # the values of PlannerConfig in their order, the keys left out


@dataclass(frozen=True, kw_only=True)
class PlannerConfig:
    """Prices, in steps, of what an imitable play avoids, and the limits of the search.

    Raises:
        ValueError: a price, margin or weight is negative, `max_nodes` is below 1, or a set of keys is empty or holds another key.
    """

    jump_cost: float = 3.0
    """Each take-off."""
    late_jump_cost: float = 0.02
    """Each take-off, once more per step it is put off: of equal jumps the earliest is taken, not the last possible one."""
    wait_cost: float = 1.5
    """Each step without LEFT or RIGHT."""
    left_cost: float = 2.0
    """Each step to the left."""
    air_steer_cost: float = 1.0
    """Each step in the air without RIGHT."""
    turn_cost: float = 1.0
    """Each change between LEFT, RIGHT and neither."""
    hazard_cost: float = 2.0
    """Each step beside a saw or an enemy; falls to 0 at `hazard_margin`."""
    hazard_margin: float = 1.5
    """Cells between the two bodies up to which a hazard is felt."""
    edge_cost: float = 2.0
    """Each take-off and each landing at the edge of the ground; falls to 0 at `edge_margin`."""
    edge_margin: float = 1.0
    """Cells from the foot to the edge up to which an edge is felt."""
    heuristic_weight: float = 1.3
    """Weight of the distance to the coin; above 1 the search is faster and the plan a little dearer than the best."""
    max_nodes: int = 200_000
    """States to look at before giving up."""
    ground_keys: tuple[int, ...] = _GROUND_KEYS
    """Actions that a plan may take on the ground."""
    air_keys: tuple[int, ...] = _AIR_KEYS
    """Actions that a plan may take in the air."""

    def __post_init__(self) -> None:
        for name in _PRICES:
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} must be 0 or more, got {getattr(self, name)}")
        for name, known in (("ground_keys", _GROUND_KEYS), ("air_keys", _AIR_KEYS)):
            if not getattr(self, name) or not set(getattr(self, name)) <= set(known):
                raise ValueError(f"{name} must hold at least one of the actions {known}, and no other; got {getattr(self, name)}")
        if self.max_nodes < 1:
            raise ValueError(f"max_nodes must be at least 1, got {self.max_nodes}")


_PRICES = tuple(field.name for field in dataclasses.fields(PlannerConfig) if not field.name.endswith("_keys"))


class _Level(NamedTuple):
    """What the compiled search reads of a level."""

    coin_column: int
    grid_HW: np.ndarray  # cell types, int32
    ground_HW: np.ndarray  # whether the agent can stand on the cell (walls, crates), bool
    jumps_HW: np.ndarray  # see physics.jumps_to_coin
    crates: np.ndarray  # (N, 2) float32
    hazards_x_TN: np.ndarray  # saws and enemies after 0 to T steps, float32
    hazards_y_N: np.ndarray
    crate_grip_y_T: np.ndarray  # see physics.walk_enemies
    has_enemies: bool


def _look_ahead(now: GameState, num_steps: int) -> _Level:
    """The level with its enemies walked `num_steps` ahead."""
    enemies_x_TN, crate_grip_y_T = walk_enemies(now.enemies, now.grid, now.crates, num_steps)
    saws_x_TN = np.broadcast_to(now.saws[:, 0], (num_steps + 1, len(now.saws)))
    ground_HW = (now.grid == WALL_MID) | (now.grid == WALL_TOP)
    columns_N, rows_N = now.crates.astype(np.int64).T
    ground_HW[rows_N, columns_N] = True
    return _Level(
        coin_column=now.coin_column,
        grid_HW=now.grid,
        ground_HW=ground_HW,
        jumps_HW=jumps_to_coin(now.grid, ground_HW),
        crates=now.crates,
        hazards_x_TN=np.ascontiguousarray(np.concatenate([saws_x_TN, enemies_x_TN], axis=1)),
        hazards_y_N=np.concatenate([now.saws[:, 1], now.enemies[:, 1]]),
        crate_grip_y_T=crate_grip_y_T,
        has_enemies=len(now.enemies) > 0,
    )


class Planner:
    """Plans the way to the coin from any moment of a level of CoinRun.

    Exact but for one rarity of the hard mode, about once in 8,000 steps of random play: an enemy that turns round at a wall
    beside a crate is slowed, for good, when the agent falls above that crate just then.
    """

    def __init__(self, config: PlannerConfig = PlannerConfig()) -> None:
        self.config = config
        self._prices = tuple(float(getattr(config, name)) for name in _PRICES)
        self._keys = np.array(config.ground_keys), np.array(config.air_keys)

    def plan(self, state: bytes, *, sight: float = math.inf) -> np.ndarray | None:
        """Find the way to the coin.

        Args:
            state: saved CoinRun state, ``env.callmethod("get_state")[i]``, of any moment of a level.
            sight: how many cells to the right of the agent may be looked at; the plan ends where the known part of the level does.

        Returns:
            Actions (T,) int64 that lead to the coin (or out of sight), or None when there is no way or `max_nodes` were not enough to
            find it.

        Raises:
            ValueError: `state` is no CoinRun state.
        """
        now = read_state(state).within_sight(sight)
        if not np.any(now.grid == COIN):  # nothing but walls where the sight ends
            return None
        actions_T, _ = _search(*_start(now), self._prices, *self._keys, np.empty(0, np.int64))
        return actions_T if len(actions_T) else None

    def costs(self, state: bytes, beginnings: Sequence[Sequence[int]]) -> np.ndarray:
        """What the plans cost that are found after each of these beginnings, in the prices of the configuration; the cheapest ones at
        `heuristic_weight` 1.

        A beginning is one or more actions, pressed in turn. Wherever the agent has left the ground by then, the plan is free instead.

        Returns:
            (N,) float64; `inf` where none was found: there is no way, `max_nodes` were not enough, or an action is not among the
            configuration's keys where it would be pressed.

        Raises:
            ValueError: `state` is no CoinRun state.
        """
        start = _start(read_state(state))
        return np.array([_search(*start, self._prices, *self._keys, np.array(actions))[1] for actions in beginnings])


def _start(now: GameState) -> tuple[Body, _Level]:
    """Where a search begins."""
    return (now.x, now.y, now.vx, now.vy, now.on_crate), _look_ahead(now, min(_LONGEST_PLAN, now.steps_left))


@njit(cache=True)
def _jumps_ahead(level: _Level, body: Body, before: int) -> int:
    """The fewest jumps to the coin; as `before` in the air, and for one who has just run off a crate and stands on nothing."""
    x, y, _, vy, on_crate = body
    if not has_support(x, y, vy, on_crate, level.grid_HW):
        return before
    row = math.floor(y - HALF_HEIGHT - 0.01)
    left, right = math.floor(x - HALF_WIDTH + 0.01), math.floor(x + HALF_WIDTH - 0.01)
    if level.ground_HW[row, left] or level.ground_HW[row, right]:
        return min(level.jumps_HW[row, left], level.jumps_HW[row, right])
    return before


@njit(cache=True)
def _nearness_to_edge(x: Real, y: Real, side: int, margin: float, ground_HW: np.ndarray) -> float:
    """0 with `margin` cells of ground beyond the foot on that side (-1 left, 1 right), 1 with none."""
    row = math.floor(y - HALF_HEIGHT - 0.01)
    foot = x + side * HALF_WIDTH
    column = math.floor(x + side * (HALF_WIDTH - 0.01))
    clearance = 0.0
    while clearance < margin and 0 <= column < ground_HW.shape[1] and ground_HW[row, column]:
        clearance = column + 1 - foot if side > 0 else foot - column
        column += side
    return 1.0 - clearance / margin if clearance < margin else 0.0


@njit(cache=True)
def _nearness_to_hazard(x: Real, y: Real, hazards_x_N: np.ndarray, hazards_y_N: np.ndarray, margin: float) -> float:
    """0 with `margin` cells between the agent's box and the nearest hazard's, 1 where they touch."""
    nearest = margin
    for index in range(len(hazards_x_N)):
        gap_x = abs(hazards_x_N[index] - x) - 2 * HALF_WIDTH
        gap_y = abs(hazards_y_N[index] - y) - HALF_WIDTH - HALF_HEIGHT
        nearest = min(nearest, max(gap_x, gap_y, 0.0))
    return 1.0 - nearest / margin if nearest < margin else 0.0


@njit(cache=True)
def _price(level: _Level, prices: Prices, before: Any, action: int, last_action: int, time: int, supported: bool, after: Body) -> float:
    """Cost of one step from `before` (x, y, vx, vy) to `after`; `time` counts the steps before it."""
    (jump_cost, late_jump_cost, wait_cost, left_cost, air_steer_cost, turn_cost,
     hazard_cost, hazard_margin, edge_cost, edge_margin, _, _) = prices  # fmt: skip
    direction = action // 3 - 1
    cost = 1.0
    if action % 3 == 2:
        cost += jump_cost + late_jump_cost * time
        side = 1 if direction >= 0 else -1
        cost += edge_cost * _nearness_to_edge(before[0], before[1], side, edge_margin, level.ground_HW)
    if before[3] < 0 and after[3] == 0:  # has landed
        for side in (-1, 1):
            cost += edge_cost * _nearness_to_edge(after[0], after[1], side, edge_margin, level.ground_HW)
    if direction == 0:
        cost += wait_cost
    elif direction < 0:
        cost += left_cost
    if direction != 1 and not supported:
        cost += air_steer_cost
    if last_action != _NOTHING and direction != last_action // 3 - 1:
        cost += turn_cost
    hazards_x_N = level.hazards_x_TN[time + 1]
    return cost + hazard_cost * _nearness_to_hazard(after[0], after[1], hazards_x_N, level.hazards_y_N, hazard_margin)


@njit(cache=True)
def _find_bucket(table: np.ndarray, cheapest: np.ndarray, body: Body, phase: int) -> int:
    """Place in the hash table shared by all states too much alike to be searched twice."""
    x, y, vx, vy, on_crate = body
    key = 2 * phase + (1 if on_crate else 0)
    for part in (10 * x, 10 * y, 20 * vx + 32, 10 * vy + 32):
        key = 1024 * key + int(part)
    key += 1  # 0 marks a free place
    bucket = (key * 0x9E3779B97F4A7C1 >> 24) & (len(table) - 1)
    while table[bucket] != 0 and table[bucket] != key:
        bucket = (bucket + 1) & (len(table) - 1)
    if table[bucket] == 0:
        table[bucket], cheapest[bucket] = key, np.inf
    return bucket


@njit(cache=True)
def _trace(node: int, parents: np.ndarray, actions: np.ndarray) -> np.ndarray:
    """The actions from the root to a node."""
    length = 0
    ancestor = node
    while parents[ancestor] != _NOTHING:
        length += 1
        ancestor = parents[ancestor]
    plan = np.empty(length, np.int64)
    while length > 0:
        length -= 1
        plan[length] = actions[node]
        node = parents[node]
    return plan


@njit(cache=True)
def _search(
    start: Body, level: _Level, prices: Prices, on_ground: np.ndarray, in_air: np.ndarray, beginning: np.ndarray
) -> tuple[np.ndarray, float]:
    """A* from `start`; the actions to the coin and their cost, empty and infinite when none were found."""
    jump_cost, heuristic_weight, capacity = prices[0], prices[10], int(prices[11])
    bodies, on_crates = np.empty((capacity, 4), np.float32), np.empty(capacity, np.bool_)
    parents, actions, times, buckets, jumps_ahead = np.empty((5, capacity), np.int32)
    costs = np.empty(capacity)
    num_buckets = 1
    while num_buckets < 2 * capacity:
        num_buckets *= 2
    table, cheapest = np.zeros(num_buckets, np.int64), np.empty(num_buckets)

    bodies[0], on_crates[0] = start[:4], start[4]
    parents[0], actions[0], times[0], buckets[0], costs[0], cheapest[0] = _NOTHING, _NOTHING, 0, 0, 0.0, 0.0
    jumps_ahead[0] = _jumps_ahead(level, start, 0)
    num_nodes = 1
    heap = [(0.0, 0)]
    while len(heap) > 0 and jumps_ahead[0] < NEVER:
        _, node = heapq.heappop(heap)
        time = times[node]
        if buckets[node] == _GOAL:
            return _trace(node, parents, actions), costs[node]
        if costs[node] > cheapest[buckets[node]] or time == len(level.crate_grip_y_T):
            continue
        x, y, vx, vy = bodies[node]
        supported = has_support(x, y, vy, on_crates[node], level.grid_HW)
        for action in on_ground if supported else in_air:
            begins = time < len(beginning) and (supported or time == 0)
            if begins and action != beginning[time]:
                continue
            after = step_agent(x, y, vx, vy, on_crates[node], action, level.crate_grip_y_T[time], level.grid_HW, level.crates)
            outcome = judge(after[0], after[1], level.hazards_x_TN[time + 1], level.hazards_y_N, level.grid_HW)
            if outcome == DIED:
                continue
            if num_nodes == capacity:
                return np.empty(0, np.int64), np.inf
            bucket, jumps, steps = _GOAL, 0, 0.0
            if outcome != COLLECTED:
                jumps = _jumps_ahead(level, after, max(jumps_ahead[node] - (action % 3 == 2), 0))
                if jumps >= NEVER:
                    continue
                steps = max(level.coin_column - HALF_WIDTH - after[0], 0.0) / RUN_SPEED
                bucket = _find_bucket(table, cheapest, after, (time + 1) // 3 if level.has_enemies else 0)
                if costs[node] + 1 >= cheapest[bucket] and not begins:  # spares most children their pricing
                    continue
            cost = costs[node] + _price(level, prices, bodies[node], action, actions[node], time, supported, after)
            if bucket != _GOAL:
                if cost >= cheapest[bucket] and not begins:
                    continue
                cheapest[bucket] = cost
            bodies[num_nodes] = after[:4]
            on_crates[num_nodes] = after[4]
            parents[num_nodes], actions[num_nodes], times[num_nodes], buckets[num_nodes] = node, action, time + 1, bucket
            jumps_ahead[num_nodes], costs[num_nodes] = jumps, cost
            heapq.heappush(heap, (cost + heuristic_weight * (steps + jump_cost * jumps), num_nodes))
            num_nodes += 1
    return np.empty(0, np.int64), np.inf
