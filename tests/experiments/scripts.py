"""The scripts, and how tests call them as a user would."""

import subprocess
import sys
from pathlib import Path

EXPERIMENTS = Path(__file__).parents[2] / "experiments"


def run(script: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, EXPERIMENTS / script, *map(str, arguments)], capture_output=True, text=True, check=False)
