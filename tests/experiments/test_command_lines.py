"""Each script through its command line, a few steps long, and settings that are refused."""

import csv
import dataclasses
import functools
import json
from pathlib import Path

import bc_coinrun
import numpy as np
import pytest
import torch
from bc_coinrun import Study
from bc_samples import farthest_first
from bc_settings import DEMO, PRESETS, RECIPES, Settings, check_options
from plot_level_solve import COLUMNS, read_results
from scripts import EXPERIMENTS, refuse, run, say, work
from stable_baselines3 import PPO
from stopping import refusing
from train_world_model import Training
from world_model_settings import PRESETS as WORLD_PRESETS

from genie_agents import finetuning
from genie_agents.coinrun import VALIDATION_LEVELS
from genie_agents.experts.apprentice import Apprentice, ApprenticeConfig
from genie_agents.experts.players import make_expert
from genie_agents.experts.sighted import SightedPolicy
from genie_agents.policy import PolicyConfig
from world_model import LatentActionConfig, LatentActionModel
from world_model.serialization import save_model
from world_model.training import TrainingConfig


@pytest.mark.parametrize("script", sorted(path.name for path in EXPERIMENTS.glob("*.py") if "__main__" in path.read_text()))
def test_help_explains_itself(script):
    result = say(script, "--help")
    assert result.returncode == 0, result.stderr
    assert "--" in result.stdout and "usage" in result.stdout.lower()


@pytest.mark.slow
def test_the_study_from_nothing_to_the_picture(tmp_path):
    result = run("bc_coinrun.py", "--preset", "smoke", "--train-lam", "--output", tmp_path / "out", "--runs", tmp_path / "runs")
    assert result.returncode == 0, result.stderr[-3000:]
    with (tmp_path / "out" / "results.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == COLUMNS
    # 2 difficulties x 2 seeds x (2 numbers of samples for N-label BC, one for the relabelled agent, oracle, random and constant)
    assert len(rows) == 2 * 2 * (2 + 1 + 3)
    assert {row["agent"] for row in rows} == {"relabelled_linear", "oracle", "n_label_bc", "random", "constant_right_up"}
    assert {row["labelled_samples"] for row in rows if row["agent"] == "oracle"} == {""}
    assert all(0 <= int(row["levels_solved"]) <= int(row["levels"]) == 2 for row in rows)
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert set(summary) >= {"solved", "labels", "labeller", "seconds", "machine", "settings"}
    assert summary["seconds"]["total"] > 0 and abs(sum(summary["labels"]["easy"]["code_use"]) - 1) < 1e-6
    assert (tmp_path / "out" / "level_solve.png").read_bytes()[:4] == b"\x89PNG"
    assert (tmp_path / "out" / "agent.gif").read_bytes()[:4] == b"GIF8"

    pictures = tmp_path / "again.png"
    result = run("plot_level_solve.py", tmp_path / "out" / "results.csv", "--output", pictures)
    assert result.returncode == 0 and pictures.stat().st_size > 10_000, result.stderr


@pytest.mark.slow
def test_the_study_makes_anew_what_other_settings_change_and_nothing_else(tmp_path):
    def new_stages(*arguments: str | Path) -> list[str]:
        before = {path: path.stat().st_mtime_ns for path in (tmp_path / "runs").glob("*/stage.json")}
        common = ("--preset", "smoke", "--difficulties", "easy", "--seeds", "1", "--agents", "oracle")
        result = run("bc_coinrun.py", *common, "--output", tmp_path / "out", "--runs", tmp_path / "runs", *arguments)
        assert result.returncode == 0, result.stderr[-3000:]
        after = {path: path.stat().st_mtime_ns for path in (tmp_path / "runs").glob("*/stage.json")}
        assert before.items() <= after.items(), "a finished stage was built again"
        return sorted(path.parent.name.rsplit("-", 1)[0] for path in after.keys() - before.keys())

    cloned = ["clone-oracle-seed0", "play-oracle-easy"]
    assert set(new_stages()) > {*cloned, "videos-easy"}
    results = (tmp_path / "out" / "results.csv").read_bytes()
    assert new_stages("--temperature", "0.9") == ["play-oracle-easy"]
    assert new_stages() == [] and (tmp_path / "out" / "results.csv").read_bytes() == results

    (proxy,) = (tmp_path / "runs").glob("clone-oracle-seed0-*")
    # What a proxy selects is recorded and cloned anew; labels are made where something reads them.
    assert new_stages("--proxy", proxy, "--no-uncertainty-sampling") == [*cloned, "videos-easy"]
    assert new_stages("--proxy", proxy) == ["clone-oracle-seed0", "labels-easy", "play-oracle-easy"]


@pytest.mark.slow
def test_every_switch_of_the_study_gives_its_curve(monkeypatch, tmp_path):
    """A latent action model of two other games that saw four labels, all recipes, and PPO from the clone and from nothing."""
    monkeypatch.setattr(bc_coinrun, "VALIDATION_LEVELS", VALIDATION_LEVELS[-8:])  # the report plays on the last hundred
    monkeypatch.setattr(finetuning, "finetune", functools.partial(finetuning.finetune, num_envs=2, steps_per_rollout=8))
    arguments = ["--preset", "smoke", "--difficulties", "easy", "--output", tmp_path / "out", "--runs", tmp_path / "runs"]
    arguments += ["--train-lam", "--lam-games", "climber", "ninja", "--lam-labels", "4"]
    arguments += ["--agents", *RECIPES, "--relabelled-samples", "8", "--finetune-steps", "1", "--finetune-agent", "genie_lam"]
    work(monkeypatch, bc_coinrun, *arguments)
    percents = read_results([tmp_path / "out" / "results.csv"])
    counts = {"clone_then_map": (4, 16), "map_then_clone": (8,)}
    expected = {(name, "easy", count) for name, recipe in RECIPES.items() for count in counts[recipe.order]}
    assert set(percents) == expected | {("ppo_from_clone", "easy", 16), ("ppo_from_nothing", "easy", 0)}
    stages = {path.parent.name.rsplit("-", 1)[0] for path in (tmp_path / "runs").glob("*/stage.json")}
    assert {"lam-videos-climber-sticky-easy", "lam-videos-ninja-random-easy", "labels-easy", "clone-relabelled_linear-8-seed0"} <= stages
    assert sum(name.startswith("clone-genie_lam") for name in stages) == 1  # one latent policy serves all mappings
    agreement = json.loads((tmp_path / "out" / "summary.json").read_text())["labels"]["easy"]["mapping_agreement_on_ground"]
    assert set(agreement) == {f"{name}, {count}" for name, _, count in expected}
    assert all(0 <= share <= 1 for share in agreement.values())
    assert (tmp_path / "out" / "finetuning.png").read_bytes()[:4] == b"\x89PNG"
    curve = (next((tmp_path / "runs").glob("ppo-from-nothing-easy-*")) / "returns.csv").read_text().splitlines()
    assert len(curve) == 1 and int(curve[0].split(",")[0]) == 2 * 8

    results, both = str(tmp_path / "out" / "results.csv"), tmp_path / "both.png"
    result = run("plot_level_solve.py", results, "--others", "another LAM", results, "--output", both)
    assert result.returncode == 0 and both.stat().st_size > (tmp_path / "out" / "level_solve.png").stat().st_size, result.stderr


def test_the_study_stops_when_its_time_is_over(tmp_path):
    result = run("bc_coinrun.py", "--preset", "smoke", "--minutes", "0", "--output", str(tmp_path), "--runs", str(tmp_path / "runs"))
    assert result.returncode == 1 and "the same command goes on from there" in result.stderr
    assert "Traceback" not in result.stderr and not (tmp_path / "results.csv").exists()


def test_the_latent_action_models_own_script_stops_in_time_too(tmp_path):
    result = run("train_lam.py", "--minutes", "0", "--lam-levels", "4", "--output", str(tmp_path / "out"), "--runs", str(tmp_path / "runs"))
    assert result.returncode == 1 and "the same command goes on from there" in result.stderr and "Traceback" not in result.stderr


def test_what_is_refused_ends_a_program_with_a_sentence(tmp_path):
    damaged = tmp_path / "results.csv"
    damaged.write_text(f"{','.join(COLUMNS)}\neasy,oracle\n")
    results, binary, ppo = tmp_path / "good.csv", tmp_path / "picture.csv", tmp_path / "expert"
    results.write_text(f"{','.join(COLUMNS)}\noracle,easy,,0,100,90\n")
    binary.write_bytes(bytes(range(256)))
    ppo.mkdir()
    (ppo / "ppo.zip").write_bytes(b"cut short")
    for script, arguments, message in (
        ("bc_coinrun.py", ["--lam", "coinrun-smal"], "a model that ships: coinrun-small, lam-platformers"),
        ("evaluate_world_model.py", ["--model", "coinrun-smal"], "a model that ships: coinrun-small"),  # the other one is no world
        ("evaluate_world_model.py", ["--data", "missing.h5"], "check the path, or write the file with VideoWriter"),
        ("evaluate_world_model.py", ["--seed", "-1"], "seed is -1; choose 0 or more"),
        ("evaluate_drift.py", ["--data", "missing.h5"], "check the path, or write the file with VideoWriter"),
        ("evaluate_drift.py", ["--anchor-frames", "50"], "a window of 16 frames asks for fewer"),
        ("evaluate_latent_actions.py", ["--idm-steps", "0"], "idm_steps is 0; choose 1 or more"),
        ("show_world.py", ["--data", "missing.h5"], "check the path, or write the file with VideoWriter"),
        ("train_ppo.py", ["--folder", str(tmp_path / "ppo"), "--game", "coinrum"], "plunder, starpilot"),
        ("train_apprentice.py", ["--folder", str(tmp_path / "apprentice"), "--num-envs", "0"], "num_envs is 0"),
        ("plot_level_solve.py", ["missing.csv"], "missing.csv does not exist; give the results.csv of a finished run"),
        ("plot_level_solve.py", [str(binary)], "no results.csv of bc_coinrun.py"),
        ("plot_level_solve.py", [str(results), "--output", "level_solve.foo"], "level_solve.foo cannot be drawn; end its name with one of"),
        ("bc_coinrun.py", ["--expert", str(ppo), "--agents", "oracle", "--runs", str(tmp_path / "runs")], "ppo.zip is damaged"),
        ("plot_level_solve.py", [str(damaged)], "line 2 is damaged; run bc_coinrun.py again, which writes it anew"),
    ):
        assert message in refuse(script, *arguments)


def test_what_is_refused_is_a_sentence_and_a_defect_keeps_its_traceback():
    with pytest.raises(SystemExit, match="train for at least 1 step"), refusing():
        TrainingConfig(steps=0)
    with pytest.raises(SystemExit, match=r"min_learning_rate 1.0 must lie"), refusing():
        TrainingConfig(steps=1, min_learning_rate=1.0)
    with pytest.raises(ValueError, match="could not be broadcast"), refusing():
        farthest_first(np.zeros((3, 2)), np.zeros((2, 5)), 1)


def test_a_name_that_is_none_is_refused_before_anything_is_recorded(tmp_path):
    for changes, message in (
        ({"expert": "aprentice"}, "no expert 'aprentice'"),
        ({"lam": "coinrun-smal"}, "a model that ships: coinrun-small"),
        ({"proxy": tmp_path / "clone"}, "clone"),
    ):
        with pytest.raises(FileNotFoundError, match=message):
            Study(Settings(runs=tmp_path, **changes))
    save_model(tmp_path / "small", LatentActionModel(LatentActionConfig(image_height=32, image_width=32)))
    with pytest.raises(ValueError, match=r"frames of \(32, 32, 3\), and CoinRun's are \(64, 64, 3\)"):
        Study(Settings(runs=tmp_path, lam=str(tmp_path / "small")))
    with pytest.raises(FileNotFoundError, match="a model that ships"):
        Training(dataclasses.replace(WORLD_PRESETS["coinrun-small"], runs=tmp_path, start_from="coinrun-smal"))
    assert [path.name for path in tmp_path.iterdir()] == ["small"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"agents": ()}, "agents is empty"),
        ({"train_lam": True, "lam_games": ("pong",)}, "lam_games is pong; choose one or more of bigfish"),
        ({"agents": ("relabelled_linear",), "relabelled_samples": (16, 20_001)}, "relabelled_samples has 20001"),
        ({"agents": ("oracle",), "finetune_steps": 5, "relabelled_samples": (20_001,)}, "relabelled_samples has 20001"),
        ({"relabelling_confidence": 90}, "choose from 0 to 1"),
        ({"middle_pixels": 5}, "choose an even number from 0 to 64"),
        ({"agents": ("oracle", "random", "oracle")}, "agents is oracle random oracle; name each once"),
        ({"labelled_samples": (16, 16)}, "labelled_samples is 16 16; name each once"),
        ({"difficulties": ("easy", "easy")}, "difficulties is easy easy; name each once"),
        ({"cloning_batch_size": -1}, "cloning_batch_size is -1; choose 1 or more"),
        ({"seeds": -1, "evaluation_levels": -1}, "seeds is -1; choose 1 or more"),
        ({"n_label_temperature": -0.5}, "n_label_temperature is -0.5; choose 0"),
        ({"policy": dataclasses.replace(DEMO.policy, image_size=32)}, "pictures have 64 pixels"),
        ({"policy": dataclasses.replace(DEMO.policy, num_actions=9)}, "num_actions is 9"),
        ({"finetune_steps": -1}, "finetune_steps is -1"),
        ({"cloning_seed": 1, "policy_per_seed": True}, "leave policy_per_seed out"),
        ({"noise": 1.0}, "noise is 1.0"),
        ({"train_lam": True, "lam": "coinrun-small"}, "leave out one of them"),
        ({"train_lam": True, "lam_clip_length": 1}, "lam_clip_length is 1"),
        ({"train_lam": True, "lam_model": LatentActionConfig(image_height=32)}, "leave its size out"),
        ({"finetune_steps": 5, "policy": PolicyConfig(num_actions=15, architecture="st_vivit")}, "not 'st_vivit'"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        Settings(**changes)


def test_options_of_a_training_that_does_not_happen_are_refused():
    check_options(dataclasses.replace(PRESETS["smoke"], train_lam=True, lam_games=("climber",)))
    for settings in PRESETS.values():
        check_options(settings)
        for change in ({"lam_games": ("climber",)}, {"lam_labels": 5}, {"lam_batch_size": 3}):
            with pytest.raises(SystemExit, match=f"{next(iter(change))}: .* add --train-lam"):
                check_options(dataclasses.replace(settings, **change))
        with pytest.raises(SystemExit, match="finetune_agent: .* add --finetune-steps"):
            check_options(dataclasses.replace(settings, finetune_agent="genie_lam", finetune_steps=0))


def test_ppo_trains_and_goes_on(tmp_path):
    arguments = ("--folder", str(tmp_path), "--num-envs", "2", "--steps-per-rollout", "8", "--minutes", "5")
    stopped = run("train_ppo.py", *arguments[:-1], "0", "--total-steps", "16")
    assert stopped.returncode == 0 and PPO.load(tmp_path / "ppo.zip").num_timesteps == 0, "a rollout that was cut counts as learned from"
    first = run("train_ppo.py", *arguments, "--total-steps", "16")
    assert first.returncode == 0, first.stderr
    checkpoint = (tmp_path / "ppo.zip").read_bytes()
    second = run("train_ppo.py", *arguments, "--total-steps", "32")
    assert second.returncode == 0 and "32/32" in second.stderr, second.stderr
    assert (tmp_path / "ppo.zip").read_bytes() != checkpoint
    other_game = run("train_ppo.py", *arguments, "--total-steps", "48", "--difficulty", "hard")
    assert other_game.returncode != 0 and "a model that learned easy coinrun, not hard coinrun" in other_game.stderr

    with pytest.raises(ValueError, match="a model that learned coinrun, and climber is to be played"):
        make_expert(str(tmp_path), 0, "climber")

    torch.manual_seed(1)
    frames = np.random.default_rng(0).integers(0, 256, (20, 64, 64, 3), dtype=np.uint8)
    first, again, other = ([expert.act(frame) for frame in frames] for expert in (make_expert(str(tmp_path), seed) for seed in (0, 0, 1)))
    assert first == again != other
    assert torch.initial_seed() == 1, "loading an expert restarted the program's random numbers"


def test_an_apprentice_is_taught_and_goes_on(tmp_path):
    arguments = ("--folder", str(tmp_path), "--num-envs", "2", "--batch-size", "4", "--memory-size", "20", "--training.steps", "3")
    first = run("train_apprentice.py", *arguments, "--minutes", "0")
    assert first.returncode == 0 and "1/3" in first.stderr, first.stderr
    weights = (tmp_path / "model.safetensors").read_bytes()
    second = run("train_apprentice.py", *arguments)
    assert second.returncode == 0 and "3/3" in second.stderr, second.stderr
    assert (tmp_path / "model.safetensors").read_bytes() != weights
    assert "to start anew, or use the settings it was written with" in refuse("train_apprentice.py", *arguments[:-1], "4")


def test_a_sighted_expert_comes_of_an_apprentice_and_goes_on(tmp_path):
    save_model(tmp_path / "apprentice", Apprentice(ApprenticeConfig(hidden=(8,))))
    arguments = ("--folder", str(tmp_path), "--apprentice", str(tmp_path / "apprentice"), "--levels", "2", "--num-envs", "4")
    arguments += ("--decisions-per-rollout", "8", "--batch-size", "16")
    first = run("train_sighted.py", *arguments, "--total-decisions", "32")
    assert first.returncode == 0 and "32.0/32.0" in first.stderr, first.stderr
    weights = (tmp_path / "model.safetensors").read_bytes()
    second = run("train_sighted.py", *arguments, "--total-decisions", "64")
    assert second.returncode == 0 and "64.0/64.0" in second.stderr, second.stderr
    assert (tmp_path / "model.safetensors").read_bytes() != weights
    held_arguments = ("--folder", str(tmp_path / "held"), "--expert", str(tmp_path), "--brake-frames", "3", *arguments[4:])
    held = run("train_sighted.py", *held_arguments, "--total-decisions", "32")
    assert held.returncode == 0 and json.loads((tmp_path / "held" / "config.json").read_text())["config"]["brake_frames"] == 3
    keeps = ("--folder", str(tmp_path / "keeps"), "--expert", str(tmp_path / "held"), *arguments[4:], "--total-decisions", "0")
    assert say("train_sighted.py", *keeps).returncode == 0
    assert SightedPolicy.from_pretrained(tmp_path / "keeps").config.brake_frames == 3
    for start, problem in (
        (("--apprentice", "coinrun-small"), "describes a Genie"),
        (("--expert", "planner"), "is no sighted expert"),
        ((*arguments[2:4], "--expert", "sighted"), "begins as an apprentice or as another expert"),
        ((), "begins as an apprentice or as another expert"),
        ((*arguments[2:4], "--brake-frames", "0"), "held for 1 frame or more"),
    ):
        assert problem in refuse("train_sighted.py", *arguments[:2], *start)


def test_the_benchmarks_of_training_and_of_video_files_print_a_figure_each():
    result = run("bench_video_file.py", "--num-frames", "64", "--chunk-lengths", "8", "--num-clips", "2")
    assert result.returncode == 0 and "| bytes/frame | write frames/s | 16-frame clips/s |" in result.stdout, result.stderr
    result = run("bench_training.py", "--batch-size", "1", "--repeats", "1", "--dtypes", "float32")
    assert result.returncode == 0 and result.stdout.count(" s a step") == 3, result.stderr
