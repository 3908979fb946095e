"""What the settings of several scripts are checked for."""

from __future__ import annotations

from typing import Any


def check_counts(settings: Any, *names: str) -> None:
    """Raises ValueError where one of these settings is below 1, or the seed below 0."""
    for name in names:
        if getattr(settings, name) < 1:
            raise ValueError(f"{name} is {getattr(settings, name)}; choose 1 or more")
    if settings.seed < 0:
        raise ValueError(f"seed is {settings.seed}; choose 0 or more")
