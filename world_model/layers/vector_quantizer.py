"""Vector quantisation (van den Oord et al. 2017) on the unit sphere, with codes that are brought back when they fall out of use.

Small codebooks collapse easily: one code wins everything and the others never get a gradient again. Two things prevent it here.
Inputs and codes are compared by direction only (Yu et al. 2022), and a code that no input has chosen for a while is moved onto a
current input that none of them serves well.

Shape key: R rows (all leading dimensions together), K codes, E code_dim.
"""

from dataclasses import dataclass
from typing import Literal

import torch
import torch.distributed
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True, kw_only=True)
class Quantized:
    """What the quantizer says about vectors of shape (..., E).

    `vectors` (..., E) float32 are the chosen unit codes, with the gradient passed straight through to the input; `indices` (...)
    int64 name them; `usage` (K,) int64 counts them, in training over all processes. `codebook_loss` pulls codes to inputs,
    `commitment_loss` inputs to codes (both the squared distance of unit vectors, 0 to 4; the first is zero when the codebook is a
    moving average).
    """

    vectors: Tensor
    indices: Tensor
    codebook_loss: Tensor
    commitment_loss: Tensor
    usage: Tensor


class VectorQuantizer(nn.Module):
    """Replace each vector by the nearest of `num_codes` codes.

    `update` is how codes learn: "gradient" (through `codebook_loss`) or "ema" (a moving average of the inputs that chose them).
    A code unused for `reset_after` training steps is moved onto an input of the current batch that lies far from all codes. The draw
    depends on `seed` and on the number of training steps only, and that number is saved with the weights, so a resumed run repeats
    exactly.

    Over the first `ramp_steps` training steps the result goes from the bare input to its code, and the commitment loss from zero
    to its full size: whoever reads the codes first learns to use the inputs, and whoever makes them learns what is of use.

    Where torch.distributed is initialised, training keeps the codes of all processes alike: usage and moving averages are of all their
    inputs, and so is the draw of revived codes. Each must then train on an equal share of the batch. The losses are of its own share.
    """

    codes: Tensor
    steps: Tensor
    unused_steps: Tensor
    mean_inputs: Tensor

    def __init__(
        self,
        *,
        num_codes: int,
        code_dim: int,
        update: Literal["gradient", "ema"] = "gradient",
        ema_decay: float = 0.99,
        reset_after: int = 50,
        ramp_steps: int = 0,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.update, self.ema_decay, self.seed = update, ema_decay, seed
        self.reset_after, self.ramp_steps = reset_after, ramp_steps
        codes_KE = F.normalize(torch.randn(num_codes, code_dim, generator=torch.Generator().manual_seed(seed)), dim=-1)
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))
        self.register_buffer("unused_steps", torch.zeros(num_codes, dtype=torch.int64))
        if update == "gradient":
            self.codes = nn.Parameter(codes_KE)
        else:
            self.register_buffer("codes", codes_KE)
            self.register_buffer("mean_inputs", codes_KE.clone())

    def check(self, indices: Tensor) -> None:
        """Raises ValueError for indices (...) of which `lookup` would make something else: fractions, -1, or more than there are codes."""
        whole = indices.dtype != torch.bool and not indices.is_floating_point() and not indices.is_complex()
        places = indices.long()  # a byte is never more than 256 codes
        if not whole or ((places < 0) | (places >= len(self.codes))).any():
            raise ValueError(f"need whole numbers in 0 ... {len(self.codes) - 1}, got {indices.dtype} {indices.flatten()[:8].tolist()} ...")

    def lookup(self, indices: Tensor) -> Tensor:
        """The unit codes (..., E) float32 of indices (...)."""
        return F.normalize(self.codes.float(), dim=-1)[indices.long()]  # torch takes bytes as an index for a mask

    def forward(self, inputs: Tensor) -> Quantized:
        """Quantise (..., E). In training mode this also counts the step, revives dead codes and, with "ema", moves the codes."""
        # Distances and losses stay in float32: bfloat16 has too few digits to rank codes or to sum small errors.
        with torch.autocast(inputs.device.type, enabled=False):
            inputs_RE = F.normalize(inputs.float().flatten(0, -2), dim=-1)
            hardness = (self.steps / self.ramp_steps).clamp(max=1.0) if self.training and self.ramp_steps else 1.0
            if self.training:
                self._revive_dead_codes(inputs_RE.detach())
            codes_KE = F.normalize(self.codes.float(), dim=-1)
            indices_R = (inputs_RE @ codes_KE.T).argmax(dim=-1)  # on the unit sphere the nearest code has the largest product
            chosen_RE = codes_KE[indices_R]
            usage_K = torch.bincount(indices_R, minlength=len(codes_KE))
            if self.training:
                usage_K = _sum_over_processes(usage_K)
                self._count(inputs_RE.detach(), indices_R, usage_K)
            codebook_loss = (
                (chosen_RE - inputs_RE.detach()).square().sum(-1).mean() if self.update == "gradient" else inputs_RE.new_zeros(())
            )
            commitment_loss = hardness * (inputs_RE - chosen_RE.detach()).square().sum(-1).mean()
            straight_through_RE = inputs_RE + hardness * (chosen_RE - inputs_RE).detach()
        return Quantized(
            vectors=straight_through_RE.view(inputs.shape),
            indices=indices_R.view(inputs.shape[:-1]),
            codebook_loss=codebook_loss,
            commitment_loss=commitment_loss,
            usage=usage_K,
        )

    @torch.no_grad()
    def _revive_dead_codes(self, inputs_RE: Tensor) -> None:
        dead_K = self.unused_steps >= self.reset_after
        if not dead_K.any():
            return
        rank, world_size = _rank_and_world_size()
        # Inputs far from every code come first, or most codes would return to where inputs are many and well served already. An
        # exponential race draws without replacement, by squared distance: codes on one spot would share its fate.
        errors_R = torch.zeros(world_size * len(inputs_RE), device=inputs_RE.device)  # over the inputs of all processes, by rank
        nearest_R = (inputs_RE @ F.normalize(self.codes.float(), dim=-1).T).amax(dim=-1)
        errors_R[rank * len(inputs_RE) : (rank + 1) * len(inputs_RE)] = (1 - nearest_R).clamp(min=1e-9)
        race_R = torch.empty(len(errors_R)).exponential_(generator=torch.Generator().manual_seed(self.seed + int(self.steps)))
        order = (race_R / _sum_over_processes(errors_R).cpu()).argsort()
        place_K = (dead_K.cumsum(0) - 1).clamp(min=0).cpu()  # the first dead code takes the winner of the race, the next the next
        rows_K = order[place_K % len(order)].to(inputs_RE.device)
        rows_K -= rank * len(inputs_RE)
        owned_K = (rows_K >= 0) & (rows_K < len(inputs_RE))
        revived_KE = torch.where(owned_K[:, None], inputs_RE[rows_K.clamp(0, len(inputs_RE) - 1)], 0.0)
        revived_KE = _sum_over_processes(revived_KE)  # each row comes from the one process that holds it
        self.codes[dead_K] = revived_KE[dead_K].to(self.codes.dtype)
        self.unused_steps[dead_K] = 0
        if self.update == "ema":
            self.mean_inputs[dead_K] = revived_KE[dead_K]

    @torch.no_grad()
    def _count(self, inputs_RE: Tensor, indices_R: Tensor, usage_K: Tensor) -> None:
        self.steps += 1
        self.unused_steps.copy_(torch.where(usage_K > 0, 0, self.unused_steps + 1))
        if self.update == "ema":
            sums_KE = torch.zeros_like(self.mean_inputs).index_add_(0, indices_R, inputs_RE)
            self.mean_inputs.lerp_(_sum_over_processes(sums_KE), 1 - self.ema_decay)
            self.codes.copy_(F.normalize(self.mean_inputs, dim=-1))


def _rank_and_world_size() -> tuple[int, int]:
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_rank(), torch.distributed.get_world_size()
    return 0, 1


def _sum_over_processes(tensor: Tensor) -> Tensor:
    """The sum of `tensor`, in place, over all processes that train together; one alone keeps its own."""
    if _rank_and_world_size()[1] > 1:
        torch.distributed.all_reduce(tensor)
    return tensor
