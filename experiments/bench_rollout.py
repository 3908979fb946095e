"""How long a generated frame takes: cached and uncached, over context lengths, sampling steps, batch sizes and precisions.

    python experiments/bench_rollout.py                      # the shapes "small" and "big", minutes on 2 cores
    python experiments/bench_rollout.py --shapes small --compile

"small" has 64 tokens a frame, d_model 256, 8 heads, 6 layers; "big" 256 tokens, d_model 512, 8 heads, 12 layers. Weights are random: speed
does not depend on them. "uncached" computes the whole context again in every MaskGIT step, as other implementations do. Medians.
"""

from __future__ import annotations

import csv
import dataclasses
import resource
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import gymnasium
import torch
import tyro
from report import machine
from torch import Tensor

import world_model  # noqa: F401 (registers Genie-v0)
from world_model import DynamicsConfig, DynamicsModel, Genie, SamplingConfig
from world_model.layers.st_transformer import TransformerConfig
from world_model.maskgit import Frame, sample_next_frame
from world_model.presets import coinrun_small

SHAPES = {
    "small": {"num_tokens": 64, "num_layers": 6, "d_model": 256},
    "big": {"num_tokens": 256, "num_layers": 12, "d_model": 512},
}
CLEAR_REFERENCES = Path("/proc/self/clear_refs")
COLUMNS = (
    "shape",
    "way",
    "dtype",
    "batch",
    "context",
    "steps",
    "seconds_per_frame",
    "seconds_per_step",
    "cache_mib",
    "peak_mib",
    "frames_measured",
)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What to measure."""

    shapes: tuple[Literal["small", "big"], ...] = ("small", "big")
    contexts: tuple[int, ...] = (2, 8, 16, 64)
    """frames of context, the new one included"""
    batches: tuple[int, ...] = (1, 8, 64)
    steps: tuple[int, ...] = (1, 5, 10, 25)
    """MaskGIT steps a frame"""
    dtypes: tuple[Literal["float32", "bfloat16"], ...] = ("float32", "bfloat16")
    compile: bool = False
    """measure torch.compile too"""
    patience: float = 10.0
    """seconds that one measurement may take; of an uncached frame that takes longer one step is measured and multiplied (marked ~)"""
    output: Path = Path("runs/bench_rollout.csv")
    """table of all figures, written as they come: seconds are those of a frame of all worlds of a batch; `frames_measured` is 0 where one
    step was measured and multiplied"""

    def __post_init__(self) -> None:
        if not self.contexts or min(self.contexts) < 2:
            raise ValueError(f"contexts is {' '.join(map(str, self.contexts))}; measure 2 frames, the new one and one before it, or more")
        for name in ("batches", "steps"):
            if not getattr(self, name) or min(getattr(self, name)) < 1:
                raise ValueError(f"{name} is {' '.join(map(str, getattr(self, name)))}; give at least one number of 1 or more")


def median_seconds(call: Callable[[], object], device: torch.device, patience: float) -> tuple[float, int]:
    """Median of up to 5 calls after one to warm up, and how many; a single call where that alone exceeds the patience."""
    seconds = []
    for _ in range(6):
        started = time.perf_counter()
        call()
        if device.type == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - started)
        if sum(seconds) > patience:
            break
    measured = seconds[1:] or seconds
    return statistics.median(measured), len(measured)


def forget_peak_memory(device: torch.device) -> None:
    """Look for the peak anew from here on; on a CPU only where the kernel is Linux."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    elif CLEAR_REFERENCES.exists():
        CLEAR_REFERENCES.write_text("5")


def peak_mib(device: torch.device) -> float:
    """The most memory in use since `forget_peak_memory`: by the GPU's tensors, or by the whole process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated() / 2**20
    if CLEAR_REFERENCES.exists():
        lines = CLEAR_REFERENCES.with_name("status").read_text().splitlines()
        return next(float(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM"))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


class Bench:
    """A model with a context of so many frames; `cached` and `uncached` each make the frame that follows it."""

    def __init__(
        self, shape: str, *, window: int, context: int, batch: int, dtype: torch.dtype, device: torch.device, compiled: bool
    ) -> None:
        size = SHAPES[shape]
        transformer = TransformerConfig(num_layers=size["num_layers"], d_model=size["d_model"], num_heads=8, temporal_window=window)
        self.model = DynamicsModel(DynamicsConfig(num_tokens=size["num_tokens"], transformer=transformer)).to(device).eval()
        if compiled:
            self.model.transformer.compile(dynamic=False)
        self.tokens = torch.randint(1024, (batch, context, size["num_tokens"]), device=device)
        self.actions = torch.randn(batch, context, 32, device=device)
        self.generators = [torch.Generator(device).manual_seed(world) for world in range(batch)]
        self.autocast = lambda: torch.autocast(device.type, dtype, enabled=dtype != torch.float32)
        self.cache = self.model.transformer.make_cache(batch, dtype=dtype)
        past = self.cache.restart(torch.arange(batch, device=device), context - 2)
        with torch.no_grad(), self.autocast():
            if context > 2:
                self.model.hidden(self.tokens[:, : context - 2], self.actions[:, : context - 2], cache=past)
                past.advance(context - 2)
        self.cache.put(torch.arange(batch, device=device), past)

    @torch.no_grad()
    def cached(self, sampling: SamplingConfig) -> Tensor:
        """One frame as Rollout makes it."""
        tokens = self.tokens[:, -2]
        last = Frame(tokens, self.actions[:, -2], confidence=torch.ones_like(tokens, dtype=torch.float32), previous=tokens)
        with self.autocast():
            frame = sample_next_frame(self.model, self.cache, last, self.actions[:, -1], sampling, self.generators)
        self.cache.advance(-1)  # the same frame again next time
        return frame.tokens

    @torch.no_grad()
    def uncached(self, num_steps: int) -> None:
        """The work of one frame where nothing is kept: every step computes all frames, and logits for the new one."""
        with self.autocast():
            for _ in range(num_steps):
                self.model.head(self.model.hidden(self.tokens, self.actions)[:, -1]).argmax(dim=-1)

    def cache_mib(self) -> float:
        return sum(2 * layer.keys.numel() * layer.keys.element_size() for layer in self.cache.layers) / 2**20


def measure(settings: Settings, device: torch.device) -> Iterator[dict[str, object]]:
    """All rows, printed as they come: context lengths at batch 1; steps and batches at 16 frames; precisions; compiled or not."""
    longest = max(settings.contexts)

    def row(way: str, shape: str, dtype: str, batch: int, context: int, steps: int, window: int) -> dict[str, object]:
        compiled = way.endswith("compiled")
        forget_peak_memory(device)
        bench = Bench(shape, window=window, context=context, batch=batch, dtype=getattr(torch, dtype), device=device, compiled=compiled)
        estimated = False
        if way.startswith("cached"):
            sampling = SamplingConfig(steps=steps)
            for _ in range(2 if compiled else 0):
                bench.cached(SamplingConfig(steps=2))  # compiles, for a pass over two frames and for one over a single frame
            seconds, count = median_seconds(lambda: bench.cached(sampling), device, settings.patience)
        else:
            seconds, count = median_seconds(lambda: bench.uncached(1), device, settings.patience)
            estimated = seconds * steps * 3 > settings.patience
            if estimated:
                seconds, count = seconds * steps, 0
            else:
                seconds, count = median_seconds(lambda: bench.uncached(steps), device, settings.patience)
        values = (
            shape,
            way,
            dtype,
            batch,
            context,
            steps,
            round(seconds, 4),
            round(seconds / steps, 5),
            round(bench.cache_mib(), 1),
            round(peak_mib(device)),
            count,
        )
        print(
            f"{shape:6} {way:16} {dtype:9} batch {batch:3} context {context:3} steps {steps:3}: "
            f"{'~' if estimated else ''}{seconds:8.3f} s a frame, {seconds / steps:7.4f} s a step, "
            f"cache {bench.cache_mib():6.1f} MiB, peak {peak_mib(device):5.0f} MiB"
        )
        return dict(zip(COLUMNS, values, strict=True))

    for shape in settings.shapes:
        num_steps = 25 if shape == "small" else 10
        for dtype in settings.dtypes:
            for context in settings.contexts:
                for way in ("cached", "uncached"):
                    yield row(way, shape, dtype, 1, context, num_steps, longest)
            for batch in settings.batches if shape == "small" else settings.batches[:2]:
                for steps in settings.steps:
                    yield row("cached", shape, dtype, batch, 16, steps, 16)
        if settings.compile:
            yield row("cached compiled", shape, settings.dtypes[0], 1, 16, num_steps, 16)


def measure_environment(num_envs: int, device: torch.device, patience: float) -> dict[str, object]:
    """A row for Genie-v0 with an untrained coinrun-small at its own sampling settings, its decoder included."""
    config = dataclasses.replace(coinrun_small(), num_prompts=1)
    envs = gymnasium.make_vec("Genie-v0", num_envs=num_envs, model=Genie(config).to(device))
    envs.reset(seed=0)
    actions = envs.action_space.sample()
    seconds, count = median_seconds(lambda: [envs.step(actions) for _ in range(10)], device, patience)
    print(f"Genie-v0, coinrun-small, {num_envs} worlds: {10 * num_envs / seconds:.1f} frames a second")
    return {
        "shape": "coinrun-small",
        "way": "Genie-v0",
        "dtype": "bfloat16" if device.type == "cuda" else "float32",  # as Rollout chooses
        "batch": num_envs,
        "context": config.dynamics.transformer.temporal_window,
        "steps": config.sampling.steps,
        "seconds_per_frame": round(seconds / 10, 4),
        "seconds_per_step": round(seconds / 10 / config.sampling.steps, 5),
        "frames_measured": 10 * count,
    }


def main() -> None:
    settings = tyro.cli(Settings, description=__doc__)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    settings.output.parent.mkdir(parents=True, exist_ok=True)
    with settings.output.open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        print(machine())
        for num_envs in settings.batches:
            writer.writerow(measure_environment(num_envs, device, settings.patience))
            file.flush()
        for row in measure(settings, device):
            writer.writerow(row)
            file.flush()
    print(f"all figures are in {settings.output}")


if __name__ == "__main__":
    main()
