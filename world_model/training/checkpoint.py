"""Complete, atomic training checkpoints: weights, optimiser moments, averaged weights, torch's generator, position in the data.

A run on one device or with DDP keeps one safetensors file. A run with FSDP keeps a folder, in which each process writes the shard that it
holds (torch.distributed.checkpoint in its safetensors format); nothing is pickled. Both can be loaded on another number of devices, and
a folder also by a run without FSDP, which goes on with a folder.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from world_model.files import WriteError, replace_when_written
from world_model.serialization import UNLEARNED

if TYPE_CHECKING:
    from lightning.fabric import Fabric

    from world_model.training.state import TrainingState


def has_checkpoint(path: Path) -> bool:
    """Whether a run can go on from `path`; a folder in which the first checkpoint was cut short holds none."""
    return path.is_file() or any(path.glob("step-*"))


def save_checkpoint(path: Path, state: TrainingState, step: int, fabric: Fabric) -> None:
    """Write all that `load_checkpoint` needs; a crash while writing leaves the previous checkpoint untouched. All processes call it."""
    tensors = {name: tensor.detach() for name, tensor in state.tensors().items()} | {"torch_generator": torch.get_rng_state()}
    configs = {"config": dataclasses.asdict(state.config), "model": model_config(state.model)}
    progress = json.dumps({"step": step, **configs, "batches": state.batches.state_dict()}, default=str)
    if path.is_dir() or is_sharded(tensors):
        _save_folder(path, tensors, progress, step, fabric)
    elif fabric.is_global_zero:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replace_when_written(path) as temporary:
            try:
                save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, temporary, {"progress": progress})
            except SafetensorError as error:
                raise WriteError.of(path, error) from error


def load_checkpoint(path: Path, state: TrainingState) -> int:
    """Restore a run in place and return the number of steps already done.

    Raises:
        ValueError: the checkpoint is damaged, or belongs to a model with weights of other names or shapes, or to another configuration of
            model or training.
    """
    remedy = f"remove {path} to start anew, or use the settings it was written with"
    tensors = state.tensors() | {"torch_generator": torch.get_rng_state()}
    if path.is_file() and is_sharded(tensors):
        raise ValueError(f"{path} is a file and a run with FSDP needs a folder: give another path to start anew, or use strategy='ddp'")
    try:
        progress, shapes = _read_folder(path) if path.is_dir() else _read_file(path)
        step, config, position = int(progress["step"]), dict(progress["config"]), progress["batches"]
        trained = dict(progress.get("model", model_config(state.model)))  # checkpoints of earlier versions do not say it
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is not a readable training checkpoint ({error}); {remedy}") from error
    for theirs, ours in ((config, dataclasses.asdict(state.config)), (trained, model_config(state.model))):
        if changed := [f"{name} {theirs.get(name)}, not {ours.get(name)}" for name in ours | theirs if theirs.get(name) != ours.get(name)]:
            raise ValueError(f"the checkpoint was trained with {'; '.join(changed)}; {remedy}")
    expected = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    if differing := sorted(name for name in expected | shapes if expected.get(name) != shapes.get(name)):
        raise ValueError(f"the checkpoint holds another model ({', '.join(differing[:3])} and more differ); {remedy}")
    try:
        state.batches.load_state_dict(position)
    except ValueError as error:
        raise ValueError(f"{path} belongs to another run ({error}); {remedy}") from error
    if path.is_dir():
        _load_folder(path, tensors)
    else:
        with safe_open(path, framework="pt") as file, torch.no_grad():
            for name, tensor in tensors.items():
                tensor.copy_(file.get_tensor(name))
    torch.set_rng_state(tensors["torch_generator"])
    return step


def model_config(model: nn.Module) -> dict[str, Any]:
    """The settings of a model, or of the one that it holds, as JSON gives them back; none of a module that has no `config`."""
    configs = (module.config for module in model.modules() if dataclasses.is_dataclass(getattr(module, "config", None)))
    config: Any = next(configs, None)
    settings = {} if config is None else dataclasses.asdict(config)
    return json.loads(json.dumps({name: value for name, value in settings.items() if name not in UNLEARNED}, default=str))


def is_sharded(tensors: dict[str, Tensor]) -> bool:
    """Whether any is a DTensor. (Importing that class takes half a second, which runs without it should not pay.)"""
    return any(hasattr(tensor, "full_tensor") for tensor in tensors.values())


def _read_file(path: Path) -> tuple[dict[str, Any], dict[str, tuple[int, ...]]]:
    """Progress and shapes of all tensors."""
    with safe_open(path, framework="pt") as file:
        shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118 (not a dict)
        return json.loads(file.metadata()["progress"]), shapes


def _save_folder(folder: Path, tensors: dict[str, Tensor], progress: str, step: int, fabric: Fabric) -> None:
    import torch.distributed.checkpoint as distributed_checkpoint

    temporary, complete = folder / "unfinished", folder / f"step-{step:09d}"
    if fabric.is_global_zero:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
    fabric.barrier()
    writer = distributed_checkpoint.HuggingFaceStorageWriter(str(temporary), save_distributed=True)
    try:
        distributed_checkpoint.save(tensors, storage_writer=writer, no_dist=not torch.distributed.is_initialized())
    except distributed_checkpoint.CheckpointException as error:  # no Exception, and its message is a traceback
        causes = [cause for cause, _ in error.failures.values()]
        if not all(isinstance(cause, OSError | SafetensorError) for cause in causes):
            raise
        raise WriteError.of(folder, causes[0]) from error
    fabric.barrier()
    if fabric.is_global_zero:
        (temporary / "progress.json").write_text(progress)
        shutil.rmtree(complete, ignore_errors=True)
        os.replace(temporary, complete)  # from here on it is the newest complete one
        for older in set(folder.glob("step-*")) - {complete}:
            shutil.rmtree(older)
    fabric.barrier()


def _newest(folder: Path) -> Path:
    return max(folder.glob("step-*"), default=folder / "step-*")


def _read_folder(folder: Path) -> tuple[dict[str, Any], dict[str, tuple[int, ...]]]:
    from torch.distributed.checkpoint import HuggingFaceStorageReader
    from torch.distributed.checkpoint.metadata import TensorStorageMetadata

    progress = json.loads((_newest(folder) / "progress.json").read_text())
    stored = HuggingFaceStorageReader(str(_newest(folder))).read_metadata().state_dict_metadata
    return progress, {name: tuple(entry.size) for name, entry in stored.items() if isinstance(entry, TensorStorageMetadata)}


def _load_folder(folder: Path, tensors: dict[str, Tensor]) -> None:
    import torch.distributed.checkpoint as distributed_checkpoint

    reader = distributed_checkpoint.HuggingFaceStorageReader(str(_newest(folder)))
    distributed_checkpoint.load(tensors, storage_reader=reader, no_dist=not torch.distributed.is_initialized())
