"""The shared loop: learns, resumes bit-identically, refuses what does not belong to it."""

import numpy as np
import pytest
import torch
from torch import nn

from world_model.training import TrainingConfig, train


class NumberedBatches:
    """Noisy samples of a line; batch k depends on the seed and k alone."""

    def __init__(self) -> None:
        self.position = 0

    def __next__(self) -> tuple[torch.Tensor, torch.Tensor]:
        x = torch.from_numpy(np.random.default_rng(self.position).normal(size=(16, 3)).astype(np.float32))
        self.position += 1
        return x, x.sum(dim=1, keepdim=True)

    def state_dict(self):
        return {"position": self.position}

    def load_state_dict(self, state):
        self.position = state["position"]


def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 8), nn.Dropout(0.2), nn.Linear(8, 1))


def loss_function(model, batch):
    loss = (model(batch[0]) - batch[1]).square().mean()
    return loss, {}


def run(config, checkpoint=None, stop_at=None, every=0.0):
    trained, losses = model(), []

    def on_step(step, metrics):
        losses.append(metrics["loss"].item())
        if step == stop_at:
            raise KeyboardInterrupt

    torch.manual_seed(1)
    try:
        train(trained, loss_function, NumberedBatches(), config, checkpoint=checkpoint, checkpoint_seconds=every, on_step=on_step)
    except KeyboardInterrupt:
        assert len(losses) == stop_at
    return trained, losses


def test_learns():
    _, losses = run(TrainingConfig(steps=300, learning_rate=1e-2))
    assert np.mean(losses[-50:]) < 0.3 * np.mean(losses[:10])


def test_interrupted_and_resumed_equals_uninterrupted_bit_for_bit(tmp_path):
    config = TrainingConfig(steps=20)
    whole, losses = run(config)
    _, before = run(config, tmp_path / "run.safetensors", stop_at=8)
    torch.manual_seed(999)  # resume must restore the generator that dropout draws from
    resumed, after = run(config, tmp_path / "run.safetensors")
    # The interrupt came before step 8 was saved: the run goes on after step 7 and repeats it.
    assert before[:7] + after == losses
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, resumed.state_dict()[name]), name
    _, again = run(config, tmp_path / "run.safetensors")
    assert again == []  # a finished run is not trained further


def test_other_configurations_models_and_damaged_files_are_refused(tmp_path):
    path = tmp_path / "run.safetensors"
    run(TrainingConfig(steps=3), path)
    with pytest.raises(ValueError, match="start anew"):
        run(TrainingConfig(steps=4), path)
    with pytest.raises(ValueError, match="another model"):
        train(nn.Linear(3, 1), loss_function, NumberedBatches(), TrainingConfig(steps=3), checkpoint=path)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ValueError, match="not a readable training checkpoint"):
        run(TrainingConfig(steps=3), path)


def test_schedule_warms_up_and_decays():
    config = TrainingConfig(steps=100, warmup_steps=10, learning_rate=1.0, min_learning_rate=0.1)
    rates = [config.learning_rate_at(step) for step in range(100)]
    assert rates[0] == pytest.approx(0.1) and max(rates) == pytest.approx(1.0) and rates.index(max(rates)) in (9, 10)
    assert rates[-1] == pytest.approx(0.1, abs=0.01) and rates[10:] == sorted(rates[10:], reverse=True)


def test_bad_settings_are_refused():
    with pytest.raises(ValueError, match="at least 1 step"):
        TrainingConfig(steps=0)
    with pytest.raises(ValueError, match="min_learning_rate"):
        TrainingConfig(steps=1, learning_rate=1e-4, min_learning_rate=1e-3)
