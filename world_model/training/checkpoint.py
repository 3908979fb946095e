"""Complete, atomic training checkpoints in one safetensors file: weights, AdamW moments, torch's generator, position in the data."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

if TYPE_CHECKING:
    from world_model.training.loop import Batches, TrainingConfig


def save_checkpoint(
    path: Path, model: nn.Module, optimizer: torch.optim.Optimizer, batches: Batches[Any], config: TrainingConfig, step: int
) -> None:
    """Write everything that `load_checkpoint` needs; a crash while writing leaves the previous checkpoint untouched."""
    tensors: dict[str, Tensor] = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
    for index, state in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{name}": tensor for name, tensor in state.items()}
    tensors["torch_generator"] = torch.get_rng_state()
    progress = {"step": step, "config": dataclasses.asdict(config), "batches": batches.state_dict()}
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    save_file({name: tensor.detach().contiguous() for name, tensor in tensors.items()}, temporary, {"progress": json.dumps(progress)})
    os.replace(temporary, path)


def load_checkpoint(path: Path, model: nn.Module, optimizer: torch.optim.Optimizer, batches: Batches[Any], config: TrainingConfig) -> int:
    """Restore a run in place and return the number of steps already done.

    Raises:
        ValueError: the file is damaged, or belongs to another model or training configuration.
    """
    remedy = f"remove {path} to start anew, or use the settings it was written with"
    try:
        with safe_open(path, framework="pt") as file:
            progress = json.loads(file.metadata()["progress"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except (SafetensorError, KeyError, TypeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path} is not a readable training checkpoint ({error}); {remedy}") from error
    if progress["config"] != dataclasses.asdict(config):
        raise ValueError(f"the checkpoint was trained with {progress['config']}, not with {dataclasses.asdict(config)}; {remedy}")
    try:
        model.load_state_dict({name[6:]: tensor for name, tensor in tensors.items() if name.startswith("model.")})
    except RuntimeError as error:
        raise ValueError(f"the checkpoint holds another model ({error}); {remedy}") from error
    states: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        if name.startswith("optimizer."):
            _, index, key = name.split(".")
            states.setdefault(int(index), {})[key] = tensor
    optimizer.load_state_dict({"state": states, "param_groups": optimizer.state_dict()["param_groups"]})
    torch.set_rng_state(tensors["torch_generator"])
    batches.load_state_dict(progress["batches"])
    return int(progress["step"])
