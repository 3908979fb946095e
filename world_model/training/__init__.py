"""Training: one loop that every component shares, on any number of devices, with checkpoints from which a run goes on bit-identically."""

from world_model.training.config import DYNAMICS_TRAINING, TOKENIZER_TRAINING, TrainingConfig
from world_model.training.cpu import tune_cpu
from world_model.training.fabric import gather_weights, make_fabric
from world_model.training.latent_actions import LabelledTransitions, train_latent_action_model
from world_model.training.log import MetricsLog, read_log
from world_model.training.loop import train
from world_model.training.state import Batches

__all__ = [
    "DYNAMICS_TRAINING",
    "TOKENIZER_TRAINING",
    "Batches",
    "LabelledTransitions",
    "MetricsLog",
    "TrainingConfig",
    "gather_weights",
    "tune_cpu",
    "make_fabric",
    "read_log",
    "train",
    "train_latent_action_model",
]
