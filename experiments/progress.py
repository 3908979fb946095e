"""The progress bar of a training run."""

from __future__ import annotations

from collections.abc import Callable

import torch
from tqdm import tqdm


def training_bar(title: str, steps: int, *, hidden: bool = False) -> Callable[[int, dict[str, torch.Tensor]], None]:
    """A progress bar for `train`'s `on_step`. It reads the metrics only now and then: reading them waits for the device."""
    bar = tqdm(total=steps, desc=title, unit="step", dynamic_ncols=True, disable=hidden)

    def on_step(step: int, metrics: dict[str, torch.Tensor]) -> None:
        if step % 20 == 0 or step == steps:
            bar.set_postfix({name: f"{value.item():.3f}" for name, value in metrics.items() if value.ndim == 0})
        bar.update(step - bar.n)
        if step == steps:
            bar.close()

    return on_step
