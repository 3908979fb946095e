"""Stages of a study, each cached in a folder named by a hash of its settings and of the stages it stands on."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from world_model.files import replace_when_written


class RunCache:
    """`stage(...)` returns the folder of a finished stage and builds it only when its own settings, or a stage below it, changed.

    A build that was interrupted is called again with the same folder and may go on from what it finds there.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._seconds: dict[Path, tuple[str, float]] = {}

    @property
    def seconds(self) -> dict[str, float]:
        """What the stages asked for took, by name; those of one name together."""
        total: dict[str, float] = {}
        for name, seconds in self._seconds.values():
            total[name] = total.get(name, 0) + seconds
        return {name: round(seconds, 1) for name, seconds in total.items()}

    def stage(self, name: str, settings: dict[str, Any], below: list[Path], build: Callable[[Path], None]) -> Path:
        key = json.dumps({"settings": settings, "below": [folder.name for folder in below]}, sort_keys=True, default=str)
        folder = self.root / f"{name}-{hashlib.sha256(key.encode()).hexdigest()[:12]}"
        record_path = folder / "stage.json"
        record = read_record(record_path)
        if not record["done"]:
            folder.mkdir(parents=True, exist_ok=True)
            start, done = time.monotonic(), False
            try:
                build(folder)
                done = True
            finally:  # an interrupted build's time counts too, and another command may have finished the stage meanwhile
                record = read_record(record_path)
                record |= {"done": done or record["done"], "seconds": record["seconds"] + time.monotonic() - start}
                with replace_when_written(record_path) as temporary:
                    temporary.write_text(json.dumps(record | {"settings": json.loads(key)}, indent=1))
        self._seconds[folder] = name, record["seconds"]
        return folder


def read_record(path: Path) -> dict[str, Any]:
    """What stage.json says of a stage that was begun, or that of one that was not."""
    return json.loads(path.read_text()) if path.exists() else {"done": False, "seconds": 0.0}
