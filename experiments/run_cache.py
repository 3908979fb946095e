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
            total[name] = round(total.get(name, 0) + seconds, 1)
        return total

    def stage(self, name: str, settings: dict[str, Any], below: list[Path], build: Callable[[Path], None]) -> Path:
        key = json.dumps({"settings": settings, "below": [folder.name for folder in below]}, sort_keys=True, default=str)
        folder = self.root / f"{name}-{hashlib.sha256(key.encode()).hexdigest()[:12]}"
        record_path = folder / "stage.json"
        record = json.loads(record_path.read_text()) if record_path.exists() else {"done": False, "seconds": 0.0}
        if not record["done"]:
            folder.mkdir(parents=True, exist_ok=True)
            start = time.monotonic()
            try:
                build(folder)
                record["done"] = True
            finally:  # an interrupted build's time counts too
                record |= {"seconds": record["seconds"] + time.monotonic() - start, "settings": json.loads(key)}
                with replace_when_written(record_path) as temporary:
                    temporary.write_text(json.dumps(record, indent=1))
        self._seconds[folder] = name, record["seconds"]
        return folder
