"""Policies and cloning: the network learns what the labels say, sees no further than it may, and resumes bit-identically."""

import numpy as np
import pytest
import torch

from genie_agents.cloning import CloningBatches, Videos, clone
from genie_agents.policy import Policy, PolicyConfig
from world_model.data import VideoFile, VideoWriter
from world_model.training import TrainingConfig
from world_model.training.state import make_optimizers

NATURE = PolicyConfig(num_actions=2, architecture="nature", hidden=32, image_size=40)
IMPALA = PolicyConfig(num_actions=2, architecture="impala", channels=(4, 8), hidden=16, image_size=40)
ST_VIVIT = PolicyConfig(
    num_actions=2, architecture="st_vivit", num_frames=3, image_size=40, d_model=32, num_layers=1, num_heads=2, patch_size=8
)


@pytest.fixture
def videos(tmp_path):
    """Two files of short episodes of 40x40 noise in which a bright square stands left (label 0) or right (label 1)."""
    generator, labels, files = np.random.default_rng(0), [], []
    for name in ("a.h5", "b.h5"):
        with VideoWriter(tmp_path / name, frame_shape=(40, 40, 3)) as writer:
            for _ in range(20):
                length = int(generator.integers(3, 9))
                frames = generator.integers(0, 60, size=(length, 40, 40, 3), dtype=np.uint8)
                sides = generator.integers(2, size=length)
                for frame, side in zip(frames, sides, strict=True):
                    frame[8:24, 16 * side : 16 * side + 16] += 150
                writer.append(frames)
                labels.append(np.append(sides[:-1], -1))
        files.append(VideoFile(tmp_path / name))
    return Videos.load(files), np.concatenate(labels)


def test_videos_know_where_episodes_begin(videos):
    loaded, labels = videos
    ends = np.flatnonzero(labels == -1)
    starts = np.concatenate([[0], ends[:-1] + 1])
    np.testing.assert_array_equal(np.unique(loaded.first_frames), starts)
    assert (loaded.first_frames <= np.arange(len(labels))).all()


def test_videos_are_loaded_whole(videos, tmp_path, monkeypatch):
    monkeypatch.setattr("genie_agents.cloning.LOADED_AT_ONCE", 7)
    files = [VideoFile(path) for path in sorted(tmp_path.glob("*.h5"))]
    written = np.concatenate([file.frames[:] for file in files])
    for loaded in (videos[0], Videos.load(files)):
        np.testing.assert_array_equal(loaded.frames[np.arange(len(written))], written)


def test_batches_never_look_into_the_episode_before(videos):
    loaded, labels = videos
    batches = CloningBatches(loaded, labels, np.flatnonzero(labels >= 0), num_frames=4, batch_size=64, seed=0)
    batch = batches.gather(np.arange(len(labels)))
    for index in range(len(labels)):
        first = loaded.first_frames[index]
        for age in range(4):
            frame = max(index - age, first)
            np.testing.assert_array_equal(batch.frames[index, 3 - age], loaded.frames[frame])
            assert batch.labels[index, 3 - age] == (labels[index - age] if index - age >= first else -1)
            assert batch.previous_actions[index, 3 - age] == (labels[index - age - 1] if index - age - 1 >= first else -1)


def test_a_pass_visits_every_sample_once_and_resumes(videos):
    loaded, labels = videos
    samples = np.flatnonzero(labels >= 0)

    def stream():
        return CloningBatches(loaded, labels, samples, num_frames=1, batch_size=7, seed=3)

    batches, seen = stream(), []
    batches.gather = lambda chosen: chosen  # look at the indices rather than at the frames
    for _ in range(len(samples)):  # 7 passes
        seen.append(next(batches))
    order = np.concatenate(seen)
    for start in range(0, len(order), len(samples)):
        np.testing.assert_array_equal(np.sort(order[start : start + len(samples)]), samples)
    assert (order[: len(samples)] != order[len(samples) : 2 * len(samples)]).any()
    again = stream()
    again.gather = lambda chosen: chosen
    for _ in range(5):
        next(again)
    resumed = stream()
    resumed.gather = lambda chosen: chosen
    resumed.load_state_dict(again.state_dict())
    np.testing.assert_array_equal(next(resumed), seen[5])


@pytest.mark.parametrize("balance", [0.5, 1.0])
def test_rare_labels_are_drawn_more_often_and_the_stream_resumes(videos, balance):
    loaded, labels = videos
    rare = labels.copy()
    rare[np.flatnonzero(labels == 1)[8:]] = -1  # 8 frames of label 1 beside all of label 0
    samples = np.flatnonzero(rare >= 0)

    def stream():
        batches = CloningBatches(loaded, rare, samples, num_frames=1, batch_size=50, seed=1, balance=balance)
        batches.gather = lambda chosen: chosen
        return batches

    batches = stream()
    drawn = np.bincount(rare[np.concatenate([next(batches) for _ in range(100)])])
    counts = np.bincount(rare[samples])
    np.testing.assert_allclose(drawn[1] / drawn[0], (counts[1] / counts[0]) ** (1 - balance), rtol=0.2)
    resumed = stream()
    resumed.load_state_dict(batches.state_dict())
    np.testing.assert_array_equal(next(resumed), next(batches))
    with pytest.raises(ValueError, match="balance"):
        CloningBatches(loaded, rare, samples, num_frames=1, batch_size=50, seed=1, balance=1.5)


def test_frames_of_greater_weight_are_drawn_more_often(videos):
    loaded, labels = videos
    samples, heavy = np.flatnonzero(labels >= 0), np.arange(len(labels)) % 3 == 0
    batches = CloningBatches(loaded, labels, samples, num_frames=1, batch_size=50, seed=1, balance=0.5, weights=np.where(heavy, 1.0, 0.25))
    batches.gather = lambda chosen: chosen
    drawn = np.bincount(np.concatenate([next(batches) for _ in range(400)]), minlength=len(labels))
    for label in (0, 1):
        times = [drawn[(labels == label) & group].mean() for group in (heavy, ~heavy)]
        np.testing.assert_allclose(times[0] / times[1], 4, rtol=0.15)
    for weights in (np.ones(3), np.zeros(len(labels))):
        with pytest.raises(ValueError, match="weights"):
            CloningBatches(loaded, labels, samples, num_frames=1, batch_size=50, seed=1, weights=weights)


@pytest.mark.parametrize("muon_learning_rate", [0.0, 0.01])
@pytest.mark.parametrize("config", [NATURE, IMPALA, ST_VIVIT], ids=["nature", "impala", "st_vivit"])
def test_clones_what_the_labels_say(videos, config, muon_learning_rate):
    loaded, labels = videos
    training = TrainingConfig(steps=200, learning_rate=3e-3, muon_learning_rate=muon_learning_rate, warmup_steps=5)
    policy = clone(config, training, loaded, labels, batch_size=32)
    samples = np.flatnonzero(labels >= 0)
    batch = CloningBatches(loaded, labels, samples, num_frames=config.num_frames, batch_size=1, seed=0).gather(samples)
    with torch.no_grad():
        chosen = policy(batch.frames, batch.previous_actions)[:, -1].argmax(-1)
    assert (chosen == batch.labels[:, -1]).float().mean() > 0.95


@pytest.mark.parametrize("config", [NATURE, IMPALA], ids=["nature", "impala"])
def test_muon_trains_every_layer_but_the_last(config):
    policy = Policy(config)
    adamw, muon = make_optimizers(policy, TrainingConfig(steps=1, muon_learning_rate=0.01))
    names = {weight: name for name, weight in policy.named_parameters()}
    by_adamw = {names[weight] for group in adamw.param_groups for weight in group["params"]}
    by_muon = {names[weight] for group in muon.param_groups for weight in group["params"]}
    assert by_muon == {name for name in names.values() if name.endswith("weight")} - {"network.head.2.weight"}
    assert by_adamw == set(names.values()) - by_muon


def test_st_vivit_is_causal_and_the_others_see_their_whole_stack():
    frames = torch.randint(0, 256, (1, 3, 40, 40, 3), dtype=torch.uint8)
    changed = frames.clone()
    changed[:, 2] = 255 - changed[:, 2]
    previous = torch.zeros(1, 3, dtype=torch.long)
    policy = Policy(ST_VIVIT).eval()
    torch.testing.assert_close(policy(frames, previous)[:, :2], policy(changed, previous)[:, :2], rtol=0, atol=0)
    assert (policy(frames, previous)[:, 2] != policy(changed, previous)[:, 2]).any()
    changed = frames.clone()
    changed[:, 0] = 255 - changed[:, 0]
    for architecture in ("nature", "impala"):
        config = PolicyConfig(num_actions=2, architecture=architecture, channels=(4, 8), hidden=16, image_size=40, num_frames=3)
        policy = Policy(config).eval()
        assert (policy(frames, previous) != policy(changed, previous)).any()


@pytest.mark.parametrize("muon_learning_rate", [0.0, 0.01])
def test_interrupted_cloning_resumes_bit_identically(videos, tmp_path, muon_learning_rate):
    loaded, labels = videos
    training = TrainingConfig(steps=12, muon_learning_rate=muon_learning_rate)

    def interrupt(step, metrics):
        if step == 5:
            raise KeyboardInterrupt

    whole = clone(IMPALA, training, loaded, labels, batch_size=8, seed=1, checkpoint=tmp_path / "whole")
    path = tmp_path / "cut"
    with pytest.raises(KeyboardInterrupt):
        clone(IMPALA, training, loaded, labels, batch_size=8, seed=1, checkpoint=path, checkpoint_seconds=0, on_step=interrupt)
    assert path.exists()
    resumed = clone(IMPALA, training, loaded, labels, batch_size=8, seed=1, checkpoint=path)
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, resumed.state_dict()[name]), name


def test_a_state_of_other_samples_labels_or_settings_is_refused(videos, tmp_path):
    loaded, labels = videos
    samples = np.flatnonzero(labels >= 0)

    def stream(labels=labels, samples=samples, seed=0, **settings):
        return CloningBatches(loaded, labels, samples, num_frames=1, batch_size=4, seed=seed, **settings)

    state = stream().state_dict()
    stream().load_state_dict(state)
    others = stream(samples=samples[:5]), stream(labels=np.where(labels == 1, 0, labels)), stream(seed=1)
    for other in (*others, stream(balance=0.5), stream(weights=np.arange(1.0, len(labels) + 1))):
        with pytest.raises(ValueError, match="resume with the same data and settings"):
            other.load_state_dict(state)
    clone(NATURE, TrainingConfig(steps=2), loaded, labels, batch_size=8, checkpoint=tmp_path / "run")
    with pytest.raises(ValueError, match="resume with the same data and settings"):
        clone(NATURE, TrainingConfig(steps=2), loaded, np.where(labels >= 0, 0, labels), batch_size=8, checkpoint=tmp_path / "run")


def test_a_policy_that_answers_for_earlier_frames_learns_from_the_samples_alone(videos):
    loaded, labels = videos
    index = int(np.flatnonzero(loaded.first_frames == np.arange(len(labels)))[0]) + 2
    batch = CloningBatches(loaded, labels, np.array([index]), num_frames=3, batch_size=1, seed=0).gather(np.array([index]))
    assert batch.labels.tolist() == [[-1, -1, labels[index]]]
    assert batch.previous_actions.tolist() == [[-1, *labels[index - 2 : index]]]


def test_save_and_load(tmp_path):
    policy = Policy(IMPALA).eval()
    policy.save_pretrained(tmp_path)
    loaded = Policy.from_pretrained(tmp_path)
    assert loaded.config == policy.config
    frames, previous = torch.randint(0, 256, (2, 2, 40, 40, 3), dtype=torch.uint8), torch.zeros(2, 2, dtype=torch.long)
    torch.testing.assert_close(policy(frames, previous), loaded(frames, previous))
    with pytest.raises(FileNotFoundError, match="save_pretrained"):
        Policy.from_pretrained(tmp_path / "nowhere")


def test_bad_labels_and_settings_are_refused(videos):
    loaded, labels = videos
    with pytest.raises(ValueError, match="one label a frame"):
        clone(IMPALA, TrainingConfig(steps=1), loaded, labels[:-1])
    with pytest.raises(ValueError, match="out of range"):
        clone(IMPALA, TrainingConfig(steps=1), loaded, np.where(labels == 1, 5, labels))
    with pytest.raises(ValueError, match=r"frames are \(40, 40, 3\) and the policy sees \(64, 64, 3\)"):
        clone(PolicyConfig(num_actions=2), TrainingConfig(steps=1), loaded, labels)
    with pytest.raises(ValueError, match="no labelled frames"):
        clone(IMPALA, TrainingConfig(steps=1), loaded, np.full_like(labels, -1))
    with pytest.raises(ValueError, match="multiple of"):
        PolicyConfig(num_actions=2, architecture="impala", image_size=50)
    with pytest.raises(ValueError, match="at least 36"):
        PolicyConfig(num_actions=2, image_size=32)
    with pytest.raises(ValueError, match="impala"):
        PolicyConfig(num_actions=2, architecture="resnet")
    for unfit in ({"stem_stride": 0}, {"hidden": 0}, {"channels": ()}, {"channels": (16, -2)}, {"blocks": -1}, {"patch_size": 0}):
        with pytest.raises(ValueError, match=f"{next(iter(unfit))} .*choose"):
            PolicyConfig(num_actions=2, **unfit)
    with pytest.raises(ValueError, match="must be a multiple of 2"):
        PolicyConfig(num_actions=2, architecture="st_vivit", num_heads=3)
