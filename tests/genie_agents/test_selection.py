"""A policy cloned before says what of a video is kept: what it is unsure of, and one level in ten as it is."""

import numpy as np
import pytest
import torch

from genie_agents.demonstrations import RecordingConfig, Segment, record_shard, record_videos
from genie_agents.experts.players import PlannerExpert
from genie_agents.policy import Policy, PolicyConfig
from genie_agents.selection import MAX_DOUBTFUL, Proxy, find_airborne, find_doubtful
from world_model.data import VideoFile

LEVELS = range(900_000, 900_030)


def save_policy(folder, *, certainty, **config):
    """A policy that knows nothing, or, with a certainty, is as sure of one action everywhere."""
    torch.manual_seed(0)
    policy = Policy(PolicyConfig(num_actions=15, hidden=16, **config))
    with torch.no_grad():
        if config.get("architecture") != "st_vivit":
            policy.network.head[-1].bias[3] += certainty
    policy.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("lead_in", [0, 1, 2, 5])
def test_stretches_hold_all_that_is_wanted_led_in_and_little_else(lead_in):
    generator = np.random.default_rng(lead_in)
    for chance in (0.02, 0.1, 0.3, 1):
        wanted = generator.random(200) < chance
        segment = Segment(np.arange(200), np.arange(199) * 10)
        parts = segment.around(wanted, lead_in)
        for part in parts:
            assert (np.diff(part.frames) == 1).all() and (part.actions == part.frames[:-1] * 10).all()
        learned = np.concatenate([part.frames[lead_in:-1] for part in parts])  # all but the lead-in and the last frame
        assert np.isin(np.flatnonzero(wanted[lead_in:-1]) + lead_in, learned).all()
        assert all(wanted[part.frames[lead_in]] and wanted[part.frames[-2]] for part in parts)
        frames = np.concatenate([part.frames for part in parts])
        near = np.convolve(wanted[lead_in:-1], np.ones(lead_in + 2)) > 0  # a wanted one, those that lead in and the one it leads to
        assert set(np.flatnonzero(near)) == set(frames.tolist())


def test_nothing_wanted_is_nothing_kept():
    assert Segment(np.arange(9), np.arange(8)).around(np.zeros(9, dtype=bool), 2) == []


def test_a_policy_is_unsure_by_the_frames_up_to_now(tmp_path):
    folder = save_policy(tmp_path / "policy", certainty=9.06)  # about the threshold: sure of some frames, unsure of others
    generator = np.random.default_rng(0)
    proxy, frames = Proxy(folder), generator.integers(0, generator.integers(1, 255, (700, 1, 1, 1)), (700, 64, 64, 3), dtype=np.uint8)
    proxy.policy.network.head[-1].weight.data *= 20
    unsure = proxy.unsure(frames)
    assert 50 < unsure.sum() < 650
    np.testing.assert_array_equal(unsure[:300], proxy.unsure(frames[:300]))
    clip = torch.from_numpy(frames[98:100])[None]
    probabilities = proxy.policy(clip, torch.full((1, 2), -1))[0, -1].softmax(-1)
    entropy = -(probabilities * probabilities.log()).nansum()
    assert unsure[99] == (entropy > 0.02)


def test_who_is_unsure_of_all_keeps_all_and_who_is_sure_keeps_one_level_in_ten(tmp_path):
    config, shards = RecordingConfig(), {}
    for name, certainty in (("without", None), ("unsure", 0), ("sure", 100)):
        proxy = None if certainty is None else Proxy(save_policy(tmp_path / name, certainty=certainty))
        record_shard(tmp_path / f"{name}.h5", PlannerExpert(), LEVELS, config, 0, proxy)
        shards[name] = VideoFile(tmp_path / f"{name}.h5")
    without, unsure, sure = shards["without"], shards["unsure"], shards["sure"]
    assert "proxy" not in without.provenance and unsure.provenance["proxy"].startswith("unsure-")
    kept_whole = set(sure.level_seeds.tolist())
    assert 0 < len(kept_whole) < 10
    episodes = {seed: (without.level_seeds == seed).sum() for seed in kept_whole}
    assert episodes == {seed: (sure.level_seeds == seed).sum() for seed in kept_whole}

    def long_episodes(video):  # one that ends within its own lead-in teaches nothing and is left out
        spans = zip(video.episode_starts[:-1], video.episode_starts[1:], strict=True)
        return [video.frames[start:stop] for start, stop in spans if stop - start > config.lead_in + 1]

    assert all(np.array_equal(x, y) for x, y in zip(long_episodes(without), long_episodes(unsure), strict=True))


def test_what_cannot_select_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError):
        Proxy(tmp_path / "nothing")
    with pytest.raises(ValueError, match="previous actions"):
        Proxy(save_policy(tmp_path / "transformer", certainty=0, architecture="st_vivit"))
    small = Proxy(save_policy(tmp_path / "small", certainty=0, image_size=36))
    with pytest.raises(ValueError, match="36"):
        small.unsure(np.zeros((3, 64, 64, 3), dtype=np.uint8))
    with pytest.raises(FileNotFoundError):
        next(record_videos(tmp_path / "videos", LEVELS, RecordingConfig(), proxy=tmp_path / "nothing", num_workers=1))


def test_doubtful_labels_are_found_and_rare_ones_spared() -> None:
    labels = np.repeat([-1, 3, 5, 7], (10, 1000, 100, 4))
    confidence = np.concatenate([np.zeros(10), np.linspace(0.85, 1, 1000), np.linspace(0.6, 0.3, 100), np.full(4, 0.1)])
    doubtful = find_doubtful(labels, confidence, threshold=0.86)
    np.testing.assert_array_equal(doubtful[labels == 3], confidence[labels == 3] < 0.86)  # a fifteenth of them
    np.testing.assert_array_equal(np.flatnonzero(doubtful[labels == 5]), np.arange(100 - MAX_DOUBTFUL * 100, 100))
    assert not doubtful[labels == 7].any() and not doubtful[labels == -1].any()  # a fifth of four is none
    assert not find_doubtful(labels, confidence, threshold=0).any()


def test_frames_after_a_take_off_are_airborne() -> None:
    keys = np.array([7, 8, 8, 8, 7, 7, 7, 5, 7, -1, 7, 7, 2, -1])
    sure = np.ones(len(keys), dtype=bool)
    np.testing.assert_array_equal(np.flatnonzero(find_airborne(keys, sure, 2)), [2, 3, 8])  # not into the next episode
    assert not find_airborne(keys, sure, 0).any()
    sure[[1, 7]] = False  # the frame before a take-off, and none at all
    np.testing.assert_array_equal(np.flatnonzero(find_airborne(keys, sure, 2)), [3, 4])
    sure[2:4] = False, True  # a press in doubt all along, but for its last frame
    np.testing.assert_array_equal(np.flatnonzero(find_airborne(keys, sure, 1)), [4])
