"""The scripts that train and time a world, through their command lines, a few steps long."""

import csv
import json
import re
from pathlib import Path

import gymnasium
import numpy as np
import pytest
import train_world_model
from scripts import refuse, run, say, work
from torch.testing import assert_close

from world_model import Genie
from world_model.data import VideoWriter, write_latent_actions
from world_model.training import read_log


def write_videos(path: Path, seed: int, size: int = 32) -> Path:
    with VideoWriter(path, frame_shape=(size, size, 3)) as video:
        for frames in np.random.default_rng(seed).integers(0, 256, (3, 20, size, size, 3), dtype=np.uint8):
            video.append(frames)
    return path


def test_a_world_is_trained_from_videos_in_one_command_that_goes_on_where_it_stopped(tmp_path):
    arguments = ["--preset", "tiny", "--data", write_videos(tmp_path / "a.h5", 0)]
    arguments += ["--validation-data", write_videos(tmp_path / "b.h5", 1), "--output", tmp_path / "world", "--runs", tmp_path / "runs"]
    arguments += ["--tokenizer.training.steps", "3", "--dynamics.training.steps", "2", "--validate-every", "2"]
    stopped = run("train_world_model.py", *arguments, "--minutes", "0")
    assert stopped.returncode == 1 and "1 of 3 steps done; the same command goes on from here\n" in stopped.stderr, stopped.stderr
    assert not (tmp_path / "world").exists()

    finished = run("train_world_model.py", *arguments)
    assert finished.returncode == 0, finished.stderr
    (tokenizer,) = (tmp_path / "runs").glob("tokenizer-*")
    (dynamics,) = (tmp_path / "runs").glob("dynamics-joint-*")
    assert [line["step"] for line in read_log(tokenizer / "validation.jsonl")] == [2, 3]
    (validation,) = read_log(dynamics / "validation.jsonl")
    assert {"step", "validation_cross_entropy", "delta_psnr", "psnr_inferred"} <= set(validation)
    assert (dynamics / "samples.png").read_bytes()[:4] == b"\x89PNG"
    assert json.loads((tmp_path / "world" / "config.json").read_text())["model"] == "Genie"

    env = gymnasium.make("Genie-v0", model=tmp_path / "world")
    env.reset(seed=0)
    obs, *_ = env.step(env.action_space.sample())
    assert obs.shape == (32, 32, 3)

    before = (dynamics / "model.safetensors").stat().st_mtime_ns
    labels = np.tile([0] * 19 + [-1], 3)
    write_latent_actions(tmp_path / "a.h5", labels, labeller="anyone")  # labels are not what is learned from
    assert run("train_world_model.py", *arguments).returncode == 0
    assert (dynamics / "model.safetensors").stat().st_mtime_ns == before, "a finished stage was built again"
    assert list((tmp_path / "runs").glob("dynamics-joint-*")) == [dynamics], "labels in the data, and a stage was built for other data"

    world = tmp_path / "world"
    parts = ["--tokenizer-from", world, "--lam", world, "--latent-action-training", "frozen", "--start-from", world]
    # By another seed, or parts that nobody loaded would be equal too.
    further = run("train_world_model.py", *arguments, *parts, "--seed", "1", "--max-corruption", "0.1", "--output", tmp_path / "further")
    assert further.returncode == 0 and f"dynamics: begins with the weights of {world}" in further.stdout, further.stderr
    assert len(list((tmp_path / "runs").glob("tokenizer-*"))) == 1, "a tokenizer was given and one was trained all the same"
    first, second = Genie.from_pretrained(world), Genie.from_pretrained(tmp_path / "further")
    for part in ("tokenizer", "latent_action_model"):
        assert_close(getattr(second, part).state_dict(), getattr(first, part).state_dict(), rtol=0, atol=0)
    change = max((new - old).abs().max().item() for new, old in zip(second.dynamics.parameters(), first.dynamics.parameters(), strict=True))
    assert 0 < change < 0.05  # 2 steps from where it was


@pytest.mark.slow
def test_the_game_makes_the_videos(monkeypatch, tmp_path):
    monkeypatch.setattr(train_world_model, "VALIDATION_CLIPS", 2)
    arguments = ["--levels", "8", "--output", tmp_path / "world", "--runs", tmp_path / "runs"]
    arguments += ["--tokenizer.training.steps", "1", "--dynamics.training.steps", "1", "--dynamics.batch-size", "2"]
    work(monkeypatch, train_world_model, *arguments)
    recorded = sorted(path.name.rsplit("-", 2)[0] for path in (tmp_path / "runs").glob("videos-*"))
    assert recorded == ["videos-planner", "videos-random", "videos-sticky"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--lam", "coinrun-small"], "lam is for"),
        (["--tokenizer.clip-length", "3"], "are shorter than"),
        (["--data", "missing.h5"], "missing.h5"),
        (["--validation-data", "missing.h5"], "missing.h5"),
        (["--preset", "tiny"], "the model's (32, 32, 3): give videos of that shape by --data"),
        (["--max-corruption", "20"], "max_corruption is 20.0"),
        (["--start-from", "lam-platformers"], "not a Genie"),
        (["--seed", "-1"], "seed is -1"),
        (["--tokenizer.batch-size", "0"], "batch_size 0; give at least 1"),
        (["--preset", "coinrun-base", "--tokenizer-from", "coinrun-small"], "num_tokens of tokenizer and dynamics"),
    ],
)
def test_what_cannot_be_trained_is_said_in_a_sentence(tmp_path, arguments, message):
    assert message in refuse("train_world_model.py", "--runs", tmp_path / "runs", *arguments)


def test_recording_stops_in_time(tmp_path):
    result = run("train_world_model.py", "--levels", "200", "--minutes", "0", "--runs", tmp_path / "runs")
    assert result.returncode == 1 and "stopped; what is done is kept" in result.stderr and "Traceback" not in result.stderr


def test_validation_videos_of_another_size_are_found_out_before_training(tmp_path):
    data, validation = write_videos(tmp_path / "a.h5", 0), write_videos(tmp_path / "b.h5", 1, size=16)
    arguments = ["--preset", "tiny", "--data", data, "--validation-data", validation, "--runs", tmp_path / "runs"]
    result = say("train_world_model.py", *arguments)
    assert result.returncode != 0 and f"{validation} are (16, 16, 3)" in result.stderr, result.stderr
    assert not list((tmp_path / "runs").glob("*"))


def test_the_rollout_benchmark_fills_its_table(tmp_path):
    sizes = ["--shapes", "small", "--contexts", "2", "16", "--batches", "1", "--steps", "1", "--dtypes", "float32", "--patience", "0.1"]
    result = run("bench_rollout.py", *sizes, "--output", tmp_path / "bench.csv")
    assert result.returncode == 0, result.stderr
    with (tmp_path / "bench.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["way"], row["context"]) for row in rows] == [
        ("Genie-v0", "16"),
        ("cached", "2"),
        ("uncached", "2"),
        ("cached", "16"),
        ("uncached", "16"),
        ("cached", "16"),
    ]
    assert all(float(row["seconds_per_frame"]) > 0 for row in rows) and all(float(row["peak_mib"]) > 50 for row in rows[1:])
    (printed,) = re.findall(r"1 worlds: ([\d.]+) frames a second", result.stdout)
    assert float(printed) == pytest.approx(1 / float(rows[0]["seconds_per_frame"]), rel=0.05)  # 4 digits of seconds


def test_the_rollout_benchmark_says_which_frames_it_estimated(tmp_path):
    sizes = ["--shapes", "small", "--contexts", "2", "--batches", "1", "--steps", "1", "--dtypes", "float32", "--patience", "0"]
    result = run("bench_rollout.py", *sizes, "--output", tmp_path / "bench.csv")
    assert result.returncode == 0, result.stderr
    with (tmp_path / "bench.csv").open(newline="") as file:
        measured = {row["way"]: int(row["frames_measured"]) for row in csv.DictReader(file)}
    assert measured == {"Genie-v0": 10, "cached": 1, "uncached": 0}  # of an uncached one a single step
