"""What a measuring script leaves: results.json, and the same as a Markdown table."""

from __future__ import annotations

import dataclasses
import json
import shlex
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from bc_report import machine

from world_model.files import replace_when_written


def write_results(folder: Path, settings: Any, results: dict[str, Any]) -> None:
    """results.json in `folder`: the results, with the command, the settings (a dataclass) and the machine that made them."""
    command = shlex.join(["python", f"experiments/{Path(sys.argv[0]).name}", *sys.argv[1:]])
    everything = {"command": command, "machine": machine(), "settings": dataclasses.asdict(settings), **results}
    folder.mkdir(parents=True, exist_ok=True)
    with replace_when_written(folder / "results.json") as temporary:
        temporary.write_text(json.dumps(everything, indent=1, default=str) + "\n")


def markdown_table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(row)} |" for row in (columns, ["---"] * len(columns), *rows))
