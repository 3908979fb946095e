"""What changes while a run trains: weights, the optimizers' moments, averaged weights and the position in the data."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Generic, Protocol, TypeVar

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from world_model.training.config import TrainingConfig
from world_model.training.muon import Muon

Batch = TypeVar("Batch", covariant=True)


class Batches(Protocol, Generic[Batch]):
    """An endless, seeded stream of batches that can say where it stands (a JSON-serialisable dict) and return there.

    With several processes each one's stream gives its own share of every global batch, and `state_dict` is the same for all.
    """

    def __next__(self) -> Batch: ...

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


class TrainingState:
    """A model with its optimizers, the averaged weights (none without `config.ema_decay`) and the data it is trained with."""

    def __init__(self, model: nn.Module, batches: Batches[Any], config: TrainingConfig) -> None:
        self.model, self.batches, self.config = model, batches, config
        self.weights = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
        self.optimizers = make_optimizers(model, config)
        self.average = {name: weight.detach().clone() for name, weight in self.weights.items()} if config.ema_decay else {}
        self._move_average = get_ema_multi_avg_fn(config.ema_decay)

    def set_learning_rate(self, step: int) -> None:
        """Give every group of weights its learning rate of step `step`."""
        share = self.config.learning_rate_at(step) / self.config.learning_rate
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = share * group["initial_lr"]

    def update_average(self) -> None:
        """Move the averaged weights towards the weights."""
        if self.average:
            self._move_average(list(self.average.values()), list(self.weights.values()), 0)

    @torch.no_grad()
    def use_average(self) -> None:
        """Put the averaged weights, where there are any, into the model. Buffers stay what they are."""
        for name, average in self.average.items():
            self.weights[name].copy_(average)

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """The model as it would be if training ended now: with the averaged weights, where there are any, and in evaluation mode."""
        present = {name: self.weights[name].detach().clone() for name in self.average}
        self.use_average()
        self.model.eval()
        try:
            yield
        finally:
            with torch.no_grad():
                for name, weight in present.items():
                    self.weights[name].copy_(weight)
            self.model.train()

    def tensors(self) -> dict[str, Tensor]:
        """The run's own tensors, not copies of them, by names that do not depend on the number of devices."""
        tensors = {f"model.{name}": tensor for name, tensor in self.model.state_dict().items()}
        for name, weight in self.weights.items():
            for optimizer in self.optimizers:
                tensors |= {f"optimizer.{name}.{key}": tensor for key, tensor in optimizer.state.get(weight, {}).items()}
        return tensors | {f"average.{name}": tensor for name, tensor in self.average.items()}


def make_optimizers(model: nn.Module, config: TrainingConfig) -> list[torch.optim.Optimizer]:
    """AdamW, with weight decay on matrices only, and Muon for those of hidden layers where `config` asks for it.

    Hidden are the modules that say so by an attribute, `hidden_layers = True`. The moments are there from the start, so that a checkpoint
    can be read into them.
    """
    hidden = [module for module in model.modules() if getattr(module, "hidden_layers", False)] if config.muon_learning_rate else []
    matrices = [weight for module in hidden for weight in module.parameters() if weight.requires_grad and weight.ndim >= 2]
    others = [weight for weight in model.parameters() if weight.requires_grad and not any(weight is matrix for matrix in matrices)]
    groups = [
        {"params": [weight for weight in others if weight.ndim >= 2], "weight_decay": config.weight_decay},
        {"params": [weight for weight in others if weight.ndim < 2], "weight_decay": 0.0},
    ]
    adamw = torch.optim.AdamW(groups, lr=config.learning_rate, betas=(config.beta1, config.beta2))
    for weight in others:
        zeros = torch.zeros_like(weight, requires_grad=False)
        adamw.state[weight] = {"step": torch.tensor(0.0), "exp_avg": zeros, "exp_avg_sq": zeros.clone()}
    optimizers: list[torch.optim.Optimizer] = [adamw]
    if matrices:
        if any(hasattr(matrix, "full_tensor") for matrix in matrices):
            raise ValueError("Muon needs whole matrices and FSDP splits them: set muon_learning_rate to 0, or use strategy='ddp'")
        optimizers.append(Muon(matrices, lr=config.muon_learning_rate, weight_decay=config.muon_weight_decay))
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["initial_lr"] = group["lr"]
    return optimizers
