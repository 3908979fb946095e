"""Files that are complete or not there, and what a kill leaves behind."""

import errno
import os
import pickle
import time

import pytest

from world_model.files import FORGOTTEN_SECONDS, WriteError, replace_when_written


def test_what_fails_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(RuntimeError), replace_when_written(path) as temporary:
        temporary.write_text("new")
        raise RuntimeError
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_a_full_disk_is_named_by_a_process_to_another(tmp_path):
    with pytest.raises(WriteError, match=r"could not write .*a.txt \(No space left\)") as raised, replace_when_written(tmp_path / "a.txt"):
        raise OSError(errno.ENOSPC, "No space left")
    assert str(pickle.loads(pickle.dumps(raised.value))) == str(raised.value)
    with pytest.raises(PermissionError), replace_when_written(tmp_path / "a.txt"):
        raise PermissionError(errno.EACCES, "No permission")


def test_what_a_kill_left_vanishes_a_day_later(tmp_path):
    path = tmp_path / "a.txt"
    left, others = (tmp_path / f".{name}.txt.01234567.tmp" for name in ("a", "b"))
    for file in (left, others):
        file.write_text("half")
    for age, remaining in ((0, {path, left, others}), (FORGOTTEN_SECONDS + 60, {path, others})):
        os.utime(left, (time.time() - age,) * 2)
        with replace_when_written(path) as temporary:
            temporary.write_text("new")
        assert set(tmp_path.iterdir()) == remaining
