"""The video tokenizer (Genie, section 2.1): frames to a grid of discrete tokens and back, a VQ-VAE of two ST-transformers.

Each frame's tokens may depend on the frames before it and never on later ones, so a video can be tokenized and drawn frame by
frame. The paper's two baselines are choices of the configuration: ViT (`attention="space"`: each frame by itself) and C-ViViT
(`attention="joint"`: all earlier tokens at once).

Shape key: B clips, T frames, H x W x C a frame, N tokens of a frame, D d_model, E code_dim.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from world_model.layers.patches import ConvHead, ConvStem, PatchHead, PatchStem, check_patches
from world_model.layers.st_transformer import STTransformer, TransformerConfig
from world_model.layers.standardize import Standardize
from world_model.layers.temporal_cache import TemporalCache
from world_model.layers.vector_quantizer import Quantized, VectorQuantizer
from world_model.serialization import load_model, save_model


@dataclass(frozen=True, kw_only=True)
class VideoTokenizerConfig:
    """Shape of a video tokenizer; every patch of a frame becomes a token, one of `num_codes`.

    `stem="patch"` is the paper's linear projection of patches,
    "conv" reads and draws them by strided convolutions, which become sharp sooner where compute is scarce (patch_size a power of 2).
    """

    image_height: int = 64
    image_width: int = 64
    channels: int = 3
    patch_size: int = 8
    encoder: TransformerConfig = TransformerConfig(num_layers=2, temporal_window=16)
    decoder: TransformerConfig = TransformerConfig(num_layers=4, temporal_window=16)
    num_codes: int = 1024
    code_dim: int = 32
    stem: Literal["patch", "conv"] = "patch"
    codebook_update: Literal["gradient", "ema"] = "gradient"
    reset_after: int = 50

    def __post_init__(self) -> None:
        for name in ("image_height", "image_width", "channels", "patch_size", "num_codes", "code_dim", "reset_after"):
            value = getattr(self, name)
            if type(value) is not int or value < 1:
                raise ValueError(f"{name} must be a whole number of at least 1, got {value!r}")
        check_patches(self.image_height, self.image_width, self.patch_size, self.stem)
        if self.codebook_update not in ("gradient", "ema"):
            raise ValueError(f"codebook_update must be 'gradient' or 'ema', got {self.codebook_update!r}")

    @property
    def grid(self) -> tuple[int, int]:
        """Tokens of a frame, from top to bottom and from left to right."""
        return self.image_height // self.patch_size, self.image_width // self.patch_size

    @property
    def num_tokens(self) -> int:
        return self.grid[0] * self.grid[1]


@dataclass(frozen=True, kw_only=True)
class VideoTokenizerOutput:
    """`reconstruction` (B, T, H, W, C) in [0, 1] and `quantized`, whose indices (B, T, N) are the tokens, with the VQ losses."""

    reconstruction: Tensor
    quantized: Quantized


class VideoTokenizer(nn.Module):
    """Frames in, tokens out; tokens in, frames out."""

    def __init__(self, config: VideoTokenizerConfig = VideoTokenizerConfig(), *, seed: int = 0) -> None:
        super().__init__()
        self.config = config
        encoder_width, decoder_width = config.encoder.d_model, config.decoder.d_model
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            if config.stem == "conv":
                self.stem: nn.Module = ConvStem(in_channels=config.channels, d_model=encoder_width, patch_size=config.patch_size)
                self.head: nn.Module = ConvHead(
                    in_channels=0, out_channels=config.channels, d_model=decoder_width, patch_size=config.patch_size
                )
            else:
                self.stem = PatchStem(in_channels=config.channels, d_model=encoder_width, patch_size=config.patch_size)
                self.head = PatchHead(out_channels=config.channels, d_model=decoder_width, patch_size=config.patch_size)
            self.encoder = STTransformer(config.encoder, num_tokens=config.num_tokens)
            self.to_code = nn.Linear(encoder_width, config.code_dim, bias=False)
            self.standardize = Standardize(config.code_dim)
            self.from_code = nn.Linear(config.code_dim, decoder_width)
            self.decoder = STTransformer(config.decoder, num_tokens=config.num_tokens)
        self.quantizer = VectorQuantizer(
            num_codes=config.num_codes,
            code_dim=config.code_dim,
            update=config.codebook_update,
            reset_after=config.reset_after,
            seed=seed,
        )

    def encode(self, frames: Tensor) -> Quantized:
        """Tokens of frames (B, T, H, W, C) uint8: `.indices` (B, T, N) int64, row by row.

        Raises ValueError for frames of another shape or type.
        """
        config = self.config
        expected = (config.image_height, config.image_width, config.channels)
        if frames.ndim != 5 or tuple(frames.shape[2:]) != expected or frames.dtype != torch.uint8:
            raise ValueError(
                f"expected frames (B, T, {', '.join(map(str, expected))}) of dtype uint8, got {tuple(frames.shape)} "
                f"of {frames.dtype}: resize or convert them first"
            )
        tokens = self.stem(frames.flatten(0, 1).float() / 255)[-1]
        tokens_BTND = self.encoder(tokens.flatten(1, 2).unflatten(0, frames.shape[:2]))
        return self.quantizer(self.standardize(self.to_code(tokens_BTND)))

    def decode(self, tokens: Tensor, cache: TemporalCache | None = None) -> Tensor:
        """Frames (B, T, H, W, C) in [0, 1] of tokens (B, T, N), else ValueError; with `cache`, of those that follow the cached ones."""
        if cache is None:
            self.quantizer.check(tokens)
        return self.draw(self.quantizer.lookup(tokens), cache)

    def draw(self, vectors_BTNE: Tensor, cache: TemporalCache | None = None) -> Tensor:
        """Frames (B, T, H, W, C) in [0, 1] of code vectors (B, T, N, E)."""
        tokens_BTND = self.decoder(self.from_code(vectors_BTNE), cache)
        pixels = self.head(tokens_BTND.flatten(0, 1).unflatten(1, self.config.grid), [])
        return torch.sigmoid(pixels.float()).unflatten(0, vectors_BTNE.shape[:2])

    def forward(self, frames: Tensor) -> VideoTokenizerOutput:
        """Tokenize frames (B, T, H, W, C) uint8 and draw them again."""
        quantized = self.encode(frames)
        return VideoTokenizerOutput(reconstruction=self.draw(quantized.vectors), quantized=quantized)

    def save_pretrained(self, folder: str | Path) -> None:
        """Write config.json and model.safetensors into `folder`, each complete or not at all."""
        save_model(folder, self)

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> "VideoTokenizer":
        """The tokenizer of a folder, its own or a Genie's, or of a Genie that ships, by its name; on the CPU, in evaluation mode.

        Raises FileNotFoundError where a file is missing and ValueError where one is damaged or belongs to another model.
        """
        return load_model(folder, cls, VideoTokenizerConfig, part_of=("Genie", "tokenizer", "tokenizer"))


def tokenizer_loss(
    output: VideoTokenizerOutput, frames: Tensor, *, ssim_weight: float = 0.01, commitment_weight: float = 0.02
) -> tuple[Tensor, dict[str, Tensor]]:
    """The VQ-VAE objective (van den Oord et al. 2017) for frames (B, T, H, W, C) uint8, at least 11 x 11 pixels: squared error plus the
    weighted VQ losses.

    Beyond the paper, structural dissimilarity (Wang et al. 2004) is added, because squared error hardly sees fine texture of low contrast.
    Metrics, detached: `psnr` in dB, over the whole batch; `ssim` of the last frames; `codebook_loss`, `commitment_loss`; `codes_used`, of
    this batch.
    """
    # Imported here because torchmetrics takes almost as long to import as torch.
    from torchmetrics.functional.image import structural_similarity_index_measure

    images = frames.float() / 255
    mse = (output.reconstruction - images).square().mean()
    # Of each clip's last frame only: similarity of all frames would take longer than the model itself.
    last, drawn = (clips[:, -1].permute(0, 3, 1, 2) for clips in (images, output.reconstruction))
    similarity = torch.as_tensor(structural_similarity_index_measure(drawn, last, data_range=1.0))
    quantized = output.quantized
    loss = mse + ssim_weight * (1 - similarity) + commitment_weight * (quantized.commitment_loss + quantized.codebook_loss)
    return loss, {
        "psnr": -10 * mse.detach().log10(),
        "ssim": similarity.detach(),
        "codebook_loss": quantized.codebook_loss.detach(),
        "commitment_loss": quantized.commitment_loss.detach(),
        "codes_used": (quantized.usage > 0).sum(),
    }
