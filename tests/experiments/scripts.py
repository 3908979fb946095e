"""The scripts, and how tests call them: as a user would, or, for less time, within this process."""

import io
import runpy
import subprocess
import sys
import traceback
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from subprocess import CompletedProcess
from types import ModuleType
from unittest.mock import patch

import lightning.fabric  # noqa: F401  (its log handlers keep the stderr that they find when it is first imported)
import pytest
import recording
import torch

from genie_agents.demonstrations import RecordingConfig, record_shard
from genie_agents.experts.players import make_expert

EXPERIMENTS = Path(__file__).parents[2] / "experiments"


def run(script: str, *arguments: str | Path) -> CompletedProcess[str]:
    return subprocess.run([sys.executable, EXPERIMENTS / script, *map(str, arguments)], capture_output=True, text=True, check=False)


def say(script: str, *arguments: str | Path) -> CompletedProcess[str]:
    """As `run`, but within this process, for what a script says before it works: a process of its own first imports for seconds."""
    command, code, stdout, stderr = [str(EXPERIMENTS / script), *map(str, arguments)], None, io.StringIO(), io.StringIO()
    with (
        patch.object(sys, "argv", command),
        patch("world_model.training.tune_cpu"),  # it changes the whole process
        patch("recording.record_videos", side_effect=AssertionError("the script goes to work: call it by `run`")),
        torch.random.fork_rng(devices=[]),
        redirect_stdout(stdout),
        redirect_stderr(stderr),
    ):
        try:
            runpy.run_path(command[0], run_name="__main__")
        except SystemExit as stop:
            code = stop.code
        except Exception:
            code = traceback.format_exc()
    said = code if isinstance(code, str) else ""
    return CompletedProcess(command, 1 if said else int(code or 0), stdout.getvalue(), stderr.getvalue() + said)


def refuse(script: str, *arguments: str | Path) -> str:
    """The sentence with which a script refuses to work, as `say` finds it."""
    result = say(script, *arguments)
    assert result.returncode != 0 and "Traceback" not in result.stderr, result.stderr
    return result.stderr


def work(monkeypatch: pytest.MonkeyPatch, script: ModuleType, *arguments: str | Path) -> None:
    """Let an imported script work within this process, and record without processes of its own: their starts take longer than the rest."""
    monkeypatch.setattr(recording, "record_videos", record_here)
    monkeypatch.setattr(script, "tune_cpu", lambda: None)
    monkeypatch.setattr(sys, "argv", [f"experiments/{script.__name__}.py", *map(str, arguments)])
    script.main()


def record_here(
    folder: Path, levels: range, recording: RecordingConfig, *, expert: str, proxy: None, seed: int, shard_levels: int
) -> Iterator[int]:
    record_shard(folder / "levels.h5", make_expert(expert, seed, recording.game), levels, recording, seed)
    yield len(levels)
