"""The parts of bc_coinrun.py on data of which the answer is known: stages, labelled samples, what is learned from, pooled results."""

import dataclasses

import numpy as np
import pytest
from bc_coinrun import Study
from bc_report import compare, interval, label_report
from bc_settings import PRESETS, Settings
from bc_videos import draw_labelled_transitions
from plot_level_solve import COLUMNS, draw_curve, plt, read_results
from run_cache import RunCache

from genie_agents.coinrun import LEFT, NOOP, RIGHT, RIGHT_UP, TEST_LEVELS, VALIDATION_LEVELS
from genie_agents.evaluation import Evaluation, confidence_interval
from genie_agents.policy import Policy
from world_model.data import VideoFile, VideoWriter

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


def test_labels_go_on_with_the_video_before_which_they_were_stopped(monkeypatch, tmp_path):
    for number in range(3):
        with VideoWriter(tmp_path / f"{number}.h5") as video:
            video.append(np.random.default_rng(number).integers(0, 256, (6, 64, 64, 3), dtype=np.uint8))
    study = Study(dataclasses.replace(PRESETS["smoke"], runs=tmp_path / "runs"))
    labeller, described, stops = study.videos.labeller, [], [1, 10]
    monkeypatch.setattr(study.videos, "demonstrations", lambda _: tmp_path)
    describe = labeller.describe
    expected = [describe(tmp_path / f"{number}.h5") for number in range(3)]

    def interrupted(file: VideoFile):
        if len(described) == stops[0]:
            stops.pop(0)
            raise KeyboardInterrupt
        described.append(file.path.stem)
        return describe(file)

    monkeypatch.setattr(labeller, "describe", interrupted)
    with pytest.raises(KeyboardInterrupt):
        study.videos.labels("easy")
    folder = study.videos.labels("easy")
    assert described == ["0", "1", "2"] and {path.name for path in folder.iterdir()} == {"labels.npy", "features.npy", "stage.json"}
    np.testing.assert_array_equal(np.load(folder / "labels.npy"), np.concatenate([labels for labels, _ in expected]))
    np.testing.assert_array_equal(np.load(folder / "features.npy"), np.concatenate([part for _, part in expected]).astype(np.float16))


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


def test_n_labels_are_n_labels(monkeypatch, tmp_path):
    """All that cloning is given of the true actions are those of the labelled samples, of one difficulty; it is done once."""
    study, rng, given = Study(dataclasses.replace(PRESETS["smoke"], runs=tmp_path)), np.random.default_rng(0), []
    keys = {d: rng.integers(1, 9, size=100) for d in ("easy", "hard")}
    monkeypatch.setitem(study.videos.__dict__, "true_actions", keys)
    monkeypatch.setattr(study.videos, "labelled_samples", lambda *_: np.array([3, 50]))
    monkeypatch.setitem(study.videos.__dict__, "frames", None)
    monkeypatch.setattr(study.videos, "labels", lambda _: tmp_path)
    policy = Policy(PRESETS["smoke"].policy)
    monkeypatch.setattr("bc_agents.clone", lambda *arguments, samples, **__: given.append((arguments[3], samples)) or policy)
    folder = study.agents.n_label_policy("hard", seed=0, count=2)
    assert study.agents.n_label_policy("hard", seed=0, count=2) == folder and len(given) == 1
    ((labels, samples),) = given
    assert np.flatnonzero(labels >= 0).tolist() == samples.tolist() == [103, 150]
    assert (labels[[103, 150]] == keys["hard"][[3, 50]]).all()


def test_oracle_and_paper_learn_from_true_and_latent_actions_and_less_often_from_what_is_certain(monkeypatch, tmp_path):
    study, rng, given = Study(dataclasses.replace(PRESETS["smoke"], runs=tmp_path)), np.random.default_rng(0), []
    videos, agents = study.videos, study.agents
    ends = np.arange(60) % 20 == 19
    true, latent = ({d: np.where(ends, -1, rng.integers(n, size=60)) for d in ("easy", "hard")} for n in (9, videos.labeller.num_codes))
    monkeypatch.setitem(videos.__dict__, "true_actions", true)
    monkeypatch.setitem(videos.__dict__, "latent_actions", latent)
    monkeypatch.setitem(videos.__dict__, "frames", None)
    monkeypatch.setattr(videos, "labels", lambda _: tmp_path)
    unsure = np.where(np.arange(60) % 2, 10.0, 0.0)  # hard levels, every other frame; easy ones nowhere
    monkeypatch.setattr(agents, "uncertainty", lambda labels, difficulty, samples: unsure * (difficulty == "hard"))
    policy = Policy(PRESETS["smoke"].policy)
    monkeypatch.setattr(
        "bc_agents.clone", lambda *arguments, samples, weights, **_: given.append((arguments[3], samples, weights)) or policy
    )
    for name, labels in (("oracle", true), ("genie_lam", latent)):
        agents.policy(name, 0)
        learned, samples, weights = given[-1]
        np.testing.assert_array_equal(learned, np.concatenate([labels["easy"], labels["hard"]]))
        np.testing.assert_array_equal(samples, np.concatenate([videos.usable("easy"), 60 + videos.usable("hard")]))
        np.testing.assert_allclose(weights, np.concatenate([np.full(60, 0.1), np.tile([0.1, 1], 30)]))


def test_mappings_see_the_frame_in_which_a_key_is_chosen_and_relabelling_the_one_it_leads_to(monkeypatch):
    """The features of the frame after a transition tell its key, or those of the frame before; all codes are the same."""
    study = Study(dataclasses.replace(PRESETS["smoke"], difficulties=("easy",)))
    videos, agents, rng = study.videos, study.agents, np.random.default_rng(0)
    keys, codes = np.where(rng.random(500) < 0.5, RIGHT, RIGHT_UP), np.zeros(500, dtype=np.int64)
    monkeypatch.setitem(videos.__dict__, "latent_actions", {"easy": codes})
    monkeypatch.setitem(videos.__dict__, "true_actions", {"easy": keys})
    monkeypatch.setattr(videos, "questioned_samples", lambda *_: np.arange(64))

    def named(name: str, shift: int) -> float:
        features = rng.normal(size=(501, 16)).astype(np.float16)
        features[shift : 500 + shift] += np.where(keys == RIGHT, -2, 2)[:, None]
        monkeypatch.setitem(videos.__dict__, "frame_features", {"easy": features})
        return (agents.name_keys(name, "easy", 0, 64, codes, features[:500])[:-1] == keys[:-1]).mean()

    assert named("relabelled_linear", 1) > 0.95
    assert named("genie_lam_linear", 1) < 0.7  # when the agent plays, what follows is not known yet
    assert named("genie_lam_linear", 0) > 0.95


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
    folder = study.results("random", "easy")
    assert (folder / "rows.csv").read_text().split() == [f"random,easy,,{seed},1,1" for seed in range(3)]
    assert played == list(TEST_LEVELS[:3])
    assert study.results("random", "easy") == folder and len(played) == 3
    validating = Study(dataclasses.replace(study.settings, validation=True, evaluation_levels=2))
    assert validating.results("random", "easy") != folder  # figures of test levels are not told as those of validation levels
    assert played[3:] == list(VALIDATION_LEVELS[:6])


def test_a_changed_setting_redoes_what_depends_on_it_and_nothing_else(monkeypatch, tmp_path):
    stage = RunCache.stage
    monkeypatch.setattr(RunCache, "stage", lambda cache, name, about, below, _: stage(cache, name, about, below, lambda folder: None))
    smoke = dataclasses.replace(PRESETS["smoke"], runs=tmp_path)
    names = {"oracle", "genie_lam", "relabelled_linear", "n_label_bc", "random"}
    cloned, of_videos = names - {"random", "n_label_bc"}, names - {"random"}

    def folders(**changes) -> dict[str, str]:
        study = Study(dataclasses.replace(smoke, **changes))
        return {name: study.results(name, "easy").name for name in names}

    before = folders()
    for changes, redone in (
        ({"levels": 9}, of_videos),
        ({"noise": 0.2}, of_videos),
        ({"expert": "sighted"}, of_videos),
        ({"lam": "coinrun-small"}, of_videos),
        ({"policy": dataclasses.replace(smoke.policy, hidden=32)}, of_videos),
        ({"label_balance": 0.2}, of_videos),
        ({"cloning": dataclasses.replace(smoke.cloning, steps=4)}, cloned),
        ({"cloning_batch_size": 9}, cloned),
        ({"uncertainty_sampling": False}, cloned),
        ({"relabelling_confidence": 0.5}, {"relabelled_linear"}),
        ({"airborne_frames": 2}, {"relabelled_linear"}),
        ({"relabelled_samples": (8,)}, {"relabelled_linear"}),
        ({"labelled_samples": (4, 8)}, {"genie_lam", "n_label_bc"}),
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
        assert {name for name in names if after[name] != before[name]} == redone, changes
    second, per_seed = (Study(dataclasses.replace(smoke, **s)).agents for s in ({"cloning_seed": 1}, {"policy_per_seed": True}))
    assert second.policies("relabelled_linear", "easy")[0, 16] == per_seed.policies("relabelled_linear", "easy")[1, 16]


def test_reports_of_labels_count_what_they_say():
    """Two keys on the ground, one of them a take-off that was missed; in the air an UP, which does nothing; the end of the episode."""
    report = label_report(
        np.array([0, 1, 0, 0, 0, -1]),
        np.array([RIGHT, RIGHT_UP, RIGHT_UP, RIGHT, RIGHT - 1, -1]),
        np.array([1, 1, 1, 0, 1, 0], dtype=bool),
        num_codes=2,
        named={"mapping": np.array([RIGHT, RIGHT_UP, RIGHT, LEFT, RIGHT, LEFT])},
    )
    assert (report["frames"], report["ground_frames"]) == (5, 4)
    assert (report["take_off_precision"], report["take_off_recall"]) == (1, 0.5)
    assert report["mapping_agreement_on_ground"] == {"mapping": 0.75}
    assert report["keys_in_air"] == {0: {RIGHT: 1}} and report["code_use"] == [0.8, 0.2]


def test_n_label_bc_is_sampled_at_a_temperature_of_its_own(tmp_path):
    agents = Study(dataclasses.replace(PRESETS["smoke"], temperature=0.25, n_label_temperature=0.75)).agents
    Policy(PRESETS["smoke"].policy).save_pretrained(tmp_path)
    assert agents.make("n_label_bc", "easy", 0, 16, {(0, 16): tmp_path}).temperature == 0.75
    assert agents.make("oracle", "easy", 0, 0, {(0, 0): tmp_path}).temperature == 0.25


def test_results_of_several_runs_are_read_together(tmp_path):
    path = tmp_path / "results.csv"
    path.write_text(",".join(COLUMNS) + "\ngenie_lam,easy,16,0,100,80\ngenie_lam,easy,16,1,50,35\noracle,easy,,0,100,90\n")
    assert read_results([path]) == {("genie_lam", "easy", 16): [80, 70], ("oracle", "easy", 0): [90]}
    other = tmp_path / "other.csv"
    other.write_text(",".join(COLUMNS) + "\noracle,hard,,0,100,70\n")
    assert set(read_results([path, other])) == {("genie_lam", "easy", 16), ("oracle", "easy", 0), ("oracle", "hard", 0)}
    with pytest.raises(ValueError, match="genie_lam on easy levels, seed 0, was in another run or row"):
        read_results([path, path])
    with pytest.raises(FileNotFoundError, match="finished run"):
        read_results([tmp_path / "missing.csv"])
    path.write_text("a,b\n1,2\n")
    with pytest.raises(ValueError, match="no results.csv"):
        read_results([path])


def test_an_agent_is_compared_with_the_oracle_seed_by_seed() -> None:
    assert compare([80.0, 70.0, 90.0], [82.0, 71.0, 90.0]) == {
        "mean": -1.0,
        "confidence_interval_95": [-3.48, 1.48],
        "by_seed": [-2, -1, 0],
    }
    assert compare([80.0], [82.0]) == {"mean": -2.0, "confidence_interval_95": None, "by_seed": [-2]}
    assert compare([80.0], None) is None
    assert interval([0.0, 8.0, 60.0], least=0, most=100)[0] == 0  # no agent solves less than none


def test_an_agent_of_one_number_of_samples_is_drawn_with_its_interval() -> None:
    figure, axis = plt.subplots()
    draw_curve(axis, {("relabelled_linear", "easy", 200): [90.0, 92.0, 94.0]}, "relabelled_linear", "easy", "agent", color="k", marker="P")
    ((bar,),) = (container.lines[2][0].get_segments() for container in axis.containers)
    np.testing.assert_allclose(bar[:, 1], confidence_interval([90.0, 92.0, 94.0]))
    plt.close(figure)
