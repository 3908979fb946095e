"""evaluate_latent_actions.py through its command line, at tiny size, and the words that it finds for codes."""

import json
import re
import shutil

import evaluate_latent_actions
import pytest
from bc_report import known_actions, label_report
from evaluate_latent_actions import meaning, pool
from scripts import work

from genie_agents.demonstrations import RecordingConfig, record_shard
from genie_agents.experts.players import PlannerExpert
from world_model import Genie, LatentActionLabeller, LatentActionModel
from world_model.data import VideoFile
from world_model.presets import tiny
from world_model.serialization import SHIPPED


def test_a_worlds_actions_are_measured_and_named(monkeypatch, tmp_path, capsys):
    world = tmp_path / "world"
    shutil.copytree(SHIPPED / "coinrun-small", world)
    arguments = ["--model", world, "--output", tmp_path / "out", "--runs", tmp_path / "runs", "--write-meanings"]
    arguments += ["--difficulties", "easy", "--levels", "4", "--idm-levels", "4", "--idm-steps", "3"]
    work(monkeypatch, evaluate_latent_actions, *arguments)
    found = json.loads((tmp_path / "out" / "results.json").read_text())
    assert set(found["reports"]) == {"easy"} and {"command", "machine", "settings", "labeller"} <= set(found)
    report = found["reports"]["easy"]
    latent, supervised = report["latent_actions"], report["supervised"]
    assert report["share_of_supervised"] == latent["agreement_on_ground"] / supervised["agreement_on_ground"]
    assert 0 < latent["ground_frames"] == supervised["ground_frames"] < latent["frames"]
    assert latent["agreement_on_ground"] > latent["most_frequent_action_on_ground"]
    on_ground, in_air = (sum(sum(keys.values()) for keys in latent[f"keys_{place}"].values()) for place in ("on_ground", "in_air"))
    assert on_ground == latent["ground_frames"] and on_ground + in_air == latent["frames"]
    assert "| agreement, share of the supervised |" in capsys.readouterr().out
    assert Genie.from_pretrained(world).action_meanings == tuple(found["meanings"])
    assert (world / "model.safetensors").read_bytes() == (SHIPPED / "coinrun-small" / "model.safetensors").read_bytes()


def test_meanings_are_stored_in_worlds_only(monkeypatch, tmp_path):
    LatentActionModel().save_pretrained(tmp_path / "lam")
    with pytest.raises(SystemExit, match="is no world; give the folder of a Genie"):
        work(monkeypatch, evaluate_latent_actions, "--model", tmp_path / "lam", "--write-meanings", "--runs", tmp_path / "runs")
    assert not (tmp_path / "runs").exists()


def test_a_model_of_other_frames_is_refused_before_anything_is_played(monkeypatch, tmp_path):
    Genie(tiny()).save_pretrained(tmp_path / "world")
    with pytest.raises(SystemExit, match=re.escape("takes frames (32, 32, 3), and CoinRun's, whose keys are known, are (64, 64, 3)")):
        work(monkeypatch, evaluate_latent_actions, "--model", tmp_path / "world", "--runs", tmp_path / "runs")
    assert not (tmp_path / "runs").exists()


def test_codes_are_put_into_words():
    assert pool([{3: {7: 5, 8: 1}}, {1: {4: 2}, 3: {8: 6}}]) == {1: {4: 2}, 3: {8: 7, 7: 5}}
    assert meaning({8: 9, 7: 1}, {7: 3}) == "RIGHT+UP 90 % on the ground, RIGHT 100 % in the air"
    assert meaning({}, {1: 3, 4: 1}) == "LEFT 75 % in the air"
    assert meaning({}, {}) == "never seen"


@pytest.mark.parametrize("difficulty", ["easy", "hard"])
@pytest.mark.parametrize("name", ["coinrun-small", "lam-platformers"])
def test_the_models_that_ship_find_take_offs(name, difficulty, tmp_path):
    """One of the two has never seen CoinRun."""
    recording = RecordingConfig(difficulty=difficulty, noise=0, delay=0)
    record_shard(tmp_path / "levels.h5", PlannerExpert(), range(909_000, 909_015), recording, 0)
    labeller = LatentActionLabeller.from_pretrained(name)
    with VideoFile(tmp_path / "levels.h5") as file:
        report = label_report(labeller.label(file), *known_actions([file]), num_codes=labeller.num_codes)
    assert report["take_off_precision"] > 0.9 and report["take_off_recall"] > 0.9
