"""Metrics against known answers."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from world_model import Genie
from world_model.metrics import (
    chance_agreement,
    code_use,
    delta_psnr,
    majority_agreement,
    movement,
    mutual_information,
    precision_and_recall,
    psnr,
    sharpness,
    ssim,
    total_variation_distance,
)
from world_model.presets import tiny

ACTIONS = np.array([0, 1, 2, 3] * 25)


def test_a_renamed_action_is_perfectly_named():
    codes = np.array([2, 0, 3, 1])[ACTIONS]
    assert majority_agreement(codes, ACTIONS) == 1
    assert mutual_information(codes, ACTIONS) == pytest.approx(2)  # four equal actions hold 2 bits


def test_codes_that_know_nothing():
    codes = np.repeat([0, 1, 2, 3], 25)
    assert majority_agreement(np.zeros(100, dtype=int), ACTIONS) == 0.25
    assert mutual_information(np.zeros(100, dtype=int), ACTIONS) == pytest.approx(0)
    independent = np.tile(np.repeat([0, 1], 4), 13)[:100], np.array([0, 1, 2, 3] * 25)
    assert mutual_information(*independent) == pytest.approx(0, abs=0.01)
    assert code_use(codes, num_codes=5) == [0.25, 0.25, 0.25, 0.25, 0]


def test_precision_and_recall_of_an_event():
    codes = np.array([0, 0, 0, 1, 1, 2, 2, 2])
    event = np.array([1, 1, 0, 0, 0, 0, 0, 1], dtype=bool)
    precision, recall = precision_and_recall(codes, event)  # code 0 says the event: 2 of its 3 are, 2 of all 3 are found
    assert (precision, recall) == (pytest.approx(2 / 3), pytest.approx(2 / 3))
    assert precision_and_recall(codes, np.zeros(8, dtype=bool))[1] == 0


def test_unequal_lengths_are_refused():
    with pytest.raises(ValueError, match="equal"):
        majority_agreement(np.zeros(3, dtype=int), np.zeros(4, dtype=int))


@pytest.mark.parametrize("measure", [majority_agreement, mutual_information])
def test_the_end_of_an_episode_is_no_action(measure):
    labels = np.array([0, 1, -1])
    with pytest.raises(ValueError, match="found an action of -1"):
        measure(labels, labels)


def test_psnr_of_a_known_error():
    real = torch.full((1, 2, 16, 16, 3), 100, dtype=torch.uint8)
    predicted = real.clone()
    predicted[:, 1] += 51  # a fifth of the range: 20 log10(5) dB
    assert psnr(predicted, real)[0].tolist() == pytest.approx([100.0, 13.979], abs=1e-3)
    with pytest.raises(ValueError, match="cannot compare"):
        psnr(predicted[:, :1], real)
    for frames in (real.float() / 255, real[0]):  # values from 0 to 1 would be taken for nearly black
        with pytest.raises(ValueError, match="of torch.uint8"):
            psnr(frames, frames)


def test_ssim_is_one_for_equal_frames_and_falls_with_noise():
    generator = torch.Generator().manual_seed(0)
    real = torch.randint(0, 256, (1, 1, 32, 32, 3), dtype=torch.uint8, generator=generator)
    little, much = ((real.float() + scale * torch.randn(real.shape, generator=generator)).clamp(0, 255).byte() for scale in (10, 80))
    assert ssim(real, real).item() == pytest.approx(1.0)
    assert 1.0 > ssim(little, real).item() > ssim(much, real).item()
    with pytest.raises(ValueError, match="cannot compare"):
        ssim(real[..., :16, :], real)


def test_a_world_that_ignores_actions_has_no_delta_psnr_and_is_not_trained_by_the_look():
    genie = Genie(replace(tiny(), num_prompts=0))
    torch.nn.init.zeros_(genie.dynamics.embed_action.weight)
    before = {name: tensor.clone() for name, tensor in genie.state_dict().items()}
    frames = torch.randint(0, 256, (2, 6, 32, 32, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    found = delta_psnr(genie, frames, time=4)
    imagined = genie.imagine(frames[:, :1], genie.latent_action_model.encode(frames[:, :5]).indices)
    assert found["psnr_inferred"] == pytest.approx(psnr(imagined[:, -1:], frames[:, 4:5]).mean().item())
    assert found["delta_psnr"] == 0 and found["psnr_inferred"] > 0
    assert all(torch.equal(tensor, before[name]) for name, tensor in genie.state_dict().items())
    with pytest.raises(ValueError, match="longer clips"):
        delta_psnr(genie, frames, time=6)


def test_sharpness_and_movement_of_known_frames():
    stripes = torch.zeros(1, 3, 8, 8, 3, dtype=torch.uint8)
    stripes[:, :, :, ::2] = 255
    stripes[:, 2] = 255 - stripes[:, 2]
    assert sharpness(stripes)[0].tolist() == pytest.approx([0.5] * 3)  # every pixel differs from those beside it, none from those above
    assert movement(stripes)[0].tolist() == pytest.approx([0, 1])
    assert (sharpness(torch.full_like(stripes, 77)) == 0).all()


def test_distance_of_histograms():
    assert total_variation_distance(np.array([0, 1]), np.array([1, 0, 1, 0]), num_codes=3) == 0
    assert total_variation_distance(np.array([0, 0]), np.array([1, 2]), num_codes=3) == 1
    assert total_variation_distance(np.array([0, 1]), np.array([0, 0, 0, 2]), num_codes=3) == pytest.approx(0.5)


def test_chance_agreement_is_the_mean_over_shuffles():
    generator = np.random.default_rng(0)
    first, second = generator.choice(4, size=400, p=[0.7, 0.1, 0.1, 0.1]), generator.choice(4, size=400, p=[0.4, 0.4, 0.1, 0.1])
    shuffled = np.mean([(generator.permutation(first) == second).mean() for _ in range(500)])
    assert chance_agreement(first, second, num_codes=4) == pytest.approx(shuffled, abs=0.01)
