"""Configurations of Genie by name, from one for tests to the paper's largest, here of 10.2 billion parameters (10.7 there).

What the paper leaves open: how wide the feed-forward layers are and how many heads of keys and values there are. One choice meets the
parameter count it gives for the tokenizer and for all eight dynamics models within 5 %: multi-query attention (one head of keys and
values) and feed-forward layers twice as wide as the model. The latent action model (300M) then needs heads 48 wide, which the paper
does not state for it. This is our inference; the paper does not say it.
"""

from dataclasses import replace

from world_model.dynamics import DynamicsConfig
from world_model.genie import GenieConfig
from world_model.latent_actions import LatentActionConfig
from world_model.layers.st_transformer import TransformerConfig
from world_model.maskgit import SamplingConfig
from world_model.tokenizer import VideoTokenizerConfig

WINDOW = 16  # frames of a clip, and therefore of the memory, in every model of the paper


def tiny() -> GenieConfig:
    """Learns a toy world of 32 x 32 frames in a minute or two on a CPU: for tests."""
    layers = TransformerConfig(num_layers=2, d_model=64, num_heads=4, temporal_window=8)
    return GenieConfig(
        tokenizer=VideoTokenizerConfig(
            image_height=32, image_width=32, patch_size=8, encoder=layers, decoder=layers, num_codes=64, code_dim=16, stem="conv"
        ),
        latent_actions=LatentActionConfig(
            image_height=32, image_width=32, patch_size=8, d_model=32, num_layers=1, num_heads=2, num_codes=8, code_dim=16, ramp_steps=250
        ),
        dynamics=DynamicsConfig(num_tokens=16, num_codes=64, action_dim=16, transformer=layers),
        sampling=SamplingConfig(steps=4),
    )


def coinrun_small() -> GenieConfig:
    """64 x 64 frames in real time on two CPU cores: convolutions next to the pixels, 64 tokens a frame, few sampling steps.

    The tokenizer looks back at few frames, so that clips of 8 frames show it all distances in time that it will meet. All parts together
    take less than 12 MB in 16 bits.
    """
    return GenieConfig(
        tokenizer=VideoTokenizerConfig(
            patch_size=8,
            encoder=TransformerConfig(num_layers=1, d_model=128, num_heads=4, temporal_window=4),
            decoder=TransformerConfig(num_layers=2, d_model=128, num_heads=4, temporal_window=4),
            stem="conv",
        ),
        latent_actions=LatentActionConfig(),
        dynamics=DynamicsConfig(
            num_tokens=64,
            previous_frame=True,
            transformer=TransformerConfig(num_layers=6, d_model=192, num_heads=6, feed_forward_expansion=2, temporal_window=WINDOW),
        ),
        sampling=SamplingConfig(steps=2, temperature=0.5, anchor_frames=4),
    )


def coinrun_base() -> GenieConfig:
    """64 x 64 frames for a GPU, less than 50 million weights: small patches for fine detail, and what helped coinrun-small."""
    return GenieConfig(
        tokenizer=VideoTokenizerConfig(
            patch_size=4,
            encoder=TransformerConfig(num_layers=2, d_model=256, num_heads=8, temporal_window=4),
            decoder=TransformerConfig(num_layers=4, d_model=256, num_heads=8, temporal_window=4),
            stem="conv",
        ),
        latent_actions=LatentActionConfig(d_model=256, num_heads=8),
        dynamics=DynamicsConfig(
            num_tokens=256,
            previous_frame=True,
            transformer=TransformerConfig(num_layers=10, d_model=512, num_heads=8, feed_forward_expansion=2, temporal_window=WINDOW),
        ),
        sampling=SamplingConfig(steps=8, temperature=0.5, anchor_frames=4),
    )


def coinrun_paper() -> GenieConfig:
    """The CoinRun case study (Appendix F, tables 15 to 17): patches of 4, 256 tokens a frame; 6 latent actions from patches of 16."""
    eight = TransformerConfig(num_layers=8, d_model=512, num_heads=8, temporal_window=WINDOW)
    return GenieConfig(
        tokenizer=VideoTokenizerConfig(patch_size=4, encoder=eight, decoder=eight),
        latent_actions=LatentActionConfig(
            patch_size=16,
            num_layers=8,
            num_decoder_layers=8,
            d_model=512,
            num_heads=8,
            temporal_window=WINDOW,
            num_codes=6,
            stem="patch",
        ),
        dynamics=DynamicsConfig(num_tokens=256, transformer=replace(eight, num_layers=12)),
        sampling=SamplingConfig(steps=25, temperature=1.0),
    )


def platformers() -> GenieConfig:
    """The Platformers model (Appendix C): 200M tokenizer, 300M latent action model, 10.1B dynamics.

    It takes frames of 160 x 96: pad the paper's 160 x 90, which do not divide into patches of 16. Codes are moving averages, because
    codes that learn by gradient cannot be revived where weights are split over devices.
    """
    return GenieConfig(
        tokenizer=VideoTokenizerConfig(
            image_height=96,
            image_width=160,
            patch_size=4,
            encoder=_multi_query(num_layers=12, d_model=512, num_heads=8, head_dim=64),
            decoder=_multi_query(num_layers=20, d_model=1024, num_heads=16, head_dim=64),
            codebook_update="ema",
        ),
        latent_actions=LatentActionConfig(
            image_height=96,
            image_width=160,
            patch_size=16,
            num_layers=20,
            num_decoder_layers=20,
            d_model=1024,
            num_heads=16,
            head_dim=48,
            num_key_value_heads=1,
            feed_forward_expansion=2,
            temporal_window=WINDOW,
            num_codes=8,
            stem="patch",
            codebook_update="ema",
        ),
        dynamics=DynamicsConfig(num_tokens=960, transformer=_multi_query(num_layers=48, d_model=5120, num_heads=36, head_dim=128)),
        sampling=SamplingConfig(steps=25, temperature=2.0),
    )


def dynamics_ladder() -> dict[str, DynamicsConfig]:
    """The dynamics models by whose growth the paper shows that Genie scales (table 10), on the tokens of `platformers`."""
    return {
        name: DynamicsConfig(
            num_tokens=960, transformer=_multi_query(num_layers=layers, num_heads=heads, d_model=d_model, head_dim=head_dim)
        )
        for name, layers, heads, d_model, head_dim in (
            ("41M", 18, 8, 512, 64),
            ("96M", 16, 16, 768, 64),
            ("192M", 20, 18, 1024, 64),
            ("404M", 21, 12, 1536, 128),
            ("811M", 20, 20, 2048, 128),
            ("1.6B", 28, 22, 2560, 128),
            ("2.7B", 36, 22, 3072, 128),
        )
    }


def _multi_query(*, num_layers: int, d_model: int, num_heads: int, head_dim: int) -> TransformerConfig:
    return TransformerConfig(
        num_layers=num_layers,
        d_model=d_model,
        num_heads=num_heads,
        head_dim=head_dim,
        num_key_value_heads=1,
        feed_forward_expansion=2,
        temporal_window=WINDOW,
    )
