"""The stages of bc_coinrun.py: what is built once, redone or resumed, and which levels are played."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from bc_coinrun import Study
from bc_settings import PRESETS
from run_cache import RunCache

from genie_agents.coinrun import TEST_LEVELS, VALIDATION_LEVELS
from genie_agents.evaluation import Evaluation


def test_a_stage_is_built_once_redone_when_what_is_below_changes_and_resumed_when_cut(tmp_path):
    calls = []

    def study(settings, fail=False):
        cache = RunCache(tmp_path)

        def build(folder):
            calls.append((folder.name.split("-")[0], sorted(path.name for path in folder.iterdir())))
            (folder / "part").write_text("half")
            if fail:
                raise KeyboardInterrupt

        below = cache.stage("below", {"value": settings["below"]}, [], lambda folder: calls.append(("below", [])))
        return cache.stage("above", {"value": settings["above"]}, [below], build)

    with pytest.raises(KeyboardInterrupt):
        study({"below": 1, "above": 1}, fail=True)
    study({"below": 1, "above": 1})
    study({"below": 1, "above": 1})
    assert calls == [("below", []), ("above", []), ("above", ["part", "stage.json"])]
    study({"below": 1, "above": 2})
    study({"below": 2, "above": 2})
    assert [name for name, _ in calls[3:]] == ["above", "below", "above"]


def test_what_another_command_finished_stays_finished(tmp_path):
    """Two commands may share a folder of stages: who is stopped later does not undo it."""

    def interrupted(folder):
        RunCache(tmp_path).stage("stage", {}, [], lambda folder: None)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        RunCache(tmp_path).stage("stage", {}, [], interrupted)
    RunCache(tmp_path).stage("stage", {}, [], lambda folder: pytest.fail("built again"))


def test_the_seconds_of_stages_of_one_name_are_added(tmp_path, monkeypatch):
    clock = iter([0.0, 0.06, 1.0, 1.06, 2.0, 4.0])
    monkeypatch.setattr("run_cache.time.monotonic", lambda: next(clock))
    cache = RunCache(tmp_path)
    for name, seed in (("play", 0), ("play", 1), ("clone", 0), ("play", 0)):
        cache.stage(name, {"seed": seed}, [], lambda folder: None)
    assert cache.seconds == {"play": 0.1, "clone": 2.0}


def test_too_few_samples_are_found_out_before_anything_is_cloned(monkeypatch, tmp_path):
    study = Study(dataclasses.replace(PRESETS["smoke"], runs=tmp_path / "runs", output=tmp_path / "out"))
    monkeypatch.setattr(study.videos, "usable", lambda difficulty: np.arange(15 if difficulty == "hard" else 16))
    monkeypatch.setattr(study.agents, "policies", lambda *_: pytest.fail("cloned"))
    with pytest.raises(ValueError, match="16 labelled samples were asked for, and the videos have 15"):
        study.run()


def test_the_curve_of_fine_tuning_has_no_steps_twice(monkeypatch, tmp_path):
    """An interruption comes after a rollout is reported and before it is learned from, so that it is played anew."""
    study = Study(dataclasses.replace(PRESETS["smoke"], finetune_steps=48, runs=tmp_path))
    reported = iter([[16, 32], [32, 48]])

    def finetune(*_, on_rollout, **__):
        for steps in next(reported):
            on_rollout(steps, 1.0)
        if steps == 32:
            raise KeyboardInterrupt

    monkeypatch.setattr("genie_agents.finetuning.finetune", finetune)
    with pytest.raises(KeyboardInterrupt):
        study.finetuned("nothing", "easy")
    folder = study.finetuned("nothing", "easy")
    validating = Study(dataclasses.replace(study.settings, validation=True, seeds=1))
    assert validating.finetuned("nothing", "easy") == folder  # whoever plays other levels trains nothing anew
    assert [line.split(",")[0] for line in (folder / "returns.csv").read_text().split()] == ["16", "32", "48"]


def test_each_seed_plays_levels_of_its_own_and_none_twice(monkeypatch, tmp_path):
    played, cuts = [], []

    def play(agent, levels, **_):
        if len(played) == 1 and not cuts:
            cuts.append(1)
            raise KeyboardInterrupt
        played.extend(levels)
        return Evaluation(np.array(levels), np.ones(len(levels), dtype=bool), np.zeros(len(levels), dtype=np.int64))

    monkeypatch.setattr("bc_coinrun.evaluate", play)
    study = Study(dataclasses.replace(PRESETS["smoke"], seeds=3, evaluation_levels=1, runs=tmp_path))
    with pytest.raises(KeyboardInterrupt):
        study.results("random", "easy")
    rows = study.results("random", "easy")
    assert rows == [["random", "easy", "", seed, 1, 1] for seed in range(3)]
    assert played == list(TEST_LEVELS[:3])
    assert study.results("random", "easy") == rows and len(played) == 3
    more = Study(dataclasses.replace(study.settings, seeds=5)).results("random", "easy")
    assert more[:3] == rows and played == list(TEST_LEVELS[:5])  # further seeds alone are played
    validating = Study(dataclasses.replace(study.settings, validation=True, evaluation_levels=2))
    validating.results("random", "easy")  # figures of test levels are not told as those of validation levels
    assert played[5:] == list(VALIDATION_LEVELS[:6])


def test_a_changed_setting_redoes_what_depends_on_it_and_nothing_else(monkeypatch, tmp_path):
    stage, played = RunCache.stage, {}

    def stage_without_work(cache, name, about, below, _):
        folder = stage(cache, name, about, below, lambda folder: np.save(folder / "solved.npy", np.zeros(1)))
        played.setdefault(name, set()).add(folder)
        return folder

    monkeypatch.setattr(RunCache, "stage", stage_without_work)
    smoke = dataclasses.replace(PRESETS["smoke"], runs=tmp_path)
    names = {"oracle", "genie_lam", "genie_lam_linear", "relabelled_linear", "n_label_bc", "random"}
    cloned, of_videos = names - {"random", "n_label_bc"}, names - {"random"}

    def folders(**changes) -> dict[str, set[Path]]:
        study = Study(dataclasses.replace(smoke, **changes))
        played.clear()
        for name in names:
            study.results(name, "easy")
        return {name: played[f"play-{name}-easy"] for name in names}

    before = folders()
    for changes, redone in (
        ({"levels": 9}, of_videos),
        ({"noise": 0.2}, of_videos),
        ({"expert": "sighted:2"}, of_videos),
        ({"lam": "coinrun-small"}, of_videos),
        ({"policy": dataclasses.replace(smoke.policy, hidden=32)}, of_videos),
        ({"label_balance": 0.2}, of_videos),
        ({"cloning": dataclasses.replace(smoke.cloning, steps=4)}, cloned),
        ({"cloning_batch_size": 9}, cloned),
        ({"uncertainty_sampling": False}, cloned),
        ({"relabelling_confidence": 0.5}, {"relabelled_linear"}),
        ({"middle_pixels": 4}, {"relabelled_linear"}),
        ({"mirrored_samples": False}, {"relabelled_linear"}),
        ({"airborne_frames": 2}, {"relabelled_linear", "oracle"}),
        ({"relabelled_samples": (8,)}, {"relabelled_linear"}),
        ({"labelled_samples": (4, 8)}, {"genie_lam", "genie_lam_linear", "n_label_bc"}),
        ({"labelled_samples": (4,), "seeds": 1}, set()),
        ({"n_label_cloning": dataclasses.replace(smoke.n_label_cloning, steps=3)}, {"n_label_bc"}),
        ({"n_label_batch_size": 9}, {"n_label_bc"}),
        ({"n_label_temperature": 1.0}, {"n_label_bc"}),
        ({"temperature": 1.0}, cloned),
        ({"seed": 1}, of_videos),
        ({"cloning_seed": 1}, cloned),
        ({"cloning_seed": 0}, set()),
        ({"max_steps": 30}, names),
        ({"minutes": 1.0, "output": tmp_path / "elsewhere"}, set()),
    ):
        after = folders(**changes)
        assert {name for name in names if after[name] - before[name]} == redone, changes
    second, per_seed = (Study(dataclasses.replace(smoke, **s)).agents for s in ({"cloning_seed": 1}, {"policy_per_seed": True}))
    assert second.policies("relabelled_linear", "easy")[0, 16] == per_seed.policies("relabelled_linear", "easy")[1, 16]
