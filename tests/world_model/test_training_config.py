"""Schedules and settings of training."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from world_model.training import DYNAMICS_TRAINING, TOKENIZER_TRAINING, TrainingConfig


def test_cosine_schedule_warms_up_and_decays() -> None:
    config = TrainingConfig(steps=100, warmup_steps=10, learning_rate=1.0, min_learning_rate=0.1)
    rates = [config.learning_rate_at(step) for step in range(100)]
    assert rates[0] == pytest.approx(0.1) and max(rates) == pytest.approx(1.0) and rates.index(max(rates)) in (9, 10)
    assert rates[-1] == pytest.approx(0.1, abs=0.01) and rates[10:] == sorted(rates[10:], reverse=True)


def test_wsd_schedule_is_flat_until_it_decays() -> None:
    config = TrainingConfig(steps=100, schedule="wsd", warmup_steps=10, decay_fraction=0.2, learning_rate=1.0, min_learning_rate=0.1)
    rates = [config.learning_rate_at(step) for step in range(101)]
    assert rates[9:81] == [1.0] * 72
    assert np.diff(rates[80:]) == pytest.approx(np.full(20, -0.9 / 20))
    assert rates[100] == pytest.approx(0.1)


def test_the_papers_settings_have_the_papers_rates() -> None:
    assert {TOKENIZER_TRAINING.learning_rate_at(step) for step in (9_999, 50_000, 299_999)} == {3e-4}
    assert DYNAMICS_TRAINING.learning_rate_at(4_999) == pytest.approx(3e-5)
    assert DYNAMICS_TRAINING.learning_rate_at(199_999) == pytest.approx(3e-6, rel=1e-3)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"steps": 0}, "at least 1 step"),
        ({"steps": 2.5}, "steps is 2.5; give a whole number"),
        ({"warmup_steps": 2.5}, "warmup_steps is 2.5; give a whole number"),
        ({"learning_rate": float("nan")}, "learning_rate is nan"),
        ({"muon_learning_rate": float("nan")}, "muon_learning_rate is nan"),
        ({"weight_decay": float("nan")}, "weight_decay is nan"),
        ({"gradient_clip": float("nan")}, "positive norm"),
        ({"learning_rate": 0.0, "min_learning_rate": 0.0}, "learning_rate is 0.0"),
        ({"min_learning_rate": 1.0}, "min_learning_rate"),
        ({"schedule": "linear"}, "choose 'cosine' or 'wsd'"),
        ({"warmup_steps": -1}, "warmup_steps"),
        ({"decay_fraction": 0.0}, "share of the steps"),
        ({"weight_decay": -0.1}, "weight_decay is -0.1"),
        ({"muon_weight_decay": -0.1}, "muon_weight_decay is -0.1"),
        ({"beta2": 1.0}, "beta2 is 1.0"),
        ({"ema_decay": 1.0}, "ema_decay is 1.0"),
        ({"gradient_clip": 0.0}, "positive norm"),
    ],
)
def test_bad_settings_are_refused(setting: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(TrainingConfig(steps=1), **setting)
