"""Train a playable world from videos without actions: tokenizer, latent action model and dynamics model, in order (Genie, section 2.1).

    python experiments/train_world_model.py                                   # coinrun-small, on videos that the game makes
    python experiments/train_world_model.py --data A.h5 B.h5 --output runs/world_model/mine    # on your own videos, of 64 x 64
    torchrun --nproc-per-node 4 experiments/train_world_model.py --preset coinrun-paper

The world lies in `output` at the end: Genie.from_pretrained(output), gym.make("Genie-v0", model=output). The same command goes on where
an earlier one was stopped, by --minutes, Ctrl-C or a crash.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
import time
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import tyro
from evaluate_world_model import redraw_and_imagine
from pictures import save_clips
from progress import training_bar
from run_cache import RunCache
from stopping import refusing, stoppable
from torch import Tensor
from world_model_settings import NUM_PROMPTS, PRESETS, Phase, Settings
from world_videos import check_frame_shape, longest_episode, mixed_videos, open_all

from genie_agents.coinrun import FRAME_SHAPE, VALIDATION_LEVELS, WORLD_MODEL_LEVELS
from world_model import DynamicsModel, Genie, GenieConfig, LatentActionModel, VideoTokenizer
from world_model.data import ClipBatch, ClipSampler, VideoFile
from world_model.metrics import delta_psnr, psnr
from world_model.rollout import to_uint8
from world_model.serialization import UNLEARNED, WEIGHTS_FILE, change_config, find_model, identify_model, save_model
from world_model.training import MetricsLog, gather_weights, make_fabric, train, tune_cpu
from world_model.training.objectives import LossFunction, dynamics_objective, latent_action_objective, tokenizer_objective

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

VALIDATION_CLIPS = 32
SAMPLE_CLIPS = 4  # clips of a picture of samples


class Training:
    """The stages, in order. Each returns the folder of what it made; nothing is made twice."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.started = time.monotonic()
        self.cache = RunCache(settings.runs)
        self.fabric = make_fabric(devices=settings.devices, num_nodes=settings.num_nodes, strategy=settings.strategy)
        given = {}  # what is none, or does not fit, is found out before hours of recording
        if settings.lam is not None:
            given["latent_actions"] = LatentActionModel.from_pretrained(settings.lam).config
        if settings.tokenizer_from is not None:
            given["tokenizer"] = VideoTokenizer.from_pretrained(settings.tokenizer_from).config
        self.config = dataclasses.replace(settings.model, num_prompts=NUM_PROMPTS, **given)
        for name, layers in (("tokenizer.decoder", self.config.tokenizer.decoder), ("dynamics", self.config.dynamics.transformer)):
            if layers.cached_frames is None:
                raise SystemExit(
                    f"{name}: a world is played frame by frame, which attention {layers.attention!r} with a temporal_window of "
                    f"{layers.temporal_window} cannot do: give 'st' or 'space' and a window, in another --tokenizer-from or by --model"
                )
        if not settings.data:
            check_frame_shape(settings.game, FRAME_SHAPE, self.config.tokenizer)
        if settings.tensorboard:
            find_tensorboard()
        for name, phase in settings.phases.items():
            if phase.batch_size % self.fabric.world_size:
                raise SystemExit(
                    f"{name}: a batch of {phase.batch_size} clips cannot be divided among {self.fabric.world_size} processes: "
                    "start a number of them that divides it, or set its batch-size to a multiple"
                )
        self.beginning = None if settings.start_from is None else Genie.from_pretrained(settings.start_from)
        """the world whose weights to begin with"""

    @property
    def minutes_left(self) -> float | None:
        return None if self.settings.minutes is None else self.settings.minutes - (time.monotonic() - self.started) / 60

    # Videos

    @cached_property
    def sources(self) -> list[Path]:
        """Folders or files of the videos to learn from. One process records, the others wait for it."""
        if self.settings.data:
            return list(self.settings.data)
        with self.fabric.rank_zero_first():
            return self.game_videos("videos", WORLD_MODEL_LEVELS[: self.settings.levels])

    def game_videos(self, name: str, levels: range) -> list[Path]:
        settings = self.settings
        with stoppable(settings.runs, self.minutes_left):
            return mixed_videos(self.cache, name, levels, game=settings.game, difficulties=settings.difficulties, seed=settings.seed)

    @cached_property
    def files(self) -> list[VideoFile]:
        files = open_all(self.sources, self.config.tokenizer)
        longest = longest_episode(files)
        for name, phase in self.settings.phases.items():
            if longest < phase.clip_length:
                raise SystemExit(
                    f"{name}: it learns from clips of {phase.clip_length} frames, and the longest episode has {longest}: "
                    "give longer videos, or lower its clip-length, and the temporal-window of its model"
                )
        return files

    @cached_property
    def validation_clips(self) -> ClipBatch | None:
        """Clips of episodes that are not learned from, the same for every look; none where weights are split, as one process looks."""
        settings = self.settings
        if settings.strategy == "fsdp":
            return None
        sources = list(settings.validation_data)
        if not sources and settings.data:
            return None
        if not sources:
            with self.fabric.rank_zero_first():
                sources = self.game_videos("validation", VALIDATION_LEVELS[: max(4, min(100, settings.levels // 10))])
        files, clip_length = open_all(sources, self.config.tokenizer), settings.dynamics.clip_length
        if (longest := longest_episode(files)) < clip_length:
            raise SystemExit(
                f"validation_data: its clips are of {clip_length} frames, as the dynamics model's, and the longest episode has {longest}: "
                "give longer videos"
            )
        return next(ClipSampler(files, clip_length=clip_length, batch_size=VALIDATION_CLIPS, seed=settings.seed))

    # Training

    def start(self, part: str, model: VideoTokenizer | LatentActionModel | DynamicsModel) -> None:
        """Begin with the weights that this part has in the world of --start-from, if it is of the same configuration."""
        if self.beginning is None:
            return
        beginning = self.beginning.get_submodule(part)
        same = beginning.config == model.config
        if same:
            model.load_state_dict(beginning.state_dict())
        if self.fabric.is_global_zero:
            print(f"{part}: begins {'with the weights of ' + str(self.settings.start_from) if same else 'anew, its configuration differs'}")

    def train(
        self,
        name: str,
        model: VideoTokenizer | LatentActionModel | Genie,
        loss_function: LossFunction,
        phase: Phase,
        below: list[Path],
        validate: Callable[[Path], dict[str, Tensor]] | None = None,
    ) -> Path:
        """Train one part and save it; `validate` looks at the validation clips now and then, and may leave pictures in the folder."""
        settings, fabric, steps = self.settings, self.fabric, phase.training.steps

        def build(folder: Path) -> None:
            model.to(fabric.device)
            share = {"rank": fabric.global_rank, "world_size": fabric.world_size}
            batches = ClipSampler(self.files, clip_length=phase.clip_length, batch_size=phase.batch_size, seed=settings.seed, **share)
            bar = training_bar(name, steps, hidden=not fabric.is_global_zero)
            log = MetricsLog(folder / "log.jsonl", phase.training, every=10)
            validation_log = MetricsLog(folder / "validation.jsonl", phase.training)

            writer = find_tensorboard()(folder) if settings.tensorboard and fabric.is_global_zero else None

            def on_step(step: int, metrics: dict[str, Tensor]) -> None:
                bar(step, metrics)
                log(step, metrics)
                if writer is not None and step % log.every == 0:
                    for metric, value in metrics.items():
                        writer.add_scalar(f"{name}/{metric}", value.item(), step)

            done = train(
                model,
                loss_function,
                batches,
                phase.training,
                fabric=fabric,
                checkpoint=folder / "checkpoint.safetensors",
                checkpoint_seconds=60 * settings.checkpoint_minutes,
                minutes=self.minutes_left,
                on_step=on_step,
                validate=None if validate is None else lambda step: validation_log(step, validate(folder)),
                validate_every=settings.validate_every,
            )
            if done < steps:
                raise OutOfTime(f"{name}: {done} of {steps} steps done; the same command goes on from here")
            weights = gather_weights(model) if settings.strategy == "fsdp" else None
            if fabric.is_global_zero:
                save_model(folder, model, weights=weights)
            fabric.barrier()

        about = {"phase": dataclasses.asdict(phase), "seed": settings.seed, "model": dataclasses.asdict(model.config)}
        for unlearned in UNLEARNED:
            about["model"].pop(unlearned, None)
        about["data"] = [file.fingerprint() for file in self.files] if settings.data else []
        about["start_from"] = None if settings.start_from is None else identify_model(settings.start_from)
        about["below"] = [identify_model(folder) for folder in below]  # by content: a model given by its folder may have been replaced
        return self.cache.stage(name, about, [] if settings.data else self.sources, build)

    def tokenizer(self) -> Path:
        """The folder of the one that makes the dynamics model's tokens: given, or trained first."""
        if self.settings.tokenizer_from is not None:
            return find_model(self.settings.tokenizer_from)
        model = VideoTokenizer(self.config.tokenizer, seed=self.settings.seed)
        self.start("tokenizer", model)
        clips = self.validation_clips

        def validate(folder: Path) -> dict[str, Tensor]:
            frames = torch.from_numpy(clips.frames).to(self.fabric.device)
            drawn = to_uint8(model(frames).reconstruction)
            save_clips(folder / "samples.png", {"real": frames[:SAMPLE_CLIPS], "tokenizer": drawn[:SAMPLE_CLIPS]})
            return {"validation_psnr": psnr(drawn, frames).mean()}

        return self.train("tokenizer", model, tokenizer_objective, self.settings.tokenizer, [], validate if clips is not None else None)

    def latent_action_model(self) -> Path:
        """The folder of the one to freeze: given, or trained first."""
        settings = self.settings
        if settings.lam is not None:
            return find_model(settings.lam)
        model = LatentActionModel(self.config.latent_actions, seed=settings.seed)
        self.start("latent_action_model", model)
        return self.train("lam", model, latent_action_objective, settings.latent_actions, [])

    def genie(self) -> Path:
        settings, below = self.settings, []
        _ = self.validation_clips, self.files  # videos that do not do are refused before anything is trained, given ones before recording
        if settings.latent_action_training == "frozen":
            below.append(self.latent_action_model())
            frozen = LatentActionModel.from_pretrained(below[0])
        below.append(self.tokenizer())
        tokenizer = VideoTokenizer.from_pretrained(below[-1])
        model = Genie(self.config, seed=settings.seed)
        model.tokenizer.load_state_dict(tokenizer.state_dict())
        if settings.latent_action_training == "frozen":
            model.latent_action_model.load_state_dict(frozen.state_dict())
        else:
            self.start("latent_action_model", model.latent_action_model)
        self.start("dynamics", model.dynamics)
        frames = next(ClipSampler(self.files, clip_length=1, batch_size=NUM_PROMPTS, seed=settings.seed)).frames[:, 0]
        model.prompts.copy_(torch.from_numpy(frames))
        objective = dynamics_objective(model, settings.latent_action_training, max_corruption=settings.max_corruption)
        clips = self.validation_clips

        def validate(folder: Path) -> dict[str, Tensor]:
            _, metrics = objective(model, clips)
            frames = torch.from_numpy(clips.frames).to(self.fabric.device)
            controllability = delta_psnr(model, frames, seed=settings.seed)
            shown = frames[:SAMPLE_CLIPS]
            drawn, _, imagined = redraw_and_imagine(model, shown, seed=settings.seed)
            save_clips(folder / "samples.png", {"real": shown, "tokenizer": drawn, "imagined": imagined})
            return {f"validation_{name}": value for name, value in metrics.items()} | {
                name: torch.tensor(value) for name, value in controllability.items()
            }

        name = f"dynamics-{settings.latent_action_training}" + (f"-corrupted-{settings.max_corruption}" if settings.max_corruption else "")
        return self.train(name, model, objective, settings.dynamics, below, validate if clips is not None else None)


class OutOfTime(Exception):
    """The minutes are over; everything done is saved."""


def find_tensorboard() -> type[SummaryWriter]:
    try:
        from torch.utils.tensorboard import SummaryWriter  # here, because it is an optional extra
    except ImportError as error:
        raise SystemExit('--tensorboard needs TensorBoard: pip install "genie-agents[tensorboard]"') from error
    return SummaryWriter


def save_world(trained: Path, output: Path, model: GenieConfig) -> None:
    """Put a trained world where the user wants it, with what `model` says of sampling and latent actions, which is not learned. Where the
    same lies already, what was written there of its latent actions stays, unless `model` has other words."""
    unlearned = {"sampling": model.sampling} | ({"action_meanings": model.action_meanings} if model.action_meanings else {})
    weights = output / WEIGHTS_FILE
    if weights.is_file() and weights.read_bytes() == (trained / WEIGHTS_FILE).read_bytes():
        change_config(output, Genie, GenieConfig, **unlearned)
        return
    genie = Genie.from_pretrained(trained)
    genie.config = dataclasses.replace(genie.config, **unlearned)
    genie.save_pretrained(output)


@refusing()
def main() -> None:
    finder = argparse.ArgumentParser(add_help=False)
    finder.add_argument("--preset", default="coinrun-small", choices=PRESETS)
    preset = finder.parse_known_args()[0].preset
    settings = tyro.cli(Settings, default=PRESETS[preset], description=__doc__)
    tune_cpu()
    training = Training(settings)
    try:
        with stoppable(settings.runs):
            folder = training.genie()
    except OutOfTime as stopped:
        if training.fabric.is_global_zero:
            print(stopped, file=sys.stderr)
        training.fabric.barrier()  # a process that fails has the others killed
        raise SystemExit(1) from None
    if training.fabric.is_global_zero:
        save_world(folder, settings.output, settings.model)
        print(f"the world is in {settings.output}; the stages' logs, checkpoints and pictures of validation videos are in {settings.runs}")


if __name__ == "__main__":
    main()
