"""Metrics: how well latent actions name the true ones, how close imagined frames are to real ones, and what actions do to them."""

from world_model.metrics.action_agreement import code_use, majority_agreement, mutual_information, precision_and_recall
from world_model.metrics.drift import chance_agreement, movement, sharpness, total_variation_distance
from world_model.metrics.video_quality import delta_psnr, psnr, ssim

__all__ = [
    "chance_agreement",
    "code_use",
    "delta_psnr",
    "majority_agreement",
    "movement",
    "mutual_information",
    "precision_and_recall",
    "psnr",
    "sharpness",
    "ssim",
    "total_variation_distance",
]
