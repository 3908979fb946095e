"""How to optimise: the settings of AdamW and its learning-rate schedule, and those that the paper used."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """How to optimise: with AdamW, and the matrices of hidden layers with Muon (Jordan et al. 2024) where it is given a rate.

    `schedule`: linear warm-up, then "cosine" falls to `min_learning_rate` at `steps`, and "wsd" (warm-up, stable, decay; Hu et al. 2024)
    stays at `learning_rate` and falls linearly over the last `decay_fraction` of the steps.
    `muon_learning_rate`: above 0, the rate of Muon, which follows the same schedule; typically 0.02. Not with FSDP. Its steps
    are all of one size: `muon_weight_decay` is what keeps weights from growing with their number.
    `ema_decay`: above 0, the trained model holds an exponential moving average of its weights, of that decay a step.
    """

    steps: int
    learning_rate: float = 1e-3
    min_learning_rate: float = 1e-5
    muon_learning_rate: float = 0.0
    muon_weight_decay: float = 0.01
    schedule: Literal["cosine", "wsd"] = "cosine"
    warmup_steps: int = 100
    decay_fraction: float = 0.1
    weight_decay: float = 1e-4
    beta1: float = 0.9
    beta2: float = 0.99
    gradient_clip: float = 1.0
    ema_decay: float = 0.0

    def __post_init__(self) -> None:
        for name in ("steps", "warmup_steps"):
            if not isinstance(getattr(self, name), int):
                raise ValueError(f"{name} is {getattr(self, name)!r}; give a whole number")
        if self.steps < 1:
            raise ValueError(f"steps is {self.steps}; train for at least 1 step")
        if not self.learning_rate > 0:  # NaN is none, here and below
            raise ValueError(f"learning_rate is {self.learning_rate}; give a rate above 0")
        if not 0 <= self.min_learning_rate <= self.learning_rate:
            raise ValueError(f"min_learning_rate {self.min_learning_rate} must lie between 0 and learning_rate {self.learning_rate}")
        if not self.muon_learning_rate >= 0:
            raise ValueError(f"muon_learning_rate is {self.muon_learning_rate}; give 0 to use AdamW for all weights, or more")
        if self.schedule not in ("cosine", "wsd"):
            raise ValueError(f"schedule is {self.schedule!r}; choose 'cosine' or 'wsd'")
        if self.warmup_steps < 0:
            raise ValueError(f"warmup_steps is {self.warmup_steps}; give 0 for no warm-up, or more")
        if not 0 < self.decay_fraction <= 1:
            raise ValueError(f"decay_fraction is {self.decay_fraction}; give the share of the steps that decay, above 0 and up to 1")
        for name in ("weight_decay", "muon_weight_decay"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} is {getattr(self, name)}; give 0 for none, or more")
        for name in ("beta1", "beta2", "ema_decay"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; give a decay of at least 0 and below 1")
        if not self.gradient_clip > 0:
            raise ValueError(f"gradient_clip is {self.gradient_clip}; give a positive norm")

    def learning_rate_at(self, step: int) -> float:
        """Learning rate of step `step`, counted from 0."""
        warmup_steps = min(self.warmup_steps, self.steps // 2)  # a run shorter than the warm-up must still reach its learning rate
        if step < warmup_steps:
            return self.learning_rate * (step + 1) / warmup_steps
        if self.schedule == "cosine":
            progress = (step - warmup_steps) / max(1, self.steps - warmup_steps)
            share = 0.5 * (1 + math.cos(math.pi * progress))
        else:
            decay_steps = min(math.ceil(self.decay_fraction * self.steps), self.steps - warmup_steps)
            share = min(1.0, (self.steps - step) / decay_steps)
        return self.min_learning_rate + (self.learning_rate - self.min_learning_rate) * share


# Genie, table 8: a flat rate after the warm-up.
TOKENIZER_TRAINING = TrainingConfig(
    steps=300_000, learning_rate=3e-4, min_learning_rate=3e-4, warmup_steps=10_000, weight_decay=1e-4, beta1=0.9, beta2=0.9
)
# Genie, table 9, with the steps of the CoinRun model.
DYNAMICS_TRAINING = TrainingConfig(
    steps=200_000, learning_rate=3e-5, min_learning_rate=3e-6, warmup_steps=5_000, weight_decay=1e-4, beta1=0.9, beta2=0.9
)
