"""Look at a trained world: what each latent action does, and a long walk through it.

    python experiments/show_world.py --model runs/world_model/coinrun-small

Writes actions.png (a block a prompt, a row a latent action, which is repeated: Genie's figures 10 and 17) and rollout.gif (worlds side by
side, each under actions drawn at random and held for a while).
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import tyro
from PIL import Image, ImageDraw
from tqdm import trange

from world_model import Genie, Rollout

LABEL_WIDTH = 14  # pixels in front of each row for the number of its action


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What to show."""

    model: str = "coinrun-small"
    """the name of a world that ships, or a folder"""
    output: Path = Path("runs/show_world")
    """folder for the pictures"""
    prompts: tuple[int, ...] = (0, 1)
    """which of the world's own prompts the actions start from"""
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
    """seed of the actions and of sampling"""


def action_rows(genie: Genie, prompt: torch.Tensor, repeats: int, seed: int) -> np.ndarray:
    """One row for each latent action: the prompt (H, W, C) and the frames to which repeating the action leads, as one picture."""
    num_actions = genie.num_latent_actions
    actions = torch.arange(num_actions)[:, None].expand(-1, repeats)
    frames = genie.imagine(prompt.expand(num_actions, 1, *prompt.shape), actions, seed=seed)
    rows = []
    for action in range(num_actions):
        label = Image.new("RGB", (LABEL_WIDTH, len(prompt)), "white")
        ImageDraw.Draw(label).text((3, len(prompt) // 2 - 6), str(action), fill="black")
        rows.append(np.concatenate([np.asarray(label), prompt.numpy(), *frames[action].numpy()], axis=1))
    return np.concatenate(rows)


def save(picture: Image.Image, path: Path, **options: object) -> None:
    temporary = path.with_name(f".{path.name}.tmp")
    picture.save(temporary, format=path.suffix[1:].upper(), **options)
    os.replace(temporary, path)


def main() -> None:
    settings = tyro.cli(Settings, description=__doc__)
    genie = Genie.from_pretrained(settings.model)
    settings.output.mkdir(parents=True, exist_ok=True)
    if not all(0 <= prompt < len(genie.prompts) for prompt in settings.prompts):
        raise SystemExit(f"{settings.model} has prompts 0 ... {len(genie.prompts) - 1}, not {settings.prompts}: choose some of those")
    blocks = [action_rows(genie, genie.prompts[prompt], settings.repeats, settings.seed) for prompt in settings.prompts]
    save(Image.fromarray(np.concatenate(blocks)), settings.output / "actions.png")

    rollout, generator = Rollout(genie, settings.worlds), np.random.default_rng(settings.seed)
    pictures = [rollout.reset(seeds=range(settings.seed, settings.seed + settings.worlds))]
    for step in trange(settings.frames, desc="rollout", unit="frame", dynamic_ncols=True):
        if step % settings.hold == 0:
            actions = generator.integers(genie.num_latent_actions, size=settings.worlds)
        pictures.append(rollout.step(actions))
    images = [Image.fromarray(np.concatenate(list(frames.numpy()), axis=1)) for frames in pictures]
    images = [image.resize((image.width * settings.scale, image.height * settings.scale), Image.Resampling.NEAREST) for image in images]
    gif = [image.quantize(64) for image in images]
    save(gif[0], settings.output / "rollout.gif", save_all=True, append_images=gif[1:], duration=66, loop=0)
    print(f"actions.png and rollout.gif are in {settings.output}")


if __name__ == "__main__":
    main()
