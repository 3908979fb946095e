"""The training loop that every component shares: AdamW and Muon, schedule, clipping, averaged weights, resume; on any number of devices."""

from __future__ import annotations

import math
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor, nn

from world_model.training.checkpoint import has_checkpoint, is_sharded, load_checkpoint, save_checkpoint
from world_model.training.config import TrainingConfig
from world_model.training.fabric import single_device_fabric
from world_model.training.state import Batches, TrainingState

if TYPE_CHECKING:
    from lightning.fabric import Fabric

B = TypeVar("B")

CLOCK_STEPS = 10  # with several processes, how often they ask the first one for the time: asking makes them wait for each other


class Objective(nn.Module):
    """The loss of a batch as one module: DDP and FSDP act around its forward, whatever the loss function calls of the model inside."""

    def __init__(self, model: nn.Module, loss_function: Callable[[nn.Module, Any], tuple[Tensor, dict[str, Tensor]]]) -> None:
        super().__init__()
        self.model = model
        self.loss_function = loss_function

    def forward(self, batch: Any) -> tuple[Tensor, dict[str, Tensor]]:
        return self.loss_function(self.model, batch)


def train(
    model: nn.Module,
    loss_function: Callable[[nn.Module, B], tuple[Tensor, dict[str, Tensor]]],
    batches: Batches[B],
    config: TrainingConfig,
    *,
    fabric: Fabric | None = None,
    checkpoint: str | Path | None = None,
    checkpoint_seconds: float = 60.0,
    minutes: float | None = None,
    on_step: Callable[[int, dict[str, Tensor]], None] | None = None,
    validate: Callable[[int], None] | None = None,
    validate_every: int = 1,
) -> int:
    """Train `model` in place up to step `config.steps`, or for `minutes`, and return the number of steps done in all calls together.

    `loss_function(model, batch)` returns the loss and a dict of scalar metrics. `on_step(step, metrics)` sees them after each step,
    averaged over all processes, in the first process only (progress bars and logs live there). There `validate(step)` is called too, after
    every `validate_every` steps and the last, with the model as it would be if training ended now. `fabric` (see `make_fabric`) says on
    which devices; without one, training stays on the device that the model is on.

    With `checkpoint`, the run is saved there every `checkpoint_seconds` and at its end, and goes on from there, bit-identically on one
    CPU, when called again. On one device Ctrl-C ends the step and saves; a kill, or Ctrl-C on several devices, costs the steps since the
    last save. With FSDP the path is a folder that all nodes share, and the model keeps its shards: to have the whole weights, call
    `train` with the finished folder in a single process.

    Raises:
        ValueError: the checkpoint is damaged, belongs to another model or configuration, or is not seen by all processes; `validate`
            with FSDP.
        OSError: a full disk; the checkpoint stays that of the last save.
        FloatingPointError: the loss or its gradient is not finite when it comes to saving; the checkpoint stays that of the last save.
    """
    fabric = fabric or single_device_fabric(next(model.parameters()).device)
    objective = fabric.setup_module(Objective(model, loss_function))
    state = TrainingState(model, batches, config)  # after the set-up, which may replace the weights by shards
    path = Path(checkpoint) if checkpoint is not None else None
    if validate is not None and is_sharded(state.tensors()):
        raise ValueError("validate looks at the model in one process, and FSDP keeps a shard in each: leave it out, or use strategy='ddp'")
    step = saved_step = resume(path, state, fabric)
    save_at = time.monotonic() + checkpoint_seconds
    stop_at = time.monotonic() + 60 * minutes if minutes is not None else math.inf

    objective.train()
    with delayed_interrupt(enabled=path is not None and fabric.world_size == 1) as interrupted:
        while step < config.steps:
            state.set_learning_rate(step)
            loss, metrics = objective(next(batches))
            for optimizer in state.optimizers:
                optimizer.zero_grad(set_to_none=True)  # not the model, in which FSDP shows other tensors between forward and backward
            fabric.backward(loss)
            norm = nn.utils.clip_grad_norm_(model.parameters(), config.gradient_clip)
            for optimizer in state.optimizers:
                optimizer.step()
            state.update_average()
            step += 1

            norm = norm.full_tensor() if hasattr(norm, "full_tensor") else norm  # that of all shards together
            metrics = average_over_processes(fabric, {"loss": loss.detach(), **metrics, "gradient_norm": norm})
            if on_step is not None and fabric.is_global_zero:
                on_step(step, metrics)
            if validate is not None and fabric.is_global_zero and (step % validate_every == 0 or step == config.steps):
                with state.evaluating(), torch.no_grad():
                    validate(step)
            now, interrupt = time.monotonic(), interrupted()
            save, stop = agree(fabric, step, now > save_at, now > stop_at)
            finite = metrics["loss"].isfinite() & metrics["gradient_norm"].isfinite()
            if (save or interrupt or stop or step == config.steps) and not finite:
                raise FloatingPointError(
                    f"training diverged: the loss of step {step} is {metrics['loss'].item()} and the norm of its gradient "
                    f"{metrics['gradient_norm'].item()}; lower the learning rate"
                )
            if path is not None and (save or interrupt):
                save_checkpoint(path, state, step, fabric)
                saved_step, save_at = step, time.monotonic() + checkpoint_seconds
            if interrupt:
                raise KeyboardInterrupt
            if stop:
                break
        if path is not None and saved_step < step:
            save_checkpoint(path, state, step, fabric)
        if interrupted():  # while it was saved
            raise KeyboardInterrupt
    fabric.barrier()  # no process may read the checkpoint before the first one has written it
    state.use_average()
    model.eval()
    return step


def resume(path: Path | None, state: TrainingState, fabric: Fabric) -> int:
    """Load the checkpoint, where there is one, and return the number of steps done."""
    step = load_checkpoint(path, state) if path is not None and has_checkpoint(path) else 0
    if fabric.broadcast(step) != step:
        raise ValueError(f"not every process sees the checkpoint {path}: put it on a file system that all machines share")
    return step


def agree(fabric: Fabric, step: int, *decisions: bool) -> tuple[bool, ...]:
    """The first process's decisions: clocks differ, and all must save and stop after the same step."""
    if fabric.world_size == 1:
        return decisions
    return fabric.broadcast(decisions) if step % CLOCK_STEPS == 0 else (False,) * len(decisions)


def average_over_processes(fabric: Fabric, metrics: dict[str, Tensor]) -> dict[str, Tensor]:
    """The mean of each scalar metric over all processes, by one message for all of them."""
    if fabric.world_size == 1:
        return metrics
    means = fabric.all_reduce(torch.stack([metric.detach().float() for metric in metrics.values()]), reduce_op="mean")
    return dict(zip(metrics, means, strict=True))


@contextmanager
def delayed_interrupt(*, enabled: bool) -> Iterator[Callable[[], bool]]:
    """Only note the first Ctrl-C, so that the step can be ended and saved; a second one interrupts at once. Gives whether there was one."""
    received: list[int] = []

    def note(number: int, _frame: object) -> None:
        received.append(number)
        signal.signal(signal.SIGINT, signal.default_int_handler)

    # A program that handles Ctrl-C in its own way keeps it, and only the main thread may set handlers.
    in_main_thread = threading.current_thread() is threading.main_thread()
    enabled = enabled and in_main_thread and signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if enabled:
        signal.signal(signal.SIGINT, note)
    try:
        yield lambda: bool(received)
    finally:
        if enabled:
            signal.signal(signal.SIGINT, signal.default_int_handler)
