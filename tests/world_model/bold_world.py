"""A world that nobody trained, for tests of rollouts: every difference in what it is given shows in what it draws."""

from dataclasses import replace

import torch
from torch import Tensor

from world_model import DynamicsConfig, Genie, GenieConfig, LatentActionConfig, SamplingConfig, VideoTokenizerConfig
from world_model.layers.st_transformer import TransformerConfig

WINDOW, NUM_ACTIONS = 3, 4
LAYERS = TransformerConfig(num_layers=1, d_model=16, num_heads=2, temporal_window=WINDOW)
BOLD = GenieConfig(
    tokenizer=VideoTokenizerConfig(image_height=16, image_width=16, patch_size=4, encoder=LAYERS, decoder=LAYERS, num_codes=16, code_dim=8),
    latent_actions=LatentActionConfig(
        image_height=16, image_width=16, patch_size=8, d_model=16, num_layers=1, num_heads=2, num_codes=NUM_ACTIONS, code_dim=8
    ),
    dynamics=DynamicsConfig(num_tokens=16, num_codes=16, action_dim=8, previous_frame=True, transformer=replace(LAYERS, num_layers=2)),
    sampling=SamplingConfig(steps=3),
    num_prompts=5,
)
GREEDY = SamplingConfig(steps=1, temperature=0.0)


def bold_genie(config: GenieConfig = BOLD) -> Genie:
    genie = Genie(config).eval()
    with torch.no_grad():  # untrained models are nearly indifferent; bold ones make every difference visible
        genie.tokenizer.head.project.weight *= 8  # type: ignore[operator, union-attr]
        genie.dynamics.head.weight *= 4
        genie.dynamics.transformer.places *= 30
        for block in genie.dynamics.transformer.blocks:
            block.temporal.heads.output.weight *= 10  # type: ignore[operator, union-attr]
    genie.prompts.copy_(videos(max(config.num_prompts, 1), 1, seed=9)[: config.num_prompts, 0])
    return genie


def videos(batch: int, time: int, seed: int = 0) -> Tensor:
    return torch.randint(0, 256, (batch, time, 16, 16, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def actions_for(steps: int, worlds: int, seed: int = 0) -> Tensor:
    return torch.randint(0, NUM_ACTIONS, (steps, worlds), generator=torch.Generator().manual_seed(seed))
