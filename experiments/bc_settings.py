"""Settings of bc_coinrun.py: every option with its help, and the presets."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from checks import check_counts

from genie_agents.coinrun import (
    DEMONSTRATION_LEVELS,
    DIFFICULTIES,
    FRAME_SHAPE,
    GAMES,
    NUM_ACTIONS,
    SHORTEST_JUMP,
    TEST_LEVELS,
    WORLD_MODEL_LEVELS,
)
from genie_agents.demonstrations import RecordingConfig
from genie_agents.policy import PolicyConfig
from world_model import LatentActionConfig
from world_model.training import TrainingConfig

POOL = 20_000  # frames among which those to be labelled are sought


@dataclass(frozen=True)
class Recipe:
    """How an agent comes from videos and N labelled samples.

    order: the paper clones latent actions and maps those that the policy chooses; LAPO+ (arXiv 2602.02762) first names the keys in all
    videos and clones these. mapping: by the latent action alone (the paper's dictionary), or also by features of the latent action
    model, read by a linear layer or a small network.
    """

    order: Literal["clone_then_map", "map_then_clone"]
    mapping: Literal["dictionary", "linear", "network"]


RECIPES = {
    "genie_lam": Recipe("clone_then_map", "dictionary"),
    "genie_lam_linear": Recipe("clone_then_map", "linear"),
    "genie_lam_network": Recipe("clone_then_map", "network"),
    "relabelled": Recipe("map_then_clone", "dictionary"),
    "relabelled_linear": Recipe("map_then_clone", "linear"),
    "relabelled_network": Recipe("map_then_clone", "network"),
}
AgentName = Literal[
    "genie_lam",
    "genie_lam_linear",
    "genie_lam_network",
    "relabelled",
    "relabelled_linear",
    "relabelled_network",
    "oracle",
    "n_label_bc",
    "random",
    "constant_right_up",
]


@dataclass(frozen=True, kw_only=True)
class LatentActionSettings:
    """Options of training a latent action model."""

    runs: Path = Path("runs/bc_coinrun/stages")
    """folder of the cached stages; an interrupted run goes on from there"""
    minutes: float | None = None
    """stop after so many minutes, as Ctrl-C does; the same command goes on"""
    seed: int = 0
    """seed of recording, training and the choice of labelled samples; policies that are cloned for each player have the players' seeds"""
    difficulties: tuple[Literal["easy", "hard"], ...] = ("easy",)
    """difficulties to record and to play, easy, hard or both"""

    lam_games: tuple[str, ...] = ("coinrun",)
    """Procgen games in its videos; climber jumper ninja are the other platformers, of which none looks like CoinRun"""
    lam_labels: int = 0
    """transitions of those videos whose true action the training may see"""
    lam_levels: int = 2000
    """levels recorded for it, per game and difficulty: a quarter played at random, the rest by CoinRun's noisy planner, or, in
    other games, with keys held for long"""
    lam_model: LatentActionConfig = field(default_factory=LatentActionConfig)
    lam_training: TrainingConfig = TrainingConfig(steps=3000, learning_rate=2e-3)
    lam_clip_length: int = 8
    lam_batch_size: int = 16

    def __post_init__(self) -> None:
        if not 4 <= self.lam_levels <= len(WORLD_MODEL_LEVELS):
            raise ValueError(f"lam_levels is {self.lam_levels}; record from 4 to {len(WORLD_MODEL_LEVELS)}")
        if not self.lam_games or set(self.lam_games) - set(GAMES):
            raise ValueError(f"lam_games is {' '.join(self.lam_games) or 'empty'}; choose one or more of {', '.join(GAMES)}")
        if self.lam_clip_length < 2 or self.lam_batch_size * (self.lam_clip_length - 1) < 2 or self.lam_labels < 0:
            raise ValueError(
                f"lam_clip_length is {self.lam_clip_length}, lam_batch_size {self.lam_batch_size} and lam_labels {self.lam_labels}; "
                "choose clips of 2 frames or more, at least two transitions a batch, and 0 labels or more"
            )
        if (self.lam_model.image_height, self.lam_model.image_width, self.lam_model.channels) != FRAME_SHAPE:
            raise ValueError(f"lam_model takes frames of another shape than the games', {FRAME_SHAPE}: leave its size out")
        if not self.difficulties:
            raise ValueError("difficulties is empty; choose easy, hard or both")
        check_distinct(self, "difficulties", "lam_games")
        check_counts(self)


@dataclass(frozen=True, kw_only=True)
class Settings(LatentActionSettings):
    """Options of the study; the defaults are those of the chosen preset. One policy is cloned from the videos of all difficulties."""

    preset: Literal["demo", "paper", "smoke"] = "demo"
    """demo: half an hour to an hour on two CPU cores; paper: the full protocol, for a GPU; smoke: minutes, for tests"""
    output: Path = Path("runs/bc_coinrun/demo")
    """folder for results.csv, summary.json, level_solve.png and agent.gif"""

    agents: tuple[AgentName, ...] = ("relabelled_linear", "oracle", "n_label_bc", "random", "constant_right_up")
    """who plays, a curve each; see above"""

    levels: int = 8000
    """levels recorded for cloning, per difficulty; the levels that the expert loses are dropped"""
    expert: str = "sighted"
    """who plays in the videos for cloning: sighted (it ships), sighted:2 (the same without braking), sighted_planner, planner, or the
    folder of one trained by train_sighted.py or train_ppo.py"""
    noise: float = 0.1
    """chance per step on the ground that random actions disturb the expert, off camera; the video goes on where it recovers. One in five
    take-offs is put off besides"""
    proxy: Path | None = None
    """folder of a policy cloned before (a stage clone-...): nine levels in ten are cut to what it is unsure of, so that many more fit in
    memory. A cloned oracle has seen all true actions: let it choose for oracles alone"""

    lam: str = "lam-platformers"
    """latent action model that labels: lam-platformers, which never saw CoinRun, coinrun-small, or the folder of one or of a world"""
    train_lam: bool = False
    """train a latent action model anew instead, on videos of levels that cloning never sees"""

    policy: PolicyConfig = PolicyConfig(num_actions=NUM_ACTIONS, architecture="impala", channels=(16, 32, 32), blocks=1, hidden=256)
    cloning: TrainingConfig = TrainingConfig(steps=6000, muon_learning_rate=0.02, muon_weight_decay=0.5)
    cloning_batch_size: int = 256
    label_balance: float = 0.5
    """draw frames for cloning by the frequency of their label to the power of minus this: 0 as recorded, 1 all labels equally often"""
    uncertainty_sampling: bool = True
    """draw frames for cloning less often where a small network foretells their label from what the latent action model saw so far"""
    relabelling_confidence: float = 0.9
    """drop frames of whose key relabelling by features is less sure than this, though at most a fifth of a key's; 0 drops none. A take-off
    of which it is less sure is none for airborne_frames"""
    middle_pixels: int = 6
    """pixels a side of the middle of the picture after a transition, where the camera keeps the player, that relabelling by features reads
    beside them, with the way the player faces, learned from mirror images: LEFT and RIGHT turn the player, which changes next to nothing
    else; the fewer the samples, the more the latter counts. An even number; 0 for none"""
    mirrored_samples: bool = True
    """relabelling by features learns from the mirror image of each sample too, in which LEFT and RIGHT are exchanged: CoinRun looks and
    plays the same from both sides"""
    airborne_frames: int = 4
    """of so many frames after a take-off relabelled agents and the oracle learn the direction alone, and samples by which features are
    read teach it alone: UP does nothing there, and is noise"""
    n_label_cloning: TrainingConfig = TrainingConfig(steps=120)
    n_label_batch_size: int = 128
    cloning_seed: int | None = None
    """seed of cloning and of the labelled samples by which videos are relabelled, where it shall not be that of recording: another
    training from the same videos. N-label BC has the seeds of those who play"""
    policy_per_seed: bool = False
    """clone a policy for every seed, as the paper does; else one serves all seeds, and the intervals leave training out"""

    finetune_steps: int = 0
    """environment steps of PPO on the real game, from a cloned agent with the most labelled samples and, to compare, from an untrained
    network; 0 for none"""
    finetune_agent: Literal["genie_lam", "relabelled", "relabelled_linear", "relabelled_network"] = "relabelled_linear"
    """the agent from which PPO goes on; genie_lam's mapping becomes the last layer of its network"""
    finetune_learning_rate: float = 1e-4
    """of PPO from the cloned policy; from nothing it is the Procgen paper's, 5e-4"""

    labelled_samples: tuple[int, ...] = (16, 64, 200, 1024)
    """numbers N of labelled samples, of each difficulty, for the mapping and for N-label BC"""
    relabelled_samples: tuple[int, ...] = (200,)
    """the same for agents whose videos are relabelled: each number takes a cloning of its own. Without mirrored_samples
    fewer than 200 are too few on hard levels"""
    seeds: int = 5
    """seeds: each plays other levels; those of N-label BC and of agents cloned on latent actions draw other labelled samples too"""
    evaluation_levels: int = 100
    """held-out levels played per seed"""
    max_steps: int = 1000
    """give a level up after so many steps (the game itself does after 1,000)"""
    temperature: float = 0.0
    """of the cloned policies' and the mapping's sampling: 0 the likeliest action, 1 as learned, as the paper samples"""
    n_label_temperature: float = 0.5
    """the same for N-label BC, which waits for ever where it does nothing but the likeliest"""
    validation: bool = False
    """play validation levels, for choosing settings, instead of the test levels"""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 1 <= self.levels <= len(DEMONSTRATION_LEVELS):
            raise ValueError(f"levels is {self.levels}; record from 1 to {len(DEMONSTRATION_LEVELS)}")
        check_counts(self, "seeds", "evaluation_levels", "max_steps", "cloning_batch_size", "n_label_batch_size")
        if self.seeds * self.evaluation_levels > len(TEST_LEVELS):
            raise ValueError(f"seeds x evaluation_levels is {self.seeds * self.evaluation_levels}; there are {len(TEST_LEVELS)} levels")
        for name in ("temperature", "n_label_temperature"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} is {getattr(self, name)}; choose 0 for the likeliest action, 1 to sample as learned")
        if self.policy.image_size != 64:
            raise ValueError(f"policy.image_size is {self.policy.image_size}, and CoinRun's pictures have 64 pixels: leave it out")
        if self.policy.num_actions != NUM_ACTIONS:
            raise ValueError(
                f"policy.num_actions is {self.policy.num_actions}, and what is cloned decides how many there are: leave it out"
            )
        if self.cloning_seed is not None and (self.cloning_seed < 0 or self.policy_per_seed):
            raise ValueError(f"cloning_seed is {self.cloning_seed}; choose 0 or more, and leave policy_per_seed out: that has its own")
        if not self.agents:
            raise ValueError("agents is empty; choose at least one")
        if self.finetune_steps < 0 or self.finetune_learning_rate <= 0:
            raise ValueError(
                f"finetune_steps is {self.finetune_steps} and finetune_learning_rate {self.finetune_learning_rate}; "
                "choose 0 steps or more, and a rate above 0"
            )
        RecordingConfig(noise=self.noise)
        if self.train_lam and self.lam != "lam-platformers":
            raise ValueError(f"lam is {self.lam}, and --train-lam trains another model: leave out one of them")
        if self.finetune_steps and self.policy.architecture == "st_vivit":
            raise ValueError("finetune_steps needs a nature or an impala policy, not 'st_vivit'")
        for name in ("labelled_samples", "relabelled_samples"):
            if not getattr(self, name) or min(getattr(self, name)) < 1:
                raise ValueError(f"{name} needs at least one number, each at least 1")
        check_distinct(self, "agents", "labelled_samples", "relabelled_samples")
        for agent in (*self.agents, *((self.finetune_agent,) if self.finetune_steps else ())):
            recipe = RECIPES.get(agent)
            asks = recipe is not None and recipe.order == "map_then_clone" and recipe.mapping != "dictionary"
            if asks and max(self.relabelled_samples) > POOL:
                raise ValueError(f"relabelled_samples has {max(self.relabelled_samples)}; {agent} chooses at most {POOL}")
        if not 0 <= self.airborne_frames <= SHORTEST_JUMP - 1:
            raise ValueError(f"airborne_frames is {self.airborne_frames}; choose from 0 to {SHORTEST_JUMP - 1}, when a jump may be over")
        if self.middle_pixels not in range(0, FRAME_SHAPE[0] + 1, 2):
            raise ValueError(f"middle_pixels is {self.middle_pixels}; choose an even number from 0 to {FRAME_SHAPE[0]}")
        for name in ("label_balance", "relabelling_confidence"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is {getattr(self, name)}; choose from 0 to 1")


def check_distinct(settings: LatentActionSettings, *names: str) -> None:
    """Raises ValueError for an option that names something twice: it would count as further seeds."""
    for name in names:
        if len(set(getattr(settings, name))) < len(getattr(settings, name)):
            raise ValueError(f"{name} is {' '.join(map(str, getattr(settings, name)))}; name each once")


DEMO = Settings()

PAPER = replace(
    DEMO,
    preset="paper",
    output=Path("runs/bc_coinrun/paper"),
    difficulties=DIFFICULTIES,
    levels=50_000,
    policy=PolicyConfig(num_actions=NUM_ACTIONS, architecture="impala", channels=(32, 64, 64)),
    cloning=replace(DEMO.cloning, steps=60_000, warmup_steps=1000, muon_weight_decay=0.1),  # the more steps, the less (tried.md)
    n_label_cloning=TrainingConfig(steps=1000),
    policy_per_seed=True,
    labelled_samples=(16, 32, 64, 128, 200, 256, 512, 1024),
    relabelled_samples=(16, 64, 200, 1024),
)

SMOKE = replace(
    DEMO,
    preset="smoke",
    output=Path("runs/bc_coinrun/smoke"),
    difficulties=DIFFICULTIES,
    levels=8,
    lam_levels=4,
    lam_training=TrainingConfig(steps=3),
    lam_clip_length=5,
    lam_batch_size=2,
    policy=PolicyConfig(num_actions=NUM_ACTIONS, architecture="impala", channels=(4, 8), blocks=1, hidden=16),
    cloning=replace(DEMO.cloning, steps=3),
    cloning_batch_size=8,
    n_label_cloning=TrainingConfig(steps=2),
    n_label_batch_size=8,
    labelled_samples=(4, 16),
    relabelled_samples=(16,),
    seeds=2,
    evaluation_levels=2,
    max_steps=20,
)

PRESETS = {"demo": DEMO, "paper": PAPER, "smoke": SMOKE}


def check_options(settings: Settings) -> None:
    """Ends the program where the training of a latent action model, or fine-tuning, is described and not asked for."""
    changed = {name for name in vars(settings) if getattr(settings, name) != getattr(PRESETS[settings.preset], name)}
    if (found := sorted(name for name in changed if name.startswith("lam_"))) and not settings.train_lam:
        raise SystemExit(f"{', '.join(found)}: for a latent action model trained anew; add --train-lam")
    if (found := sorted(changed & {"finetune_agent", "finetune_learning_rate"})) and not settings.finetune_steps:
        raise SystemExit(f"{', '.join(found)}: for fine-tuning by reward; add --finetune-steps 200000, say")
