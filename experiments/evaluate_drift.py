"""How a world holds out in long rollouts: what is left of it after 16, 64, 256 and 1000 frames from one prompt frame.

    python experiments/evaluate_drift.py --model runs/world_model/coinrun-small                  # CoinRun's validation levels
    python experiments/evaluate_drift.py --model runs/world_model/mine --data C.h5 --lengths 16 64   # a world of your own videos
    python experiments/evaluate_drift.py --model runs/world_model/coinrun-small --temperature 1  # other sampling settings

Real episodes, on CoinRun of players that survive, give the prompts and, by the world's latent action model, the actions. Every figure is
one of the last frames of a rollout of that length. What comes into view for the first time nobody can predict, so PSNR must fall; the rest
needs no true frame: do the imagined frames use the tokens that real frames use, does the latent action model find the played actions in
them, are they as sharp, do they move as much? Beside each figure stands that of the real frames redrawn by the tokenizer, the best that
its tokens allow. Prints a table and writes results.json and drift.png.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import matplotlib
import numpy as np
import torch
import tyro
from checks import check_counts
from recording import record
from report import markdown_table, write_results
from run_cache import RunCache
from stopping import refusing
from torch import Tensor
from tqdm import tqdm
from world_videos import MIXED, Source, check_frame_shape, held_out, open_all

from genie_agents.coinrun import FRAME_SHAPE, MAX_EPISODE_STEPS
from genie_agents.demonstrations import open_videos
from genie_agents.experts.players import RANDOM_PLAYERS
from world_model import Genie, LatentActionLabeller, Rollout, VideoTokenizerConfig
from world_model.data import VideoFile
from world_model.maskgit import SamplingConfig
from world_model.metrics import chance_agreement, movement, psnr, sharpness, total_variation_distance
from world_model.rollout import to_uint8

matplotlib.use("Agg")
import matplotlib.pyplot as plt

WINDOW = 8  # frames at the end of a rollout over which its figures are means
RECORDED_LEVELS = 32  # levels played at a time until enough episodes are long enough: on hard, 1 in 20 lasts until the game's time is up
TOKENIZED_FRAMES = 128  # frames tokenized at once, to bound memory
CURVE_POINTS = 16
STRIPS = 3  # worlds in the picture


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What to measure."""

    model: str = "coinrun-small"
    """the name of a world that ships, or a folder"""
    runs: Path = Path("runs/world_model/stages")
    """folder of the recorded videos"""
    output: Path = Path("runs/evaluate_drift")
    """folder for results.json and drift.png"""
    data: tuple[Path, ...] = ()
    """HDF5 videos to begin with and to compare with instead of CoinRun's, or folders of them; each is a source"""
    difficulties: tuple[Literal["easy", "hard"], ...] = ("easy", "hard")
    lengths: tuple[int, ...] = (16, 64, 256, 1000)
    """frames of rollouts, the prompt included; no episode of CoinRun has more than 1000"""
    worlds: int = 2
    """worlds of each source (on CoinRun: random keys, or keys held for long, on a difficulty)"""
    test: bool = False
    """play test levels instead of validation levels"""
    steps: int | None = None
    """MaskGIT steps a frame, instead of the model's own"""
    temperature: float | None = None
    """temperature of the tokens, instead of the model's own"""
    anchor_frames: int | None = None
    """frames with which a past that fills the window begins anew, instead of the model's own number; 0: it never does"""
    seed: int = 0
    """seed of recording and of sampling"""

    def __post_init__(self) -> None:
        if not self.difficulties:
            raise ValueError("difficulties is empty; choose easy, hard or both")
        if self.data and self.test:
            raise ValueError("test plays CoinRun's test levels, and data gives other videos: leave out one of them")
        longest = math.inf if self.data else MAX_EPISODE_STEPS
        if not self.lengths or not all(WINDOW < length <= longest for length in self.lengths):
            raise ValueError(f"lengths are {self.lengths}; give some of {WINDOW + 1} to {longest} frames")
        check_counts(self, "worlds")


@dataclass(frozen=True)
class Videos:
    """Videos of B worlds: frames (B, T, H, W, C) uint8, their tokens (B, T, N), and the latent actions (B, T-1) seen in them."""

    frames: Tensor
    tokens: np.ndarray
    latent_actions: np.ndarray


def long_episodes(settings: Settings, tokenizer: VideoTokenizerConfig) -> dict[Source, np.ndarray]:
    """Real frames (worlds, T, H, W, C) of each source: the beginnings of the first episodes that last as long as the longest rollout."""
    num_frames, found = max(settings.lengths), {}
    for path in settings.data:
        files = open_all([path], tokenizer)
        beginnings = list(islice((frames for file in files for frames in long_beginnings(file, num_frames)), settings.worlds))
        if len(beginnings) < settings.worlds:
            raise SystemExit(
                f"{path} has {len(beginnings)} episodes of {num_frames} frames or more, not {settings.worlds}: lower --worlds or --lengths"
            )
        found[(str(path),)] = np.stack(beginnings)
    if found:
        return found
    check_frame_shape("CoinRun", FRAME_SHAPE, tokenizer)
    name, levels = held_out(settings.test)
    share = len(levels) // len(RANDOM_PLAYERS)
    return {
        (difficulty, player): find_episodes(settings, f"{name}-long", levels[index * share : (index + 1) * share], difficulty, player)
        for difficulty in settings.difficulties
        for index, player in enumerate(RANDOM_PLAYERS)
    }


def find_episodes(settings: Settings, name: str, levels: range, difficulty: str, player: str) -> np.ndarray:
    """Let the player play until `settings.worlds` episodes were long enough."""
    num_frames = max(settings.lengths)
    # Noise would drive the players on, into the first saw.
    recording = dataclasses.replace(MIXED, difficulty=difficulty, noise=0.0, delay=0.0, max_steps=num_frames - 1)
    found: list[np.ndarray] = []
    for first in range(0, len(levels), RECORDED_LEVELS):
        part = levels[first : first + RECORDED_LEVELS]
        folder = record(RunCache(settings.runs), f"{name}-{player}-{difficulty}", part, recording, player, seed=settings.seed)
        found += [frames for file in open_videos(folder) for frames in long_beginnings(file, num_frames)]
        if len(found) >= settings.worlds:
            return np.stack(found[: settings.worlds])
    raise SystemExit(
        f"{len(found)} of {len(levels)} {difficulty} levels kept the {player} player for {num_frames} frames, not {settings.worlds}: "
        "lower --worlds or --lengths"
    )


def long_beginnings(file: VideoFile, num_frames: int) -> Iterator[np.ndarray]:
    """The first `num_frames` frames of each episode that has as many."""
    for start in file.episode_starts[:-1][np.diff(file.episode_starts) >= num_frames]:
        yield file.frames[start : start + num_frames]


@torch.no_grad()
def redraw(genie: Genie, labeller: LatentActionLabeller, frames: Tensor) -> Videos:
    """Frames (B, T, H, W, C) as the tokenizer draws them, from the tokens that it finds in them."""
    drawn, tokens = [], []
    for part in tqdm(frames.split(TOKENIZED_FRAMES, dim=1), desc="redraw", unit="part", dynamic_ncols=True):
        outputs = [genie.tokenizer(world[None].to(genie.prompts.device)) for world in part]
        drawn.append(torch.cat([to_uint8(output.reconstruction).cpu() for output in outputs]))
        tokens.append(torch.cat([output.quantized.indices.cpu() for output in outputs]))
    redrawn = torch.cat(drawn, dim=1)
    return Videos(redrawn, torch.cat(tokens, dim=1).numpy(), labeller.label(redrawn.numpy()))


def imagine(genie: Genie, labeller: LatentActionLabeller, real: Videos, sampling: SamplingConfig, seed: int) -> Videos:
    """The worlds that begin with the first of the real frames, each, and go on by the real frames' latent actions."""
    num_worlds = len(real.frames)
    rollout = Rollout(genie, num_worlds, sampling=sampling)
    frames = [rollout.reset(real.frames[:, :1], seeds=range(seed, seed + num_worlds)).cpu()]
    tokens = [rollout.tokens.cpu()]
    for actions in tqdm(real.latent_actions.T, desc="rollout", unit="frame", dynamic_ncols=True):
        frames.append(rollout.step(actions).cpu())
        tokens.append(rollout.tokens.cpu())
    imagined = torch.stack(frames, dim=1)
    return Videos(imagined, torch.stack(tokens, dim=1).numpy(), labeller.label(imagined.numpy()))


def figures(videos: Videos, real: Videos, worlds: list[int], length: int, genie: Genie) -> dict[str, float]:
    """How the last frames of the first `length` ones compare with the real ones; tokens are compared with all other real frames'."""
    last, into = slice(length - WINDOW, length), slice(length - WINDOW - 1, length - 1)  # frames, and the actions that lead to them
    frames, real_frames = videos.frames[worlds], real.frames[worlds]
    seen, played = videos.latent_actions[worlds, into].ravel(), real.latent_actions[worlds, into].ravel()
    others = np.delete(real.tokens[worlds], np.r_[last], axis=1)
    num_tokens, num_actions = genie.config.tokenizer.num_codes, genie.num_latent_actions
    before_and_last = slice(length - WINDOW - 1, length)
    return {
        "psnr": psnr(frames[:, last], real_frames[:, last]).mean().item(),
        "token_distance": total_variation_distance(videos.tokens[worlds, last].ravel(), others.ravel(), num_codes=num_tokens),
        "actions_seen": float((seen == played).mean()),
        "actions_seen_by_chance": chance_agreement(seen, played, num_codes=num_actions),
        "sharpness": (sharpness(frames[:, last]).mean() / sharpness(real_frames[:, last]).mean()).item(),
        "movement": (movement(frames[:, before_and_last]).mean() / movement(real_frames[:, before_and_last]).mean()).item(),
    }


Found = dict[str, dict[int, dict[str, dict[str, float]]]]
"""Figures by worlds (all, or a difficulty), length, and whose they are (imagined or redrawn)."""


PANELS = {
    "psnr": "PSNR to the real frames, dB",
    "token_distance": "distance of the tokens' histogram, 0 to 1",
    "actions_seen": "share of actions seen in the frames",
    "sharpness": "sharpness, real frames = 1",
    "movement": "movement, real frames = 1",
}


def as_table(found: Found, lengths: tuple[int, ...]) -> str:
    columns = ["worlds", "frames", "PSNR", "token distance", "actions seen (redrawn; by chance)", "sharpness", "movement"]
    rows = []
    for name, curve in found.items():
        for length in lengths:
            imagined, redrawn = curve[length]["imagined"], curve[length]["redrawn"]
            cells = {figure: f"{imagined[figure]:.2f} ({redrawn[figure]:.2f})" for figure in PANELS}
            cells["psnr"] = f"{imagined['psnr']:.1f} ({redrawn['psnr']:.1f})"
            cells["actions_seen"] = cells["actions_seen"].replace(")", f"; {imagined['actions_seen_by_chance']:.2f})")
            rows.append([name, str(length), *cells.values()])
    return markdown_table(columns, rows)


def plot(found: Found, lengths: tuple[int, ...], real: Videos, imagined: Videos, shown: dict[str, int], path: Path) -> None:
    """Curves of all worlds over the length, and below them frames of the worlds to show (by their titles), real and imagined."""
    figure = plt.figure(figsize=(17, 6.6))
    top, bottom = figure.subfigures(2, 1, height_ratios=[3.6, 3.0])
    curve = found["all"]
    for axis, (name, title) in zip(top.subplots(1, len(PANELS)), PANELS.items(), strict=True):
        for whose, color in (("imagined", "#d1495b"), ("redrawn", "#30638e")):
            label = "imagined" if whose == "imagined" else "real, redrawn by the tokenizer"
            axis.plot(list(curve), [row[whose][name] for row in curve.values()], color=color, label=label, marker=".")
        if name == "actions_seen":
            chance = [row["imagined"]["actions_seen_by_chance"] for row in curve.values()]
            axis.plot(list(curve), chance, color="#7a7a7a", linestyle="--", label="by chance")
        if name != "psnr":
            axis.set_ylim(bottom=0)
        axis.set_xscale("log", base=2)
        axis.set_xticks(lengths, [str(length) for length in lengths])
        axis.set_xlabel("frames of the rollout")
        axis.set_title(title, fontsize=9)
        axis.grid(alpha=0.25)
        axis.legend(fontsize=7)
    top.subplots_adjust(left=0.03, right=0.99, bottom=0.16, top=0.88)
    strips = bottom.subfigures(1, len(shown), squeeze=False)[0]
    for strip, (title, world) in zip(strips, shown.items(), strict=True):
        strip.suptitle(title, fontsize=9)
        axes = strip.subplots(2, 1 + len(lengths))
        for row, (whose, videos) in zip(axes, (("real", real), ("imagined", imagined)), strict=True):
            row[0].set_ylabel(whose, fontsize=8)
            for axis, length in zip(row, (1, *sorted(lengths)), strict=True):
                axis.imshow(videos.frames[world, length - 1].numpy(), cmap="gray", vmin=0, vmax=255)  # a map of grey levels alone
                axis.set_xlabel(f"frame {length}", fontsize=7)
                axis.set_xticks([])
                axis.set_yticks([])
        strip.subplots_adjust(left=0.05, right=0.99, bottom=0.05, top=0.93, wspace=0.04)
    figure.savefig(path, dpi=100)
    plt.close(figure)


@refusing()
def main() -> None:
    settings = tyro.cli(Settings, description=__doc__)
    genie = Genie.from_pretrained(settings.model).to("cuda" if torch.cuda.is_available() else "cpu")
    changed = {"steps": settings.steps, "temperature": settings.temperature, "anchor_frames": settings.anchor_frames}
    changed = {name: value for name, value in changed.items() if value is not None}
    if settings.anchor_frames == 0:
        changed["anchor_frames"] = None
    sampling = dataclasses.replace(genie.config.sampling, **changed)
    Rollout(genie, 1, sampling=sampling)  # settings that it refuses are found out before anything is played
    episodes = long_episodes(settings, genie.config.tokenizer)
    frames = torch.from_numpy(np.concatenate(list(episodes.values())))
    labeller = LatentActionLabeller(genie.latent_action_model, identity=settings.model, device=genie.prompts.device)
    redrawn = redraw(genie, labeller, frames)
    real = Videos(frames, redrawn.tokens, labeller.label(frames.numpy()))
    imagined = imagine(genie, labeller, real, sampling, settings.seed)

    sources = [source for source in episodes for _ in range(settings.worlds)]
    groups = {"all": list(range(len(sources)))}
    groups |= {name: [world for world, source in enumerate(sources) if name == source[0]] for name, *_ in episodes}
    lengths = sorted({*settings.lengths, *np.geomspace(WINDOW + 1, max(settings.lengths), CURVE_POINTS).astype(int).tolist()})
    found: Found = {
        name: {
            length: {
                whose: figures(videos, real, worlds, length, genie) for whose, videos in (("imagined", imagined), ("redrawn", redrawn))
            }
            for length in lengths
        }
        for name, worlds in groups.items()
    }
    results: dict[str, Any] = {"sampling": dataclasses.asdict(sampling), "worlds": [", ".join(source) for source in sources]}
    write_results(settings.output, settings, {**results, "window": WINDOW, "figures": found})
    shown = {", ".join(source): sources.index(source) for source in list(episodes)[:STRIPS]}
    plot(found, settings.lengths, real, imagined, shown, settings.output / "drift.png")
    print(as_table(found, settings.lengths))
    print(f"\nMeans over the last {WINDOW} frames; in brackets the same for real frames, redrawn by the tokenizer. Token distance: that of")
    print("the frames from all other real frames of the same episodes; the redrawn ones' is the floor, as real frames differ from each")
    print(f"other too. All figures and drift.png are in {settings.output}")


if __name__ == "__main__":
    main()
