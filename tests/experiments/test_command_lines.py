"""Each script through its command line, a few steps long; the study's cache; the plot of a known table."""

import csv
import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

EXPERIMENTS = Path(__file__).parents[2] / "experiments"
sys.path.insert(0, str(EXPERIMENTS))

from bc_coinrun import Study  # noqa: E402
from bc_settings import PRESETS, RECIPES, Settings  # noqa: E402
from bc_videos import draw_labelled_transitions  # noqa: E402
from plot_level_solve import COLUMNS, read_results  # noqa: E402
from run_cache import RunCache  # noqa: E402
from train_world_model import Training  # noqa: E402
from world_model_settings import PRESETS as WORLD_PRESETS  # noqa: E402

from genie_agents.coinrun import LEFT, NOOP, RIGHT, RIGHT_UP  # noqa: E402
from genie_agents.experts.apprentice import Apprentice, ApprenticeConfig  # noqa: E402
from genie_agents.policy import Policy, PolicyConfig  # noqa: E402
from world_model.data import VideoFile, VideoWriter  # noqa: E402
from world_model.serialization import save_model  # noqa: E402


def run(script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, EXPERIMENTS / script, *arguments], capture_output=True, text=True, check=False)


@pytest.mark.parametrize("script", sorted(path.name for path in EXPERIMENTS.glob("*.py") if "__main__" in path.read_text()))
def test_help_explains_itself(script):
    result = run(script, "--help")
    assert result.returncode == 0, result.stderr
    assert "--" in result.stdout and "usage" in result.stdout.lower()


@pytest.mark.slow
def test_the_study_from_nothing_to_the_picture_and_again_from_its_cache(tmp_path):
    folders = ("--output", str(tmp_path / "out"), "--runs", str(tmp_path / "runs"))
    result = run("bc_coinrun.py", "--preset", "smoke", "--train-lam", *folders)
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

    def stages() -> dict[str, int]:
        return {path.parent.name: path.stat().st_mtime_ns for path in (tmp_path / "runs").glob("*/stage.json")}

    before, results = stages(), (tmp_path / "out" / "results.csv").read_bytes()
    arguments = ("--preset", "smoke", "--train-lam", "--temperature", "0.9", *folders)
    assert run("bc_coinrun.py", *arguments).returncode == 0
    after = stages()
    assert before.items() <= after.items(), "a finished stage was built again"
    new = {name.rsplit("-", 1)[0] for name in after.keys() - before.keys()}
    assert new == {f"play-{agent}-{d}" for agent in rows_agents(rows) for d in ("easy", "hard")}
    assert run("bc_coinrun.py", "--preset", "smoke", "--train-lam", *folders).returncode == 0
    assert stages() == after and (tmp_path / "out" / "results.csv").read_bytes() == results

    (proxy,) = (tmp_path / "runs").glob("clone-oracle-seed0-*")
    arguments = ("--preset", "smoke", "--train-lam", "--agents", "oracle", "--proxy", str(proxy))
    for more, made in ((("--no-uncertainty-sampling",), ("videos", "play-oracle")), ((), ("labels", "play-oracle"))):
        before = stages()  # what a proxy selects is recorded and cloned anew; labels are made where something reads them
        result = run("bc_coinrun.py", *arguments, *more, *folders)
        assert result.returncode == 0, result.stderr[-3000:]
        new = {name.rsplit("-", 1)[0] for name in stages().keys() - before.keys()}
        assert new == {f"{stage}-{d}" for stage in made for d in ("easy", "hard")} | {"clone-oracle-seed0"}

    pictures = tmp_path / "again.png"
    result = run("plot_level_solve.py", str(tmp_path / "out" / "results.csv"), "--output", str(pictures))
    assert result.returncode == 0 and pictures.stat().st_size > 10_000, result.stderr


@pytest.mark.slow
def test_every_switch_of_the_study_gives_its_curve(tmp_path):
    """A latent action model of two other games that saw four labels, all recipes, and PPO from the clone and from nothing."""
    folders = ("--output", str(tmp_path / "out"), "--runs", str(tmp_path / "runs"))
    lam = ("--train-lam", "--lam-games", "climber", "ninja", "--lam-labels", "4")
    result = run(
        "bc_coinrun.py",
        "--preset",
        "smoke",
        "--difficulties",
        "easy",
        *lam,
        "--agents",
        *RECIPES,
        "--finetune-steps",
        "1",
        "--finetune-agent",
        "genie_lam",
        *folders,
    )
    assert result.returncode == 0, result.stderr[-3000:]
    percents = read_results([tmp_path / "out" / "results.csv"])
    counts = {"clone_then_map": (4, 16), "map_then_clone": (16,)}
    expected = {(name, "easy", count) for name, recipe in RECIPES.items() for count in counts[recipe.order]}
    assert set(percents) == expected | {("ppo_from_clone", "easy", 0), ("ppo_from_nothing", "easy", 0)}
    stages = {path.parent.name.rsplit("-", 1)[0] for path in (tmp_path / "runs").glob("*/stage.json")}
    assert {"lam-videos-climber-sticky-easy", "lam-videos-ninja-random-easy", "labels-easy", "clone-relabelled_linear-16-seed0"} <= stages
    assert sum(name.startswith("clone-genie_lam") for name in stages) == 1  # one latent policy serves all mappings
    agreement = json.loads((tmp_path / "out" / "summary.json").read_text())["labels"]["easy"]["mapping_agreement_on_ground"]
    assert set(agreement) == {f"{kind}, {count}" for kind in ("dictionary", "linear", "network") for count in (4, 16)}
    assert all(0 <= share <= 1 for share in agreement.values())
    assert (tmp_path / "out" / "finetuning.png").read_bytes()[:4] == b"\x89PNG"
    curve = (next((tmp_path / "runs").glob("ppo-from-nothing-easy-*")) / "returns.csv").read_text().splitlines()
    assert len(curve) == 1 and int(curve[0].split(",")[0]) == 64 * 256

    results, both = str(tmp_path / "out" / "results.csv"), tmp_path / "both.png"
    result = run("plot_level_solve.py", results, "--others", "another LAM", results, "--output", str(both))
    assert result.returncode == 0 and both.stat().st_size > (tmp_path / "out" / "level_solve.png").stat().st_size, result.stderr


def test_the_study_stops_when_its_time_is_over(tmp_path):
    result = run("bc_coinrun.py", "--preset", "smoke", "--minutes", "0", "--output", str(tmp_path), "--runs", str(tmp_path / "runs"))
    assert result.returncode == 1 and "the same command goes on from there" in result.stderr
    assert "Traceback" not in result.stderr and not (tmp_path / "results.csv").exists()


def test_the_latent_action_models_own_script_stops_in_time_too(tmp_path):
    result = run("train_lam.py", "--minutes", "0", "--lam-levels", "4", "--output", str(tmp_path / "out"), "--runs", str(tmp_path / "runs"))
    assert result.returncode == 1 and "the same command goes on from there" in result.stderr and "Traceback" not in result.stderr


def test_a_name_that_is_none_is_refused_before_anything_is_recorded(tmp_path):
    for changes, message in (
        ({"expert": "aprentice"}, "no expert 'aprentice'"),
        ({"lam": "coinrun-smal"}, "a model that ships: coinrun-small"),
        ({"proxy": tmp_path / "clone"}, "clone"),
    ):
        with pytest.raises(FileNotFoundError, match=message):
            Study(Settings(runs=tmp_path, **changes))
    with pytest.raises(FileNotFoundError, match="a model that ships"):
        Training(dataclasses.replace(WORLD_PRESETS["tiny"], runs=tmp_path, start_from="coinrun-smal"))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"agents": ()}, "agents is empty"),
        ({"train_lam": True, "lam_games": ("pong",)}, "lam_games is pong; choose one or more of bigfish"),
        ({"lam_games": ("climber",)}, "add --train-lam"),
        ({"lam_labels": 5}, "add --train-lam"),
        ({"relabelling_confidence": 90}, "choose from 0 to 1"),
        ({"finetune_steps": 5, "policy": PolicyConfig(num_actions=15, architecture="st_vivit")}, "not 'st_vivit'"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        Settings(**changes)


def test_labelled_transitions_end_in_the_action_that_was_played(tmp_path):
    with VideoWriter(tmp_path / "video.h5", frame_shape=(8, 8, 3), with_actions=True) as video:
        for length in (6, 9):
            video.append(
                np.arange(length, dtype=np.uint8)[:, None, None, None] + np.zeros((8, 8, 3), np.uint8), actions=np.arange(length - 1)
            )
    settings = Settings(train_lam=True, lam_labels=3, lam_clip_length=5)
    with VideoFile(tmp_path / "video.h5") as file:
        labelled = draw_labelled_transitions([file], settings)
        np.testing.assert_array_equal(labelled.clips[:, -2, 0, 0, 0], labelled.actions)  # frame t has brightness t, and action t
        assert labelled.clips.shape == (3, 5, 8, 8, 3) and len(set(labelled.actions.tolist())) > 1
        with pytest.raises(ValueError, match="lam_labels is 8, and the videos have 7 clips of 5 frames"):
            draw_labelled_transitions([file], dataclasses.replace(settings, lam_labels=8))


def rows_agents(rows: list[dict[str, str]]) -> set[str]:
    return {row["agent"] for row in rows}


def test_ppo_trains_and_goes_on(tmp_path):
    arguments = ("--folder", str(tmp_path), "--num-envs", "2", "--steps-per-rollout", "8", "--minutes", "5")
    first = run("train_ppo.py", *arguments, "--total-steps", "16")
    assert first.returncode == 0, first.stderr
    checkpoint = (tmp_path / "ppo.zip").read_bytes()
    second = run("train_ppo.py", *arguments, "--total-steps", "32")
    assert second.returncode == 0 and "32/32" in second.stderr, second.stderr
    assert (tmp_path / "ppo.zip").read_bytes() != checkpoint


def test_an_apprentice_is_taught_and_goes_on(tmp_path):
    arguments = ("--folder", str(tmp_path), "--num-envs", "2", "--batch-size", "4", "--memory-size", "20", "--training.steps", "3")
    first = run("train_apprentice.py", *arguments, "--minutes", "0")
    assert first.returncode == 0 and "1/3" in first.stderr, first.stderr
    weights = (tmp_path / "model.safetensors").read_bytes()
    second = run("train_apprentice.py", *arguments)
    assert second.returncode == 0 and "3/3" in second.stderr, second.stderr
    assert (tmp_path / "model.safetensors").read_bytes() != weights
    refused = run("train_apprentice.py", *arguments[:-1], "4")
    assert refused.returncode != 0 and "to start anew, or use the settings it was written with" in refused.stderr


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
    refused = run("train_sighted.py", *arguments[:2], "--apprentice", "coinrun-small")
    assert refused.returncode != 0 and "describes a Genie" in refused.stderr, refused.stderr


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


def test_labelled_samples_are_known_in_context_spread_over_the_codes_and_contain_the_fewer(monkeypatch):
    study = Study(PRESETS["smoke"])
    videos = study.videos
    assert videos.labeller.model.config.context_frames == 4
    labels = np.array([7, 7, 0, 0, 0, 0, 0, 0, -1, 7, 7, 1, 0, -1, 7, -1])  # three episodes; the first two frames of each lack context
    monkeypatch.setattr(videos, "latent_actions", {"easy": labels})
    monkeypatch.setattr(videos, "true_actions", {"easy": np.where(labels == -1, -1, RIGHT)})
    np.testing.assert_array_equal(videos.usable("easy"), [2, 3, 4, 5, 6, 7, 11, 12])
    for seed in range(5):
        assert set(labels[videos.labelled_samples("easy", seed, 2)]) == {0, 1}
        few, many = videos.labelled_samples("easy", seed, 3), videos.labelled_samples("easy", seed, 6)
        np.testing.assert_array_equal(many[:3], few)
        assert len(set(many)) == 6
    assert any((videos.labelled_samples("easy", 0, 6) != videos.labelled_samples("easy", seed, 6)).any() for seed in range(1, 5))


def test_questions_find_a_rare_key_and_the_fewer_are_contained(monkeypatch):
    """One transition in a hundred is LEFT and lies apart in the features; drawn at random, 200 samples hold two of them."""
    videos = Study(dataclasses.replace(PRESETS["smoke"], labelled_samples=(16,))).videos
    rng, count = np.random.default_rng(0), 20_000
    keys = np.where(rng.random(count) < 0.01, LEFT, np.where(rng.random(count) < 0.2, RIGHT_UP, RIGHT))
    features = rng.normal(size=(count + 1, 8)).astype(np.float16)
    features[1:, 0] += np.where(keys == LEFT, 5, 0)
    features[1:, 1] += np.where(keys == RIGHT_UP, 5, 0)
    monkeypatch.setattr(videos, "latent_actions", {"easy": np.where(keys == RIGHT_UP, 1, 0)})
    monkeypatch.setattr(videos, "true_actions", {"easy": keys})
    monkeypatch.setattr(videos, "frame_features", {"easy": features})
    many = videos.questioned_samples("easy", 0, 200)
    np.testing.assert_array_equal(videos.questioned_samples("easy", 0, 16), many[:16])
    np.testing.assert_array_equal(videos.labelled_samples("easy", 0, 16), many[:16])
    assert len(set(many.tolist())) == 200
    assert (keys[many] == LEFT).sum() > 10 > (keys[videos.labelled_samples("easy", 0, 200)] == LEFT).sum()


def test_questions_are_asked_where_all_directions_are_met_equally_often(monkeypatch):
    videos = Study(PRESETS["smoke"]).videos
    monkeypatch.setattr("bc_videos.FIRST_QUESTIONS", 3)
    keys = np.array([LEFT, NOOP, RIGHT])[np.arange(60) % 3]
    monkeypatch.setattr(videos, "latent_actions", {"easy": np.arange(60) % 3})
    monkeypatch.setattr(videos, "true_actions", {"easy": keys})
    monkeypatch.setattr(videos, "frame_features", {"easy": np.random.default_rng(0).normal(size=(61, 4)).astype(np.float16)})
    samples = videos.questioned_samples("easy", 0, 20)
    assert len(set(samples.tolist())) == 20
    assert set(keys[samples[:3]]) == {LEFT, NOOP, RIGHT}


def test_only_what_the_past_does_not_foretell_is_uncertain(monkeypatch):
    """Where the first feature is high the key is RIGHT, elsewhere a coin decides; the features after the transition would tell which."""
    study = Study(PRESETS["smoke"])
    videos, rng, count = study.videos, np.random.default_rng(0), 3000
    certain = rng.random(count) < 0.5
    keys = np.where(certain | (rng.random(count) < 0.5), RIGHT, RIGHT_UP)
    features = rng.normal(size=(count + 1, 4)).astype(np.float16)
    features[:-1, 0] += np.where(certain, 10, 0)
    features[1:, 1] += np.where(keys == RIGHT_UP, 10, 0)
    ends = np.arange(count + 1) % 10 == 9
    monkeypatch.setattr(videos, "latent_actions", {"easy": np.where(ends, -1, 0)[:-1]})
    monkeypatch.setattr(videos, "true_actions", {"easy": np.where(ends[:-1], -1, keys)})
    monkeypatch.setattr(videos, "frame_features", {"easy": features[:-1]})
    samples, sampled = videos.usable("easy")[300:], np.zeros(count, dtype=bool)
    sampled[samples] = True
    uncertainty = study.agents.uncertainty(np.where(ends[:-1], -1, keys), "easy", samples)
    assert uncertainty[sampled & certain].mean() < 0.1
    assert uncertainty[sampled & ~certain].mean() > 0.9 * np.log(2)
    assert (uncertainty[~sampled] == 0).all()
    codes = np.where(ends[:-1], -1, keys + 30)  # a latent action model may have more codes than the game has keys
    assert study.agents.uncertainty(codes, "easy", samples)[sampled & certain].mean() < 0.1


def test_frames_of_whose_key_relabelling_is_in_doubt_are_not_learned_from(monkeypatch, tmp_path):
    """The features after a transition tell the key, but for a twentieth of the frames they lie between those of both keys."""
    study = Study(dataclasses.replace(PRESETS["smoke"], difficulties=("easy",), runs=tmp_path))
    videos, agents, rng, count, given = study.videos, study.agents, np.random.default_rng(0), 1000, []
    keys, vague = np.where(rng.random(count) < 0.5, RIGHT, RIGHT_UP), rng.random(count) < 0.05
    features = np.zeros((count + 1, 16), dtype=np.float16)
    features[1:] = np.where(vague, 0, np.where(keys == RIGHT, -1, 1))[:, None]
    monkeypatch.setitem(videos.__dict__, "latent_actions", {"easy": np.zeros(count, dtype=np.int64)})
    monkeypatch.setitem(videos.__dict__, "true_actions", {"easy": keys})
    monkeypatch.setitem(videos.__dict__, "frame_features", {"easy": features})
    monkeypatch.setattr(videos, "questioned_samples", lambda *_: np.flatnonzero(~vague)[:500])
    monkeypatch.setattr(videos, "labels", lambda _: tmp_path)
    policy = Policy(PRESETS["smoke"].policy)
    monkeypatch.setattr(agents, "clone", lambda labels, *_, samples, **__: given.append((labels, samples)) or policy)
    sure = agents.policy("relabelled_linear", 0, 50)
    monkeypatch.setattr(agents, "settings", dataclasses.replace(study.settings, relabelling_confidence=0))
    assert agents.policy("relabelled_linear", 0, 50) != sure  # another confidence makes another policy
    for (labels, samples), left_out in zip(given, (vague, np.zeros(count, dtype=bool)), strict=True):
        np.testing.assert_array_equal(samples["easy"], np.setdiff1d(videos.usable("easy"), np.flatnonzero(left_out)))
        assert (labels["easy"][~vague] == keys[~vague]).all() and (
            labels["easy"] >= 0
        ).all()  # doubted keys stay known, as previous actions


def test_n_labels_are_n_labels(monkeypatch):
    """All that cloning is given of the true actions are those of the labelled samples, of one difficulty."""
    study, rng, given = Study(PRESETS["smoke"]), np.random.default_rng(0), {}
    keys = {d: rng.integers(1, 9, size=100) for d in ("easy", "hard")}
    monkeypatch.setattr(study.videos, "true_actions", keys)
    monkeypatch.setattr(study.videos, "labelled_samples", lambda *_: np.array([3, 50]))
    monkeypatch.setitem(study.videos.__dict__, "frames", None)
    monkeypatch.setattr("bc_agents.clone", lambda *arguments, samples, **__: given.update(labels=arguments[3], samples=samples))
    study.agents.n_label_policy("hard", seed=0, count=2)
    assert np.flatnonzero(given["labels"] >= 0).tolist() == given["samples"].tolist() == [103, 150]
    assert (given["labels"][[103, 150]] == keys["hard"][[3, 50]]).all()


def test_results_are_read_and_pooled(tmp_path):
    path = tmp_path / "results.csv"
    path.write_text(",".join(COLUMNS) + "\ngenie_lam,easy,16,0,100,80\ngenie_lam,easy,16,1,50,35\noracle,easy,,0,100,90\n")
    assert read_results([path]) == {("genie_lam", "easy", 16): [80, 70], ("oracle", "easy", 0): [90]}
    assert read_results([path, path])["oracle", "easy", 0] == [90, 90]
    with pytest.raises(FileNotFoundError, match="finished run"):
        read_results([tmp_path / "missing.csv"])
    path.write_text("a,b\n1,2\n")
    with pytest.raises(ValueError, match="no results.csv"):
        read_results([path])
