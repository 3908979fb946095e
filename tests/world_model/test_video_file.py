"""The video file format."""

import signal
import subprocess
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path

import h5py
import numpy as np
import pytest
from numbered_video import FRAME_SHAPE, make_episode, write_episodes

from world_model.data import FORMAT_VERSION, VideoFile, VideoFileError, VideoWriter, write_latent_actions


@pytest.fixture
def video_path(tmp_path: Path) -> Path:
    return write_episodes(tmp_path / "video.h5", [5, 2, 21])


def end_markers(lengths: Sequence[int], value: int = 0) -> np.ndarray:
    labels = np.full(sum(lengths), value)
    labels[np.cumsum(lengths) - 1] = -1
    return labels


# Writing and reading


def test_round_trip_with_actions(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    episodes = [rng.integers(256, size=(length, 6, 5, 1), dtype=np.uint8) for length in (2, 7, 40, 8, 3)]
    actions = [rng.integers(15, size=len(episode) - 1) for episode in episodes]
    provenance = {"game": "CoinRun", "seeds": [0, 5], "notes": "x" * 100_000}
    with VideoWriter(tmp_path / "v.h5", frame_shape=(6, 5, 1), provenance=provenance, with_actions=True) as writer:
        for index, (episode, taken) in enumerate(zip(episodes, actions, strict=True)):
            writer.append(episode, level_seed=100 + index, actions=taken)
    with VideoFile(tmp_path / "v.h5") as video:
        assert (video.num_frames, video.num_episodes, video.frame_shape, video.has_actions) == (60, 5, (6, 5, 1), True)
        assert video.provenance == provenance
        np.testing.assert_array_equal(video.level_seeds, [100, 101, 102, 103, 104])
        np.testing.assert_array_equal(video.frames[:], np.concatenate(episodes))
        for index, episode in enumerate(episodes):
            np.testing.assert_array_equal(video.episode(index), episode)
        np.testing.assert_array_equal(video.actions(), np.concatenate([np.append(taken, -1) for taken in actions]))
        with pytest.raises(IndexError, match="episode 5"):
            video.episode(5)


def test_file_without_labels_says_how_to_get_them(video_path: Path) -> None:
    with VideoFile(video_path) as video:
        assert not video.has_actions
        assert video.level_seeds.tolist() == [-1, -1, -1]
        with pytest.raises(VideoFileError, match="with_actions=True"):
            video.actions()
        with pytest.raises(VideoFileError, match="label it first"):
            video.latent_actions()


def test_refused_episodes_leave_no_trace(tmp_path: Path) -> None:
    good, actions = make_episode(4), np.array([1, 2, 3])
    with VideoWriter(tmp_path / "v.h5", frame_shape=FRAME_SHAPE, with_actions=True) as writer:
        writer.append(good, actions=actions)
        for bad in (good.astype(np.float32), good.astype(np.int64)):
            with pytest.raises(TypeError, match="uint8"):
                writer.append(bad, actions=actions)
        for bad in (good[:, :3], good[0], good[..., :1]):
            with pytest.raises(ValueError, match="shape"):
                writer.append(bad, actions=actions)
        with pytest.raises(ValueError, match="at least 2 frames"):
            writer.append(good[:1], actions=actions[:0])
        with pytest.raises(ValueError, match=r"shape \(3,\)"):
            writer.append(good, actions=np.zeros(4, int))
        with pytest.raises(TypeError, match="integers"):
            writer.append(good, actions=actions / 2)
        with pytest.raises(ValueError, match=">= 0"):
            writer.append(good, actions=np.array([1, -1, 2]))
        with pytest.raises(ValueError, match="pass the episode's actions"):
            writer.append(good)
        with pytest.raises(TypeError):
            writer.append(good, actions=actions, level_seed=1.5)  # type: ignore[arg-type]
        writer.append(good + 1, actions=actions + 1)
    with VideoFile(tmp_path / "v.h5") as video:
        np.testing.assert_array_equal(video.frames[:], np.concatenate([good, good + 1]))
        np.testing.assert_array_equal(video.actions(), [1, 2, 3, -1, 2, 3, 4, -1])


def test_writer_misuse_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="frame_shape"):
        VideoWriter(tmp_path / "v.h5", frame_shape=(64, 64))  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="JSON"):
        VideoWriter(tmp_path / "v.h5", provenance={"x": object()})
    with pytest.raises(FileNotFoundError, match="create it"), VideoWriter(tmp_path / "nowhere" / "v.h5"):
        pass
    with pytest.raises(IsADirectoryError, match="folder"), VideoWriter(tmp_path):
        pass
    writer = VideoWriter(tmp_path / "v.h5", frame_shape=FRAME_SHAPE)
    with pytest.raises(RuntimeError, match="with block"):
        writer.append(make_episode(3))
    with writer:
        with pytest.raises(ValueError, match="with_actions=True"):
            writer.append(make_episode(3), actions=np.zeros(2, int))
        writer.append(make_episode(3))
    with pytest.raises(RuntimeError, match="with block"):
        writer.append(make_episode(3))
    with pytest.raises(RuntimeError, match="used before"), writer:
        pass


# What failures leave behind


def test_exception_keeps_the_old_file_and_removes_the_temporary(video_path: Path) -> None:
    before = video_path.read_bytes()
    with pytest.raises(KeyboardInterrupt), VideoWriter(video_path, frame_shape=FRAME_SHAPE) as writer:
        writer.append(make_episode(50))
        assert len(list(video_path.parent.iterdir())) == 2  # the frames do go to a file beside it
        raise KeyboardInterrupt
    assert video_path.read_bytes() == before
    assert list(video_path.parent.iterdir()) == [video_path]


def test_file_without_an_episode_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(VideoFileError, match="no episode"), VideoWriter(tmp_path / "v.h5"):
        pass
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("ctrl_c")
def test_who_catches_ctrl_c_keeps_whole_episodes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_buffer = VideoWriter._write_buffer

    def interrupted(writer: VideoWriter) -> None:
        signal.raise_signal(signal.SIGINT)
        write_buffer(writer)

    monkeypatch.setattr(VideoWriter, "_write_buffer", interrupted)
    episode = np.zeros((10, *FRAME_SHAPE), np.uint8)
    with VideoWriter(tmp_path / "v.h5", frame_shape=FRAME_SHAPE) as writer:
        with pytest.raises(KeyboardInterrupt):
            while True:
                writer.append(episode)
        monkeypatch.undo()
    with VideoFile(tmp_path / "v.h5") as file:
        assert file.num_episodes == 1 and file.num_frames == 10


@pytest.mark.usefixtures("ctrl_c")
@pytest.mark.parametrize("writes_before", [0, 3, 12])
def test_an_interrupted_write_leaves_the_old_file_and_the_interpreter_alive(video_path: Path, writes_before: int) -> None:
    """Ctrl-C while HDF5 writes, and in the end while it closes the file; in a process of its own, as HDF5 used to crash."""
    before = video_path.read_bytes()
    script = f"""
        import signal, sys
        import numpy as np
        from world_model.data import VideoWriter, hdf5_output

        writes = 0
        write = hdf5_output.OutputFile.write
        def interrupted(self, data):
            global writes
            writes += 1
            if writes == {writes_before} + 1:
                signal.raise_signal(signal.SIGINT)
            return write(self, data)
        hdf5_output.OutputFile.write = interrupted
        try:
            with VideoWriter({str(video_path)!r}, frame_shape=(64, 64, 3)) as writer:
                for _ in range(4):
                    writer.append(np.random.default_rng(0).integers(256, size=(16, 64, 64, 3), dtype=np.uint8))
        except KeyboardInterrupt:
            sys.exit(7)
        sys.exit(writes)
    """
    result = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, check=False)
    assert (result.returncode, result.stderr) == (7, "")
    assert video_path.read_bytes() == before
    assert list(video_path.parent.iterdir()) == [video_path]


def test_full_disk_keeps_the_old_file_and_the_interpreter_alive(video_path: Path) -> None:
    """In a process of its own, whose files may not grow past 20 kB: HDF5 is known to crash when a write has failed."""
    pytest.importorskip("resource")
    before = video_path.read_bytes()
    code = f"""
        import resource, sys
        import numpy as np
        from world_model.data import VideoWriter, write_latent_actions
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, resource.RLIM_INFINITY))
        noise = np.random.default_rng(0).integers(256, size=(256, 64, 64, 3), dtype=np.uint8)
        try:
            with VideoWriter({str(video_path)!r}) as writer:
                for _ in range(5):  # past HDF5's cache, so that appends fail too and not only the end of the block
                    try:
                        writer.append(noise)
                    except OSError as error:  # swallowed by the caller, the failure must still not publish half a file
                        print("append:", error)
        except OSError as error:
            print("exit:", error)
        latent_actions = np.zeros(28, int)
        latent_actions[[4, 6, 27]] = -1
        try:
            write_latent_actions({str(video_path)!r}, latent_actions, labeller="x" * 50_000)
        except OSError as error:
            print("labels:", error)
    """
    process = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stderr
    lines = process.stdout.splitlines()
    assert all(f"could not write {video_path} (File too large)" in line for line in lines), process.stdout
    assert [line.partition(":")[0] for line in lines][-3:] == ["append", "exit", "labels"]
    assert video_path.read_bytes() == before
    assert list(video_path.parent.iterdir()) == [video_path]


# Files that are not what they should be


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="absent.h5"):
        VideoFile(tmp_path / "absent.h5")


def test_truncated_files_are_refused(video_path: Path) -> None:
    whole = video_path.read_bytes()
    for size in (len(whole) - 1, len(whole) // 2, 100, 1, 0):
        video_path.write_bytes(whole[:size])
        with pytest.raises(VideoFileError, match="video.h5 is truncated"):
            VideoFile(video_path)


def test_a_file_that_another_program_writes_is_not_called_damaged(video_path: Path) -> None:
    script = f"import h5py, sys; file = h5py.File({str(video_path)!r}, 'a'); print('open', flush=True); sys.stdin.read()"
    with subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as program:
        assert program.stdout is not None and program.stdout.readline() == "open\n"
        with pytest.raises(VideoFileError, match="is open for writing in another program: close it there first"):
            VideoFile(video_path)
    VideoFile(video_path).close()


def test_foreign_files_are_refused(tmp_path: Path) -> None:
    text, hdf5 = tmp_path / "text.h5", tmp_path / "other.h5"
    text.write_text("a video? " * 1000)
    with h5py.File(hdf5, "w") as file:
        file["frames"] = np.zeros((4, *FRAME_SHAPE), np.uint8)
    with pytest.raises(VideoFileError, match="text.h5 .* not HDF5"):
        VideoFile(text)
    with pytest.raises(VideoFileError, match="other.h5 is an HDF5 file but not a video file"):
        VideoFile(hdf5)


def test_other_versions_are_refused(video_path: Path) -> None:
    with h5py.File(video_path, "r+") as file:
        file.attrs["version"] = FORMAT_VERSION + 1
    with pytest.raises(VideoFileError, match=f"version {FORMAT_VERSION + 1} and this library reads version {FORMAT_VERSION}"):
        VideoFile(video_path)


@pytest.mark.parametrize(
    "damage",
    [
        "no bounds",
        "bounds disagree",
        "an episode of one frame",
        "labels too short",
        "no frames",
        "flat frames",
        "float frames",
        "bytes for bounds",
        "float labels",
        "no provenance",
    ],
)
def test_damaged_files_are_refused(video_path: Path, damage: str) -> None:
    with h5py.File(video_path, "r+") as file:
        frames = file["frames"][:]
        if damage == "no bounds":
            del file["episode_starts"]
        elif damage == "bounds disagree":
            file["episode_starts"][-1] = 27
        elif damage == "bytes for bounds":  # whose differences are never below 0
            bounds = file["episode_starts"][:]
            del file["episode_starts"]
            file["episode_starts"] = bounds.astype(np.uint8)
        elif damage == "float labels":
            file["latent_actions"] = np.zeros(len(frames))
        elif damage == "labels too short":
            file["latent_actions"] = np.zeros(3, int)
        elif damage == "an episode of one frame":
            file["episode_starts"][1] = file["episode_starts"][0] + 1
        elif damage.endswith("frames"):
            del file["frames"]
            if damage == "flat frames":
                file["frames"] = frames.reshape(len(frames), -1)
            elif damage == "float frames":
                file["frames"] = frames.astype(np.float32)
        else:
            file.attrs["provenance"] = np.zeros(2)
    with pytest.raises(VideoFileError, match="video.h5 is damaged"):
        VideoFile(video_path)


@pytest.mark.parametrize("name", ["frames", "actions", "latent_actions"])
def test_damage_is_found_where_it_is_read(tmp_path: Path, name: str) -> None:
    path = tmp_path / "video.h5"
    with VideoWriter(path, with_actions=True) as writer:
        writer.append(np.zeros((9, 64, 64, 3), np.uint8), actions=np.arange(8))
    write_latent_actions(path, np.append(np.arange(8), -1), labeller="me")
    with h5py.File(path) as file:
        chunk = file[name].id.get_chunk_info(0)
    with path.open("r+b") as file:
        file.seek(chunk.byte_offset)
        file.write(bytes(chunk.size))
    with VideoFile(path) as video, pytest.raises(VideoFileError, match=f"video.h5 is damaged in its {name} "):
        video.frames[0] if name == "frames" else getattr(video, name)()


def test_latent_actions_of_nobody_are_refused(video_path: Path) -> None:
    with h5py.File(video_path, "r+") as file:
        file["latent_actions"] = np.zeros(28, np.int64)
    with VideoFile(video_path) as video, pytest.raises(VideoFileError, match=r"does not say which model .* label it again"):
        video.latent_actions()


def test_empty_file_is_refused(video_path: Path) -> None:
    with h5py.File(video_path, "r+") as file:
        for name in ("frames", "episode_starts", "level_seeds"):
            del file[name]
        file["frames"], file["episode_starts"] = np.zeros((0, *FRAME_SHAPE), np.uint8), np.zeros(1, int)
        file["level_seeds"] = np.zeros(0, int)
    with pytest.raises(VideoFileError, match="no episode"):
        VideoFile(video_path)


def test_a_fingerprint_follows_the_video_and_neither_its_labels_nor_its_place(tmp_path: Path) -> None:
    def fingerprint(path: Path) -> str:
        with VideoFile(path) as video:
            return video.fingerprint()

    path = write_episodes(tmp_path / "a.h5", [5, 3])
    first = fingerprint(path)
    write_latent_actions(path, np.array([0, 1, 2, 3, -1, 4, 5, -1]), labeller="test")
    assert fingerprint(path) == fingerprint(path.rename(tmp_path / "b.h5")) == first
    assert fingerprint(write_episodes(path, [3, 5])) != first
    with VideoWriter(path, frame_shape=FRAME_SHAPE) as writer:
        for length in (5, 3):
            writer.append(np.zeros((length, *FRAME_SHAPE), np.uint8))
    assert fingerprint(path) != first


def test_a_fingerprint_sees_frames_that_it_does_not_read(tmp_path: Path) -> None:
    prints = set()
    for drawn in (False, True):
        episode = np.zeros((200, *FRAME_SHAPE), np.uint8)
        if drawn:
            episode[1] = np.random.default_rng(0).integers(0, 256, FRAME_SHAPE)
        with VideoWriter(tmp_path / "a.h5", frame_shape=FRAME_SHAPE) as writer:
            writer.append(episode)
        with VideoFile(tmp_path / "a.h5") as video:
            prints.add(video.fingerprint())
    assert len(prints) == 2


# Latent actions


def test_latent_actions_are_added_and_replaced(video_path: Path) -> None:
    first, second = end_markers([5, 2, 21], 3), end_markers([5, 2, 21], 7)
    with VideoFile(video_path) as video:
        frames = video.frames[:]
        write_latent_actions(video_path, first.astype(np.int32), labeller="small-1234")  # while a reader has the file open
        np.testing.assert_array_equal(video.frames[:], frames)
    for labels, labeller in ((first, "small-1234"), (second, "big-5678")):
        write_latent_actions(video_path, labels, labeller=labeller)
        with VideoFile(video_path) as video:
            found, found_labeller = video.latent_actions()
            np.testing.assert_array_equal(found, labels)
            assert (found.dtype, found_labeller) == (np.int64, labeller)
            np.testing.assert_array_equal(video.frames[:], frames)
    assert list(video_path.parent.iterdir()) == [video_path]


def test_a_link_stays_a_link_and_permissions_stay(video_path: Path, tmp_path: Path) -> None:
    video_path.chmod(0o640)
    (tmp_path / "links").mkdir()
    link = tmp_path / "links" / "link.h5"
    link.symlink_to(video_path)
    write_latent_actions(link, end_markers([5, 2, 21], 3), labeller="small-1234")
    assert link.is_symlink() and video_path.stat().st_mode & 0o777 == 0o640
    with VideoFile(video_path) as video:
        assert video.latent_actions()[1] == "small-1234"


def test_bad_latent_actions_change_nothing(video_path: Path) -> None:
    good, before = end_markers([5, 2, 21]), video_path.read_bytes()
    for bad in (np.zeros(28, int), np.where(good == 0, -1, good), np.where(good == 0, -2, good), good[:-1]):
        with pytest.raises(ValueError, match="latent_actions"):
            write_latent_actions(video_path, bad, labeller="small")
    with pytest.raises(TypeError, match="integers"):
        write_latent_actions(video_path, good.astype(float), labeller="small")
    with pytest.raises(ValueError, match="labeller"):
        write_latent_actions(video_path, good, labeller="")
    with pytest.raises(FileNotFoundError, match="absent.h5"):
        write_latent_actions(video_path.with_name("absent.h5"), good, labeller="small")
    assert video_path.read_bytes() == before
