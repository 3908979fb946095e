"""The scripts, and how tests call them as a user would."""

import io
import runpy
import subprocess
import sys
import traceback
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from subprocess import CompletedProcess
from unittest.mock import patch

EXPERIMENTS = Path(__file__).parents[2] / "experiments"


def run(script: str, *arguments: str | Path) -> CompletedProcess[str]:
    return subprocess.run([sys.executable, EXPERIMENTS / script, *map(str, arguments)], capture_output=True, text=True, check=False)


def say(script: str, *arguments: str | Path) -> CompletedProcess[str]:
    """As `run`, but within this process, for what a script says before it works: a process of its own first imports for seconds."""
    command, code, stdout, stderr = [str(EXPERIMENTS / script), *map(str, arguments)], None, io.StringIO(), io.StringIO()
    with patch.object(sys, "argv", command), redirect_stdout(stdout), redirect_stderr(stderr):
        try:
            runpy.run_path(command[0], run_name="__main__")
        except SystemExit as stop:
            code = stop.code
        except Exception:
            code = traceback.format_exc()
    said = code if isinstance(code, str) else ""
    return CompletedProcess(command, 1 if said else int(code or 0), stdout.getvalue(), stderr.getvalue() + said)
