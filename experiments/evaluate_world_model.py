"""How good a world is, on levels that it never saw: reconstruction, rollouts driven by its latent actions, and what the actions change.

python experiments/evaluate_world_model.py --model runs/world_model/coinrun-small           # validation levels
python experiments/evaluate_world_model.py --model runs/world_model/coinrun-small --test    # once, for reported figures
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
import tyro
from bc_report import machine
from run_cache import RunCache
from world_videos import mixed_videos

from genie_agents.coinrun import TEST_LEVELS, VALIDATION_LEVELS
from genie_agents.demonstrations import open_videos
from world_model import Genie
from world_model.data import ClipSampler
from world_model.metrics import code_use, delta_psnr, psnr, ssim
from world_model.rollout import to_uint8


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What to measure."""

    model: str = "coinrun-small"
    """the name of a world that ships, or a folder"""
    runs: Path = Path("runs/world_model/stages")
    """folder of the recorded videos"""
    difficulties: tuple[Literal["easy", "hard"], ...] = ("easy",)
    levels: int = 100
    """levels played for the videos, by the players that world_videos.py names"""
    test: bool = False
    """play test levels instead of validation levels"""
    clips: int = 64
    """clips of the videos, drawn at random"""
    frames: int = 10
    """frames predicted from one"""
    seed: int = 0


def evaluate(genie: Genie, frames: torch.Tensor, *, seed: int) -> dict[str, object]:
    """All figures for clips (B, T, H, W, C): means over frames and clips; PSNR in dB."""
    genie.eval()
    with torch.no_grad():
        drawn = to_uint8(genie.tokenizer(frames).reconstruction)
        actions = genie.latent_action_model.encode(frames).indices
    imagined, real = genie.imagine(frames[:, :1], actions, seed=seed), frames[:, 1:]
    still = frames[:, :1].expand_as(real)
    return {
        "tokenizer_psnr": psnr(drawn, frames).mean().item(),
        "tokenizer_ssim": ssim(drawn, frames).mean().item(),
        "rollout_psnr": psnr(imagined, real).mean().item(),
        "rollout_ssim": ssim(imagined, real).mean().item(),
        "rollout_psnr_by_frame": psnr(imagined, real).mean(dim=0).tolist(),
        "standing_still_psnr": psnr(still, real).mean().item(),  # what a world that never moves would reach
        **delta_psnr(genie, frames, time=4, seed=seed),
        "latent_action_use": code_use(actions.flatten().cpu().numpy(), num_codes=genie.num_latent_actions),
    }


def main() -> None:
    settings = tyro.cli(Settings, description=__doc__)
    name, levels = ("test", TEST_LEVELS) if settings.test else ("validation", VALIDATION_LEVELS)
    folders = mixed_videos(
        RunCache(settings.runs), name, levels[: settings.levels], game="coinrun", difficulties=settings.difficulties, seed=settings.seed
    )
    files = [file for folder in folders for file in open_videos(folder)]
    clips = next(ClipSampler(files, clip_length=settings.frames + 1, batch_size=settings.clips, seed=settings.seed))
    genie = Genie.from_pretrained(settings.model).to("cuda" if torch.cuda.is_available() else "cpu")
    found = evaluate(genie, torch.from_numpy(clips.frames).to(genie.prompts.device), seed=settings.seed)
    about = {"model": settings.model, "levels": name, "clips": settings.clips, "frames": settings.frames, "machine": machine()}
    print(json.dumps({**about, **found}, indent=1))


if __name__ == "__main__":
    main()
