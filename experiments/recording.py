"""Videos of a game, recorded once."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from run_cache import RunCache
from tqdm import tqdm

from genie_agents.demonstrations import RecordingConfig, record_videos
from genie_agents.experts.players import identify_expert
from world_model.serialization import identify_model


def record(
    cache: RunCache,
    name: str,
    levels: range,
    recording: RecordingConfig,
    expert: str,
    *,
    seed: int,
    proxy: Path | None = None,
    shard_levels: int = 250,
) -> Path:
    """The folder of an expert's videos of the levels, a stage of `cache`. Arguments are those of `record_videos`."""

    def build(folder: Path) -> None:
        with tqdm(total=len(levels), desc=name, unit="level", dynamic_ncols=True) as bar:
            for levels_done in record_videos(folder, levels, recording, expert=expert, proxy=proxy, seed=seed, shard_levels=shard_levels):
                bar.update(levels_done)

    about = dataclasses.asdict(recording) | {"levels": [levels[0], levels[-1]], "seed": seed}
    about |= {"expert": identify_expert(expert, recording.game)}
    about |= {"proxy": identify_model(proxy)} if proxy else {}
    return cache.stage(name, about, [], build)
