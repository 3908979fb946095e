"""Seconds of one training step: forward, backward and AdamW, for the tokenizer and the dynamics model.

    python experiments/bench_training.py             # add --compile to try torch.compile

The shape is "small" of bench_rollout.py with 4 + 4 tokenizer layers, patches of 8, clips of 16 frames of 64 x 64, batch 4. Data is random.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
import tyro
from report import machine
from torch import Tensor

from world_model import DynamicsConfig, DynamicsModel, VideoTokenizer, VideoTokenizerConfig
from world_model.dynamics import draw_mask, dynamics_loss
from world_model.layers.st_transformer import TransformerConfig
from world_model.tokenizer import tokenizer_loss
from world_model.training import tune_cpu

FRAMES = 16


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What to measure."""

    batch_size: int = 4
    repeats: int = 5
    """steps measured, after one to warm up; the median counts"""
    dtypes: tuple[Literal["float32", "bfloat16"], ...] = ("float32", "bfloat16")
    compile: bool = False
    """measure torch.compile too"""


def tokenizer_step(model: torch.nn.Module, batch_size: int, device: torch.device) -> Tensor:
    frames = torch.randint(256, (batch_size, FRAMES, 64, 64, 3), dtype=torch.uint8, device=device)
    return tokenizer_loss(model(frames), frames)[0]


def dynamics_step(model: torch.nn.Module, batch_size: int, device: torch.device) -> Tensor:
    tokens = torch.randint(1024, (batch_size, FRAMES, 64), device=device)
    mask = draw_mask(tuple(tokens.shape), torch.arange(batch_size)).to(device)
    logits = model(tokens.masked_fill(mask, 1024), torch.randn(batch_size, FRAMES, 32, device=device))
    return dynamics_loss(logits, tokens, mask)[0]


def seconds_per_step(model: torch.nn.Module, loss: Callable[..., Tensor], settings: Settings, dtype: torch.dtype) -> float:
    """Median over `settings.repeats` steps."""
    device = next(model.parameters()).device
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    seconds = []
    for _ in range(settings.repeats + 1):
        started = time.perf_counter()
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            value = loss(model, settings.batch_size, device)
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        if device.type == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds[1:])


def main() -> None:
    settings = tyro.cli(Settings, description=__doc__)
    tune_cpu()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    layers = TransformerConfig(num_layers=4, d_model=256, num_heads=8, temporal_window=FRAMES)
    parts: dict[str, tuple[Callable[[], torch.nn.Module], Callable[..., Tensor]]] = {
        "tokenizer, patch stem": (lambda: VideoTokenizer(VideoTokenizerConfig(encoder=layers, decoder=layers)), tokenizer_step),
        "tokenizer, conv stem": (lambda: VideoTokenizer(VideoTokenizerConfig(encoder=layers, decoder=layers, stem="conv")), tokenizer_step),
        "dynamics": (lambda: DynamicsModel(DynamicsConfig()), dynamics_step),
    }
    print(machine())
    for name, (build, loss) in parts.items():
        for dtype in settings.dtypes:
            for compiled in (False, True) if settings.compile else (False,):
                model = build().to(device)
                millions = sum(weight.numel() for weight in model.parameters()) / 1e6
                if compiled:
                    model.compile()
                seconds = seconds_per_step(model, loss, settings, getattr(torch, dtype))
                print(f"{name:22} {millions:5.1f} M weights, {dtype:9}{' compiled' if compiled else '':9}: {seconds:.3f} s a step")


if __name__ == "__main__":
    main()
