"""The networks that are cloned: an IMPALA convolutional network and the paper's ST-ViViT transformer, behind one interface.

Shapes: B clips, T frames (the last is now), H, W, C pixels, A actions, P patches, D features.
A policy maps the last `config.num_frames` frames, and the actions taken before each of them, to logits (B, L, A) over the last L
frames: L = 1 for IMPALA, which stacks the frames, L = T for ST-ViViT, which is causal in time. Playing reads `logits[:, -1]`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from einops import rearrange
from torch import Tensor, nn

from world_model.layers.st_transformer import STTransformer, TransformerConfig
from world_model.serialization import load_model, save_model


@dataclass(frozen=True, kw_only=True)
class PolicyConfig:
    """`num_actions` counts the labels: latent actions for the Genie agent, 15 keys for the oracle."""

    num_actions: int
    architecture: Literal["nature", "impala", "st_vivit"] = "nature"
    num_frames: int = 2
    image_size: int = 64
    # IMPALA: one convolution, max-pool and `blocks` residual blocks a stage, after a space-to-depth stem (1 = the paper's full resolution)
    channels: tuple[int, ...] = (24, 48, 48)
    blocks: int = 2
    stem_stride: int = 2
    hidden: int = 512
    # ST-ViViT (Genie, Appendix E: 12 layers, d_model 512, patch 4, sequence length 4)
    patch_size: int = 8
    d_model: int = 128
    num_layers: int = 4
    num_heads: int = 4

    def __post_init__(self) -> None:
        if self.num_actions < 2:
            raise ValueError(f"num_actions is {self.num_actions}; a policy needs at least 2 actions to choose from")
        if self.num_frames < 1:
            raise ValueError(f"num_frames is {self.num_frames}; a policy must see at least the present frame")
        if self.architecture not in ("nature", "impala", "st_vivit"):
            raise ValueError(f"unknown architecture {self.architecture!r}; choose 'nature', 'impala' or 'st_vivit'")
        for name in ("stem_stride", "hidden", "patch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; choose 1 or more")
        if not self.channels or min(self.channels) < 1 or self.blocks < 0:
            raise ValueError(
                f"channels is {self.channels} and blocks {self.blocks}; choose at least one number of 1 or more, and 0 or more"
            )
        if self.architecture == "st_vivit":
            self.transformer()
        if self.architecture == "nature" and self.image_size < 36:
            raise ValueError(f"image_size {self.image_size} is too small for the nature network; choose at least 36, or impala")
        if self.architecture == "nature":
            return
        step = self.stem_stride * 2 ** len(self.channels) if self.architecture == "impala" else self.patch_size
        if self.image_size % step:
            raise ValueError(f"image_size {self.image_size} must be a multiple of {step} for this {self.architecture} policy")

    def transformer(self) -> TransformerConfig:
        """The shape of ST-ViViT's transformer; ValueError where its settings do not go together."""
        return TransformerConfig(d_model=self.d_model, num_layers=self.num_layers, num_heads=self.num_heads)


def stack(frames: Tensor) -> Tensor:
    """(B, T, H, W, C) uint8 to (B, T*C, H, W) in -0.5 ... 0.5, channels last in memory."""
    images = rearrange(frames, "b t h w c -> b (t c) h w").contiguous(memory_format=torch.channels_last)
    return images.float().div_(255).sub_(0.5)  # in place: a batch is 25 MB, and new memory costs more than the arithmetic


class ResidualBlock(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.convolutions = nn.Sequential(
            nn.ReLU(), nn.Conv2d(channels, channels, 3, padding=1), nn.ReLU(), nn.Conv2d(channels, channels, 3, padding=1)
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.convolutions(x)


class ImpalaEncoder(nn.Module):
    """Espeholt et al. 2018, as used on Procgen (Cobbe et al. 2020): images (B, C, H, W) in [0, 1] to features (B, `num_features`)."""

    def __init__(self, *, in_channels: int, image_size: int, channels: tuple[int, ...], blocks: int = 2, stem_stride: int = 1) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.PixelUnshuffle(stem_stride)]
        in_channels *= stem_stride**2
        for out_channels in channels:
            layers += [nn.Conv2d(in_channels, out_channels, 3, padding=1), nn.MaxPool2d(3, 2, padding=1)]
            layers += [ResidualBlock(out_channels) for _ in range(blocks)]
            in_channels = out_channels
        self.layers = nn.Sequential(*layers, nn.ReLU(), nn.Flatten())
        self.num_features = in_channels * (image_size // stem_stride // 2 ** len(channels)) ** 2

    def forward(self, images: Tensor) -> Tensor:
        return self.layers(images.contiguous(memory_format=torch.channels_last))


def make_head(num_features: int, config: PolicyConfig) -> nn.Sequential:
    hidden = nn.Linear(num_features, config.hidden)
    hidden.hidden_layers = True  # type: ignore[assignment]  # Muon may train it and the encoder, not the last layer
    return nn.Sequential(hidden, nn.ReLU(), nn.Linear(config.hidden, config.num_actions))


class ImpalaNetwork(nn.Module):
    """Frames stacked along channels; previous actions unused."""

    def __init__(self, config: PolicyConfig) -> None:
        super().__init__()
        self.encoder = ImpalaEncoder(
            in_channels=3 * config.num_frames,
            image_size=config.image_size,
            channels=config.channels,
            blocks=config.blocks,
            stem_stride=config.stem_stride,
        ).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.head = make_head(self.encoder.num_features, config)
        self.encoder.hidden_layers = True

    def forward(self, frames: Tensor, previous_actions: Tensor) -> Tensor:
        return self.head(self.encoder(stack(frames)))[:, None]


class NatureNetwork(nn.Module):
    """Mnih et al. 2015: strided convolutions without pooling, cheaper a step than IMPALA."""

    def __init__(self, config: PolicyConfig) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Conv2d(3 * config.num_frames, 32, 8, stride=4),
            nn.ReLU(),
            nn.Conv2d(32, 64, 4, stride=2),
            nn.ReLU(),
            nn.Conv2d(64, 64, 3),
            nn.ReLU(),
            nn.Flatten(),
        ).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        grid = ((config.image_size - 8) // 4 + 1 - 4) // 2 + 1 - 2
        self.head = make_head(64 * grid**2, config)
        self.encoder.hidden_layers = True

    def forward(self, frames: Tensor, previous_actions: Tensor) -> Tensor:
        return self.head(self.encoder(stack(frames)))[:, None]


class STViViTNetwork(nn.Module):
    """The paper's policy (Appendix E): ST-transformer over patches, previous actions added as embeddings, pooled over space."""

    def __init__(self, config: PolicyConfig) -> None:
        super().__init__()
        self.patch_size = config.patch_size
        num_patches = (config.image_size // config.patch_size) ** 2
        self.embed_patches = nn.Linear(3 * config.patch_size**2, config.d_model)
        self.embed_previous_action = nn.Embedding(config.num_actions + 1, config.d_model)  # the last row: no action yet
        self.transformer = STTransformer(config.transformer(), num_tokens=num_patches)
        self.head = nn.Linear(config.d_model, config.num_actions)

    def forward(self, frames: Tensor, previous_actions: Tensor) -> Tensor:
        p = self.patch_size
        patches_BTPD = rearrange(frames.float() / 255 - 0.5, "b t (h p) (w q) c -> b t (h w) (p q c)", p=p, q=p)
        previous_actions = torch.where(previous_actions < 0, self.embed_previous_action.num_embeddings - 1, previous_actions)
        x_BTPD = self.embed_patches(patches_BTPD) + self.embed_previous_action(previous_actions)[:, :, None]
        return self.head(self.transformer(x_BTPD).mean(dim=2))


class Policy(nn.Module):
    """A cloned policy: frames and previous actions in, logits over latent or real actions out."""

    def __init__(self, config: PolicyConfig) -> None:
        super().__init__()
        self.config = config
        networks = {"nature": NatureNetwork, "impala": ImpalaNetwork, "st_vivit": STViViTNetwork}
        self.network = networks[config.architecture](config)

    def forward(self, frames: Tensor, previous_actions: Tensor) -> Tensor:
        """Logits (B, L, A) for frames (B, T, H, W, C) uint8 and the actions (B, T) taken before each of them, -1 where none was."""
        return self.network(frames, previous_actions)

    def save_pretrained(self, folder: str | Path) -> None:
        """Write config.json and model.safetensors."""
        save_model(folder, self)

    @classmethod
    def from_pretrained(cls, folder: str | Path, *, device: str | torch.device = "cpu") -> Policy:
        """Raises FileNotFoundError or ValueError when the folder holds no policy."""
        return load_model(folder, cls, PolicyConfig).to(device)
