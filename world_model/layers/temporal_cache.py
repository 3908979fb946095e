"""What past frames leave behind for the next one: their keys and values in every layer of an ST-transformer.

A frame never looks ahead, so earlier frames need not be computed again when a new one comes, however often the new one is
computed: every pass over it writes its keys and values into the same slot, until `advance` keeps them and moves on.

The truth that the cache reproduces is the whole video computed at once with a temporal window: each layer of each frame looks
back at `window - 1` frames, whose own keys were made when those frames were new. Slots form a ring, so memory is constant.

Shape key: B worlds, T frames of one pass, N tokens of a frame, G heads of keys and values, K width of a head, S slots.
"""

import copy
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass
class CachedFrames:
    """One layer's `keys` and `values` (B N, G, S, K), and the slots that the present pass writes."""

    keys: Tensor
    values: Tensor
    slots: Tensor

    def write(self, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Put (B N, G, T, K) of the present frames into their slots; all keys and values."""
        self.keys.index_copy_(2, self.slots, key.to(self.keys.dtype))
        self.values.index_copy_(2, self.slots, value.to(self.values.dtype))
        return self.keys, self.values


class TemporalCache:
    """Keys and values of the last frames of B worlds that share a clock; `begin` (B,) is the time of each world's first frame.

    There is one slot more than the window, so that the last frame and the next one can be computed in one pass.
    """

    def __init__(
        self,
        *,
        batch_size: int,
        num_tokens: int,
        num_layers: int,
        num_heads: int,
        head_dim: int,
        window: int,
        device: torch.device,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.num_tokens, self.window, self.num_slots = num_tokens, window, window + 1
        # The clock starts late enough for a world to begin with a prompt of a whole window before the present. It is a tensor, because
        # torch.compile would take a number for a constant and compile every frame anew.
        self.clock = torch.tensor(window, device=device)
        self.begin = torch.full((batch_size,), window, dtype=torch.int64, device=device)
        self.times = torch.full((self.num_slots,), -1, dtype=torch.int64, device=device)
        slots = torch.zeros(0, dtype=torch.int64, device=device)
        shape = (batch_size * num_tokens, num_heads, self.num_slots, head_dim)
        self.layers = [
            CachedFrames(torch.zeros(shape, device=device, dtype=dtype), torch.zeros(shape, device=device, dtype=dtype), slots)
            for _ in range(num_layers)
        ]

    def place(self, times_T: Tensor) -> Tensor:
        """Choose the slots of frames at `times_T`; what each may see, (B, 1, T, S) bool; ValueError where they overwrite a past in use."""
        if len(times_T) > 2 and (len(times_T) > self.num_slots or bool((self.begin < self.clock).any())):
            raise ValueError(f"{len(times_T)} frames in one pass overwrite the past that the first still sees; give at most 2")
        slots = times_T % self.num_slots
        self.times[slots] = times_T
        for layer in self.layers:
            layer.slots = slots
        age_TS = times_T[:, None] - self.times[None, :]
        alive_BS = self.times[None, :] >= self.begin[:, None]
        return ((age_TS >= 0) & (age_TS < self.window) & alive_BS[:, None])[:, None]

    def advance(self, num_frames: int = 1) -> None:
        """Keep the last pass's first `num_frames` frames as past."""
        self.clock = self.clock + num_frames

    def rewind(self) -> None:
        """Forget all worlds: the clock starts over, so that what follows is the same to the last bit whatever came before."""
        self.clock = torch.full_like(self.clock, self.window)
        self.begin.fill_(self.window)
        self.times.fill_(-1)

    def restart(self, rows: Tensor, num_frames: int) -> "TemporalCache":
        """Begin the worlds `rows` (R,) anew with a past of `num_frames` frames up to the present time, still to be computed.

        Returns a cache of those worlds alone, set back to the time of their first frame: compute them with it, then `put` it back.
        """
        if num_frames > self.window:
            raise ValueError(f"a past of {num_frames} frames is longer than the window of {self.window}; give its last frames only")
        part = self.take(rows)
        part.clock = self.clock - num_frames
        part.begin = part.clock.expand(len(rows)).clone()
        return part

    def take(self, rows: Tensor) -> "TemporalCache":
        """A copy of the worlds `rows` (R,) alone."""
        part = copy.copy(self)
        part.begin, part.times = self.begin[rows], self.times.clone()
        places = self._places(rows)
        part.layers = [CachedFrames(layer.keys[places], layer.values[places], layer.slots) for layer in self.layers]
        return part

    def put(self, rows: Tensor, part: "TemporalCache") -> None:
        """Put worlds that `take` or `restart` gave back in the places `rows`; their clock must stand where this one's does."""
        if part.clock != self.clock:
            raise ValueError(f"the worlds stand at time {int(part.clock)} and the cache at {int(self.clock)}; advance them first")
        self.begin[rows] = part.begin
        self.times.copy_(part.times)  # where both know a slot's time, they agree
        places = self._places(rows)
        for mine, theirs in zip(self.layers, part.layers, strict=True):
            mine.keys[places], mine.values[places] = theirs.keys, theirs.values

    def _places(self, rows: Tensor) -> Tensor:
        """Where the tokens of the worlds `rows` stand among those of all worlds."""
        return (rows[:, None] * self.num_tokens + torch.arange(self.num_tokens, device=rows.device)).flatten()
