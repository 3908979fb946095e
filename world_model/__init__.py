"""Worlds learned from videos without action labels (Genie, Bruce et al. 2024): it knows no agent and no game."""

from world_model.labeller import LatentActionLabeller
from world_model.latent_actions import LatentActionConfig, LatentActionModel

__all__ = ["LatentActionConfig", "LatentActionLabeller", "LatentActionModel"]
