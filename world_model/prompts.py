"""Any picture, photo or sketch, made into the frames from which a world begins.

Shape key: P frames of a prompt, H x W x 3 a frame of the model.
"""

from __future__ import annotations

import os
from typing import Any

import numpy as np
from PIL import Image, ImageOps


def fit_prompt(prompt: Any, height: int, width: int) -> np.ndarray:
    """The frames (P, H, W, 3) uint8 of a prompt: a path, a PIL image, one frame (H', W', 3) uint8 or several (P, H', W', 3).

    Nothing is distorted: the middle of the picture, as much of it as has the model's aspect ratio, is scaled with antialiasing.
    A camera's rotation (EXIF) is undone and what is transparent lies on white. Frames of the model's size stay as they are.

    Raises ValueError for arrays of another shape or type and for files that are no pictures, FileNotFoundError for a missing file.
    """
    if isinstance(prompt, str | os.PathLike):
        pictures = [_open(prompt)]
    elif isinstance(prompt, Image.Image):
        pictures = [_as_rgb(prompt)]
    else:
        pictures = [Image.fromarray(frame) for frame in _as_frames(prompt)]
    return np.stack([np.asarray(ImageOps.fit(picture, (width, height), Image.Resampling.LANCZOS)) for picture in pictures])


def _open(path: str | os.PathLike[str]) -> Image.Image:
    try:
        with Image.open(path) as picture:
            return _as_rgb(picture)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"there is no picture at {os.fspath(path)}: check the path, or begin without a prompt") from error
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:  # Pillow raises each of them for damaged files
        raise ValueError(f"cannot read {os.fspath(path)} as a picture ({error}): give a PNG, JPEG or another format of Pillow") from error


def _as_rgb(picture: Image.Image) -> Image.Image:
    if picture.mode == "F" or (picture.mode == "I" and picture.format is None):
        raise ValueError("a picture of floating-point or 32-bit numbers has no set range: convert it to 8 bits a channel first")
    picture = ImageOps.exif_transpose(picture)
    if picture.mode.startswith("I"):  # 16-bit grey, as Pillow reads it from files, which convert() would cut off at 255
        return Image.fromarray((np.asarray(picture).astype(np.int64).clip(0, 65535) // 257).astype(np.uint8)).convert("RGB")
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture).convert("RGB")
    return picture.convert("RGB")


def _as_frames(prompt: Any) -> np.ndarray:
    frames = np.asarray(prompt)
    if frames.dtype != np.uint8:
        raise ValueError(
            f"expected a prompt of dtype uint8, values 0 ... 255, got {frames.dtype}: convert it, or give a path or a PIL image"
        )
    if frames.ndim not in (3, 4) or frames.shape[-1] != 3 or 0 in frames.shape:
        raise ValueError(f"expected a prompt of shape (height, width, 3) or (frames, height, width, 3), got {frames.shape}")
    return frames if frames.ndim == 4 else frames[None]
