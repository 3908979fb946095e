"""How a program ends early, with a sentence: by input that is refused, by Ctrl-C, or once its minutes are over."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def refusing() -> Iterator[None]:
    """Around what reads a user's settings and files: what is refused there ends the program with the sentence that says why."""
    try:
        yield
    except (FileNotFoundError, ValueError) as error:
        raise SystemExit(str(error)) from None


@contextmanager
def stoppable(runs: Path, minutes: float | None = None) -> Iterator[None]:
    """Let Ctrl-C, or the end of `minutes`, end the program with a sentence that says where the same command goes on."""
    timer = threading.Timer(60 * (minutes or 0), os.kill, (os.getpid(), signal.SIGINT))
    timer.daemon = True
    try:
        if minutes is not None:
            signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs are started to ignore it
            timer.start()
        yield
    except KeyboardInterrupt:
        raise SystemExit(f"stopped; what is done is kept in {runs}, and the same command goes on from there") from None
    finally:
        timer.cancel()
