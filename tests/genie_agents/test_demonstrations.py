"""Demonstrations: solved in the real game, cut at noise, kept when a run is repeated."""

import numpy as np
import pytest

from genie_agents.coinrun import NOOP, UP, ProcgenEnv
from genie_agents.demonstrations import (
    RecordingConfig,
    find_ground_frames,
    find_player,
    open_videos,
    play_level,
    record_shard,
    record_videos,
)
from genie_agents.experts.game_state import read_state
from genie_agents.experts.players import PlannerExpert, RandomExpert, SightedPlannerExpert
from world_model.data import VideoFile, VideoWriter

LEVELS = range(900_000, 900_012)


def replay_matches(env, level_seed, segment):
    """Whether the segment, begun at the level's start, shows what the unmodified game shows for its actions."""
    obs, _ = env.reset(options={"level_seed": level_seed})
    frames = [obs] + [env.step(int(action))[0] for action in segment.actions]
    return all((a == b).all() for a, b in zip(frames, segment.frames, strict=True))


@pytest.mark.parametrize("difficulty", ["easy", "hard"])
def test_undisturbed_play_is_one_segment_that_the_game_reproduces_and_solves(difficulty):
    env, expert = ProcgenEnv(difficulty=difficulty), PlannerExpert()
    config = RecordingConfig(difficulty=difficulty, noise=0, delay=0)
    for level_seed in LEVELS:
        segments, solved = play_level(env, expert, level_seed, config, np.random.default_rng(0))
        assert solved and len(segments) == 1
        assert replay_matches(env, level_seed, segments[0])


@pytest.mark.parametrize("difficulty", ["easy", "hard"])
def test_a_player_with_the_cameras_sight_solves_most_levels_and_answers_by_the_state_alone(difficulty):
    env, expert = ProcgenEnv(difficulty=difficulty), SightedPlannerExpert()
    config, num_solved = RecordingConfig(difficulty=difficulty, noise=0, delay=0), 0
    for level_seed in range(900_000, 900_040):
        segments, solved = play_level(env, expert, level_seed, config, np.random.default_rng(level_seed))
        num_solved += solved
    assert num_solved >= 30
    obs, _ = env.reset(options={"level_seed": 900_000})
    expert.begin(env)
    for _ in range(10):
        action = expert.act(obs)
        newcomer = SightedPlannerExpert()
        newcomer.begin(env)
        assert action == expert.act(obs) == newcomer.act(obs)
        obs, *_ = env.step(action)


class LoggingExpert(PlannerExpert):
    """Remembers what it was shown and what it answered."""

    def begin(self, env):
        self.answers = getattr(self, "answers", set())
        return super().begin(env)

    def act(self, obs):
        action = super().act(obs)
        self.answers.add((obs.tobytes(), action))
        return action


@pytest.mark.parametrize("difficulty", ["easy", "hard"])
def test_noise_is_off_camera_and_never_loses_the_level(difficulty):
    env, expert, num_segments = ProcgenEnv(difficulty=difficulty), LoggingExpert(), 0
    config = RecordingConfig(difficulty=difficulty, noise=0.3, max_noise_steps=3, lead_in=0)
    for level_seed in LEVELS:
        segments, solved = play_level(env, expert, level_seed, config, np.random.default_rng(level_seed))
        assert solved
        num_segments += len(segments)
        for segment in segments:
            for frame, action, after in zip(segment.frames[:-1], segment.actions, segment.frames[1:], strict=True):
                assert (frame.tobytes(), action) in expert.answers  # no key but the expert's own leads from frame to frame
                assert after.shape == frame.shape
    assert num_segments > 3 * len(LEVELS)


def test_after_a_cut_the_video_shows_how_the_disturbance_led_to_where_the_expert_takes_over():
    env, expert, num_cuts = ProcgenEnv(), PlannerExpert(), 0
    for level_seed in LEVELS:
        none, some, all_there_was = (
            play_level(env, expert, level_seed, RecordingConfig(noise=0.3, lead_in=lead_in), np.random.default_rng(level_seed))[0]
            for lead_in in (0, 2, 1000)
        )
        for bare, segment, whole in zip(none, some, all_there_was, strict=True):
            assert replay_matches(env, level_seed, whole)  # from the level's beginning, without the disturbances that were taken back
            lead_in = len(segment.actions) - len(bare.actions)
            assert lead_in == min(2, len(whole.actions) - len(bare.actions))
            for played in (bare, segment):
                assert (played.frames == whole.frames[-len(played.frames) :]).all()
                assert (played.actions == whole.actions[-len(played.actions) :]).all()
            num_cuts += lead_in > 0
    assert num_cuts > 2 * len(LEVELS)


class HopelessExpert(RandomExpert):
    """Plays on, but knows that no disturbance is to blame."""

    def begin(self, env):
        super().begin(env)
        return False


def test_a_level_lost_before_the_noise_is_given_up_at_the_first_disturbance():
    env = ProcgenEnv()
    _, solved = play_level(env, HopelessExpert(seed=0), LEVELS[0], RecordingConfig(noise=0.99, delay=0), np.random.default_rng(0))
    assert not solved and env.elapsed_steps < 10


def test_uncut_noise_is_recorded_with_the_keys_really_pressed():
    env, expert = ProcgenEnv(), LoggingExpert()
    config = RecordingConfig(noise=0.2, cut_noise=False)
    disturbed = 0
    for level_seed in LEVELS:
        (segment,), _ = play_level(env, expert, level_seed, config, np.random.default_rng(level_seed))
        assert replay_matches(env, level_seed, segment)
        pairs = zip(segment.frames[:-1], segment.actions, strict=True)
        disturbed += sum((frame.tobytes(), action) not in expert.answers for frame, action in pairs)
    assert disturbed > len(LEVELS)
    short = RecordingConfig(noise=0.9, delay=0, max_noise_steps=6, cut_noise=False, max_steps=10)
    assert {len(play_level(env, expert, level, short, np.random.default_rng(level))[0][0].actions) for level in LEVELS} == {10}


def test_unsolved_levels_are_dropped_unless_asked_for(tmp_path):
    levels = range(900_000, 900_006)
    config = RecordingConfig(max_steps=5)
    with pytest.raises(ValueError, match="planner solved none of 6 levels"):
        list(record_videos(tmp_path / "dropped", levels, config, num_workers=1))
    assert list((tmp_path / "dropped").glob("*.h5")) == []
    kept = RecordingConfig(max_steps=5, keep_unsolved=True, cut_noise=False)
    assert sum(record_videos(tmp_path / "kept", levels, kept, num_workers=1)) == 6
    (video,) = open_videos(tmp_path / "kept")
    assert video.level_seeds.tolist() == list(levels) and video.provenance["expert"] == "PlannerExpert"


def test_recording_goes_on_where_it_stopped_and_repeats_itself(tmp_path):
    config = RecordingConfig()
    done = record_videos(tmp_path / "a", LEVELS, config, shard_levels=4, num_workers=2)
    next(done)
    done.close()  # an interrupt: shards under way are finished, the rest is not begun
    kept = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "a").glob("*.h5")}
    assert 1 <= len(kept) <= 3
    assert sum(record_videos(tmp_path / "a", LEVELS, config, shard_levels=4, num_workers=1)) == len(LEVELS)
    (tmp_path / "b").mkdir()
    for start in range(0, len(LEVELS), 4):  # in this process, for the start of others takes seconds
        record_shard(tmp_path / "b" / f"{start:02}.h5", PlannerExpert(), LEVELS[start : start + 4], config, seed=0)
    first, second = open_videos(tmp_path / "a"), open_videos(tmp_path / "b")
    assert len(first) == 3 and all(
        path.stat().st_mtime_ns == kept.get(path.name, path.stat().st_mtime_ns) for path in (tmp_path / "a").glob("*.h5")
    )
    for one, other in zip(first, second, strict=True):
        np.testing.assert_array_equal(one.frames[:], other.frames[:])
        np.testing.assert_array_equal(one.actions(), other.actions())


def test_ground_frames_and_the_player_are_found_by_playing_the_actions_again(tmp_path):
    config = RecordingConfig(noise=0.3, max_noise_steps=6, cut_noise=False, keep_unsolved=True, max_steps=60)
    record_shard(tmp_path / "random.h5", RandomExpert(seed=0), range(900_000, 900_003), config, seed=0)
    (video,) = open_videos(tmp_path)
    ground, places, actions, env = find_ground_frames(video), find_player(video), video.actions(), ProcgenEnv()
    assert ground.shape == actions.shape and not ground[actions < 0].any() and ground[video.episode_starts[:-1]].all()
    assert 0 < ground.mean() < 1
    for start, stop, level_seed in zip(video.episode_starts[:-1], video.episode_starts[1:], video.level_seeds, strict=True):
        env.reset(options={"level_seed": level_seed})
        for index in range(start, stop - 1):
            before = env.get_state()
            now = read_state(before.simulator)
            assert ground[index] == (now.vy == 0)
            assert tuple(places[index]) == (now.x, now.y)
            if ground[index]:
                for key in (NOOP, UP):
                    env.step(key)
                    assert (read_state(env.get_state().simulator).vy > 0) == (key == UP)
                    env.set_state(before)
            env.step(actions[index])
        last = read_state(env.get_state().simulator)
        assert tuple(places[stop - 1]) == (last.x, last.y)


def test_ground_frames_of_other_videos_are_refused(tmp_path):
    record_shard(tmp_path / "cut.h5", PlannerExpert(), range(900_000, 900_003), RecordingConfig(noise=0.5, keep_unsolved=True), seed=0)
    with pytest.raises(ValueError, match="record whole levels"):
        find_ground_frames(VideoFile(tmp_path / "cut.h5"))
    with VideoWriter(tmp_path / "own.h5", with_actions=True) as writer:
        writer.append(np.zeros((3, 64, 64, 3), np.uint8), actions=np.zeros(2, np.int64))
    with pytest.raises(ValueError, match="difficulty"):
        find_ground_frames(VideoFile(tmp_path / "own.h5"))


def test_random_play_holds_its_actions():
    env, expert = ProcgenEnv("climber"), RandomExpert(seed=0)
    config = RecordingConfig(game="climber", noise=0, delay=0, max_steps=60)
    (segment, *_), _ = play_level(env, expert, 5, config, np.random.default_rng(0))
    actions = segment.actions
    assert 0.2 < (actions[1:] != actions[:-1]).mean() < 0.7 and actions.min() >= 0 and actions.max() < 9


def test_bad_requests_are_refused(tmp_path):
    with pytest.raises(ValueError, match="CoinRun's physics only"):
        list(record_videos(tmp_path, range(2), RecordingConfig(game="ninja")))
    with pytest.raises(ValueError, match="seed is -1; choose 0 or more"):
        list(record_videos(tmp_path, range(2), RecordingConfig(), seed=-1))
    with pytest.raises(FileNotFoundError, match="train_ppo"):
        list(record_videos(tmp_path, range(2), RecordingConfig(), expert=str(tmp_path / "nobody"), num_workers=1))
    with pytest.raises(FileNotFoundError, match="no HDF5 video"):
        open_videos(tmp_path / "nowhere")


def test_both_names_of_hdf5_files_are_videos(tmp_path):
    for name in ("b.hdf5", "a.h5"):
        with VideoWriter(tmp_path / name, frame_shape=(8, 8, 3)) as video:
            video.append(np.zeros((2, 8, 8, 3), dtype=np.uint8))
    assert [video.path.name for video in open_videos(tmp_path)] == ["a.h5", "b.hdf5"]
    with pytest.raises(ValueError, match="noise"):
        RecordingConfig(noise=1.5)
    with pytest.raises(ValueError, match="lead_in is -1"):
        RecordingConfig(lead_in=-1)


def test_a_shard_of_levels_that_nobody_solves_leaves_no_video(tmp_path):
    record_shard(tmp_path / "none.h5", PlannerExpert(), range(900_000, 900_002), RecordingConfig(noise=0, delay=0, max_steps=3), seed=0)
    assert not list(tmp_path.iterdir())
