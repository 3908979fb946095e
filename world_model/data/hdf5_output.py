"""Writing HDF5 so that a full disk or Ctrl-C costs the new file alone: not the old one, and not the interpreter."""

from __future__ import annotations

import io
import os
import shutil
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import h5py

from world_model.files import WriteError, replace_when_written


class OutputFile(io.FileIO):
    """A file that keeps its first write error for later instead of raising it.

    HDF5 cannot close a file whose writes failed: on a full disk it crashes the interpreter. So it is told that all went well, it
    closes cleanly, and `raise_error` says what happened; the file is thrown away.
    """

    error: OSError | None = None

    def write(self, data: object) -> int:
        left = memoryview(data)  # type: ignore[arg-type]
        size = left.nbytes
        try:
            while left and self.error is None:
                left = left[super().write(left) :]
        except OSError as error:
            self.error = error
        return size

    def truncate(self, size: int | None = None) -> int:
        try:
            return super().truncate(size)
        except OSError as error:
            self.error = self.error or error
            return size or 0

    def raise_error(self, path: Path) -> None:
        if self.error is not None:
            raise WriteError.of(path, self.error.strerror) from self.error


@contextmanager
def interrupts_wait() -> Iterator[None]:
    """Let Ctrl-C take effect when the block has ended: in the middle of a write it would be an error to HDF5 (see `OutputFile`)."""
    if threading.current_thread() is not threading.main_thread() or signal.getsignal(signal.SIGINT) is None:
        yield  # Python interrupts the main thread alone, and only if the signal is its own to handle
        return
    caught: list[int] = []
    handler = signal.signal(signal.SIGINT, lambda number, _: caught.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)
        if caught:
            signal.raise_signal(signal.SIGINT)


@contextmanager
def replace_hdf5(path: Path, *, keep_contents: bool = False) -> Iterator[tuple[h5py.File, OutputFile]]:
    """An HDF5 file that takes the place of `path` when the block ends well; otherwise it vanishes and `path` stays as it is."""
    path = path.resolve()  # a link stays one, and what it points to is written
    if not path.parent.is_dir():
        raise FileNotFoundError(f"the folder {path.parent} does not exist: create it before writing {path.name}")
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder: give the name of a file")
    with replace_when_written(path) as temporary:
        if keep_contents:
            shutil.copy(path, temporary)  # with its permissions
        with OutputFile(temporary, "r+" if keep_contents else "x+") as output:
            with interrupts_wait():
                file = h5py.File(output, "r+" if keep_contents else "w")
            try:
                yield file, output
            finally:
                with interrupts_wait():
                    file.close()
            output.raise_error(path)
            os.fsync(output.fileno())
