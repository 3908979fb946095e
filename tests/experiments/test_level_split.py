"""Which levels the scripts play: those to learn from, to choose settings by and to report figures of are never mixed up."""

import dataclasses
import inspect
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import bc_coinrun
import evaluate_drift
import evaluate_latent_actions
import pytest
import recording
import train_sighted
import train_world_model
import world_videos
from bc_settings import PRESETS
from run_cache import RunCache
from scripts import work
from world_model_settings import PRESETS as WORLD_PRESETS

from genie_agents.coinrun import DEMONSTRATION_LEVELS, TEST_LEVELS, VALIDATION_LEVELS, WORLD_MODEL_LEVELS
from genie_agents.experts.apprentice import Apprentice, ApprenticeConfig, train_apprentice
from genie_agents.experts.ppo import train_ppo
from genie_agents.finetuning import finetune
from world_model import Genie, LatentActionLabeller
from world_model.presets import coinrun_small
from world_model.serialization import save_model

Levels = Callable[[], dict[str, list[int]]]


class OpenedVideosError(Exception):
    """All videos are recorded that are needed before the first are read."""


@pytest.fixture(params=[False, True], ids=["validation", "test"])
def on_test(request: pytest.FixtureRequest) -> bool:
    return request.param


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> Levels:
    """Instead of recording: the levels that are asked for, by the first word of the stage's name; opening videos ends the script."""
    levels: dict[str, list[int]] = {}

    def record_nothing(folder: Path, asked: Iterable[int], *_: object, **__: object) -> Iterator[int]:
        levels.setdefault(folder.name.split("-")[0], []).extend(asked)
        yield 0

    def open_nothing(*_: object) -> None:
        raise OpenedVideosError

    monkeypatch.setattr(recording, "record_videos", record_nothing)
    for module in (bc_coinrun, evaluate_drift, evaluate_latent_actions, world_videos):
        monkeypatch.setattr(module, "open_videos", open_nothing)
    return lambda: {name: sorted(set(asked)) for name, asked in levels.items()}


def held_out(test: bool) -> tuple[str, range]:
    return ("test", TEST_LEVELS) if test else ("validation", VALIDATION_LEVELS)


def test_worlds_are_judged_on_held_out_levels(recorded: Levels, on_test: bool, tmp_path: Path) -> None:
    name, levels = held_out(on_test)
    genie, arguments = Genie(coinrun_small()), {"levels": 8, "test": on_test, "difficulties": ["easy"], "seed": 0}
    with pytest.raises(OpenedVideosError):
        world_videos.videos_to_judge_on(RunCache(tmp_path), (), genie, **arguments)
    assert recorded() == {name: list(levels[:8])}


def test_drift_is_measured_on_held_out_levels(recorded: Levels, on_test: bool, tmp_path: Path) -> None:
    name, levels = held_out(on_test)
    with pytest.raises(OpenedVideosError):
        evaluate_drift.long_episodes(evaluate_drift.Settings(runs=tmp_path, test=on_test), coinrun_small().tokenizer)
    assert recorded() == {name: list(levels[:32])}


def test_latent_actions_are_judged_on_held_out_levels_by_a_model_that_learned_from_others(
    recorded: Levels, on_test: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, levels = held_out(on_test)
    study = evaluate_latent_actions.Study(evaluate_latent_actions.Settings(runs=tmp_path, levels=4, idm_levels=8, test=on_test))
    labeller = LatentActionLabeller.from_pretrained("coinrun-small")
    with pytest.raises(OpenedVideosError):
        study.reports(labeller)
    assert recorded() == {"videos": list(WORLD_MODEL_LEVELS[:8])}
    monkeypatch.setattr(study, "supervised", lambda: None)
    with pytest.raises(OpenedVideosError):
        study.reports(labeller)
    assert recorded()[name] == list(levels[:4])


def test_worlds_learn_from_levels_of_their_own(recorded: Levels, tmp_path: Path) -> None:
    training = train_world_model.Training(dataclasses.replace(WORLD_PRESETS["coinrun-small"], runs=tmp_path, levels=40))
    with pytest.raises(OpenedVideosError):
        _ = training.files
    assert recorded() == {"videos": list(WORLD_MODEL_LEVELS[:40])}
    with pytest.raises(OpenedVideosError):
        _ = training.validation_clips
    assert recorded()["validation"] == list(VALIDATION_LEVELS[:4])


def test_agents_learn_from_levels_of_their_own(recorded: Levels, tmp_path: Path) -> None:
    study = bc_coinrun.Study(dataclasses.replace(PRESETS["smoke"], runs=tmp_path, train_lam=True))
    study.videos.latent_action_videos()
    assert recorded() == {"lam": list(WORLD_MODEL_LEVELS[:4])}
    study.videos.__dict__["labeller"] = labeller = LatentActionLabeller.from_pretrained("lam-platformers")
    study.videos.demonstrations("easy")
    assert recorded()["videos"] == list(DEMONSTRATION_LEVELS[:8])
    with pytest.raises(OpenedVideosError):
        study.label_report(labeller, "easy")
    assert recorded()["report"] == list(VALIDATION_LEVELS[-100:])


def test_what_learns_by_playing_learns_from_levels_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    played: list[Iterable[int]] = []
    monkeypatch.setattr("genie_agents.finetuning.finetune", lambda *_, level_seeds, **__: played.append(level_seeds))
    bc_coinrun.Study(dataclasses.replace(PRESETS["smoke"], finetune_steps=1, runs=tmp_path)).finetuned("nothing", "easy")
    assert played == [DEMONSTRATION_LEVELS]
    for train in (finetune, train_ppo, train_apprentice):
        assert inspect.signature(train).parameters["level_seeds"].default == DEMONSTRATION_LEVELS


def test_the_sighted_expert_learns_from_levels_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[Iterable[int]] = []

    def read_nothing(difficulty: str, level_seeds: Iterable[int], on_level: object) -> None:
        read.append(level_seeds)
        raise OpenedVideosError

    monkeypatch.setattr(train_sighted, "read_levels", read_nothing)
    save_model(tmp_path / "apprentice", Apprentice(ApprenticeConfig(hidden=(8,))))
    with pytest.raises(OpenedVideosError):
        work(monkeypatch, train_sighted, "--folder", tmp_path, "--apprentice", tmp_path / "apprentice", "--levels", "3")
    assert read == [DEMONSTRATION_LEVELS[:3]]
