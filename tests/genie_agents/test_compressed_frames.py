import numpy as np
import pytest

from genie_agents.compressed_frames import CompressedFrames


def test_compressed_frames_are_read_like_an_array() -> None:
    generator = np.random.default_rng(0)
    array = generator.integers(0, 256, (30, 8, 6, 3), dtype=np.uint8)
    array[10:20] = generator.integers(0, 2, (10, 1, 1, 1))  # some compress well, some not at all
    frames = CompressedFrames((8, 6, 3))
    for part in (array[:7], array[7:7], array[7:][:, ::-1][:, ::-1]):
        frames.append(part)
    assert frames.shape == array.shape and len(frames) == 30
    for indices in (np.arange(30), np.array([[3, 3], [29, 12], [0, 15]]), np.empty((0, 2), dtype=np.int64), np.array(5)):
        read = frames[indices]
        assert read.dtype == np.uint8 and read.flags.writeable
        np.testing.assert_array_equal(read, array[indices])


def test_compressed_frames_refuse_what_they_do_not_hold() -> None:
    frames = CompressedFrames((8, 6, 3))
    for outside in (0, -1):
        with pytest.raises(IndexError) as refused:
            frames[np.array([outside])]
        frames.append(np.zeros((0, 8, 6, 3), np.uint8))  # goes on while the error is remembered
        del refused
    with pytest.raises(IndexError, match="of a mask those that np.flatnonzero names"):
        frames[np.array([True])]
    for wrong in (np.zeros((2, 8, 5, 3), np.uint8), np.zeros((2, 8, 6, 3)), np.zeros((8, 6, 3), np.uint8)):
        with pytest.raises(ValueError, match="append uint8 of"):
            frames.append(wrong)
