"""Muon (Jordan et al. 2024): every step of a weight matrix is the orthogonal matrix nearest to its gradient's running mean.

torch.optim.Muon is the same for one matrix at a time and always in bfloat16, which processors without bfloat16 only emulate: there it
took half of the training step of a dynamics model. This one takes matrices of one shape together, in the arithmetic that is fast, and
convolutions too.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable

import torch
from torch import Tensor

from world_model.precision import bf16_autocast

COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # of the quintic; chosen by Jordan et al. to lift small singular values fast
ITERATIONS = 5


class Muon(torch.optim.Optimizer):
    """Nesterov momentum, orthogonalised. Weights (R, C) move by lr * sqrt(max(1, R / C)) in every direction.

    A convolution's kernels (R, channels, height, width) are a matrix with a row an output channel. Vectors are refused by a ValueError.
    """

    def __init__(self, weights: Iterable[Tensor], *, lr: float, weight_decay: float, momentum: float = 0.95) -> None:
        super().__init__(weights, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum})
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.ndim < 2:
                    raise ValueError(f"Muon is for matrices, got weights of shape {tuple(weight.shape)}: give those to AdamW")
                self.state[weight] = {"momentum_buffer": torch.zeros_like(weight, requires_grad=False)}

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]  # nothing here evaluates the loss again
        for group in self.param_groups:
            by_shape = defaultdict(list)
            for weight in group["params"]:
                if weight.grad is not None:
                    by_shape[weight.shape].append(weight)
            for weights in by_shape.values():
                updates = []
                for weight in weights:
                    mean = self.state[weight]["momentum_buffer"].lerp_(weight.grad, 1 - group["momentum"])
                    updates.append(weight.grad.lerp(mean, group["momentum"]).flatten(1))
                rows, columns = updates[0].shape
                rate = group["lr"] * math.sqrt(max(1, rows / columns))
                for weight, update in zip(weights, orthogonalise(torch.stack(updates)), strict=True):
                    weight.mul_(1 - group["lr"] * group["weight_decay"]).add_(update.reshape(weight.shape), alpha=-rate)


def orthogonalise(matrices: Tensor) -> Tensor:
    """Matrices (M, R, C) with their singular values brought near 1, between about 0.7 and 1.2, by Newton-Schulz iterations."""
    if matrices.shape[1] > matrices.shape[2]:
        return orthogonalise(matrices.mT).mT
    a, b, c = COEFFICIENTS
    matrices = matrices / torch.linalg.matrix_norm(matrices, keepdim=True).clamp(min=1e-7)  # largest singular value at most 1
    with bf16_autocast(matrices.device):
        for _ in range(ITERATIONS):
            gram = matrices @ matrices.mT
            matrices = torch.baddbmm(matrices, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), matrices, beta=a)
    return matrices
