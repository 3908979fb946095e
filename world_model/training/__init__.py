"""Training: one loop that every component shares, with checkpoints from which a run goes on bit-identically."""

from world_model.training.allocator import keep_freed_memory
from world_model.training.latent_actions import train_latent_action_model
from world_model.training.loop import Batches, TrainingConfig, train

__all__ = ["Batches", "TrainingConfig", "keep_freed_memory", "train", "train_latent_action_model"]
