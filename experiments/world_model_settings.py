"""Settings of train_world_model.py: every option with its help, and the presets."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from checks import check_counts

from genie_agents.coinrun import WORLD_MODEL_LEVELS
from world_model import GenieConfig
from world_model.presets import coinrun_base, coinrun_paper, coinrun_small, dynamics_ladder, platformers, tiny
from world_model.training import DYNAMICS_TRAINING, TOKENIZER_TRAINING, TrainingConfig
from world_model.training.objectives import LatentActionTraining

NUM_PROMPTS = 64  # frames that a world brings along to begin from


@dataclass(frozen=True, kw_only=True)
class Phase:
    """How one part is trained."""

    training: TrainingConfig
    clip_length: int = 16
    """frames of a clip"""
    batch_size: int = 8
    """clips of a batch, over all devices together"""

    def __post_init__(self) -> None:
        if self.clip_length < 1 or self.batch_size < 1:
            raise ValueError(f"clip_length is {self.clip_length} and batch_size {self.batch_size}; give at least 1 of each")


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Options of the training; the defaults are those of the chosen preset."""

    preset: str = "coinrun-small"
    """tiny: for --data of 32 x 32; coinrun-small: real time on 2 cores; coinrun-base: for a GPU; coinrun-paper: Appendix F; platformers:
    10.2 billion weights, for --data of 160 x 96; platformers-41M ... platformers-2.7B: the same with the dynamics models of table 10"""
    output: Path = Path("runs/world_model/coinrun-small")
    """folder for the trained world"""
    runs: Path = Path("runs/world_model/stages")
    """folder of the stages, each with its checkpoint, log and pictures; an interrupted run goes on from there"""
    minutes: float | None = None
    """stop after so many minutes; the same command goes on"""
    seed: int = 0
    """seed of recording and training"""

    game: str = "coinrun"
    """Procgen game that makes the videos, unless --data gives them"""
    difficulties: tuple[Literal["easy", "hard"], ...] = ("easy",)
    """difficulties to record"""
    levels: int = 2000
    """levels recorded per difficulty: a quarter at random, a quarter with keys held for long, the rest by CoinRun's planner with noise"""
    data: tuple[Path, ...] = ()
    """HDF5 videos to learn from instead of a game's (written with world_model.data.VideoWriter), or folders of them"""
    validation_data: tuple[Path, ...] = ()
    """HDF5 videos of other episodes, or folders of them, to watch progress on; without any, the game's validation levels, or with data
    none"""

    model: GenieConfig = GenieConfig()
    tokenizer: Phase = Phase(training=TrainingConfig(steps=3000))
    latent_actions: Phase = Phase(training=TrainingConfig(steps=3000))
    dynamics: Phase = Phase(training=TrainingConfig(steps=3000))
    latent_action_training: LatentActionTraining = "joint"
    """joint: beside the dynamics model, on pixels (the paper); frozen: before it; through_dynamics: by the dynamics model's gradient"""
    tokenizer_from: str | None = None
    """take this tokenizer instead of training one: its folder, a world's, or the name of a world that ships"""
    lam: str | None = None
    """with frozen: take this latent action model instead of training one: its folder, a world's, or the name of a world that ships"""
    max_corruption: float = 0.0
    """up to which share of the tokens that the dynamics model sees in a training clip is replaced by random ones, against drift"""
    start_from: str | None = None
    """begin with the weights of this world, a folder or the name of one that ships, in every part that has the same configuration"""
    validate_every: int = 500
    """steps between two looks at the validation videos"""
    tensorboard: bool = False
    """write the metrics for TensorBoard too, beside log.jsonl; needs the extra genie-agents[tensorboard]"""
    checkpoint_minutes: float = 1.0
    """minutes between two checkpoints"""

    devices: int | Literal["auto"] = "auto"
    """devices of this machine to train on; torchrun overrules it"""
    num_nodes: int = 1
    """machines that train together"""
    strategy: Literal["auto", "ddp", "fsdp"] = "auto"
    """with several devices: ddp splits the batch, fsdp the weights too"""

    def __post_init__(self) -> None:
        if self.lam is not None and self.latent_action_training != "frozen":
            raise ValueError("lam is for latent_action_training frozen: otherwise the latent action model is trained")
        if not 0 <= self.max_corruption <= 1:
            raise ValueError(f"max_corruption is {self.max_corruption}; give a share of the tokens, 0 to 1")
        if self.model.num_prompts:
            raise ValueError(f"model.num_prompts is {self.model.num_prompts}, and every world gets {NUM_PROMPTS}: leave it out")
        if self.validate_every < 1:
            raise ValueError(f"validate_every is {self.validate_every}; look at least every so many steps")
        if self.dynamics.clip_length < 5:
            raise ValueError(
                f"dynamics: clips of {self.dynamics.clip_length} frames are too short to measure control 4 frames ahead; take 5"
            )
        for name, phase, layers in (
            ("tokenizer", self.tokenizer, (self.model.tokenizer.encoder, self.model.tokenizer.decoder)),
            ("dynamics", self.dynamics, (self.model.dynamics.transformer,)),
        ):
            windows = [layer.temporal_window for layer in layers]
            if None in windows:
                raise ValueError(f"{name}: give a temporal_window, because a world is played frame by frame")
            window = max(window for window in windows if window is not None)
            if phase.clip_length < window:  # a model is no good at distances in time that it never saw
                raise ValueError(f"{name}: clips of {phase.clip_length} frames are shorter than the temporal window of {window}")
        if not 4 <= self.levels <= len(WORLD_MODEL_LEVELS):
            raise ValueError(f"levels is {self.levels}; choose 4 to {len(WORLD_MODEL_LEVELS)}")
        check_counts(self)
        transitions = self.latent_actions.batch_size * (self.latent_actions.clip_length - 1)
        if "latent_actions" in self.phases and transitions < 2:
            raise ValueError(f"latent_actions: its batches have {transitions} transitions; give larger batches, or longer clips")
        if self.strategy == "fsdp":
            self._check_fsdp()

    @property
    def phases(self) -> dict[str, Phase]:
        """How what is not given is trained, by the name of its options."""
        phases = {"dynamics": self.dynamics}
        if self.tokenizer_from is None:
            phases["tokenizer"] = self.tokenizer
        if self.latent_action_training == "frozen" and self.lam is None:
            phases["latent_actions"] = self.latent_actions
        return phases

    def _check_fsdp(self) -> None:
        """Raises ValueError for what cannot be trained with weights that are split, before hours of recording and training."""
        for name, phase in self.phases.items():
            if phase.training.muon_learning_rate:
                raise ValueError(f"{name}: Muon needs whole matrices and FSDP splits them: set its training.muon-learning-rate to 0")
        if self.validation_data:
            raise ValueError("validation_data is looked at in one process, and FSDP keeps a part of the weights in each: leave it out")
        codebooks = {} if self.tokenizer_from else {"tokenizer": self.model.tokenizer.codebook_update}
        codebooks |= {} if self.lam else {"latent-actions": self.model.latent_actions.codebook_update}
        for name, update in codebooks.items():
            if update == "gradient":
                raise ValueError(
                    f"FSDP would lose the dead codes that a codebook trained by gradient revives: set model.{name}.codebook-update to ema"
                )


SMALL = Settings(
    model=coinrun_small(),
    tokenizer=Phase(training=TrainingConfig(steps=6000, learning_rate=1e-3, schedule="wsd"), clip_length=8),
    latent_actions=Phase(training=TrainingConfig(steps=3000, learning_rate=2e-3), clip_length=8, batch_size=16),
    dynamics=Phase(training=TrainingConfig(steps=6000, learning_rate=1e-3, muon_learning_rate=0.02, schedule="wsd")),
)
PLATFORMERS = replace(
    SMALL,
    preset="platformers",
    output=Path("runs/world_model/platformers"),
    checkpoint_minutes=30.0,
    model=platformers(),
    tokenizer=Phase(training=TOKENIZER_TRAINING, batch_size=384),
    latent_actions=Phase(training=replace(DYNAMICS_TRAINING, steps=125_000), batch_size=512),
    dynamics=Phase(training=replace(DYNAMICS_TRAINING, steps=125_000), batch_size=512),
    validate_every=5000,
)
PRESETS = {
    "tiny": replace(
        SMALL,
        preset="tiny",
        output=Path("runs/world_model/tiny"),
        model=tiny(),
        tokenizer=Phase(training=TrainingConfig(steps=300, learning_rate=2e-3), clip_length=8, batch_size=4),
        dynamics=Phase(training=TrainingConfig(steps=300, learning_rate=2e-3), clip_length=8, batch_size=8),
        validate_every=150,
    ),
    "coinrun-small": SMALL,
    "coinrun-base": replace(
        SMALL,
        preset="coinrun-base",
        output=Path("runs/world_model/coinrun-base"),
        difficulties=("easy", "hard"),
        levels=10_000,
        model=coinrun_base(),
        tokenizer=Phase(training=TrainingConfig(steps=40_000, learning_rate=5e-4, schedule="wsd"), clip_length=8, batch_size=32),
        latent_actions=Phase(training=TrainingConfig(steps=20_000, learning_rate=1e-3), clip_length=8, batch_size=64),
        dynamics=Phase(training=TrainingConfig(steps=40_000, learning_rate=5e-4, muon_learning_rate=0.02, schedule="wsd"), batch_size=32),
        latent_action_training="frozen",
        validate_every=2000,
    ),
    "coinrun-paper": replace(
        SMALL,
        preset="coinrun-paper",
        output=Path("runs/world_model/coinrun-paper"),
        difficulties=("hard",),
        levels=10_000,
        model=coinrun_paper(),
        tokenizer=Phase(training=TOKENIZER_TRAINING, batch_size=48),
        latent_actions=Phase(training=DYNAMICS_TRAINING, batch_size=36),
        dynamics=Phase(training=DYNAMICS_TRAINING, batch_size=36),
        validate_every=5000,
    ),
    "platformers": PLATFORMERS,
    **{
        f"platformers-{name}": replace(
            PLATFORMERS,
            preset=f"platformers-{name}",
            output=Path(f"runs/world_model/platformers-{name}"),
            model=replace(platformers(), dynamics=dynamics),
        )
        for name, dynamics in dynamics_ladder().items()
    },
}
