"""Files that are complete or not there: what is cut short leaves the old one as it was."""

from __future__ import annotations

import errno
import glob
import os
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

FORGOTTEN_SECONDS = 24 * 60 * 60
FULL_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class WriteError(OSError):
    """A file for which there is no space; the old one is as it was."""

    @classmethod
    def of(cls, path: Path, reason: object) -> WriteError:
        return cls(f"could not write {path} ({reason}) and left it as it was before: free disk space, then write it again")


@contextmanager
def replace_when_written(path: Path) -> Iterator[Path]:
    """A path beside `path` to write to; it takes the place of `path` when the block ends well, and vanishes otherwise, or, after a kill,
    when `path` is written again a day later. Raises WriteError on a full disk."""
    for leftover in path.parent.glob(f".{glob.escape(path.name)}.*.tmp"):
        with suppress(FileNotFoundError):  # another process's, done in this moment
            if time.time() - leftover.stat().st_mtime > FORGOTTEN_SECONDS:
                leftover.unlink()
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")  # several processes may write at once
    try:
        yield temporary
        os.replace(temporary, path)
    except OSError as error:
        if isinstance(error, WriteError) or error.errno not in FULL_DISK:
            raise
        raise WriteError.of(path, error.strerror) from error
    finally:
        temporary.unlink(missing_ok=True)
