"""Worlds learned from videos without action labels (Genie, Bruce et al. 2024): it knows no agent and no game."""

from gymnasium import register

from world_model.dynamics import DynamicsConfig, DynamicsModel
from world_model.env import GenieEnv, GenieState, GenieVectorEnv
from world_model.genie import Genie, GenieConfig
from world_model.labeller import LatentActionLabeller
from world_model.latent_actions import LatentActionConfig, LatentActionModel
from world_model.maskgit import SamplingConfig
from world_model.rollout import Rollout, RolloutState
from world_model.tokenizer import VideoTokenizer, VideoTokenizerConfig

__all__ = [
    "DynamicsConfig",
    "DynamicsModel",
    "Genie",
    "GenieConfig",
    "GenieEnv",
    "GenieState",
    "GenieVectorEnv",
    "LatentActionConfig",
    "LatentActionLabeller",
    "LatentActionModel",
    "Rollout",
    "RolloutState",
    "SamplingConfig",
    "VideoTokenizer",
    "VideoTokenizerConfig",
]

register(  # worlds do not end by themselves
    "Genie-v0", "world_model.env:GenieEnv", vector_entry_point="world_model.env:GenieVectorEnv", max_episode_steps=1000
)
