"""How a program ends early, with a sentence: by input that is refused, by Ctrl-C, or once its minutes are over."""

from __future__ import annotations

import os
import signal
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import genie_agents
import world_model

OUR_CODE = tuple(Path(file).parent for file in (__file__, genie_agents.__file__, world_model.__file__))


@contextmanager
def refusing() -> Iterator[None]:
    """Around a program's work: settings and files that it refuses, and a disk that does, end it with the sentence that says why. A
    ValueError that our own code does not `raise`, but an array or a library does, is a defect of ours and keeps its traceback."""
    try:
        yield
    except OSError as error:
        raise SystemExit(str(error)) from None
    except ValueError as error:
        place = traceback.extract_tb(error.__traceback__)[-1]
        if not (place.line or "").startswith("raise") or not any(Path(place.filename).is_relative_to(folder) for folder in OUR_CODE):
            raise
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
