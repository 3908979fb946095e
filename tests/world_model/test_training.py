"""The shared loop: learns, resumes bit-identically whatever ends it, refuses what does not belong to it."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import make_dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from world_model.files import WriteError
from world_model.layers.st_transformer import STTransformer, TransformerConfig
from world_model.training import MetricsLog, TrainingConfig, read_log, train, tune_cpu
from world_model.training.checkpoint import has_checkpoint, save_checkpoint
from world_model.training.muon import Muon
from world_model.training.state import TrainingState, make_optimizers

KILLED_RUN = TrainingConfig(steps=300, ema_decay=0.9)


class NumberedBatches:
    """Noisy samples of a line; batch k depends on the seed and k alone."""

    def __init__(self) -> None:
        self.position = 0

    def __next__(self) -> tuple[Tensor, Tensor]:
        x = torch.from_numpy(np.random.default_rng(self.position).normal(size=(16, 3)).astype(np.float32))
        self.position += 1
        return x, x.sum(dim=1, keepdim=True)

    def state_dict(self) -> dict[str, int]:
        return {"position": self.position}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.position = state["position"]


def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 8), nn.Dropout(0.2), nn.Linear(8, 1))


class TransformerModel(nn.Module):
    """The same task with ST-blocks."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.transformer = STTransformer(TransformerConfig(num_layers=1, d_model=8, num_heads=2, temporal_window=2), num_tokens=3)
        self.head = nn.Linear(8, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.transformer(x[:, None, :, None].expand(-1, -1, -1, 8))).sum(dim=(1, 2))


def loss_function(model: nn.Module, batch: tuple[Tensor, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
    loss = (model(batch[0]) - batch[1]).square().mean()
    return loss, {}


def run(
    config: TrainingConfig,
    checkpoint: Path | None = None,
    stop_at: int | None = None,
    every: float = 0.0,
    build: Callable[[], nn.Module] = model,
    **settings: Any,
) -> tuple[nn.Module, list[float]]:
    trained, losses = build(), []

    def on_step(step: int, metrics: dict[str, Tensor]) -> None:
        losses.append(metrics["loss"].item())
        if step == stop_at:
            raise KeyboardInterrupt

    torch.manual_seed(1)
    try:
        steps = train(
            trained, loss_function, NumberedBatches(), config, checkpoint=checkpoint, checkpoint_seconds=every, on_step=on_step, **settings
        )
        assert "minutes" in settings or steps == config.steps
    except KeyboardInterrupt:
        assert len(losses) == stop_at
    return trained, losses


def assert_same_weights(first: nn.Module, second: nn.Module) -> None:
    for name, tensor in first.state_dict().items():
        assert torch.equal(tensor, second.state_dict()[name]), name


def test_learns() -> None:
    _, losses = run(TrainingConfig(steps=300, learning_rate=1e-2))
    assert np.mean(losses[-50:]) < 0.3 * np.mean(losses[:10])


@pytest.mark.parametrize("ema_decay", [0.0, 0.9])
def test_interrupted_and_resumed_equals_uninterrupted_bit_for_bit(tmp_path: Path, ema_decay: float) -> None:
    config = TrainingConfig(steps=20, ema_decay=ema_decay)
    whole, losses = run(config)
    _, before = run(config, tmp_path / "run.safetensors", stop_at=8)
    torch.manual_seed(999)  # resume must restore the generator that dropout draws from
    resumed, after = run(config, tmp_path / "run.safetensors")
    # The interrupt came before step 8 was saved: the run goes on after step 7 and repeats it.
    assert before[:7] + after == losses
    assert_same_weights(whole, resumed)
    finished, again = run(config, tmp_path / "run.safetensors")
    assert again == []  # a finished run is not trained further
    assert_same_weights(whole, finished)


def test_each_step_is_taken_at_the_rate_of_the_schedule() -> None:
    """A gradient that stays the same makes AdamW go by the rate itself."""
    config = TrainingConfig(steps=10, warmup_steps=4, learning_rate=0.1, min_learning_rate=0.01, weight_decay=0)
    trained = nn.Linear(3, 1, bias=False)
    places = [trained.weight.detach().clone()]
    train(
        trained,
        lambda model, _: (model.weight.sum(), {}),
        NumberedBatches(),
        config,
        on_step=lambda *_: places.append(trained.weight.detach().clone()),
    )
    steps = [(before - after).mean().item() for before, after in zip(places[:-1], places[1:], strict=True)]
    assert steps == pytest.approx([config.learning_rate_at(step) for step in range(10)], rel=1e-3)


def test_a_gradient_that_is_far_too_long_is_cut() -> None:
    """Else the second step would hardly be taken: AdamW goes by a gradient's size compared with those before."""
    config = TrainingConfig(steps=2, warmup_steps=0, learning_rate=0.1, min_learning_rate=0.1, weight_decay=0, gradient_clip=1.0)
    trained, sizes, places = nn.Linear(1, 1, bias=False), iter((1e6, 1.0)), []
    train(
        trained,
        lambda model, _: (next(sizes) * model.weight.sum(), {}),
        NumberedBatches(),
        config,
        on_step=lambda *_: places.append(trained.weight.item()),
    )
    assert places[0] - places[1] == pytest.approx(0.1, rel=1e-3)


def test_weights_decay_as_configured_matrices_alone() -> None:
    config = TrainingConfig(steps=1, weight_decay=0.1, muon_learning_rate=0.02, muon_weight_decay=0.5)
    adamw, muon = make_optimizers(TransformerModel(), config)
    assert [group["weight_decay"] for group in muon.param_groups] == [0.5]
    decays = {(weight.ndim >= 2, group["weight_decay"]) for group in adamw.param_groups for weight in group["params"]}
    assert decays == {(True, 0.1), (False, 0.0)}


def test_muon_trains_the_matrices_of_hidden_layers_and_resumes_bit_for_bit(tmp_path: Path) -> None:
    config = TrainingConfig(steps=20, warmup_steps=1, min_learning_rate=1e-3, muon_learning_rate=0.02)
    adamw, muon = make_optimizers(TransformerModel(), config)
    assert isinstance(adamw, torch.optim.AdamW) and isinstance(muon, Muon)
    block = TransformerModel().transformer.blocks[0]
    assert sum(len(group["params"]) for group in muon.param_groups) == sum(weight.ndim == 2 for weight in block.parameters())

    whole, losses = run(config, build=TransformerModel)
    _, before = run(config, tmp_path / "run.safetensors", stop_at=8, build=TransformerModel)
    resumed, after = run(config, tmp_path / "run.safetensors", build=TransformerModel)
    assert before[:7] + after == losses
    assert_same_weights(whole, resumed)

    # Whatever the size of the gradient, a step of Muon stretches no direction by more than about its rate.
    start, first = TransformerModel(), run(replace(config, steps=1), build=TransformerModel)[0]
    change = dict(first.named_parameters())["transformer.blocks.0.feed_forward.2.weight"].detach()
    change = change - dict(start.named_parameters())["transformer.blocks.0.feed_forward.2.weight"].detach()
    assert torch.linalg.svdvals(change).max().item() == pytest.approx(0.02, rel=0.4)


def test_a_tuned_cpu_takes_denormal_numbers_for_zero() -> None:
    tiny = torch.full((16,), 2e-38)
    torch.set_flush_denormal(False)  # a test that ran a script in this process may have set it
    assert (tiny * 0.1 > 0).all()
    try:
        tune_cpu()
        assert (tiny * 0.1 == 0).all()
    finally:
        torch.set_flush_denormal(False)


def test_a_run_that_is_out_of_time_goes_on_in_the_next_call(tmp_path: Path) -> None:
    config = TrainingConfig(steps=6, ema_decay=0.9)
    whole, losses = run(config)
    parts = []
    for done in range(1, 7):
        trained = model()
        torch.manual_seed(1)
        steps = train(
            trained,
            loss_function,
            NumberedBatches(),
            config,
            checkpoint=tmp_path / "run.safetensors",
            minutes=0,
            on_step=lambda step, metrics: parts.append(metrics["loss"].item()),
        )
        assert steps == done  # out of time after each step
    assert parts == losses
    assert_same_weights(whole, trained)


@pytest.mark.usefixtures("ctrl_c")
def test_ctrl_c_ends_the_step_and_saves_it(tmp_path: Path) -> None:
    config, path, losses = TrainingConfig(steps=20), tmp_path / "run.safetensors", []

    def on_step(step: int, metrics: dict[str, Tensor]) -> None:
        losses.append(metrics["loss"].item())
        if step == 8:
            signal.raise_signal(signal.SIGINT)

    torch.manual_seed(1)
    trained = model()
    torch.manual_seed(1)
    with pytest.raises(KeyboardInterrupt):
        train(trained, loss_function, NumberedBatches(), config, checkpoint=path, on_step=on_step)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert losses + run(config, path)[1] == run(config)[1]


@pytest.mark.usefixtures("ctrl_c")
def test_a_second_ctrl_c_interrupts_at_once(tmp_path: Path) -> None:
    seen = []

    def on_step(step: int, metrics: dict[str, Tensor]) -> None:
        signal.raise_signal(signal.SIGINT)  # waits for the end of the step
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        seen.append(step)

    with pytest.raises(KeyboardInterrupt):
        train(model(), loss_function, NumberedBatches(), TrainingConfig(steps=3), checkpoint=tmp_path / "run.safetensors", on_step=on_step)
    assert seen == [1]


@pytest.mark.usefixtures("ctrl_c")
@pytest.mark.parametrize("every", [0.0, 60.0], ids=["in the loop", "after it"])
def test_ctrl_c_in_the_last_save_is_not_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, every: float) -> None:
    def interrupted_save(path: Path, state: TrainingState, step: int, fabric: Any) -> None:
        if step == 3:
            signal.raise_signal(signal.SIGINT)
        save_checkpoint(path, state, step, fabric)

    monkeypatch.setattr("world_model.training.loop.save_checkpoint", interrupted_save)
    path = tmp_path / "run.safetensors"
    with pytest.raises(KeyboardInterrupt):
        train(model(), loss_function, NumberedBatches(), TrainingConfig(steps=3), checkpoint=path, checkpoint_seconds=every)
    monkeypatch.undo()
    assert run(TrainingConfig(steps=3), path)[1] == []  # all was saved


def test_weights_that_diverged_are_not_saved(tmp_path: Path) -> None:
    config, path = TrainingConfig(steps=8), tmp_path / "run.safetensors"

    def diverging(model: nn.Module, batch: tuple[Tensor, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        loss, metrics = loss_function(model, batch)
        return loss * (float("nan") if batches.position > 5 else 1.0), metrics

    batches = NumberedBatches()
    with pytest.raises(FloatingPointError, match="loss of step 6 is nan .* lower the learning rate"):
        train(model(), diverging, batches, config, checkpoint=path, checkpoint_seconds=0)
    assert len(run(config, path)[1]) == 3  # goes on after the fifth step


def test_weights_of_a_gradient_that_is_not_finite_are_not_saved(tmp_path: Path) -> None:
    """The loss may be finite all the same, as that of the root of 0 is."""
    config, path = TrainingConfig(steps=3), tmp_path / "run.safetensors"

    def rooted(model: nn.Module, batch: tuple[Tensor, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        loss, metrics = loss_function(model, batch)
        return loss + ((loss - loss).sqrt() if batches.position == 3 else 0), metrics

    batches = NumberedBatches()
    with pytest.raises(FloatingPointError, match="the norm of its gradient nan; lower the learning rate"):
        train(model(), rooted, batches, config, checkpoint=path, checkpoint_seconds=0)
    assert len(run(config, path)[1]) == 1  # goes on after the second step


def train_with_log(folder: Path, wait_at: int | None = None) -> nn.Module:
    log = MetricsLog(folder / "log.jsonl", KILLED_RUN)

    def on_step(step: int, metrics: dict[str, Tensor]) -> None:
        log(step, metrics)
        time.sleep(0.005 if wait_at is not None else 0)  # or nothing would have been saved yet
        if step == wait_at:
            time.sleep(600)

    trained = model()
    torch.manual_seed(1)
    train(
        trained,
        loss_function,
        NumberedBatches(),
        KILLED_RUN,
        checkpoint=folder / "run.safetensors",
        checkpoint_seconds=0.02,
        on_step=on_step,
    )
    return trained


def test_killed_and_resumed_equals_uninterrupted_bit_for_bit(tmp_path: Path) -> None:
    run_folder, log = tmp_path / "run", tmp_path / "run" / "log.jsonl"
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    for lines in (30, 90):  # killed twice, the second time after a resume
        process = subprocess.Popen([sys.executable, __file__, str(run_folder), str(lines)], env=environment)
        while not log.exists() or log.read_bytes().count(b"\n") < lines:
            assert process.poll() is None, "the run ended by itself"
            time.sleep(0.01)
        process.kill()
        process.wait()
        assert has_checkpoint(run_folder / "run.safetensors"), "nothing was saved, so that nothing can go on"
    with log.open("a") as file:
        file.write('{"step": 4')  # cut short by the kill
    resumed = train_with_log(run_folder)
    whole = train_with_log(tmp_path / "whole")
    assert_same_weights(whole, resumed)
    entries, expected = read_log(log), read_log(tmp_path / "whole" / "log.jsonl")
    assert [entry["step"] for entry in entries] == list(range(1, KILLED_RUN.steps + 1))
    assert [entry["loss"] for entry in entries] == [entry["loss"] for entry in expected]
    seconds = [entry["seconds"] for entry in entries]
    assert seconds == sorted(seconds)


def test_log_holds_every_so_many_steps_and_the_last(tmp_path: Path) -> None:
    config = TrainingConfig(steps=8, warmup_steps=4, learning_rate=1.0)
    log = MetricsLog(tmp_path / "deep" / "log.jsonl", config, every=3)
    for step in range(1, 9):
        log(step, {"loss": torch.tensor(float(step)), "picture": torch.zeros(2, 2)})
    entries = [json.loads(line) for line in (tmp_path / "deep" / "log.jsonl").read_text().splitlines()]
    assert [entry["step"] for entry in entries] == [3, 6, 8]
    assert entries[0].keys() == {"step", "seconds", "learning_rate", "loss"}
    assert entries[0]["learning_rate"] == pytest.approx(0.75) and entries[0]["loss"] == 3.0
    with pytest.raises(ValueError, match="log every step"):
        MetricsLog(tmp_path / "log.jsonl", config, every=0)


def test_averaged_weights_are_the_moving_average_of_the_weights() -> None:
    config = TrainingConfig(steps=12, ema_decay=0.7)
    trained, expected = model(), None
    expected = {name: weight.detach().clone() for name, weight in trained.named_parameters()}

    def on_step(step: int, metrics: dict[str, Tensor]) -> None:
        for name, weight in trained.named_parameters():
            expected[name] = 0.7 * expected[name] + 0.3 * weight.detach()

    validated = []

    def validate(step: int) -> None:
        assert not trained.training and not torch.is_grad_enabled()
        for name, weight in trained.named_parameters():
            torch.testing.assert_close(weight, expected[name])
        validated.append(step)

    train(trained, loss_function, NumberedBatches(), config, on_step=on_step, validate=validate, validate_every=5)
    assert validated == [5, 10, 12]  # with the weights that would be saved
    for name, weight in trained.named_parameters():
        torch.testing.assert_close(weight.detach(), expected[name])


def test_validation_leaves_the_training_as_it_was() -> None:
    config = TrainingConfig(steps=12, ema_decay=0.7)
    whole, losses = run(config)
    watched, same = run(config, validate=lambda step: None, validate_every=5)
    assert same == losses
    assert_same_weights(whole, watched)


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_a_full_disk_leaves_the_checkpoint_before_it(tmp_path: Path, kind: str) -> None:
    resource = pytest.importorskip("resource")
    config, path, (_, most) = TrainingConfig(steps=6), tmp_path / "run.safetensors", resource.getrlimit(resource.RLIMIT_FSIZE)

    if kind == "folder":
        path.mkdir()

    def fill_the_disk(step: int) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100 if step == 4 else most, most))

    try:
        with pytest.raises(WriteError, match=r"could not write .*run\.safetensors.*File too large.*free disk space"):
            run(config, path, validate=fill_the_disk, validate_every=1)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
    assert list(tmp_path.iterdir()) == [path]
    assert len(run(config, path)[1]) == 3  # goes on after the third step


def test_other_configurations_models_and_damaged_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "run.safetensors"
    run(TrainingConfig(steps=3), path)
    with pytest.raises(ValueError, match="trained with steps 3, not 4; remove .* to start anew"):
        run(TrainingConfig(steps=4), path)
    with pytest.raises(ValueError, match="another model"):
        train(nn.Linear(3, 1), loss_function, NumberedBatches(), TrainingConfig(steps=3), checkpoint=path)
    wider = nn.Sequential(nn.Linear(3, 9), nn.Dropout(0.2), nn.Linear(9, 1))  # weights of the same names and other shapes
    with pytest.raises(ValueError, match="another model"):
        train(wider, loss_function, NumberedBatches(), TrainingConfig(steps=3), checkpoint=path)
    narrower, configured = TransformerModel(), TransformerModel()  # of weights alike, that see less of the past
    for built, window in ((configured, 2), (narrower, 1)):
        built.config = TransformerConfig(num_layers=1, d_model=8, num_heads=2, temporal_window=window)
    train(configured, loss_function, NumberedBatches(), TrainingConfig(steps=3), checkpoint=tmp_path / "window.safetensors")
    with pytest.raises(ValueError, match="trained with temporal_window 2, not 1; remove .* to start anew"):
        train(narrower, loss_function, NumberedBatches(), TrainingConfig(steps=3), checkpoint=tmp_path / "window.safetensors")
    for built, unlearned in ((configured, "before"), (narrower, "after")):  # what no weight depends on
        built.config = make_dataclass("Config", [("sampling", str), ("width", int)])(unlearned, 8)
    train(configured, loss_function, NumberedBatches(), TrainingConfig(steps=3), checkpoint=tmp_path / "sampling.safetensors")
    assert train(narrower, loss_function, NumberedBatches(), TrainingConfig(steps=3), checkpoint=tmp_path / "sampling.safetensors") == 3
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ValueError, match="not a readable training checkpoint"):
        run(TrainingConfig(steps=3), path)


if __name__ == "__main__":  # the run that a test kills
    train_with_log(Path(sys.argv[1]), wait_at=int(sys.argv[2]))
