"""Read what a planner needs out of a saved CoinRun state.

A saved state is a flat little-endian buffer of four-byte fields: booleans are int32, strings and vectors are an int32 length
followed by their payload. Its text-encoded random generators vary in length, so nothing but the head lies at a fixed offset
and the buffer has to be walked (layout: the ``serialize`` methods of procgen).

Shape letters: H, W rows and columns of the level (row 0 is the floor), N number of things of one kind.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass, replace

import numpy as np

COIN, WALL_MID, WALL_TOP, LAVA_MID, LAVA_TOP, ENEMY_BARRIER, EMPTY = 1, 15, 16, 17, 18, 19, 100
AGENT, SAW, ENEMY, CRATE = 0, 2, 5, 20

_FIELDS_PER_ENTITY = 31
_END_MARKER = 0xCAFECAFE


@dataclass(frozen=True, kw_only=True)
class GameState:
    """One moment of a CoinRun level. Positions are centres in cells, speeds cells per step, all float32 as in the game."""

    x: np.float32
    y: np.float32
    vx: np.float32
    vy: np.float32
    on_crate: bool
    steps_left: int
    """Steps until the game ends the episode by its time limit."""
    grid: np.ndarray
    """Cell types, (H, W) int32."""
    crates: np.ndarray
    """Centres x, y of the crates in the game's own order, (N, 2) float32."""
    saws: np.ndarray
    """Centres x, y of the saws, (N, 2) float32."""
    enemies: np.ndarray
    """Centre x, y and speed vx of the walking enemies, (N, 3) float32."""

    @property
    def coin_column(self) -> int:
        """Column of the coin."""
        return int(np.argwhere(self.grid == COIN)[0, 1])

    def within_sight(self, sight: float) -> GameState:
        """What a player knows who sees `sight` cells to the right of the agent's centre.

        The level ends in the last column seen. Unless the coin is in sight, the open cells of that column count as coins: to get there
        alive is all that can be planned.
        """
        if self.coin_column <= self.x + sight:
            return self
        last = math.floor(self.x + sight)
        grid = self.grid[:, : last + 1].copy()
        grid[np.isin(grid[:, last], (EMPTY, ENEMY_BARRIER)), last] = COIN
        crates, saws, enemies = (things[things[:, 0] < last + 1] for things in (self.crates, self.saws, self.enemies))
        return replace(self, grid=grid, crates=crates, saws=saws, enemies=enemies)


class _Reader:
    """A cursor over the buffer."""

    def __init__(self, buffer: bytes) -> None:
        self.buffer = buffer
        self.offset = 0

    def take(self, num_bytes: int) -> bytes:
        if num_bytes < 0 or self.offset + num_bytes > len(self.buffer):
            raise ValueError(
                f"the saved state is damaged or cut off: {num_bytes} bytes were expected at offset {self.offset}, "
                f"but it holds {len(self.buffer)}; pass the bytes of callmethod('get_state') unchanged"
            )
        self.offset += num_bytes
        return self.buffer[self.offset - num_bytes : self.offset]

    def integer(self) -> int:
        return int(struct.unpack("<i", self.take(4))[0])

    def integers(self, count: int) -> np.ndarray:
        return np.frombuffer(self.take(4 * count), dtype="<i4")

    def text(self) -> bytes:
        return self.take(self.integer())

    def random_generator(self) -> None:
        self.integer()
        self.text()


def read_state(state: bytes) -> GameState:
    """Read a state saved by ``env.callmethod("get_state")[i]``.

    Raises:
        ValueError: it is cut off, belongs to another game, or is not laid out as CoinRun's states are.
    """
    reader = _Reader(state)
    reader.integer()
    name = reader.text()
    if name != b"coinrun":
        raise ValueError(f"the saved state belongs to the game {name!r}; the planner plays b'coinrun' only")
    reader.integers(17)  # options
    reader.random_generator()
    reader.random_generator()
    progress = reader.integers(17)
    timeout, current_time, num_entities = int(progress[4]), int(progress[13]), int(progress[16])
    entities_NF = reader.integers(_FIELDS_PER_ENTITY * num_entities).reshape(-1, _FIELDS_PER_ENTITY)
    reader.integers(19)  # background, camera, last action
    reader.random_generator()
    width, height, num_cells = (int(value) for value in reader.integers(12)[-3:])
    grid = reader.integers(num_cells)
    tail = reader.integers(8)

    kinds = entities_NF[:, 6]
    body_N6 = entities_NF[:, :6].view("<f4")  # x, y, vx, vy, rx, ry
    if reader.offset != len(state) or int(tail[-1]) & 0xFFFFFFFF != _END_MARKER or num_cells != width * height:
        raise ValueError("the saved state is not laid out as CoinRun's; was it written by another version of procgen?")
    if np.count_nonzero(kinds == AGENT) != 1 or np.count_nonzero(grid == COIN) != 1:
        raise ValueError("the saved state holds no single agent and single coin; pass the state of a CoinRun level in play")
    x, y, vx, vy = body_N6[kinds == AGENT][0, :4]
    return GameState(
        x=x,
        y=y,
        vx=vx,
        vy=vy,
        on_crate=bool(tail[4]),
        steps_left=timeout - current_time,
        grid=grid.reshape(height, width).astype(np.int32),
        crates=np.ascontiguousarray(body_N6[kinds == CRATE][:, :2]),
        saws=np.ascontiguousarray(body_N6[kinds == SAW][:, :2]),
        enemies=np.ascontiguousarray(body_N6[kinds == ENEMY][:, :3]),
    )
