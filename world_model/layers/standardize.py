"""Inputs of a codebook, spread out: each of their components gets mean 0 and variance 1 over the batch.

Untrained, all inputs point nearly the same way: one code takes all, whoever reads the codes learns to ignore them, and nothing ever
asks for more. Standardised, inputs spread over the whole sphere from the first step.
"""

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.nn.functional import all_reduce


class Standardize(nn.BatchNorm1d):
    """Batch normalisation without weights, over all dimensions but the last; with several processes over the batch of all of them."""

    def __init__(self, num_features: int) -> None:
        super().__init__(num_features, affine=False)

    def forward(self, inputs: Tensor) -> Tensor:
        with torch.autocast(inputs.device.type, enabled=False):
            rows_RE = inputs.float().flatten(0, -2)
            if not (self.training and dist.is_initialized() and dist.get_world_size() > 1):
                if self.training and len(rows_RE) == 1:
                    raise ValueError("a single vector cannot be standardised in training: give larger batches, or longer clips")
                return super().forward(rows_RE).view(inputs.shape)
            moments_2E = all_reduce(torch.stack([rows_RE.mean(0), rows_RE.square().mean(0)])) / dist.get_world_size()
            mean_E, variance_E = moments_2E[0], (moments_2E[1] - moments_2E[0].square()).clamp(min=0)
            with torch.no_grad():
                num_rows = len(rows_RE) * dist.get_world_size()
                assert self.running_mean is not None and self.running_var is not None and self.momentum is not None
                self.running_mean.lerp_(mean_E, self.momentum)
                self.running_var.lerp_(variance_E * num_rows / (num_rows - 1), self.momentum)
            return ((rows_RE - mean_E) * (variance_E + self.eps).rsqrt()).view(inputs.shape)
