"""The videos of bc_coinrun.py and what is known of them: latent actions and features for every frame, true actions."""

from __future__ import annotations

import contextlib
import dataclasses
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from bc_settings import Settings
from progress import training_bar
from recording import record
from run_cache import RunCache
from tqdm import tqdm

from genie_agents.cloning import Videos
from genie_agents.coinrun import DEMONSTRATION_LEVELS, FRAME_SHAPE, WORLD_MODEL_LEVELS
from genie_agents.demonstrations import RecordingConfig, open_videos
from genie_agents.experts.players import identify_expert
from genie_agents.selection import Proxy
from world_model import LatentActionLabeller
from world_model.data import VideoFile
from world_model.files import replace_when_written
from world_model.training import LabelledTransitions, train_latent_action_model


class LabelledVideos:
    """The first stages of the study. Each returns the folder of what it made; nothing is made twice."""

    def __init__(self, settings: Settings, cache: RunCache, device: torch.device) -> None:
        self.settings, self.cache, self.device = settings, cache, device
        identify_expert(settings.expert)  # a name that is none is found out before hours of recording
        if settings.proxy:
            Proxy(settings.proxy)
        if not settings.train_lam:
            config = self.labeller.model.config
            if (shape := (config.image_height, config.image_width, config.channels)) != FRAME_SHAPE:
                raise ValueError(f"lam {settings.lam} looks at frames of {shape}, and CoinRun's are {FRAME_SHAPE}: give another one")

    # Videos and the latent action model

    def record(self, name: str, levels: range, recording: RecordingConfig, expert: str, proxy: Path | None = None) -> Path:
        return record(self.cache, name, levels, recording, expert, seed=self.settings.seed, proxy=proxy)

    def demonstrations(self, difficulty: str) -> Path:
        settings = self.settings
        recording = RecordingConfig(difficulty=difficulty, noise=settings.noise, lead_in=self.context)
        return self.record(f"videos-{difficulty}", DEMONSTRATION_LEVELS[: settings.levels], recording, settings.expert, settings.proxy)

    def latent_action_videos(self) -> list[Path]:
        """Videos of levels that cloning never sees. CoinRun: the noisy planner shows the game, random play what else the keys do. Other
        games have no planner: there keys are held at random, for a short or a long time. All are disturbed on camera: a random key in
        one of ten steps (on the ground, in CoinRun) for one step or two, and one in five take-offs put off."""
        settings, folders = self.settings, []
        levels = WORLD_MODEL_LEVELS[: settings.lam_levels]
        random_levels = settings.lam_levels // 4
        for game in settings.lam_games:
            prefix, player = ("lam-videos", "planner") if game == "coinrun" else (f"lam-videos-{game}", "sticky")
            for difficulty in settings.difficulties:
                recording = RecordingConfig(game=game, difficulty=difficulty, cut_noise=False, keep_unsolved=True, max_steps=200)
                folders += [
                    self.record(f"{prefix}-random-{difficulty}", levels[:random_levels], recording, "random"),
                    self.record(f"{prefix}-{player}-{difficulty}", levels[random_levels:], recording, player),
                ]
        return folders

    def train_latent_action_model(self) -> Path:
        settings, sources = self.settings, self.latent_action_videos()

        def build(folder: Path) -> None:
            files = open_videos(*sources)
            model = train_latent_action_model(
                files,
                settings.lam_model,
                settings.lam_training,
                clip_length=settings.lam_clip_length,
                batch_size=settings.lam_batch_size,
                labelled=draw_labelled_transitions(files, settings) if settings.lam_labels else None,
                seed=settings.seed,
                device=self.device,
                checkpoint=folder / "checkpoint.safetensors",
                on_step=training_bar("latent action model", settings.lam_training.steps),
            )
            model.save_pretrained(folder)

        about = {name: getattr(settings, name) for name in ("lam_clip_length", "lam_batch_size", "lam_labels", "seed")}
        about |= {name: dataclasses.asdict(getattr(settings, name)) for name in ("lam_model", "lam_training")}
        return self.cache.stage("lam", about, sources, build)

    # What the latent action model says of the demonstrations

    @cached_property
    def labeller(self) -> LatentActionLabeller:
        return LatentActionLabeller.from_pretrained(self.train_latent_action_model() if self.settings.train_lam else self.settings.lam)

    @property
    def context(self) -> int:
        """How many frames the labeller must have seen before the one from which a transition leads that it is to label."""
        return self.labeller.model.config.context_frames - 2

    def labels(self, difficulty: str) -> Path:
        """labels.npy (N,): the latent action from each frame to the next, -1 on the last of an episode; features.npy (N, D) float16: what
        the model sees in each frame. Row t+1 describes the transition from t to t+1."""
        source = self.demonstrations(difficulty)

        def build(folder: Path) -> None:
            files = open_videos(source)
            parts = [folder / f"{file.path.stem}.npz" for file in files]  # an interrupted stage goes on with the next file
            frames = sum(file.num_frames for file in files)
            with tqdm(total=frames, desc=f"labels-{difficulty}", unit="frame", dynamic_ncols=True) as bar:
                for file, path in zip(files, parts, strict=True):
                    if not path.exists():
                        labels, features = self.labeller.describe(file)
                        with replace_when_written(path) as temporary, temporary.open("wb") as part:
                            np.savez(part, labels=labels, features=features.astype(np.float16))
                    bar.update(file.num_frames)
            found: list[dict[str, np.ndarray]] = []
            with contextlib.suppress(FileNotFoundError):  # another command that made the same labels was faster, and put them together
                found = [dict(np.load(path)) for path in parts]
            for name in ("labels", "features") if found else ():
                with replace_when_written(folder / f"{name}.npy") as temporary, temporary.open("wb") as whole:
                    np.save(whole, np.concatenate([part[name] for part in found]))
            for path in parts:
                path.unlink(missing_ok=True)

        return self.cache.stage(f"labels-{difficulty}", {"labeller": self.labeller.identity, "with": "features"}, [source], build)

    # What is held in memory: the frames of all difficulties in a row, and per difficulty one row a frame of all else

    @cached_property
    def frames(self) -> Videos:
        return Videos.load(open_videos(*(self.demonstrations(d) for d in self.settings.difficulties)))

    @cached_property
    def true_actions(self) -> dict[str, np.ndarray]:
        return {d: np.concatenate([f.actions() for f in open_videos(self.demonstrations(d))]) for d in self.settings.difficulties}

    @cached_property
    def latent_actions(self) -> dict[str, np.ndarray]:
        return {d: np.load(self.labels(d) / "labels.npy") for d in self.settings.difficulties}

    @cached_property
    def frame_features(self) -> dict[str, np.ndarray]:
        return {d: np.load(self.labels(d) / "features.npy") for d in self.settings.difficulties}

    def first_frame(self, difficulty: str) -> int:
        """Where a difficulty's frames begin among all frames."""
        before = self.settings.difficulties[: self.settings.difficulties.index(difficulty)]
        return sum(len(self.true_actions[d]) for d in before)

    def usable(self, difficulty: str) -> np.ndarray:
        """The frames (indices within a difficulty) to learn from: all but those too near an episode's start to be labelled in context,
        and those by which a cut video leads to where the expert takes over.

        Of a jump that began before the first frame, the labeller cannot know that the agent was rising already, and sees a take-off.
        """
        actions = self.true_actions[difficulty]  # of which only where there is none is looked at: on an episode's last frame
        starts = np.flatnonzero(np.append(-1, actions[:-1]) == -1)
        early = (starts[:, None] + np.arange(self.context)).ravel()
        return np.setdiff1d(np.flatnonzero(actions >= 0), early)


def draw_labelled_transitions(files: list[VideoFile], settings: Settings) -> LabelledTransitions:
    """`lam_labels` clips of the latent action model's videos, drawn at random, with the true action between their last two frames."""
    clip_length, places = settings.lam_clip_length, []
    for index, file in enumerate(files):
        for start, stop in zip(file.episode_starts[:-1].tolist(), file.episode_starts[1:].tolist(), strict=True):
            places += [(index, first) for first in range(start, stop - clip_length + 1)]
    if len(places) < settings.lam_labels:
        raise ValueError(
            f"lam_labels is {settings.lam_labels}, and the videos have {len(places)} clips of {clip_length} frames: record more"
        )
    chosen = np.random.default_rng(settings.seed).choice(len(places), settings.lam_labels, replace=False)
    clips, actions = [], []
    for index, first in (places[place] for place in np.sort(chosen)):
        clips.append(files[index].frames[first : first + clip_length])
        actions.append(files[index].actions()[first + clip_length - 2])
    return LabelledTransitions(np.stack(clips), np.array(actions))
