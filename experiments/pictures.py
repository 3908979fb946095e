"""Film strips: rows of frames, each after its label."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw
from torch import Tensor

from world_model.files import replace_when_written


def film_strips(rows: Sequence[tuple[str, Tensor]]) -> Image.Image:
    """One picture of labelled rows of frames (T, H, W, C) uint8, one under the other; T may differ."""
    ruler = ImageDraw.Draw(Image.new("RGB", (1, 1)))
    label_width = 8 + math.ceil(max(ruler.multiline_textbbox((0, 0), text)[2] for text, _ in rows))
    height, width = rows[0][1].shape[1:3]
    size = (label_width + width * max(len(frames) for _, frames in rows), height * len(rows))
    picture = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(picture)
    for row, (text, frames) in enumerate(rows):
        draw.text((3, height * row + height // 2), text, fill="black", anchor="lm")
        strip = np.concatenate(list(frames.cpu().numpy()), axis=1)
        picture.paste(Image.fromarray(strip.squeeze()), (label_width, height * row))  # grey frames have one channel
    return picture


def save_clips(path: Path, rows: Mapping[str, Tensor]) -> None:
    """A picture of clips, one under the other: of each clip all the rows (B, T, H, W, C) uint8, by their labels."""
    clips = zip(*rows.values(), strict=True)
    save(film_strips([row for clip in clips for row in zip(rows, clip, strict=True)]), path)


def save(picture: Image.Image, path: Path, **options: object) -> None:
    """Write a picture in the format of its suffix, complete or not at all."""
    with replace_when_written(path) as temporary:
        picture.save(temporary, format=path.suffix[1:].upper(), **options)
