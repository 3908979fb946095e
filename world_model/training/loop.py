"""The training loop that every component shares: AdamW, warm-up and cosine decay, gradient clipping, bf16 matrix work, resume."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import torch
from torch import Tensor, nn

from world_model.training.checkpoint import load_checkpoint, save_checkpoint

Batch = TypeVar("Batch", covariant=True)
B = TypeVar("B")


class Batches(Protocol, Generic[Batch]):
    """An endless, seeded stream of batches that can say where it stands (a JSON-serialisable dict) and return there."""

    def __next__(self) -> Batch: ...

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """How to optimise. The schedule is linear warm-up, then a cosine from `learning_rate` down to `min_learning_rate` at `steps`."""

    steps: int
    learning_rate: float = 1e-3
    min_learning_rate: float = 1e-5
    warmup_steps: int = 100
    weight_decay: float = 1e-4
    beta1: float = 0.9
    beta2: float = 0.99
    gradient_clip: float = 1.0

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"steps is {self.steps}; train for at least 1 step")
        if not 0 <= self.min_learning_rate <= self.learning_rate:
            raise ValueError(f"min_learning_rate {self.min_learning_rate} must lie between 0 and learning_rate {self.learning_rate}")
        if self.gradient_clip <= 0:
            raise ValueError(f"gradient_clip is {self.gradient_clip}; give a positive norm")

    def learning_rate_at(self, step: int) -> float:
        """Learning rate of step `step`, counted from 0."""
        warmup_steps = min(self.warmup_steps, self.steps // 2)  # a run shorter than the warm-up must still reach its learning rate
        if step < warmup_steps:
            return self.learning_rate * (step + 1) / warmup_steps
        progress = (step - warmup_steps) / max(1, self.steps - warmup_steps)
        return self.min_learning_rate + (self.learning_rate - self.min_learning_rate) * 0.5 * (1 + math.cos(math.pi * progress))


def train(
    model: nn.Module,
    loss_function: Callable[[nn.Module, B], tuple[Tensor, dict[str, Tensor]]],
    batches: Batches[B],
    config: TrainingConfig,
    *,
    checkpoint: str | Path | None = None,
    checkpoint_seconds: float = 60.0,
    on_step: Callable[[int, dict[str, Tensor]], None] | None = None,
) -> None:
    """Train `model` in place for `config.steps` steps.

    `loss_function(model, batch)` returns the loss and a dict of metrics; `on_step(step, metrics)` sees them after each step (progress
    bars and logs live there). With `checkpoint`, the run is saved there every `checkpoint_seconds` and at its end, and goes
    on from there, bit-identically on one CPU, when called again: an interrupt costs at most the seconds since the last save.

    Raises:
        ValueError: the checkpoint belongs to another model or configuration.
    """
    matrices = [p for p in model.parameters() if p.requires_grad and p.ndim >= 2]
    vectors = [p for p in model.parameters() if p.requires_grad and p.ndim < 2]
    optimizer = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": config.weight_decay}, {"params": vectors, "weight_decay": 0.0}],
        lr=config.learning_rate,
        betas=(config.beta1, config.beta2),
    )
    step = 0
    path = Path(checkpoint) if checkpoint is not None else None
    if path is not None and path.exists():
        step = load_checkpoint(path, model, optimizer, batches, config)
    model.train()
    saved_at, saved_step = time.monotonic(), step
    while step < config.steps:
        for group in optimizer.param_groups:
            group["lr"] = config.learning_rate_at(step)
        loss, metrics = loss_function(model, next(batches))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        metrics["gradient_norm"] = nn.utils.clip_grad_norm_(model.parameters(), config.gradient_clip)
        optimizer.step()
        step += 1
        if on_step is not None:
            on_step(step, {"loss": loss.detach(), **metrics})
        if path is not None and time.monotonic() - saved_at > checkpoint_seconds:
            save_checkpoint(path, model, optimizer, batches, config, step)
            saved_at, saved_step = time.monotonic(), step
    if path is not None and saved_step < step:
        save_checkpoint(path, model, optimizer, batches, config, step)
    model.eval()
