"""Which devices a run takes, through lightning's Fabric: one, several that share the batch (DDP), or that share the weights too (FSDP).

Fabric takes seconds to import, so only a run that trains imports it.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn

from world_model.layers.st_transformer import STBlock
from world_model.layers.vector_quantizer import VectorQuantizer

if TYPE_CHECKING:
    from lightning.fabric import Fabric
    from torch.distributed.device_mesh import DeviceMesh


def make_fabric(
    *,
    devices: int | Literal["auto"] = "auto",
    num_nodes: int = 1,
    strategy: Literal["auto", "ddp", "fsdp"] = "auto",
    accelerator: str = "auto",
) -> Fabric:
    """The devices of a run: `devices` on each of `num_nodes` machines. Call it first in a script, once.

    `devices="auto"` takes all GPUs, or the CPU where there is none. `strategy="auto"` is "ddp" on several devices: each holds the whole
    model and takes its share of the batch. "fsdp" also splits the weights and the optimiser's moments between the devices, one ST-block
    at a time; it is for models too large for one, and every process must build its model with the same seed.

    Started by torchrun, a process takes the numbers of devices and nodes from there. Without torchrun, more than one device makes this
    call start the script again for each other device.

    Raises:
        ValueError: a strategy that does not exist, or `devices` that torchrun did not start.
    """
    from lightning.fabric import Fabric
    from lightning.fabric.strategies import ModelParallelStrategy

    if accelerator == "auto":  # Fabric would also take Apple's GPUs, which lack float64
        accelerator = "cuda" if torch.cuda.is_available() else "cpu"
    if strategy not in ("auto", "ddp", "fsdp"):
        raise ValueError(f"strategy is {strategy!r}; choose 'auto', 'ddp' or 'fsdp'")
    if torch.distributed.is_torchelastic_launched():
        devices_per_node = int(os.environ["LOCAL_WORLD_SIZE"])
        num_nodes = int(os.environ["WORLD_SIZE"]) // devices_per_node
        if devices not in ("auto", devices_per_node):
            raise ValueError(f"torchrun started {devices_per_node} processes on this machine, not {devices}: leave devices at 'auto'")
    elif devices == "auto":
        devices_per_node = max(1, torch.cuda.device_count()) if accelerator in ("gpu", "cuda") else 1
    else:
        devices_per_node = int(devices)
    chosen: str | ModelParallelStrategy = strategy
    if strategy == "fsdp":
        # Fabric's own FSDPStrategy is of the older kind: it refuses CPUs, and its sharded checkpoints are pickles.
        chosen = ModelParallelStrategy(shard, data_parallel_size=devices_per_node * num_nodes, tensor_parallel_size=1)
    fabric = Fabric(accelerator=accelerator, devices=devices_per_node, num_nodes=num_nodes, strategy=chosen)
    fabric.launch()
    return fabric


def single_device_fabric(device: torch.device) -> Fabric:
    """Fabric on `device` alone."""
    from lightning.fabric import Fabric

    return Fabric(accelerator=device.type, devices=1 if device.type == "cpu" else [device.index or 0])


def gather_weights(model: nn.Module) -> dict[str, Tensor]:
    """The whole weights of a model that FSDP has split, on the CPU of the first process (empty elsewhere); all processes must call it."""
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

    options = StateDictOptions(full_state_dict=True, cpu_offload=True)
    return get_model_state_dict(model, options=options)  # type: ignore[return-value]  # with these options, whole tensors alone


def shard(module: nn.Module, mesh: DeviceMesh) -> nn.Module:
    """Split the weights of `module` over the mesh's data-parallel devices; each ST-block is put together only while it computes.

    Raises:
        ValueError: the module trains a codebook by gradient.
    """
    from torch.distributed.fsdp import fully_shard

    for part in module.modules():
        if isinstance(part, VectorQuantizer) and part.update == "gradient" and part.codes.requires_grad:
            raise ValueError(
                "FSDP would lose the dead codes that a codebook trained by gradient revives: set codebook_update='ema', or strategy='ddp'"
            )
        if isinstance(part, STBlock):
            fully_shard(part, mesh=mesh["data_parallel"])
    fully_shard(module, mesh=mesh["data_parallel"])  # all that is left: embeddings, norms and heads
    return module
