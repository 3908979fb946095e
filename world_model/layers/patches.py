"""The ways between pixels and a grid of tokens: cut into patches, or convolve.

A stem turns images into a list of feature maps, finest first, whose last is the grid of tokens (B, H/P, W/P, D). A head turns
such a grid back into images and may look at the stem's maps, the images among them, while it does. Channels stand last
throughout, as in frames: convolutions then run without copies in the memory format that is fastest for them.

Shape key: B images, C channels, H and W pixels (or places of a grid), P patch_size, D d_model, N patches.
"""

import math
from itertools import pairwise, zip_longest

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn


def check_patches(image_height: int, image_width: int, patch_size: int, stem: str) -> None:
    """Raises ValueError where images do not divide into patches, or the stem cannot make them."""
    if image_height % patch_size or image_width % patch_size:
        raise ValueError(f"an image of {image_height} x {image_width} does not divide into patches of {patch_size}")
    if stem not in ("patch", "conv"):
        raise ValueError(f"stem must be 'patch' or 'conv', got {stem!r}")
    if stem == "conv" and (patch_size < 2 or not math.log2(patch_size).is_integer()):
        raise ValueError(f"stem='conv' halves the image: patch_size must be a power of 2, at least 2, got {patch_size}")


def patchify(images_BHWC: Tensor, patch_size: int) -> Tensor:
    """Cut images (B, H, W, C) into a grid of patches (B, H/P, W/P, P P C). `unpatchify` is its inverse."""
    return rearrange(images_BHWC, "b (h p) (w q) c -> b h w (p q c)", p=patch_size, q=patch_size)


def unpatchify(patches: Tensor, patch_size: int) -> Tensor:
    """Put a grid of patches (B, H/P, W/P, P P C) together again into images (B, H, W, C)."""
    return rearrange(patches, "b h w (p q c) -> b (h p) (w q) c", p=patch_size, q=patch_size)


class PatchStem(nn.Module):
    """One linear projection a patch, as in the paper."""

    def __init__(self, *, in_channels: int, d_model: int, patch_size: int) -> None:
        super().__init__()
        self.patch_size = patch_size
        self.project = nn.Linear(in_channels * patch_size**2, d_model)

    def forward(self, images_BHWC: Tensor) -> list[Tensor]:
        return [self.project(patchify(images_BHWC, self.patch_size))]


class PatchHead(nn.Module):
    """One linear projection a token back to the pixels of its patch; looks at no map of the stem."""

    def __init__(self, *, out_channels: int, d_model: int, patch_size: int) -> None:
        super().__init__()
        self.patch_size = patch_size
        self.project = nn.Linear(d_model, out_channels * patch_size**2)

    def forward(self, tokens_BHWD: Tensor, maps: list[Tensor]) -> Tensor:
        return unpatchify(self.project(tokens_BHWD), self.patch_size)


class ConvStem(nn.Module):
    """Strided convolutions, each halving the image, down to one token a patch."""

    def __init__(self, *, in_channels: int, d_model: int, patch_size: int) -> None:
        super().__init__()
        widths = [in_channels, *stem_widths(d_model, patch_size)]
        self.layers = nn.ModuleList(Convolution(before, after, kernel_size=4, stride=2) for before, after in pairwise(widths))

    def forward(self, images_BHWC: Tensor) -> list[Tensor]:
        maps = [images_BHWC]
        for layer in self.layers:
            maps.append(F.silu(layer(maps[-1])))
        return maps[1:]


class ConvHead(nn.Module):
    """A U-Net's way up: double the grid, look at the stem's map of that size, convolve; and so on up to the pixels.

    The maps are those of the frame being changed, the images themselves first, so the tokens need carry only the change. With
    in_channels=0 there are none, and the image is drawn from the tokens alone.
    """

    def __init__(self, *, in_channels: int, out_channels: int, d_model: int, patch_size: int) -> None:
        super().__init__()
        finer = stem_widths(d_model, patch_size)[-2::-1]
        widths = [d_model, *finer, 16]
        skips = [*finer, in_channels] if in_channels else [0] * (len(finer) + 1)
        self.layers = nn.ModuleList(
            Convolution(before + skip, after, kernel_size=3) for before, skip, after in zip(widths[:-1], skips, widths[1:], strict=True)
        )
        self.to_pixels = Convolution(16, out_channels, kernel_size=3)

    def forward(self, tokens_BHWD: Tensor, maps: list[Tensor]) -> Tensor:
        image_BHWC = tokens_BHWD
        for layer, skip_BHWC in zip_longest(self.layers, maps[-2::-1]):
            image_BHWC = double(image_BHWC)
            if skip_BHWC is not None:
                image_BHWC = torch.cat([image_BHWC, skip_BHWC.to(image_BHWC.dtype)], dim=-1)
            image_BHWC = F.silu(layer(image_BHWC))
        return self.to_pixels(image_BHWC)


class Convolution(nn.Conv2d):
    """nn.Conv2d on (B, H, W, C), started so that its output varies as much as its input: torch's default fades with depth."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, stride: int = 1) -> None:
        super().__init__(in_channels, out_channels, kernel_size, stride, padding=(kernel_size - 1) // 2)
        nn.init.kaiming_normal_(self.weight)
        nn.init.zeros_(self.bias)  # type: ignore[arg-type]  # there is one, as bias=True

    def forward(self, images_BHWC: Tensor) -> Tensor:
        return super().forward(images_BHWC.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


def double(images_BHWC: Tensor) -> Tensor:
    """Twice as high and wide, each pixel four times."""
    return F.interpolate(images_BHWC.permute(0, 3, 1, 2), scale_factor=2.0, mode="nearest").permute(0, 2, 3, 1)


def stem_widths(d_model: int, patch_size: int) -> list[int]:
    """Channels after each halving of the image: d_model at the token grid, half as many one level up, there at least 16."""
    num_levels = int(math.log2(patch_size))
    return [max(d_model >> level, 16) if level else d_model for level in reversed(range(num_levels))]
