"""Metrics: how well latent actions name the true ones."""

from world_model.metrics.action_agreement import code_use, majority_agreement, mutual_information, precision_and_recall

__all__ = ["code_use", "majority_agreement", "mutual_information", "precision_and_recall"]
