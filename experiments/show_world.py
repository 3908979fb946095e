"""Look at a trained world: what each latent action does, and a long walk through it.

    python experiments/show_world.py --model runs/world_model/coinrun-small
    python experiments/show_world.py --model runs/world_model/mine --data C.h5    # a world of your own videos

Writes reconstruction.png (clips of CoinRun's validation levels, or of the videos that are given: real, redrawn by the tokenizer, and
imagined from the first frame by the latent actions found in the clip), prompts.png (the world's own prompts to choose from, a row's first
by its number), actions.png (a block a prompt, a row a latent action, which is repeated: Genie's figures 10 and 17) and rollout.gif (worlds
side by side, each under actions drawn at random and held for a while).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import tyro
from checks import check_counts
from evaluate_world_model import redraw_and_imagine
from pictures import film_strips, save
from PIL import Image
from run_cache import RunCache
from stopping import refusing
from tqdm import trange
from world_videos import longest_episode, videos_to_judge_on

from world_model import Genie, Rollout
from world_model.data import ClipSampler

CLIP_FRAMES = 16
PROMPTS_PER_ROW = 16


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What to show."""

    model: str = "coinrun-small"
    """the name of a world that ships, or a folder"""
    output: Path = Path("runs/show_world")
    """folder for the pictures"""
    runs: Path = Path("runs/world_model/stages")
    """folder of the recorded videos"""
    data: tuple[Path, ...] = ()
    """HDF5 videos to take clips from instead of CoinRun's, or folders of them"""
    difficulties: tuple[Literal["easy", "hard"], ...] = ("easy", "hard")
    """difficulties of the clips"""
    levels: int = 8
    """validation levels played for the clips on each difficulty"""
    prompts: tuple[int, ...] = (0, 1)
    """which of the world's own prompts, numbered in prompts.png, the actions start from"""
    repeats: int = 12
    """how often each action is repeated"""
    worlds: int = 4
    """worlds side by side in the rollout"""
    frames: int = 200
    """frames of the rollout"""
    hold: int = 8
    """steps that an action is held in the rollout"""
    scale: int = 3
    """pixels of the rollout for each pixel of a frame, along each side"""
    seed: int = 0
    """seed of recording, of the choice of clips, of the actions and of sampling"""

    def __post_init__(self) -> None:
        if not self.prompts:
            raise ValueError("prompts is empty; choose at least one")
        check_counts(self, "repeats", "worlds", "frames", "hold", "scale")


def action_rows(genie: Genie, prompt: torch.Tensor, repeats: int, seed: int) -> list[tuple[str, torch.Tensor]]:
    """One row for each latent action: the prompt (H, W, C) and the frames to which repeating the action leads."""
    num_actions = genie.num_latent_actions
    actions = torch.arange(num_actions)[:, None].expand(-1, repeats)
    frames = genie.imagine(prompt.expand(num_actions, 1, *prompt.shape), actions, seed=seed)
    meanings = genie.config.action_meanings or [""] * num_actions
    return [(f"{action} {meanings[action]}".strip(), torch.cat([prompt[None], frames[action]])) for action in range(num_actions)]


def clip_rows(genie: Genie, settings: Settings) -> list[tuple[str, torch.Tensor]]:
    """Rows for a clip of each source's videos: the real one, what the tokenizer makes of it, what the world makes of it."""
    cache, difficulties, seed = RunCache(settings.runs), settings.difficulties, settings.seed
    videos = videos_to_judge_on(cache, settings.data, genie, levels=settings.levels, test=False, difficulties=difficulties, seed=seed)
    clip_length = min(CLIP_FRAMES, *(longest_episode(files) for files in videos.values()))
    samplers = [ClipSampler(files, clip_length=clip_length, batch_size=1, seed=seed) for files in videos.values()]
    real = torch.from_numpy(np.concatenate([next(sampler).frames for sampler in samplers]))
    drawn, _, imagined = redraw_and_imagine(genie, real.to(genie.prompts.device), seed=seed)
    return [
        row
        for clip, source in enumerate(videos)
        for row in ((f"{', '.join(source)}\nreal", real[clip]), ("tokenizer", drawn[clip]), ("imagined", imagined[clip]))
    ]


@refusing()
def main() -> None:
    settings = tyro.cli(Settings, description=__doc__)
    genie = Genie.from_pretrained(settings.model).to("cuda" if torch.cuda.is_available() else "cpu")
    settings.output.mkdir(parents=True, exist_ok=True)
    if not all(0 <= prompt < len(genie.prompts) for prompt in settings.prompts):
        raise SystemExit(
            f"{settings.model} has {len(genie.prompts)} prompts, numbered from 0, not all of {settings.prompts}: choose others"
        )
    save(film_strips(clip_rows(genie, settings)).quantize(), settings.output / "reconstruction.png")
    bank = [(str(index * PROMPTS_PER_ROW), frames) for index, frames in enumerate(genie.prompts.split(PROMPTS_PER_ROW))]
    save(film_strips(bank).quantize(), settings.output / "prompts.png")
    rows = [row for prompt in settings.prompts for row in action_rows(genie, genie.prompts[prompt], settings.repeats, settings.seed)]
    save(film_strips(rows).quantize(), settings.output / "actions.png")

    rollout, generator = Rollout(genie, settings.worlds), np.random.default_rng(settings.seed)
    pictures = [rollout.reset(seeds=range(settings.seed, settings.seed + settings.worlds))]
    for step in trange(settings.frames, desc="rollout", unit="frame", dynamic_ncols=True):
        if step % settings.hold == 0:
            actions = generator.integers(genie.num_latent_actions, size=settings.worlds)
        pictures.append(rollout.step(actions))
    images = [Image.fromarray(np.concatenate(list(frames.cpu().numpy()), axis=1).squeeze()) for frames in pictures]  # grey has one channel
    images = [image.resize((image.width * settings.scale, image.height * settings.scale), Image.Resampling.NEAREST) for image in images]
    gif = [image.quantize(32) for image in images]
    save(gif[0], settings.output / "rollout.gif", save_all=True, append_images=gif[1:], duration=66, loop=0)
    print(f"reconstruction.png, prompts.png, actions.png and rollout.gif are in {settings.output}")


if __name__ == "__main__":
    main()
