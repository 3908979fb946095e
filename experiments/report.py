"""What a measuring script leaves: results.json, the same as a Markdown table, and on which machine it was measured."""

from __future__ import annotations

import dataclasses
import json
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch

from world_model.files import replace_when_written


def write_json(path: Path, results: dict[str, Any]) -> None:
    """The results, of which JSON knows no NaN and no infinity: null stands for a figure that is undefined."""
    finite = json.loads(json.dumps(results, default=str), parse_constant=lambda _: None)
    with replace_when_written(path) as temporary:
        temporary.write_text(json.dumps(finite, indent=1) + "\n")


def machine() -> dict[str, Any]:
    """The commit of the code, and what it runs on."""
    describe = ["git", "describe", "--always", "--dirty"]
    try:
        commit = subprocess.run(describe, cwd=Path(__file__).parent, capture_output=True, text=True, check=False).stdout.strip()
    except OSError:  # no git on this machine
        commit = ""
    processors = [line for line in _read_lines("/proc/cpuinfo") if line.startswith("model name")]
    return {
        "commit": commit or "not a git checkout",
        "processor": processors[0].split(":")[1].strip() if processors else platform.processor(),
        "cores": os.cpu_count(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "python": platform.python_version(),
        "torch": torch.__version__,
    }


def _read_lines(path: str) -> list[str]:
    try:
        return Path(path).read_text().splitlines()
    except OSError:  # not Linux
        return []


def write_results(folder: Path, settings: Any, results: dict[str, Any]) -> None:
    """results.json in `folder`: the results, with the command, the settings (a dataclass) and the machine that made them."""
    command = shlex.join(["python", f"experiments/{Path(sys.argv[0]).name}", *sys.argv[1:]])
    everything = {"command": command, "machine": machine(), "settings": dataclasses.asdict(settings), **results}
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "results.json", everything)


def markdown_table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(row)} |" for row in (columns, ["---"] * len(columns), *rows))
