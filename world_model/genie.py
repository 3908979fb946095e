"""Genie (Bruce et al. 2024): tokenizer, latent action model and dynamics model together, a world that can be played.

genie = Genie.from_pretrained("coinrun-small")
frames = genie.imagine(prompts, latent_actions)  # or step by step: see world_model.rollout.Rollout
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from world_model.dynamics import DynamicsConfig, DynamicsModel
from world_model.latent_actions import LatentActionConfig, LatentActionModel
from world_model.maskgit import SamplingConfig
from world_model.rollout import Rollout
from world_model.serialization import load_model, save_model
from world_model.tokenizer import VideoTokenizer, VideoTokenizerConfig


@dataclass(frozen=True, kw_only=True)
class GenieConfig:
    """The configurations of the three models, how frames are sampled unless said otherwise, and how many prompt frames are kept.

    `action_meanings` says in words what each latent action does, where somebody has found out; empty where nobody has.
    """

    tokenizer: VideoTokenizerConfig = VideoTokenizerConfig()
    latent_actions: LatentActionConfig = LatentActionConfig()
    dynamics: DynamicsConfig = DynamicsConfig()
    sampling: SamplingConfig = SamplingConfig()
    num_prompts: int = 0
    action_meanings: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        tokenizer, latent_actions, dynamics = self.tokenizer, self.latent_actions, self.dynamics
        if type(self.num_prompts) is not int or self.num_prompts < 0:
            raise ValueError(f"num_prompts must be a whole number of at least 0, got {self.num_prompts!r}")
        if len(self.action_meanings) not in (0, latent_actions.num_codes):
            raise ValueError(
                f"got {len(self.action_meanings)} action_meanings for {latent_actions.num_codes} latent actions; give one for each, or none"
            )
        window, anchor_frames = dynamics.transformer.temporal_window, self.sampling.anchor_frames
        if window is not None and anchor_frames is not None and anchor_frames >= window:
            raise ValueError(f"anchor_frames of sampling is {anchor_frames}; a temporal_window of {window} frames asks for fewer")
        for name, first, second in (
            ("image_height of tokenizer and latent_actions", tokenizer.image_height, latent_actions.image_height),
            ("image_width of tokenizer and latent_actions", tokenizer.image_width, latent_actions.image_width),
            ("channels of tokenizer and latent_actions", tokenizer.channels, latent_actions.channels),
            ("num_tokens of tokenizer and dynamics", tokenizer.num_tokens, dynamics.num_tokens),
            ("num_codes of tokenizer and dynamics", tokenizer.num_codes, dynamics.num_codes),
            ("code_dim of latent_actions and action_dim of dynamics", latent_actions.code_dim, dynamics.action_dim),
        ):
            if first != second:
                raise ValueError(f"{name} must be the same, got {first} and {second}")


class Genie(nn.Module):
    """The three models, and `prompts` (num_prompts, H, W, C) uint8: frames from which a world may begin."""

    prompts: Tensor

    def __init__(self, config: GenieConfig = GenieConfig(), *, seed: int = 0) -> None:
        super().__init__()
        self.config = config
        self.tokenizer = VideoTokenizer(config.tokenizer, seed=seed)
        self.latent_action_model = LatentActionModel(config.latent_actions, seed=seed)
        self.dynamics = DynamicsModel(config.dynamics, seed=seed)
        shape = (config.num_prompts, config.tokenizer.image_height, config.tokenizer.image_width, config.tokenizer.channels)
        self.register_buffer("prompts", torch.zeros(shape, dtype=torch.uint8))

    @property
    def num_latent_actions(self) -> int:
        """Latent actions are 0 ... num_latent_actions - 1."""
        return self.config.latent_actions.num_codes

    @property
    def action_meanings(self) -> tuple[str, ...]:
        """What each latent action does, in words; "latent 0", "latent 1" ... where nobody has found out."""
        return self.config.action_meanings or tuple(f"latent {action}" for action in range(self.num_latent_actions))

    def imagine(
        self, prompts: Tensor | np.ndarray, latent_actions: Tensor | np.ndarray, *, sampling: SamplingConfig | None = None, seed: int = 0
    ) -> Tensor:
        """Play latent actions (B, T) from prompts (B, P, H, W, C) uint8: the T frames (B, T, H, W, C) uint8 they lead to.

        World b draws from seed + b. Raises ValueError for prompts or actions of another shape, type or range.
        """
        latent_actions = torch.as_tensor(latent_actions)
        if latent_actions.ndim != 2 or len(latent_actions) != len(prompts):
            raise ValueError(f"need latent actions (B, T) for the {len(prompts)} prompts, got shape {tuple(latent_actions.shape)}")
        rollout = Rollout(self, len(prompts), sampling=sampling)
        rollout.reset(prompts, seeds=[seed + world for world in range(len(prompts))])
        frames = [rollout.step(actions) for actions in latent_actions.T]
        return torch.stack(frames, dim=1) if frames else rollout.frames[:, None][:, :0]

    def save_pretrained(self, folder: str | Path, *, half: bool = False) -> None:
        """Write config.json and model.safetensors into `folder`; `half` stores the weights in 16 bits, half the size."""
        save_model(folder, self, half=half)

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> "Genie":
        """The Genie of a folder, or one that ships with the package, by name; on the CPU, in evaluation mode.

        Raises FileNotFoundError where a file is missing and ValueError where one is damaged or belongs to another model.
        """
        return load_model(folder, cls, GenieConfig)
