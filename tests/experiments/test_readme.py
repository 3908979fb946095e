"""The README: its commands name scripts and options that there are, and its Python works."""

import re
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from scripts import EXPERIMENTS, say

from world_model.data import VideoFile

README = (EXPERIMENTS.parent / "README.md").read_text().replace("\\\n", " ")
SNIPPETS = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
COMMANDS = sorted(set(re.findall(r"experiments/(\w+\.py)((?: +[^\s#`|]+)*)", README)))


@cache
def help_of(script: str) -> str:
    shown = say(script, "--help")
    assert shown.returncode == 0, shown.stderr
    return shown.stdout


@pytest.mark.parametrize(("script", "arguments"), COMMANDS, ids=lambda part: Path(part).stem if part.endswith(".py") else part.strip())
def test_commands_name_options_that_there_are(script: str, arguments: str) -> None:
    options = {option.lstrip("-") for option in re.findall(r"(?<= )--[\w.-]+", arguments)}
    known = set(re.findall(r"--(?:no-)?([\w.-]+)", help_of(script)))
    assert {option.removeprefix("no-") for option in options} <= known


def test_they_were_found() -> None:
    assert len({script for script, _ in COMMANDS}) > 10 and ("bc_coinrun.py", " --help") in COMMANDS


@pytest.mark.parametrize("snippet", SNIPPETS, ids=range(len(SNIPPETS)))
def test_snippets_work(snippet: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    episodes = np.random.default_rng(0).integers(0, 256, (2, 20, 90, 120, 3), dtype=np.uint8)
    exec(compile(snippet, "README.md", "exec"), {"my_episodes": list(episodes)})
    for path in tmp_path.glob("*.h5"):
        with VideoFile(path) as video:
            assert video.episode_starts.tolist() == [0, 20, 40] and video.frame_shape == (64, 64, 3)
