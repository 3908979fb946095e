"""A world that nobody trained, for tests of environments, and what they have in common."""

import numpy as np
import torch

from world_model import DynamicsConfig, Genie, GenieConfig, GenieEnv, LatentActionConfig, SamplingConfig, VideoTokenizerConfig
from world_model.layers.st_transformer import TransformerConfig


def random_genie() -> Genie:
    """A random world of 16 x 16 frames: which frames it shows depends on everything, and it takes 3 ms a step."""
    size, layers = {"image_height": 16, "image_width": 16}, TransformerConfig(num_layers=1, d_model=16, num_heads=2, temporal_window=4)
    genie = Genie(
        GenieConfig(
            tokenizer=VideoTokenizerConfig(patch_size=4, encoder=layers, decoder=layers, num_codes=32, code_dim=8, **size),
            latent_actions=LatentActionConfig(patch_size=8, d_model=16, num_layers=1, num_heads=2, num_codes=4, code_dim=8, **size),
            dynamics=DynamicsConfig(num_tokens=16, num_codes=32, action_dim=8, transformer=layers),
            sampling=SamplingConfig(steps=2),
            num_prompts=5,
        )
    )
    genie.prompts.copy_(torch.randint(256, genie.prompts.shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0)))
    return genie


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(256, size=(height, width, 3), dtype=np.uint8)


def play(env: GenieEnv, actions, **reset) -> np.ndarray:
    return np.stack([env.reset(**reset)[0], *(env.step(action)[0] for action in actions)])


def assert_same_frames(frames, others):
    """Equal but for the last bit: batches of other sizes are added up in another order."""
    assert len(frames) == len(others)
    assert np.abs(np.asarray(frames).astype(int) - np.asarray(others)).max() <= 1
