"""The parts of bc_coinrun.py on data of which the answer is known: stages, labelled samples, what is learned from, pooled results."""

import dataclasses
import sys
from pathlib import Path

import numpy as np
import pytest

from genie_agents.coinrun import LEFT, NOOP, RIGHT, RIGHT_UP
from genie_agents.policy import Policy
from world_model.data import VideoFile, VideoWriter

EXPERIMENTS = Path(__file__).parents[2] / "experiments"
sys.path.insert(0, str(EXPERIMENTS))

from bc_coinrun import Study  # noqa: E402
from bc_settings import PRESETS, Settings  # noqa: E402
from bc_videos import draw_labelled_transitions  # noqa: E402
from plot_level_solve import COLUMNS, read_results  # noqa: E402
from run_cache import RunCache  # noqa: E402

# What is known of videos is a cached_property: put into the instance's __dict__, it is not made from recordings first.


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
    monkeypatch.setitem(videos.__dict__, "latent_actions", {"easy": labels})
    monkeypatch.setitem(videos.__dict__, "true_actions", {"easy": np.where(labels == -1, -1, RIGHT)})
    np.testing.assert_array_equal(videos.usable("easy"), [2, 3, 4, 5, 6, 7, 11, 12])
    for seed in range(5):
        assert set(labels[videos.labelled_samples("easy", seed, 2)]) == {0, 1}
        few, many = videos.labelled_samples("easy", seed, 3), videos.labelled_samples("easy", seed, 6)
        np.testing.assert_array_equal(many[:3], few)
        assert len(set(many)) == 6
    assert any((videos.labelled_samples("easy", 0, 6) != videos.labelled_samples("easy", seed, 6)).any() for seed in range(1, 5))
    for ask in (videos.labelled_samples, videos.questioned_samples):
        monkeypatch.setitem(videos.__dict__, "frame_features", {"easy": np.zeros((16, 2), np.float16)})
        with pytest.raises(ValueError, match="9 labelled samples were asked for, and the videos have 8"):
            ask("easy", 0, 9)


def test_questions_find_a_rare_key_and_the_fewer_are_contained(monkeypatch):
    """One transition in a hundred is LEFT and lies apart in the features; drawn at random, 200 samples hold two of them."""
    videos = Study(dataclasses.replace(PRESETS["smoke"], labelled_samples=(16,))).videos
    rng, count = np.random.default_rng(0), 20_000
    keys = np.where(rng.random(count) < 0.01, LEFT, np.where(rng.random(count) < 0.2, RIGHT_UP, RIGHT))
    features = rng.normal(size=(count + 1, 8)).astype(np.float16)
    features[1:, 0] += np.where(keys == LEFT, 5, 0)
    features[1:, 1] += np.where(keys == RIGHT_UP, 5, 0)
    monkeypatch.setitem(videos.__dict__, "latent_actions", {"easy": np.where(keys == RIGHT_UP, 1, 0)})
    monkeypatch.setitem(videos.__dict__, "true_actions", {"easy": keys})
    monkeypatch.setitem(videos.__dict__, "frame_features", {"easy": features})
    few = videos.questioned_samples("easy", 0, 16), videos.questioned_samples("easy", 0, 100)
    many = videos.questioned_samples("easy", 0, 200)
    np.testing.assert_array_equal(few[0], many[:16])
    np.testing.assert_array_equal(few[1], many[:100])
    np.testing.assert_array_equal(videos.labelled_samples("easy", 0, 32), many[:32])
    assert np.isin(videos.labelled_samples("easy", 0, 64), many).all()
    assert len(set(many.tolist())) == 200
    assert (keys[many] == LEFT).sum() > 10 > (keys[videos.labelled_samples("easy", 0, 200)] == LEFT).sum()


def test_questions_follow_a_rare_key_until_it_is_released(monkeypatch):
    """LEFT is held for three frames, of which the last two look like RIGHT to a layer that has met the first one alone."""
    videos = Study(PRESETS["smoke"]).videos
    rng, count = np.random.default_rng(0), 20_000
    pressed = np.flatnonzero(rng.random(count // 10) < 0.1) * 10 + 5
    keys, features = np.full(count, RIGHT), rng.normal(size=(count + 1, 8)).astype(np.float16)
    keys[pressed] = keys[pressed + 1] = keys[pressed + 2] = LEFT
    keys[-1] = -1
    features[pressed + 1, 0] += 5
    features[np.append(pressed + 2, pressed + 3), 0] -= 5
    monkeypatch.setitem(videos.__dict__, "latent_actions", {"easy": np.zeros(count, dtype=np.int64)})
    monkeypatch.setitem(videos.__dict__, "true_actions", {"easy": keys})
    monkeypatch.setitem(videos.__dict__, "frame_features", {"easy": features})
    asked = videos.questioned_samples("easy", 0, 200)
    met = asked[:180][keys[asked[:180]] == LEFT]  # the last questions may lack what follows
    assert len(met) > 20
    assert np.isin(met + 1, asked).all()


def test_questions_are_asked_where_all_directions_are_met_equally_often(monkeypatch):
    videos = Study(PRESETS["smoke"]).videos
    monkeypatch.setattr("bc_videos.FIRST_QUESTIONS", 3)
    keys = np.append(np.array([LEFT, NOOP, RIGHT])[np.arange(59) % 3], -1)
    monkeypatch.setitem(videos.__dict__, "latent_actions", {"easy": np.append(np.arange(59) % 3, -1)})
    monkeypatch.setitem(videos.__dict__, "true_actions", {"easy": keys})
    monkeypatch.setitem(videos.__dict__, "frame_features", {"easy": np.random.default_rng(0).normal(size=(61, 4)).astype(np.float16)})
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
    monkeypatch.setitem(videos.__dict__, "latent_actions", {"easy": np.where(ends, -1, 0)[:-1]})
    monkeypatch.setitem(videos.__dict__, "true_actions", {"easy": np.where(ends[:-1], -1, keys)})
    monkeypatch.setitem(videos.__dict__, "frame_features", {"easy": features[:-1]})
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
    study = Study(dataclasses.replace(PRESETS["smoke"], difficulties=("easy",), airborne_frames=0, runs=tmp_path))
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
        assert (labels["easy"][~vague] == keys[~vague]).all()
        assert (labels["easy"] >= 0).all()  # a doubted key may still be the one before another


def test_early_in_a_jump_relabelling_tells_the_direction_alone(monkeypatch):
    """The features after a transition tell the key, but not whether UP is held on in the two frames after a take-off, every tenth."""
    study = Study(dataclasses.replace(PRESETS["smoke"], airborne_frames=2, relabelling_confidence=0.6))
    videos, agents, place = study.videos, study.agents, np.arange(999) % 10
    early, held = (place == 6) | (place == 7), np.random.default_rng(0).random(999) < 0.5
    keys = np.where((place == 5) | (early & held), RIGHT_UP, RIGHT)
    features = np.zeros((1000, 16), dtype=np.float16)
    features[1:] = np.where(early, 0, np.where(keys == RIGHT, -1, 1))[:, None]
    monkeypatch.setitem(videos.__dict__, "latent_actions", {"easy": np.zeros(999, dtype=np.int64)})
    monkeypatch.setitem(videos.__dict__, "true_actions", {"easy": keys})
    monkeypatch.setitem(videos.__dict__, "frame_features", {"easy": features})
    monkeypatch.setattr(videos, "questioned_samples", lambda *_: np.arange(500))
    labels, doubtful = agents.relabel("linear", "easy", 0, 500)
    np.testing.assert_array_equal(labels, np.where(place == 5, RIGHT_UP, RIGHT))
    assert not doubtful.any()  # of RIGHT, whatever UP does
    monkeypatch.setattr(agents, "settings", dataclasses.replace(study.settings, airborne_frames=0))
    _, doubtful = agents.relabel("linear", "easy", 0, 500)
    assert doubtful[early].any() and not doubtful[~early].any()


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
    monkeypatch.setattr(study, "levels_solved", lambda *_: np.zeros(2, dtype=bool))
    with pytest.raises(KeyboardInterrupt):
        study.finetuned("nothing", "easy")
    folder = study.finetuned("nothing", "easy")
    validating = Study(dataclasses.replace(study.settings, validation=True, seeds=1))
    assert validating.finetuned("nothing", "easy") == folder  # whoever plays other levels trains nothing anew
    assert [line.split(",")[0] for line in (folder / "returns.csv").read_text().split()] == ["16", "32", "48"]


def test_n_labels_are_n_labels(monkeypatch):
    """All that cloning is given of the true actions are those of the labelled samples, of one difficulty."""
    study, rng, given = Study(PRESETS["smoke"]), np.random.default_rng(0), {}
    keys = {d: rng.integers(1, 9, size=100) for d in ("easy", "hard")}
    monkeypatch.setitem(study.videos.__dict__, "true_actions", keys)
    monkeypatch.setattr(study.videos, "labelled_samples", lambda *_: np.array([3, 50]))
    monkeypatch.setitem(study.videos.__dict__, "frames", None)
    monkeypatch.setattr("bc_agents.clone", lambda *arguments, samples, **__: given.update(labels=arguments[3], samples=samples))
    study.agents.n_label_policy("hard", seed=0, count=2)
    assert np.flatnonzero(given["labels"] >= 0).tolist() == given["samples"].tolist() == [103, 150]
    assert (given["labels"][[103, 150]] == keys["hard"][[3, 50]]).all()


def test_n_label_bc_is_sampled_at_a_temperature_of_its_own(monkeypatch, tmp_path):
    agents = Study(dataclasses.replace(PRESETS["smoke"], temperature=0.25, n_label_temperature=0.75)).agents
    policy = Policy(PRESETS["smoke"].policy)
    policy.save_pretrained(tmp_path)
    monkeypatch.setattr(agents, "n_label_policy", lambda difficulty, seed, count: policy)
    assert agents.make("n_label_bc", "easy", 0, 16, {}).temperature == 0.75
    assert agents.make("oracle", "easy", 0, 0, {(0, 0): tmp_path}).temperature == 0.25


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
