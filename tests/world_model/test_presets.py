"""Presets have the sizes that the paper prints, counted on models without memory."""

import pytest
import torch

from world_model import DynamicsModel, Genie, LatentActionModel, VideoTokenizer
from world_model.presets import coinrun_base, coinrun_paper, coinrun_small, dynamics_ladder, platformers, tiny


def count(build, config) -> int:
    with torch.device("meta"):
        return sum(weight.numel() for weight in build(config).parameters())


@pytest.mark.parametrize(("name", "paper"), list(zip(dynamics_ladder(), (41e6, 96e6, 192e6, 404e6, 811e6, 1.6e9, 2.7e9), strict=True)))
def test_the_ladder_of_dynamics_models_has_the_papers_sizes(name, paper):
    assert count(DynamicsModel, dynamics_ladder()[name]) == pytest.approx(paper, rel=0.05)


def test_the_platformers_model_has_the_papers_sizes():
    config = platformers()
    assert count(VideoTokenizer, config.tokenizer) == pytest.approx(200e6, rel=0.05)
    assert count(LatentActionModel, config.latent_actions) == pytest.approx(300e6, rel=0.05)
    assert count(DynamicsModel, config.dynamics) == pytest.approx(10.1e9, rel=0.05)


@pytest.mark.parametrize(("preset", "expected"), [(tiny, 0.55e6), (coinrun_small, 5.5e6), (coinrun_base, 45e6)])
def test_the_small_presets_are_small(preset, expected):
    assert count(Genie, preset()) == pytest.approx(expected, rel=0.1)


def test_the_coinrun_case_study_is_that_of_appendix_f():
    config = coinrun_paper()
    tokenizer, latent_actions, dynamics = config.tokenizer, config.latent_actions, config.dynamics
    assert (tokenizer.encoder.num_layers, tokenizer.encoder.d_model, tokenizer.encoder.num_heads) == (8, 512, 8)
    assert (tokenizer.decoder.num_layers, tokenizer.decoder.d_model, tokenizer.decoder.num_heads) == (8, 512, 8)
    assert (tokenizer.num_codes, tokenizer.code_dim, tokenizer.patch_size) == (1024, 32, 4)
    assert (latent_actions.num_layers, latent_actions.num_decoder_layers) == (8, 8)
    assert (latent_actions.d_model, latent_actions.num_heads) == (512, 8)
    assert (latent_actions.num_codes, latent_actions.code_dim, latent_actions.patch_size) == (6, 32, 16)
    assert (dynamics.transformer.num_layers, dynamics.transformer.d_model, dynamics.transformer.num_heads) == (12, 512, 8)
    assert (config.sampling.steps, config.sampling.temperature) == (25, 1.0)
    assert count(Genie, config) > 1e8
