"""Ordinary video files, as a camera or a screen recorder leaves them."""

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np


def write_ordinary_video(
    path: Path, frames: np.ndarray, *, rate: int = 10, milliseconds: Sequence[int] | None = None, codec: str = "ffv1"
) -> Path:
    """Frames (T, H, W, 3) uint8 at a rate, or each at its own time; by the default codec without loss (mkv)."""
    times = milliseconds or [round(1000 * index / rate) for index in range(len(frames))]
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "bgr0" if codec == "ffv1" else "yuv420p"
        stream.codec_context.time_base = Fraction(1, 1000)
        for frame, time in zip(frames, times, strict=True):
            picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
            picture.pts, picture.time_base = time, Fraction(1, 1000)
            container.mux(stream.encode(picture))
        container.mux(stream.encode(None))
    return path
