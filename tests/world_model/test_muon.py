"""The Muon optimizer by itself; how training uses it is in test_training.py."""

import pytest
import torch
from torch import nn

from world_model.training.muon import Muon


def test_muon_is_that_of_torch_but_for_rounding() -> None:
    torch.manual_seed(0)
    shapes = [(48, 16), (16, 16), (48, 16), (16, 48)]
    starts, gradients = [torch.randn(shape) for shape in shapes], [[torch.randn(shape) for shape in shapes] for _ in range(3)]
    ends = []
    for make in (Muon, torch.optim.Muon):
        weights = [nn.Parameter(start.clone()) for start in starts]
        optimizer = make(weights, lr=0.1, weight_decay=0.01)
        for step in gradients:
            for weight, gradient in zip(weights, step, strict=True):
                weight.grad = gradient.clone()
            optimizer.step()
        ends.append(weights)
    for start, ours, theirs in zip(starts, *ends, strict=True):
        assert torch.linalg.matrix_norm(ours - theirs) < 0.02 * torch.linalg.matrix_norm(ours - start)  # bfloat16 has 3 digits


def test_muon_takes_the_kernels_of_a_convolution_as_a_matrix() -> None:
    kernels, gradient = torch.randn(8, 4, 3, 3).to(memory_format=torch.channels_last), torch.randn(8, 4, 3, 3)
    convolution, matrix = nn.Parameter(kernels.clone()), nn.Parameter(kernels.flatten(1).clone())
    for weight in (convolution, matrix):
        weight.grad = gradient.reshape(weight.shape)
        Muon([weight], lr=0.1, weight_decay=0.01).step()
    assert (convolution != kernels).any()
    torch.testing.assert_close(convolution.flatten(1), matrix)


def test_muon_refuses_what_is_no_matrix() -> None:
    with pytest.raises(ValueError, match="AdamW"):
        Muon([nn.Parameter(torch.zeros(3))], lr=0.1, weight_decay=0.0)
