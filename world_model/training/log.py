"""A log of metrics: one JSON object a line, one line a logged step."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from world_model.files import replace_when_written
from world_model.training.config import TrainingConfig


class MetricsLog:
    """Writes `step`, `seconds` of training, `learning_rate` and all scalar metrics of every `every`-th step; fit for `train`'s `on_step`.

    A run that goes on from a checkpoint repeats the steps after it. So the first step that a new log is given drops all lines from that
    step on, and a last line that was cut short by a kill: each step stands in the file once. Seconds go on from the last line kept.
    """

    def __init__(self, path: str | Path, config: TrainingConfig, *, every: int = 1) -> None:
        if every < 1:
            raise ValueError(f"every is {every}; log every step (1), or every so many")
        self.path, self.config, self.every = Path(path), config, every
        self._opened = time.monotonic()
        self._resumed = False

    def __call__(self, step: int, metrics: Mapping[str, Tensor]) -> None:
        if not self._resumed:
            self._resume(step)
        if step % self.every and step != self.config.steps:
            return
        numbers = {name: value.item() for name, value in metrics.items() if value.ndim == 0}
        entry = {
            "step": step,
            "seconds": round(time.monotonic() - self._opened, 3),
            "learning_rate": self.config.learning_rate_at(step - 1),
            **{name: number if math.isfinite(number) else None for name, number in numbers.items()},  # JSON knows no infinity
        }
        with self.path.open("a") as file:  # closed at once: a killed run loses no line
            file.write(json.dumps(entry) + "\n")

    def _resume(self, step: int) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        kept = [entry for entry in read_log(self.path) if entry["step"] < step] if self.path.exists() else []
        with replace_when_written(self.path) as temporary:
            temporary.write_text("".join(json.dumps(entry) + "\n" for entry in kept))
        self._opened -= kept[-1]["seconds"] if kept else 0.0
        self._resumed = True


def read_log(path: str | Path) -> list[dict[str, Any]]:
    """All complete lines of a log, oldest first."""
    complete = Path(path).read_text().split("\n")[:-1]  # what follows the last line end was cut short
    return [json.loads(line) for line in complete]
