"""How good a world is, on videos that it never saw: reconstruction, rollouts by its latent actions, and what these change.

    python experiments/evaluate_world_model.py --model runs/world_model/coinrun-small           # CoinRun's validation levels
    python experiments/evaluate_world_model.py --model runs/world_model/coinrun-small --test    # once, for reported figures
    python experiments/evaluate_world_model.py --model runs/world_model/mine --data C.h5        # a world of your own videos

Prints a table and writes results.json: over all clips and by source, on CoinRun by difficulty and by player, which differ by many dB. What
comes into sight as CoinRun's player moves on can only be guessed, so there the rollout is also judged where the first frame shows the
place.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import tyro
from checks import check_counts
from report import markdown_table, write_results
from run_cache import RunCache
from stopping import refusing
from torch import Tensor
from tqdm import tqdm
from world_videos import MIXED, Source, longest_episode, videos_to_judge_on

from genie_agents.demonstrations import find_player
from genie_agents.experts.view import SIGHT
from world_model import Genie, Rollout
from world_model.data import ClipSampler, VideoFile
from world_model.metrics import code_use, delta_psnr, psnr, ssim
from world_model.rollout import to_uint8

BATCH_CLIPS = 16  # clips imagined at once, to bound memory


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What to measure."""

    model: str = "coinrun-small"
    """the name of a world that ships, or a folder"""
    runs: Path = Path("runs/world_model/stages")
    """folder of the recorded videos"""
    output: Path = Path("runs/evaluate_world_model")
    """folder for results.json"""
    data: tuple[Path, ...] = ()
    """HDF5 videos to judge on instead of CoinRun's, or folders of them; they should hold other episodes than the world learned from"""
    difficulties: tuple[Literal["easy", "hard"], ...] = ("easy", "hard")
    levels: int = 100
    """levels played for the videos of each difficulty, by the players that world_videos.py names"""
    test: bool = False
    """play test levels instead of validation levels"""
    clips: int = 32
    """clips of each source (a player on a difficulty), drawn at random from its videos"""
    frames: int = 10
    """frames predicted"""
    prompt_frames: int = 1
    """frames shown before them; one does not tell how fast the player is"""
    seed: int = 0
    """seed of recording, of the choice of clips and of sampling"""

    def __post_init__(self) -> None:
        if self.data and self.test:
            raise ValueError("test plays CoinRun's test levels, and data gives other videos: leave out one of them")
        if self.frames < 4:
            raise ValueError(f"frames is {self.frames}; predict at least 4, as the control that actions have is measured at the fourth")
        check_counts(self, "prompt_frames", "clips")
        if not self.data and self.prompt_frames + self.frames > MIXED.max_steps + 1:
            raise ValueError(
                f"prompt_frames is {self.prompt_frames} and frames {self.frames}, and CoinRun's videos have {MIXED.max_steps + 1} at most"
            )


@torch.no_grad()
def redraw_and_imagine(genie: Genie, frames: Tensor, *, prompt_frames: int = 1, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """For clips (B, T, H, W, C) uint8: the clips as the tokenizer draws them, their latent actions (B, T-1), and the clips
    imagined from their first `prompt_frames` frames, which they begin with, by those actions.
    """
    drawn = to_uint8(genie.tokenizer(frames).reconstruction)
    actions, prompts = genie.latent_action_model.encode(frames).indices, frames[:, :prompt_frames]
    return drawn, actions, torch.cat([prompts, genie.imagine(prompts, actions[:, prompt_frames - 1 :], seed=seed)], dim=1)


def shown_at_first(places: Tensor, *, height: int, width: int) -> Tensor:
    """(B, T-1, H, W) bool: which pixels of the frames after the first lie where the first one looks, by the player's places (B, T, 2) in
    cells, as the camera keeps to the player. (The background, which moves by less than the level, is taken to move with it.)"""
    moved = places[:, 1:] - places[:, :1]
    columns = torch.arange(width) + moved[..., :1] * width / (2 * SIGHT)
    rows = torch.arange(height) - moved[..., 1:] * height / (2 * SIGHT)
    inside_rows, inside_columns = (rows >= 0) & (rows <= height - 1), (columns >= 0) & (columns <= width - 1)
    return inside_rows[..., :, None] & inside_columns[..., None, :]


def measure(genie: Genie, frames: Tensor, places: Tensor | None, *, prompt_frames: int, seed: int) -> dict[str, np.ndarray]:
    """The figures of clips (B, T, H, W, C) in which CoinRun's player is at `places` (B, T, 2), or of other videos; the first axis is the
    clips'. delta_psnr's, means over the clips, are given to each. What is said of the first frame is said of the last one of the prompt."""
    drawn, actions, imagined = redraw_and_imagine(genie, frames, prompt_frames=prompt_frames, seed=seed)
    drawn_after, imagined, real, last = drawn[:, prompt_frames:], imagined[:, prompt_frames:], frames[:, prompt_frames:], prompt_frames - 1
    found = {
        "tokenizer_psnr": psnr(drawn, frames),
        "tokenizer_ssim": ssim(drawn, frames),
        "rollout_psnr": psnr(imagined, real),
        "rollout_ssim": ssim(imagined, real),
        "standing_still_psnr": psnr(frames[:, last : last + 1].expand_as(real), real),  # what a world that never moves would reach
        "latent_actions": actions[:, last:],
    }
    if places is not None:
        shown = shown_at_first(places[:, last:], height=frames.shape[2], width=frames.shape[3]).to(frames.device)[..., None]
        found |= {
            "unseen_share": 1 - shown.float().mean(dim=(2, 3, 4)),
            # What it would reach if all that comes into sight were guessed right; if all that was in sight were drawn as the tokenizer can.
            "rollout_psnr_unseen_right": psnr(torch.where(shown, imagined, real), real),
            "rollout_psnr_shown_as_drawn": psnr(torch.where(shown, drawn_after, imagined), real),
        }
    control = delta_psnr(genie, frames[:, last:], time=4, seed=seed)
    return {name: value.cpu().numpy() for name, value in found.items()} | {
        name: np.full(len(frames), value) for name, value in control.items()
    }


def summarize(figures: list[dict[str, np.ndarray]], num_codes: int) -> dict[str, Any]:
    """Means over frames and clips, PSNR in dB, and how often each latent action occurs."""
    joined = {name: np.concatenate([part[name] for part in figures]) for name in figures[0]}
    actions = joined.pop("latent_actions")
    return {
        "clips": len(actions),
        **{name: float(values.mean()) for name, values in joined.items()},
        "rollout_psnr_by_frame": joined["rollout_psnr"].mean(axis=0).tolist(),
        "latent_action_use": code_use(actions.flatten(), num_codes=num_codes),
    }


def measure_sources(genie: Genie, videos: dict[Source, list[VideoFile]], settings: Settings) -> dict[str, dict[str, Any]]:
    """The figures of all clips, of each part of the sources' names (difficulties, players), and of each source."""
    figures: dict[Source, list[dict[str, np.ndarray]]] = {source: [] for source in videos}
    clip_length = settings.prompt_frames + settings.frames
    for source, files in videos.items():  # all of them before anything is imagined
        if (longest := longest_episode(files)) < clip_length:
            raise SystemExit(
                f"{', '.join(source)}: clips of {clip_length} frames are judged, and the longest episode has {longest}: "
                "give longer videos, or lower --frames or --prompt-frames"
            )
    with tqdm(total=len(videos) * settings.clips, desc="clips", unit="clip", dynamic_ncols=True) as bar:
        for source, files in videos.items():
            drawn = next(ClipSampler(files, clip_length=clip_length, batch_size=settings.clips, seed=settings.seed))
            clips, places = torch.from_numpy(drawn.frames), None
            if not settings.data:
                player = torch.from_numpy(np.concatenate([find_player(file) for file in files]))
                places = player[torch.from_numpy(drawn.positions)[:, None] + torch.arange(clip_length)]
            for start in range(0, len(clips), BATCH_CLIPS):
                part = slice(start, start + BATCH_CLIPS)
                batch, seed = clips[part].to(genie.prompts.device), settings.seed + start
                places_of_batch = None if places is None else places[part]
                figures[source].append(measure(genie, batch, places_of_batch, prompt_frames=settings.prompt_frames, seed=seed))
                bar.update(len(batch))
    names = [name for column in zip(*videos, strict=True) for name in dict.fromkeys(column)]
    rows = {"all": list(videos)} | {name: [source for source in videos if name in source] for name in names}
    rows |= {", ".join(source): [source] for source in videos}
    num_codes = genie.num_latent_actions
    return {name: summarize([part for source in sources for part in figures[source]], num_codes) for name, sources in rows.items()}


def as_table(found: dict[str, dict[str, Any]], num_frames: int) -> str:
    def cells(row: dict[str, Any]) -> dict[str, str]:
        sight = {}
        if "unseen_share" in row:
            right, drawn = row["rollout_psnr_unseen_right"], row["rollout_psnr_shown_as_drawn"]
            sight["comes into sight"] = f"{100 * row['unseen_share']:.0f} %"
            sight["PSNR if that were right / if all else were as the tokenizer draws it"] = f"{right:.1f} / {drawn:.1f}"
        return {
            "number": str(row["clips"]),
            "tokenizer, PSNR / SSIM": f"{row['tokenizer_psnr']:.1f} / {row['tokenizer_ssim']:.2f}",
            f"rollout of {num_frames} frames, PSNR / SSIM": f"{row['rollout_psnr']:.1f} / {row['rollout_ssim']:.2f}",
            "standing still, PSNR": f"{row['standing_still_psnr']:.1f}",
            **sight,
            "delta-PSNR(4) from one frame": f"{row['delta_psnr']:.1f}",
            "latent actions that occur, largest share": (
                f"{np.count_nonzero(row['latent_action_use'])}, {100 * max(row['latent_action_use']):.0f} %"
            ),
        }

    rows = {name: cells(row) for name, row in found.items()}
    return markdown_table(["clips", *rows["all"]], [[name, *row.values()] for name, row in rows.items()])


@refusing()
def main() -> None:
    settings = tyro.cli(Settings, description=__doc__)
    genie = Genie.from_pretrained(settings.model).to("cuda" if torch.cuda.is_available() else "cpu")
    if settings.prompt_frames > (most := Rollout(genie, 1).max_prompt_frames):
        raise SystemExit(f"prompt_frames is {settings.prompt_frames}, and {settings.model} begins with {most} frames at most")
    videos = videos_to_judge_on(
        RunCache(settings.runs),
        settings.data,
        genie,
        levels=settings.levels,
        test=settings.test,
        difficulties=settings.difficulties,
        seed=settings.seed,
    )
    found = measure_sources(genie, videos, settings)
    write_results(settings.output, settings, {"figures": found})
    print(f"{as_table(found, settings.frames)}\n\nall figures are in {settings.output / 'results.json'}")


if __name__ == "__main__":
    main()
