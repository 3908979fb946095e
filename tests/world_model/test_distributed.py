"""Two processes train as one does on the same global batch, and their checkpoints load on another number of processes.

One torchrun of this very file does all that needs two processes (see `main`); the tests compare what it left with one process.
"""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal
from unittest.mock import patch

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from world_model import DynamicsConfig, Genie, GenieConfig, LatentActionConfig, VideoTokenizerConfig
from world_model.data import ClipBatch, ClipSampler, VideoFile, VideoWriter
from world_model.layers.st_transformer import STTransformer, TransformerConfig
from world_model.layers.vector_quantizer import VectorQuantizer
from world_model.training import TrainingConfig, gather_weights, make_fabric, train
from world_model.training.objectives import dynamics_objective, tokenizer_objective

CONFIG = TrainingConfig(steps=20, learning_rate=1e-2, warmup_steps=2, ema_decay=0.8)
CLIPS = {"clip_length": 3, "batch_size": 8, "seed": 0}
# Weights whose gradients are next to nothing: Adam makes steps of their rounding, 5e-3 with one thread on an AMD. Losses agree to 1e-5.
ROUNDING = {"atol": 2e-2, "rtol": 0}


class SmallModel(nn.Module):
    """Frames (B, T, 8, 8, 3) to ST-transformer to codes and back."""

    def __init__(self, update: Literal["gradient", "ema"], reset_after: int = 2) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.read = nn.Linear(48, 16)
            self.transformer = STTransformer(TransformerConfig(num_layers=2, d_model=16, num_heads=2), num_tokens=4)
            self.write = nn.Linear(16, 48)
        self.quantizer = VectorQuantizer(num_codes=12, code_dim=16, update=update, reset_after=reset_after)

    def autoencode(self, patches: Tensor) -> tuple[Tensor, Tensor]:
        quantized = self.quantizer(self.transformer(self.read(patches)))
        return self.write(quantized.vectors), quantized.commitment_loss + quantized.codebook_loss


def loss_function(model: SmallModel, batch: ClipBatch) -> tuple[Tensor, dict[str, Tensor]]:
    """Rebuild patches from noisy ones; the noise of each clip comes from its seed."""
    noise = np.stack([np.random.default_rng(seed).normal(size=(CLIPS["clip_length"], 4, 48)) for seed in batch.seeds])
    patches = torch.from_numpy(batch.frames).reshape(*batch.frames.shape[:2], 4, 48).float() / 255
    rebuilt, quantizer_loss = model.autoencode(patches + 0.1 * torch.from_numpy(noise).float())
    return (rebuilt - patches).square().mean() + 0.1 * quantizer_loss, {"quantizer_loss": quantizer_loss.detach()}


def run(
    folder: Path, update: Literal["gradient", "ema"], fabric: Any = None, reset_after: int = 2, **settings: Any
) -> tuple[SmallModel, list]:
    model, losses = SmallModel(update, reset_after), []
    rank, world_size = (fabric.global_rank, fabric.world_size) if fabric else (0, 1)
    with VideoFile(folder / "video.h5") as video:
        batches = ClipSampler([video], **CLIPS, rank=rank, world_size=world_size)
        steps = train(
            model,
            loss_function,
            batches,
            CONFIG,
            fabric=fabric,
            on_step=lambda step, metrics: losses.append([metric.item() for metric in metrics.values()]),
            **settings,
        )
    assert steps == (20 if "minutes" not in settings else 10 if fabric else 1)  # processes look at the clock at every tenth step
    return model, losses


def genie() -> Genie:
    layers = TransformerConfig(num_layers=1, d_model=16, num_heads=2)
    size: dict[str, Any] = {"image_height": 8, "image_width": 8, "patch_size": 4, "code_dim": 8, "codebook_update": "ema"}
    return Genie(
        GenieConfig(
            tokenizer=VideoTokenizerConfig(encoder=layers, decoder=layers, num_codes=16, **size),
            latent_actions=LatentActionConfig(d_model=16, num_layers=1, num_heads=2, num_codes=4, ramp_steps=0, **size),
            dynamics=DynamicsConfig(num_tokens=4, num_codes=16, action_dim=8, transformer=layers),
        )
    )


def run_genie(folder: Path, part: str, fabric: Any = None) -> tuple[nn.Module, list]:
    """Three steps of the tokenizer, or of the dynamics model and the latent action model beside it."""
    whole, losses = genie(), []
    model, objective = (whole.tokenizer, tokenizer_objective) if part == "tokenizer" else (whole, dynamics_objective(whole, "joint"))
    rank, world_size = (fabric.global_rank, fabric.world_size) if fabric else (0, 1)
    with VideoFile(folder / "video.h5") as video, patch("world_model.precision._cpu_is_fast", return_value=False):  # float32 everywhere
        batches = ClipSampler([video], **CLIPS, rank=rank, world_size=world_size)
        train(
            model,
            objective,
            batches,
            TrainingConfig(steps=3, warmup_steps=0),
            fabric=fabric,
            on_step=lambda step, metrics: losses.append([metrics["loss"].item(), metrics["gradient_norm"].item()]),
        )
    return model, losses


def main(folder: Path) -> None:
    """What two processes do: whole runs with DDP, the first half of a run with DDP, and with FSDP a first half and then the second."""
    results: dict[str, Any] = {}
    ddp = make_fabric(accelerator="cpu", strategy="ddp")
    for update in ("gradient", "ema"):
        model, results[f"ddp {update}"] = run(folder, update, ddp)
        flat = torch.cat([tensor.flatten().double() for tensor in model.state_dict().values()])
        results[f"weights agree {update}"] = bool((ddp.all_gather(flat) == flat).all())
        if ddp.is_global_zero:
            torch.save(model.state_dict(), folder / f"ddp-{update}.pt")
    _, results["ddp half"] = run(folder, "gradient", ddp, checkpoint=folder / "ddp.safetensors", minutes=0)
    _, results["ddp rest"] = run(folder, "gradient", ddp, checkpoint=folder / "single.safetensors")
    for part in ("tokenizer", "genie"):
        _, results[f"ddp {part}"] = run_genie(folder, part, ddp)
    fsdp = make_fabric(accelerator="cpu", strategy="fsdp")
    for part in ("tokenizer", "genie"):
        split, results[f"fsdp {part}"] = run_genie(folder, part, fsdp)
        weights = gather_weights(split)
        if fsdp.is_global_zero:
            torch.save(weights, folder / f"fsdp-{part}.pt")
    model, results["fsdp half"] = run(folder, "ema", fsdp, checkpoint=folder / "fsdp", minutes=0)
    results["shard"] = list(model.transformer.blocks[0].feed_forward[0].weight.to_local().shape)
    if fsdp.is_global_zero:
        shutil.copytree(folder / "fsdp", folder / "fsdp-half")
    fsdp.barrier()
    _, results["fsdp rest"] = run(folder, "ema", fsdp, checkpoint=folder / "fsdp")
    with pytest.raises(ValueError, match="codebook_update='ema', or strategy='ddp'"):
        run(folder, "gradient", fsdp)
    with pytest.raises(ValueError, match="FSDP splits them"):
        train(SmallModel("ema"), loss_function, iter(()), replace(CONFIG, muon_learning_rate=0.02), fabric=fsdp)
    with pytest.raises(ValueError, match="validate looks at the model in one process"):
        run(folder, "ema", fsdp, validate=print)
    with pytest.raises(ValueError, match="needs a folder"):
        run(folder, "ema", fsdp, checkpoint=folder / "ddp.safetensors")
    with pytest.raises(ValueError, match="torchrun started 2 processes"):
        make_fabric(accelerator="cpu", devices=3)
    if fsdp.is_global_zero:
        (folder / "results.json").write_text(json.dumps(results))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("distributed")
    with VideoWriter(folder / "video.h5", frame_shape=(8, 8, 3)) as writer:
        writer.append(np.random.default_rng(0).integers(256, size=(60, 8, 8, 3), dtype=np.uint8))
    run(folder, "gradient", checkpoint=folder / "single.safetensors", minutes=0)
    return folder


@pytest.fixture(scope="module")
def two_processes(folder: Path) -> dict[str, Any]:
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", __file__, str(folder)]
    process = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)
    assert process.returncode == 0, process.stderr[-5000:]
    return json.loads((folder / "results.json").read_text())


def assert_close(losses: list, expected: list) -> None:
    np.testing.assert_allclose(losses, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("update", ["gradient", "ema"])
def test_two_processes_train_as_one_does(folder: Path, two_processes: dict[str, Any], update: Literal["gradient", "ema"]) -> None:
    model, losses = run(folder, update)
    assert_close(two_processes[f"ddp {update}"], losses)
    assert two_processes[f"weights agree {update}"]
    for name, tensor in torch.load(folder / f"ddp-{update}.pt", weights_only=True).items():
        torch.testing.assert_close(tensor, model.state_dict()[name], **ROUNDING)
    _, without_revival = run(folder, update, reset_after=1000)
    assert not np.allclose(losses, without_revival, rtol=1e-3)  # dead codes were revived, so the draw of two processes was the same


@pytest.mark.parametrize("part", ["tokenizer", "genie"])
def test_two_processes_train_the_parts_of_a_genie_as_one_does(folder: Path, two_processes: dict[str, Any], part: str) -> None:
    model, losses = run_genie(folder, part)
    assert_close(two_processes[f"ddp {part}"], losses)
    assert_close(two_processes[f"fsdp {part}"], losses)
    gathered = torch.load(folder / f"fsdp-{part}.pt", weights_only=True)
    assert gathered.keys() == model.state_dict().keys()
    for name, tensor in model.state_dict().items():
        if "num_batches" not in name:  # AdamW's first steps follow the sign of gradients that rounding alone may turn
            torch.testing.assert_close(gathered[name], tensor, atol=1e-3, rtol=1e-4)


def test_a_checkpoint_goes_on_with_another_number_of_processes(folder: Path, tmp_path: Path, two_processes: dict[str, Any]) -> None:
    _, losses = run(folder, "gradient")
    _, rest = run(folder, "gradient", checkpoint=Path(shutil.copy(folder / "ddp.safetensors", tmp_path)))
    assert (len(two_processes["ddp half"]), len(rest)) == (10, 10)
    assert_close(two_processes["ddp half"] + rest, losses)
    assert_close(two_processes["ddp rest"], losses[1:])


def test_sharded_weights_train_as_whole_ones_do(folder: Path, two_processes: dict[str, Any]) -> None:
    whole, losses = run(folder, "ema")
    assert two_processes["shard"] == [32, 16]  # half of the rows of (64, 16)
    assert_close(two_processes["fsdp half"] + two_processes["fsdp rest"], losses)
    finished, none = run(folder, "ema", checkpoint=folder / "fsdp")  # one process assembles the weights of a finished run
    assert none == []
    for name, tensor in whole.state_dict().items():
        torch.testing.assert_close(finished.state_dict()[name], tensor, **ROUNDING)


def test_a_sharded_checkpoint_goes_on_with_one_process(folder: Path, tmp_path: Path, two_processes: dict[str, Any]) -> None:
    _, losses = run(folder, "ema")
    half = shutil.copytree(folder / "fsdp-half", tmp_path / "run")
    _, rest = run(folder, "ema", checkpoint=half)
    assert_close(two_processes["fsdp half"] + rest, losses)
    assert [path.name for path in half.iterdir()] == ["step-000000020"]


def test_damaged_and_foreign_folders_are_refused(folder: Path, tmp_path: Path, two_processes: dict[str, Any]) -> None:
    damaged = shutil.copytree(folder / "fsdp", tmp_path / "run")
    with pytest.raises(ValueError, match="another model"):
        run(folder, "gradient", checkpoint=damaged)
    first, second = sorted(damaged.glob("step-*/*.safetensors"))
    second.write_bytes(second.read_bytes()[:100])
    with pytest.raises(ValueError, match="not a readable training checkpoint"):
        run(folder, "ema", checkpoint=damaged)
    second.unlink()
    with pytest.raises(ValueError, match="another model"):
        run(folder, "ema", checkpoint=damaged)


def test_a_first_sharded_checkpoint_that_was_cut_short_is_none(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "run" / "unfinished").mkdir(parents=True)
    assert len(run(folder, "ema", checkpoint=tmp_path / "run")[1]) == 20


def test_processes_share_the_batch_of_one(folder: Path) -> None:
    with VideoFile(folder / "video.h5") as video:
        whole = ClipSampler([video], **CLIPS)
        shares = [ClipSampler([video], **CLIPS, rank=rank, world_size=4) for rank in range(4)]
        for _ in range(3):
            batch, parts = next(whole), [next(share) for share in shares]
            for name in ("frames", "positions", "seeds"):
                np.testing.assert_array_equal(getattr(batch, name), np.concatenate([getattr(part, name) for part in parts]))
        assert len(set(batch.seeds)) == len(batch.seeds) and batch.seeds.min() >= 0
        assert all(share.state_dict() == whole.state_dict() for share in shares)  # so another number of processes can go on
        with pytest.raises(ValueError, match="make batch_size a multiple"):
            ClipSampler([video], **CLIPS, world_size=3)
        with pytest.raises(ValueError, match="one of 0 to 1"):
            ClipSampler([video], **CLIPS, rank=2, world_size=2)


def test_unknown_strategies_are_refused() -> None:
    with pytest.raises(ValueError, match="choose 'auto', 'ddp' or 'fsdp'"):
        make_fabric(strategy="magic")  # type: ignore[arg-type]


if __name__ == "__main__":
    main(Path(sys.argv[1]))
