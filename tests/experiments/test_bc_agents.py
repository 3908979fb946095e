"""The agents of bc_coinrun.py, on data of which the answer is known: what each learns from, and how mappings and policies are used."""

import dataclasses

import numpy as np
import pytest
from bc_coinrun import Study
from bc_settings import PRESETS

from genie_agents.cloning import Videos
from genie_agents.coinrun import LEFT, RIGHT, RIGHT_UP
from genie_agents.policy import Policy

# What is known of videos is a cached_property: put into the instance's __dict__, it is not made from recordings first.


def test_only_what_the_past_does_not_foretell_is_uncertain(monkeypatch):
    """Where the first feature is high the key is RIGHT, elsewhere a coin decides; the features after the transition would tell which."""
    study = Study(PRESETS["smoke"])
    videos, rng, count = study.videos, np.random.default_rng(0), 9000
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
    study = Study(
        dataclasses.replace(
            PRESETS["smoke"], difficulties=("easy",), airborne_frames=0, middle_pixels=0, mirrored_samples=False, runs=tmp_path
        )
    )
    videos, agents, rng, count, given = study.videos, study.agents, np.random.default_rng(0), 1000, []
    keys, vague = np.where(rng.random(count) < 0.5, RIGHT, RIGHT_UP), rng.random(count) < 0.05
    features = np.zeros((count + 1, 16), dtype=np.float16)
    features[1:] = np.where(vague, 0, np.where(keys == RIGHT, -1, 1))[:, None]
    monkeypatch.setitem(videos.__dict__, "latent_actions", {"easy": np.zeros(count, dtype=np.int64)})
    monkeypatch.setitem(videos.__dict__, "true_actions", {"easy": keys})
    monkeypatch.setitem(videos.__dict__, "frame_features", {"easy": features})
    monkeypatch.setattr(agents.samples, "questioned", lambda *_: np.flatnonzero(~vague)[:500])
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


def test_a_cloning_goes_on_with_what_it_was_begun_with(monkeypatch, tmp_path):
    """Fitted anew, on another number of cores, labels and weights may differ in a bit, and a checkpoint would be refused."""
    study = Study(dataclasses.replace(PRESETS["smoke"], difficulties=("easy",), runs=tmp_path))
    agents, made, given = study.agents, [], []
    first = {"labels": np.array([RIGHT, LEFT, -1]), "samples": np.array([0, 1]), "weights": np.array([0.1, 1.0, 0.0])}
    monkeypatch.setattr(study.videos, "labels", lambda _: tmp_path)
    monkeypatch.setattr(agents, "lessons", lambda *_: made.append(1) or first)
    policy = Policy(PRESETS["smoke"].policy)

    def stopped_once(labels, *_, samples, weights, **__):
        given.append({"labels": labels["easy"], "samples": samples["easy"], "weights": weights["easy"]})
        if len(given) == 1:
            raise KeyboardInterrupt
        return policy

    monkeypatch.setattr(agents, "clone", stopped_once)
    with pytest.raises(KeyboardInterrupt):
        agents.policy("relabelled_linear", 0, 2)
    folder = agents.policy("relabelled_linear", 0, 2)
    assert len(made) == 1 and len(given) == 2 and not (folder / "lessons.npz").exists()
    for name, array in first.items():
        np.testing.assert_array_equal(given[1][name], array)


def test_early_in_a_jump_relabelling_tells_the_direction_alone(monkeypatch):
    """The features after a transition tell the key, but of the two frames after a take-off, every tenth, that they rise, not whether UP is
    held on."""
    study = Study(
        dataclasses.replace(PRESETS["smoke"], airborne_frames=2, middle_pixels=0, mirrored_samples=False, relabelling_confidence=0.6)
    )
    videos, agents, place = study.videos, study.agents, np.arange(999) % 10
    early, held = (place == 6) | (place == 7), np.random.default_rng(0).random(999) < 0.5
    keys = np.where((place == 5) | (early & held), RIGHT_UP, RIGHT)
    features = np.zeros((1000, 16), dtype=np.float16)
    features[1:] = np.where(early, 0, np.where(keys == RIGHT, -1, 1))[:, None]
    features[1:, 8:] = np.where(early, 1, 0)[:, None]
    monkeypatch.setitem(videos.__dict__, "latent_actions", {"easy": np.zeros(999, dtype=np.int64)})
    monkeypatch.setitem(videos.__dict__, "true_actions", {"easy": keys})
    monkeypatch.setitem(videos.__dict__, "frame_features", {"easy": features})
    monkeypatch.setattr(agents.samples, "questioned", lambda *_: np.arange(500))
    labels, doubtful = agents.relabel("linear", "easy", 0, 500)
    np.testing.assert_array_equal(labels, np.where(place == 5, RIGHT_UP, RIGHT))
    assert not doubtful.any()  # of RIGHT, whatever UP does
    for part in (agents, agents.transitions):
        monkeypatch.setattr(part, "settings", dataclasses.replace(study.settings, airborne_frames=0))
    _, doubtful = agents.relabel("linear", "easy", 0, 500)
    assert doubtful[early].any() and not doubtful[~early].any()


def test_a_mapping_that_sees_the_frame_learns_from_samples_spread_over_latent_actions(monkeypatch):
    """Of the samples that relabelling asks for, many are rare keys."""
    study = Study(PRESETS["smoke"])
    keys, features = np.array([RIGHT, RIGHT_UP] * 4), np.zeros((8, 128), dtype=np.float16)
    monkeypatch.setitem(study.videos.__dict__, "latent_actions", {"easy": np.arange(8) % 2})
    monkeypatch.setitem(study.videos.__dict__, "true_actions", {"easy": keys})
    monkeypatch.setitem(study.videos.__dict__, "frame_features", {"easy": features})
    monkeypatch.setattr(study.agents.samples, "questioned", lambda *_: pytest.fail("asked for by the questions of relabelling"))
    mapping = study.agents.frame_mapping("linear", "easy", 0, 4)
    seen = mapping.join(np.arange(8) % 2, features, num_codes=mapping.num_codes)
    np.testing.assert_array_equal(mapping.classifier.predict(seen.astype(np.float32)), keys)


def test_early_in_a_jump_the_oracle_learns_the_direction_alone(monkeypatch, tmp_path):
    """Of each press of UP the first frame is the take-off; what follows the end of an episode follows none."""
    keys, given = np.array([RIGHT, RIGHT_UP, RIGHT_UP, RIGHT_UP, RIGHT_UP, RIGHT, RIGHT_UP, -1, RIGHT, RIGHT]), []
    for airborne_frames in (0, 2):
        smoke = dataclasses.replace(PRESETS["smoke"], uncertainty_sampling=False, runs=tmp_path)
        study = Study(dataclasses.replace(smoke, airborne_frames=airborne_frames))
        monkeypatch.setitem(study.videos.__dict__, "true_actions", {"easy": keys, "hard": keys})
        monkeypatch.setattr(study.videos, "demonstrations", lambda _: tmp_path)
        policy = Policy(PRESETS["smoke"].policy)
        monkeypatch.setattr(study.agents, "clone", lambda labels, *_, policy=policy, **__: given.append(labels) or policy)
        study.agents.policy("oracle", 0)
    as_played, learned = given
    np.testing.assert_array_equal(as_played["hard"], keys)
    np.testing.assert_array_equal(learned["hard"], [RIGHT, RIGHT_UP, RIGHT, RIGHT, RIGHT_UP, RIGHT, RIGHT_UP, -1, RIGHT, RIGHT])


def test_n_labels_are_n_labels(monkeypatch, tmp_path):
    """All that cloning is given of the true actions are those of the labelled samples, of one difficulty; it is done once."""
    study, rng, given = Study(dataclasses.replace(PRESETS["smoke"], runs=tmp_path)), np.random.default_rng(0), []
    keys = {d: rng.integers(1, 9, size=100) for d in ("easy", "hard")}
    monkeypatch.setitem(study.videos.__dict__, "true_actions", keys)
    monkeypatch.setattr(study.agents.samples, "spread", lambda *_: np.array([3, 50]))
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
    study, rng, given = Study(dataclasses.replace(PRESETS["smoke"], airborne_frames=0, runs=tmp_path)), np.random.default_rng(0), []
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
    study = Study(dataclasses.replace(PRESETS["smoke"], difficulties=("easy",), middle_pixels=0, mirrored_samples=False))
    videos, agents, rng = study.videos, study.agents, np.random.default_rng(0)
    keys, codes = np.where(rng.random(500) < 0.5, RIGHT, RIGHT_UP), np.zeros(500, dtype=np.int64)
    monkeypatch.setitem(videos.__dict__, "latent_actions", {"easy": codes})
    monkeypatch.setitem(videos.__dict__, "true_actions", {"easy": keys})
    monkeypatch.setattr(agents.samples, "questioned", lambda *_: np.arange(64))

    def named(name: str, shift: int) -> float:
        features = rng.normal(size=(501, 16)).astype(np.float16)
        features[shift : 500 + shift] += np.where(keys == RIGHT, -2, 2)[:, None]
        monkeypatch.setitem(videos.__dict__, "frame_features", {"easy": features})
        return (agents.name_keys(name, "easy", 0, 64, codes, features[:500], np.empty((500, 0)))[:-1] == keys[:-1]).mean()

    assert named("relabelled_linear", 1) > 0.95
    assert named("genie_lam_linear", 1) < 0.7  # when the agent plays, what follows is not known yet
    assert named("genie_lam_linear", 0) > 0.95


def test_relabelling_reads_the_middle_of_the_picture_after_a_transition(monkeypatch):
    """Two corners of the middle tell the key that led there; features, all other pixels and the other difficulty do not."""
    study = Study(dataclasses.replace(PRESETS["smoke"], middle_pixels=6, mirrored_samples=False, airborne_frames=0))
    videos, agents, rng = study.videos, study.agents, np.random.default_rng(0)
    keys = {"easy": np.full(300, RIGHT), "hard": np.where(rng.random(1000) < 0.5, RIGHT, LEFT)}
    frames = rng.integers(0, 64, (1301, 64, 64, 3), dtype=np.uint8)
    for corner in (29, 34):
        frames[301:, corner, corner] += np.where(keys["hard"] == LEFT, 150, 0).astype(np.uint8)[:, None]
    features = rng.normal(size=(1301, 4)).astype(np.float16)
    monkeypatch.setitem(videos.__dict__, "latent_actions", {d: np.zeros(len(keys[d]), dtype=np.int64) for d in keys})
    monkeypatch.setitem(videos.__dict__, "true_actions", keys)
    monkeypatch.setitem(videos.__dict__, "frame_features", {"easy": features[:300], "hard": features[300:]})
    monkeypatch.setitem(videos.__dict__, "frames", Videos(frames, np.zeros(1301, dtype=np.int64)))
    monkeypatch.setattr(agents.samples, "questioned", lambda *_: np.arange(500))
    labels, _ = agents.relabel("linear", "hard", 0, 500)
    assert (labels == keys["hard"])[500:].mean() > 0.95
    named = agents.name_keys("relabelled_linear", "hard", 0, 500, labels, features[300:1300], frames[300:1300])
    np.testing.assert_array_equal(named[:-1], labels[:-1])


def test_relabelling_reads_which_way_players_of_two_colours_face(monkeypatch):
    """The face is brighter than the body or darker, so that no sum over pixels tells where it is; one frame in 30 is LEFT."""
    study = Study(dataclasses.replace(PRESETS["smoke"], difficulties=("easy",), middle_pixels=4, mirrored_samples=False, airborne_frames=0))
    videos, rng, count = study.videos, np.random.default_rng(0), 4000
    keys = np.where(rng.random(count) < 1 / 30, LEFT, RIGHT)
    frames = rng.integers(100, 110, (count + 1, 64, 64, 3), dtype=np.uint8)
    face = np.where(rng.random(count) < 0.5, 60, 150)
    frames[np.arange(1, count + 1), 31, np.where(keys == LEFT, 31, 32)] = face[:, None]
    keys[-1] = -1
    monkeypatch.setitem(videos.__dict__, "latent_actions", {"easy": np.where(keys == -1, -1, 0)})
    monkeypatch.setitem(videos.__dict__, "true_actions", {"easy": keys})
    monkeypatch.setitem(videos.__dict__, "frame_features", {"easy": rng.normal(size=(count + 1, 4)).astype(np.float16)})
    monkeypatch.setitem(videos.__dict__, "frames", Videos(frames, np.zeros(count + 1, dtype=np.int64)))
    labels, _ = study.agents.relabel("linear", "easy", 0, 200)
    assert (labels == keys)[:-1].mean() > 0.99
    monkeypatch.setattr("bc_transitions.MIRROR_EMPHASIS", 1e-6)
    unseen, _ = study.agents.relabel("linear", "easy", 0, 200)
    assert (unseen == LEFT)[keys == LEFT].mean() < 0.9


def test_n_label_bc_is_sampled_at_a_temperature_of_its_own(tmp_path):
    agents = Study(dataclasses.replace(PRESETS["smoke"], temperature=0.25, n_label_temperature=0.75)).agents
    Policy(PRESETS["smoke"].policy).save_pretrained(tmp_path)
    assert agents.make("n_label_bc", "easy", 0, 16, {(0, 16): tmp_path}).temperature == 0.75
    assert agents.make("oracle", "easy", 0, 0, {(0, 0): tmp_path}).temperature == 0.25
