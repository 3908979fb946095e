"""The scripts that show and judge a world, through their command lines, on an untrained world and a few levels."""

import json
from dataclasses import replace
from pathlib import Path

import evaluate_drift
import evaluate_latent_actions
import evaluate_world_model
import numpy as np
import pytest
import show_world
import torch
from evaluate_drift import Videos, figures
from pictures import film_strips, save_clips
from PIL import Image
from report import machine, markdown_table
from scripts import run, say
from world_videos import videos_by_source, videos_to_judge_on

from genie_agents.coinrun import RIGHT, RIGHT_UP, ProcgenEnv
from genie_agents.experts.game_state import read_state
from world_model import Genie
from world_model.data import VideoFile, VideoWriter
from world_model.metrics import psnr, total_variation_distance
from world_model.presets import coinrun_small, tiny


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an untrained world; videos recorded for it go to its subfolder `runs`."""
    folder = tmp_path_factory.mktemp("world")
    Genie(replace(coinrun_small(), num_prompts=2)).save_pretrained(folder)
    return folder


def common(world: Path, output: Path) -> list[str | Path]:
    return ["--model", world, "--runs", world / "runs", "--output", output, "--difficulties", "easy"]


@pytest.mark.slow
def test_a_world_is_judged_by_difficulty_and_player(world, tmp_path):
    result = run("evaluate_world_model.py", *common(world, tmp_path), "--levels", "4", "--clips", "2", "--frames", "5")
    assert result.returncode == 0, result.stderr
    results = json.loads((tmp_path / "results.json").read_text())
    found = results["figures"]
    players = ["random", "sticky", "planner"]
    assert list(found) == ["all", "easy", *players, *(f"easy, {player}" for player in players)]
    assert [row["clips"] for row in found.values()] == [6, 6, 2, 2, 2, 2, 2, 2]
    assert found["all"]["rollout_psnr"] == pytest.approx(np.mean([found[player]["rollout_psnr"] for player in players]))
    assert found["all"]["delta_psnr"] == pytest.approx(found["all"]["psnr_inferred"] - found["all"]["psnr_random"], abs=1e-4)
    assert 0 < found["planner"]["unseen_share"] < 1
    assert found["planner"]["rollout_psnr"] < found["planner"]["rollout_psnr_unseen_right"]
    assert found["planner"]["rollout_psnr"] != found["planner"]["rollout_psnr_shown_as_drawn"]
    assert len(found["all"]["rollout_psnr_by_frame"]) == 5 and sum(found["all"]["latent_action_use"]) == pytest.approx(1)
    assert results["command"].startswith("python experiments/evaluate_world_model.py --model") and "torch" in results["machine"]
    assert results["settings"]["levels"] == 4 and results["settings"]["seed"] == 0
    assert f"| easy, sticky | 2 | {found['sticky']['tokenizer_psnr']:.1f} / " in result.stdout


def test_what_the_first_frame_shows_is_found_again_where_the_camera_went():
    """Run and jump: of the later frame, what the mask calls shown is the first frame moved by as much; elsewhere the level is new."""
    env = ProcgenEnv()
    frames, places = [env.reset(options={"level_seed": 900_000})[0]], [read_state(env.get_state().simulator)]
    for action in (*[RIGHT] * 4, *[RIGHT_UP] * 2):
        frames.append(env.step(action)[0])
        places.append(read_state(env.get_state().simulator))
    shown = evaluate_world_model.shown_at_first(torch.tensor([[(now.x, now.y) for now in places]]), height=64, width=64)[0].numpy()
    right, up = (round((after - before) * 64 / 13) for before, after in ((places[0].x, places[-1].x), (places[0].y, places[-1].y)))
    assert right >= 5 and up >= 10
    rows, columns = shown[-1].any(axis=1), shown[-1].any(axis=0)
    np.testing.assert_allclose([rows.sum(), columns.sum()], [64 - up, 64 - right], atol=1)
    assert rows[up + 1 :].all() and columns[: -right - 1].all()  # the camera rose: the sky above is new, as what lies to the right
    first, last = frames[0].astype(int), frames[-1].astype(int)
    followed = np.abs(last[up:, : 64 - right] - first[: 64 - up, right:]).mean()
    assert followed < 0.5 * np.abs(last - first).mean()


def test_a_world_is_shown(world, tmp_path):
    sizes = ["--levels", "4", "--repeats", "2", "--worlds", "1", "--frames", "3"]
    result = run("show_world.py", *common(world, tmp_path), *sizes)
    assert result.returncode == 0, result.stderr
    with Image.open(tmp_path / "actions.png") as picture:
        assert picture.height == 64 * 8 * 2 and 64 * 3 < picture.width < 64 * 4  # a row for each of 8 actions and 2 prompts
    with Image.open(tmp_path / "reconstruction.png") as picture:
        assert picture.height == 64 * 3 * 3 and picture.width > 64 * 16  # three rows for each of three players
    with Image.open(tmp_path / "prompts.png") as picture:
        assert picture.height == 64 and picture.width > 64 * 2
    with Image.open(tmp_path / "rollout.gif") as film:
        assert film.n_frames >= 2 and film.size == (192, 192)


@pytest.mark.slow
def test_drift_is_measured_over_the_length_of_a_rollout(world, tmp_path):
    result = run(
        "evaluate_drift.py",
        *common(world, tmp_path),
        "--lengths",
        "10",
        "13",
        "--worlds",
        "1",
        "--temperature",
        "0",
        "--anchor-frames",
        "0",
    )
    assert result.returncode == 0, result.stderr
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["worlds"] == ["easy, random", "easy, sticky"] and results["sampling"]["temperature"] == 0
    assert results["sampling"]["anchor_frames"] is None and coinrun_small().sampling.anchor_frames is not None
    assert list(results["figures"]) == ["all", "easy"] and list(results["figures"]["all"]) == ["9", "10", "11", "12", "13"]
    for figures_of in results["figures"]["all"].values():
        assert {"psnr", "token_distance", "actions_seen", "sharpness", "movement"} <= set(figures_of["imagined"])
    assert result.stdout.count("| easy | ") == 2
    with Image.open(tmp_path / "drift.png") as picture:
        assert picture.format == "PNG"


@pytest.mark.parametrize(
    ("script", "leaves"),
    [
        ("evaluate_world_model.py --clips 3 --frames 5", "results.json"),
        ("show_world.py --repeats 2 --worlds 1 --frames 3 --prompts 0", "reconstruction.png"),
        ("evaluate_drift.py --lengths 10 12 --worlds 1", "drift.png"),
    ],
)
def test_a_world_of_ones_own_videos_is_judged_and_shown_on_videos(script, leaves, tmp_path):
    Genie(replace(tiny(), num_prompts=1)).save_pretrained(tmp_path / "world")
    for name, size in (("a", 32), ("b", 32), ("other", 64)):
        with VideoWriter(tmp_path / f"{name}.h5", frame_shape=(size, size, 3)) as video:
            video.append(np.random.default_rng(0).integers(0, 256, (20, size, size, 3), dtype=np.uint8))
    name, *sizes = script.split()
    common = [name, "--model", tmp_path / "world", "--output", tmp_path / "out", "--runs", tmp_path / "runs", *sizes, "--data"]
    result = run(*common, tmp_path / "a.h5", tmp_path / "b.h5")
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "out" / leaves).stat().st_size > 1000 and not (tmp_path / "runs").exists()
    if name != "show_world.py":
        assert f"| {tmp_path / 'a.h5'} | " in result.stdout and "comes into sight" not in result.stdout
    for source, arguments in (("other.h5", [tmp_path / "other.h5"]), ("CoinRun", [])):
        other = say(*common, *arguments)
        assert other.returncode != 0 and f"{source} are (64, 64, 3) and the model's (32, 32, 3)" in other.stderr


def test_a_perfect_rollout_reaches_what_the_redrawn_frames_reach():
    genie, generator = Genie(coinrun_small()), np.random.default_rng(0)
    frames = torch.from_numpy(generator.integers(0, 256, (2, 20, 64, 64, 3), dtype=np.uint8))
    real = Videos(frames, generator.integers(0, 1024, (2, 20, 64)), generator.integers(0, 8, (2, 19)))
    found = figures(real, real, [0, 1], 20, genie)
    assert (found["psnr"], found["actions_seen"], found["sharpness"], found["movement"]) == pytest.approx((100, 1, 1, 1))
    last, others = real.tokens[:, 12:], real.tokens[:, :12]
    assert found["token_distance"] == pytest.approx(total_variation_distance(last.ravel(), others.ravel(), num_codes=1024))
    broken = Videos(torch.cat([frames[:1].flip(1), frames[1:]]), real.tokens, real.latent_actions)  # the first world alone
    assert figures(broken, real, [1], 20, genie)["psnr"] == pytest.approx(100)
    assert figures(broken, real, [0], 20, genie)["psnr"] < 50
    for place, share in ((10, 1), (11, 7 / 8), (18, 7 / 8)):  # the actions that lead to the last eight frames count
        seen = real.latent_actions.copy()
        seen[:, place] = (seen[:, place] + 1) % 8
        assert figures(Videos(frames, real.tokens, seen), real, [0, 1], 20, genie)["actions_seen"] == share
    frozen = Videos(frames[:, :1].expand_as(frames), real.tokens, real.latent_actions)
    assert figures(frozen, real, [0, 1], 20, genie)["movement"] == 0


def test_what_was_in_sight_and_what_was_not_are_told_apart(world):
    """With a player who goes so far that nothing stays in sight, and with one who stands still."""
    genie = Genie.from_pretrained(world)
    frames = torch.randint(256, (1, 6, 64, 64, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    drawn, _, imagined = evaluate_world_model.redraw_and_imagine(genie, frames, seed=0)
    as_drawn, as_imagined = (psnr(shown[:, 1:], frames[:, 1:]).numpy() for shown in (drawn, imagined))
    for step, share, unseen_right, shown_as_drawn in ((100.0, 1, 100, as_imagined), (0.0, 0, as_imagined, as_drawn)):
        places = torch.zeros(1, 6, 2)
        places[:, 1:, 0] = step
        found = evaluate_world_model.measure(genie, frames, places, prompt_frames=1, seed=0)
        assert (found["unseen_share"] == share).all()
        np.testing.assert_allclose(found["rollout_psnr_unseen_right"], np.broadcast_to(unseen_right, as_drawn.shape), rtol=1e-5)
        np.testing.assert_allclose(found["rollout_psnr_shown_as_drawn"], shown_as_drawn, rtol=1e-5)


def test_rollouts_may_begin_with_several_frames(world):
    genie = Genie.from_pretrained(world)
    frames = torch.randint(256, (2, 7, 64, 64, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    _, actions, imagined = evaluate_world_model.redraw_and_imagine(genie, frames, prompt_frames=3, seed=0)
    assert torch.equal(imagined[:, :3], frames[:, :3])
    assert torch.equal(imagined[:, 3:], genie.imagine(frames[:, :3], actions[:, 2:], seed=0))
    found = evaluate_world_model.measure(genie, frames, torch.zeros(2, 7, 2), prompt_frames=3, seed=0)
    assert found["rollout_psnr"].shape == found["latent_actions"].shape == (2, 4) and not found["unseen_share"].any()
    np.testing.assert_allclose(found["standing_still_psnr"], psnr(frames[:, 2:3].expand(-1, 4, -1, -1, -1), frames[:, 3:]).numpy())


def test_what_cannot_be_measured_is_said_in_a_sentence():
    with pytest.raises(ValueError, match="predict at least 4"):
        evaluate_world_model.Settings(frames=3)
    for few in ({"prompt_frames": 0}, {"clips": 0}):
        with pytest.raises(ValueError, match="choose 1 or more"):
            evaluate_world_model.Settings(**few)
    with pytest.raises(ValueError, match="frames 100, and CoinRun's videos have 101"):
        evaluate_world_model.Settings(prompt_frames=2, frames=100)
    with pytest.raises(ValueError, match="hold is 0"):
        show_world.Settings(hold=0)
    for levels in ({"levels": -5}, {"idm_levels": 10_001}):
        with pytest.raises(ValueError, match="levels is .* to 10000"):
            evaluate_latent_actions.Settings(**levels)
    with pytest.raises(ValueError, match="give some of 9 to 1000"):
        evaluate_drift.Settings(lengths=(1001,))
    with pytest.raises(ValueError, match="choose 1 or more"):
        evaluate_drift.Settings(worlds=0)
    with pytest.raises(ValueError, match="difficulties is empty"):
        evaluate_drift.Settings(difficulties=())
    for settings in (evaluate_world_model.Settings, evaluate_drift.Settings):
        with pytest.raises(ValueError, match="leave out one of them"):
            settings(data=(Path("a.h5"),), test=True)


def test_all_videos_are_long_enough_before_any_is_imagined(tmp_path, monkeypatch):
    for name, length in (("long", 20), ("short", 6)):
        with VideoWriter(tmp_path / f"{name}.h5", frame_shape=(32, 32, 3)) as video:
            video.append(np.zeros((length, 32, 32, 3), np.uint8))
    monkeypatch.setattr(evaluate_world_model, "measure", lambda *_, **__: pytest.fail("measured before all videos were looked at"))
    videos = {(name,): [VideoFile(tmp_path / f"{name}.h5")] for name in ("long", "short")}
    with pytest.raises(SystemExit, match="short: clips of 11 frames are judged, and the longest episode has 6"):
        evaluate_world_model.measure_sources(Genie(tiny()), videos, evaluate_world_model.Settings(data=(tmp_path,)))


def test_a_prompt_longer_than_the_past_is_refused(world):
    result = say("evaluate_world_model.py", "--model", world, "--prompt-frames", "40")
    assert result.returncode == 1 and f"prompt_frames is 40, and {world} begins with 15 frames at most" in result.stderr


@pytest.mark.parametrize("levels", [-5, 3, 10_001])
def test_levels_that_there_are_not_are_refused(levels):
    with pytest.raises(SystemExit, match=f"levels is {levels}; play 4"):
        videos_to_judge_on(None, (), Genie(coinrun_small()), levels=levels, test=False, difficulties=["easy"], seed=0)


def test_the_machine_is_described_without_git_too(monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert machine()["commit"] == "not a git checkout"


def test_too_few_levels_for_the_players_are_refused():
    with pytest.raises(SystemExit, match="at least 4"):
        videos_by_source(None, "validation", range(3), game="coinrun", difficulties=["easy"], seed=0)


def test_film_strips_hold_the_frames_behind_their_labels(tmp_path):
    frames = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (2, 3, 16, 16, 3), dtype=np.uint8))
    picture = np.asarray(film_strips([("a\nb", frames[0]), ("longer", frames[1, :2])]))
    assert picture.shape[0] == 32
    strips = picture[:, -3 * 16 :]
    np.testing.assert_array_equal(strips[:16], np.concatenate(list(frames[0].numpy()), axis=1))
    np.testing.assert_array_equal(strips[16:, :32], np.concatenate(list(frames[1, :2].numpy()), axis=1))
    assert (strips[16:, 32:] == 255).all()
    save_clips(tmp_path / "clips.png", {"real": frames, "flipped": frames.flip(-1)})
    with Image.open(tmp_path / "clips.png") as saved:
        assert saved.height == 4 * 16
    assert film_strips([("grey", frames[0, ..., :1])]).height == 16


def test_a_markdown_table():
    assert markdown_table(["a", "b"], [["1", "2"]]) == "| a | b |\n| --- | --- |\n| 1 | 2 |"
