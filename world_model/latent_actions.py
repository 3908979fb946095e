"""The latent action model (Genie, section 2.1): which of a few hidden actions leads from each frame to the next?

The encoder sees the frames up to and including the next one and must put what happened into one of `num_codes` codes; the
decoder sees the frames before it and that code, and must draw the next frame. What the past does not tell passes through the
code, and that is what the player did.

Both halves read the same tokens, made from pairs (frame, change since the frame before): speed and acceleration can then be seen
without comparing coarse tokens. The encoder reads the pairs up to (x_t+1, x_t+1 - x_t), the decoder those up to
(x_t, x_t - x_t-1), so the pair of each frame is computed once. Beyond the paper, the decoder's output is added to x_t before the
sigmoid, and the codes are eased in (see VectorQuantizer): without that the two halves rarely find a common language.

Shape key: B clips, T frames, C channels, H and W pixels, N tokens of a frame, D d_model, E code_dim.
"""

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from world_model.layers.patches import ConvHead, ConvStem, PatchHead, PatchStem, check_patches
from world_model.layers.st_transformer import STTransformer, TransformerConfig
from world_model.layers.standardize import Standardize
from world_model.layers.vector_quantizer import Quantized, VectorQuantizer
from world_model.serialization import load_model, save_model

CHANGE_SCALE = 4.0  # most changes from frame to frame are small: bring them to the size of the pixels


@dataclass(frozen=True, kw_only=True)
class LatentActionConfig:
    """Shape of a latent action model.

    The defaults are small enough for two CPU cores: `stem="conv"` reads frames by strided convolutions and draws the next one
    by a U-Net. `stem="patch"` is the paper's linear projection, which needs a GPU's compute to become sharp (the paper's CoinRun
    model: d_model 512, 8 + 8 layers, 8 heads, 6 codes). `temporal_window` counts the frames each encoder layer looks at; head_dim,
    num_key_value_heads and feed_forward_expansion are those of TransformerConfig.
    """

    image_height: int = 64
    image_width: int = 64
    channels: int = 3
    patch_size: int = 16
    d_model: int = 128
    num_layers: int = 2
    num_decoder_layers: int = 1
    num_heads: int = 4
    head_dim: int | None = None
    num_key_value_heads: int | None = None
    feed_forward_expansion: int = 4
    num_codes: int = 8
    code_dim: int = 32
    temporal_window: int = 2
    stem: Literal["patch", "conv"] = "conv"
    codebook_update: Literal["gradient", "ema"] = "gradient"
    reset_after: int = 50
    ramp_steps: int = 500

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            least = 0 if field.name == "ramp_steps" else 1
            if field.type is int and (type(value) is not int or value < least):
                raise ValueError(f"{field.name} must be a whole number of at least {least}, got {value!r}")
        check_patches(self.image_height, self.image_width, self.patch_size, self.stem)
        self.transformer(self.num_layers, self.temporal_window)
        if self.codebook_update not in ("gradient", "ema"):
            raise ValueError(f"codebook_update must be 'gradient' or 'ema', got {self.codebook_update!r}")

    def transformer(self, num_layers: int, temporal_window: int | None) -> TransformerConfig:
        """The shape of the encoder or of the decoder; ValueError where its settings do not go together."""
        return TransformerConfig(
            num_layers=num_layers,
            d_model=self.d_model,
            num_heads=self.num_heads,
            head_dim=self.head_dim,
            num_key_value_heads=self.num_key_value_heads,
            feed_forward_expansion=self.feed_forward_expansion,
            temporal_window=temporal_window,
        )

    @property
    def context_frames(self) -> int:
        """How many frames one latent action can depend on: those that lead to it, and the one it leads to."""
        return 2 + self.num_layers * (self.temporal_window - 1)


@dataclass(frozen=True, kw_only=True)
class LatentActionOutput:
    """`reconstruction` (B, T-1, H, W, C) in [0, 1] predicts frames[:, 1:]; `quantized` holds the actions and the VQ losses."""

    reconstruction: Tensor
    quantized: Quantized

    @property
    def latent_actions(self) -> Tensor:
        """(B, T-1) int64: latent_actions[:, t] leads from frame t to frame t+1."""
        return self.quantized.indices


class LatentActionModel(nn.Module):
    """Frames in; a latent action for each transition and a prediction of each next frame out."""

    def __init__(self, config: LatentActionConfig = LatentActionConfig(), *, seed: int = 0) -> None:
        super().__init__()
        self.config = config
        pixels = {"d_model": config.d_model, "patch_size": config.patch_size}
        num_tokens = config.image_height * config.image_width // config.patch_size**2
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            if config.stem == "conv":
                self.stem: nn.Module = ConvStem(in_channels=2 * config.channels, **pixels)
                self.head: nn.Module = ConvHead(in_channels=2 * config.channels, out_channels=config.channels, **pixels)
            else:
                self.stem = PatchStem(in_channels=2 * config.channels, **pixels)
                self.head = PatchHead(out_channels=config.channels, **pixels)
            self.encoder = STTransformer(config.transformer(config.num_layers, config.temporal_window), num_tokens=num_tokens)
            self.to_code = nn.Linear(config.d_model, config.code_dim, bias=False)
            self.standardize = Standardize(config.code_dim)
            self.from_code = nn.Linear(config.code_dim, config.d_model)
            nn.init.normal_(self.from_code.weight)  # as loud as the tokens it is added to, or the decoder does not hear it
            self.decoder = STTransformer(config.transformer(config.num_decoder_layers, None), num_tokens=num_tokens)
        self.quantizer = VectorQuantizer(
            num_codes=config.num_codes,
            code_dim=config.code_dim,
            update=config.codebook_update,
            reset_after=config.reset_after,
            ramp_steps=config.ramp_steps,
            seed=seed,
        )

    def encode(self, frames: Tensor) -> Quantized:
        """The latent actions between frames (B, T, H, W, C) uint8: `.indices` (B, T-1) int64 and `.vectors` (B, T-1, E).

        Action t depends on the last `config.context_frames` frames up to t+1 alone (fewer at the start of a clip); in training
        mode the batch is standardised together as well. Raises ValueError for frames of another shape or type.
        """
        return self._encode(self._read(frames))

    def describe(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        """What happens in frames (B, T, H, W, C) uint8: features (B, T, D) of each frame after those before it, and `encode`'s indices.

        Row t is what the latent action from frame t-1 to t is made from, before it is squeezed into a code: it tells more than
        the code, to whoever has some labels to learn it by. Row 0 sees a scene at rest. Raises ValueError as `encode` does.
        """
        features_BTD = self._describe(self._read(frames))
        return features_BTD, self._quantize(features_BTD).indices

    def decode(self, frames: Tensor, latent_actions: Tensor) -> Tensor:
        """The next frames (B, T-1, H, W, C) in [0, 1] that `latent_actions` (B, T-1) int64 would lead to from frames[:, :-1], else
        ValueError."""
        self.quantizer.check(latent_actions)
        return self._decode(self._read(frames), self.quantizer.lookup(latent_actions))

    def forward(self, frames: Tensor) -> LatentActionOutput:
        """Encode frames (B, T, H, W, C) uint8 and predict each next one from its past and its latent action."""
        maps = self._read(frames)
        quantized = self._encode(maps)
        return LatentActionOutput(reconstruction=self._decode(maps, quantized.vectors), quantized=quantized)

    def _read(self, frames: Tensor) -> list[Tensor]:
        """Maps (B, T, height, width, channels) of each frame and its change since the one before: pixels first, tokens last."""
        config = self.config
        expected = (config.image_height, config.image_width, config.channels)
        if frames.ndim != 5 or frames.shape[1] < 2 or tuple(frames.shape[2:]) != expected or frames.dtype != torch.uint8:
            raise ValueError(
                f"expected frames (B, T >= 2, {', '.join(map(str, expected))}) of dtype uint8, got {tuple(frames.shape)} "
                f"of {frames.dtype}: resize or convert them first"
            )
        images_BTHWC = frames.float() / 255
        change_BTHWC = torch.diff(images_BTHWC, dim=1, prepend=images_BTHWC[:, :1])  # a clip starts at rest
        pairs_BTHWC = torch.cat([images_BTHWC, CHANGE_SCALE * change_BTHWC], dim=-1)
        maps = [pairs_BTHWC.flatten(0, 1), *self.stem(pairs_BTHWC.flatten(0, 1))]
        return [map_.unflatten(0, frames.shape[:2]) for map_ in maps]

    def _describe(self, maps: list[Tensor]) -> Tensor:
        return self.encoder(maps[-1].flatten(2, 3)).mean(dim=2)

    def _encode(self, maps: list[Tensor]) -> Quantized:
        return self._quantize(self._describe(maps))

    def _quantize(self, features_BTD: Tensor) -> Quantized:
        return self.quantizer(self.standardize(self.to_code(features_BTD[:, 1:])))

    def _decode(self, maps: list[Tensor], vectors_BTE: Tensor) -> Tensor:
        past = [map_[:, :-1] for map_ in maps]
        tokens_BTND = self.decoder(past[-1].flatten(2, 3) + self.from_code(vectors_BTE)[:, :, None])
        change = self.head(tokens_BTND.reshape(past[-1].shape).flatten(0, 1), [map_.flatten(0, 1) for map_ in past])
        present_BTHWC = past[0][..., : self.config.channels]
        # Starting from the present frame, only its change has to be learned. The margin keeps logits of black and white finite.
        logits_BTHWC = change.float().unflatten(0, vectors_BTE.shape[:2]) + torch.logit(present_BTHWC, eps=0.01)
        return torch.sigmoid(logits_BTHWC)

    def save_pretrained(self, folder: str | Path) -> None:
        """Write config.json and model.safetensors into `folder`, each complete or not at all."""
        save_model(folder, self)

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> "LatentActionModel":
        """The model of a folder, its own or a Genie's, or one that ships with the package, by name; on the CPU, in evaluation mode.

        Raises FileNotFoundError where a file is missing and ValueError where one is damaged or belongs to another model.
        """
        return load_model(folder, cls, LatentActionConfig, part_of=("Genie", "latent_actions", "latent_action_model"))


def latent_action_loss(output: LatentActionOutput, frames: Tensor, *, commitment_weight: float = 0.002) -> tuple[Tensor, dict[str, Tensor]]:
    """The loss of `output` for the frames (B, T, H, W, C) uint8 it came from, and detached metrics.

    The loss is the mean squared error of the predicted next frames plus the weighted VQ losses. Metrics: `mse` is that error and
    `copy_mse` the error of repeating the present frame, which a model that has learned anything beats; `codebook_loss` and
    `commitment_loss`; `codes_used` counts the codes this batch used.
    """
    images = frames.float() / 255
    mse = (output.reconstruction - images[:, 1:]).square().mean()
    quantized = output.quantized
    loss = mse + commitment_weight * (quantized.commitment_loss + quantized.codebook_loss)
    return loss, {
        "mse": mse.detach(),
        "copy_mse": torch.diff(images, dim=1).square().mean(),
        "codebook_loss": quantized.codebook_loss.detach(),
        "commitment_loss": quantized.commitment_loss.detach(),
        "codes_used": (quantized.usage > 0).sum(),
    }
