"""Training: one loop that every component shares, with checkpoints from which a run goes on bit-identically."""

from world_model.training.loop import Batches, TrainingConfig, bf16_autocast, train

__all__ = ["Batches", "TrainingConfig", "bf16_autocast", "train"]
