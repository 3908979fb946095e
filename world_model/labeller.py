"""The labeller: name the hidden action between any two frames of any video.

A label depends on a fixed number of frames, `config.context_frames` up to and including the frame the action leads to; at the
start of an episode on those there are. So it does not matter where in a longer video a transition stands, or how a video is cut
to be labelled in parts. Train a model on clips of a few frames more than that, or it never sees its full context.
"""

from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from world_model.data import StoredFrames, VideoFile, write_latent_actions
from world_model.latent_actions import LatentActionModel
from world_model.precision import bf16_autocast
from world_model.serialization import identify_model


class Description(NamedTuple):
    """`latent_actions` as `label` gives them; `features` float32, a row a frame: (T, D), (B, T, D) or (N, D). Row t+1 describes the
    transition from frame t to t+1 (see `LatentActionModel.describe`)."""

    latent_actions: np.ndarray
    features: np.ndarray


class LatentActionLabeller:
    """Label videos with a trained latent action model.

    `identity` names the labels' origin wherever they are stored: the model's folder and a hash of its configuration and weights.
    Matrix work runs in bfloat16, as in training: 1.7 times as fast on a CPU that has it; 2 labels in 1,000 differ from those of
    float32, and 0.4 in 1,000 where a video is cut elsewhere, by rounding alone. One machine always repeats its labels.
    """

    def __init__(self, model: LatentActionModel, *, identity: str, device: str | torch.device = "auto") -> None:
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        self.device = torch.device(device)
        self.model = model.to(self.device).eval()
        self.identity = identity
        self.part_frames = max(16, 2 * model.config.context_frames)

    @classmethod
    def from_pretrained(cls, folder: str | Path, device: str | torch.device = "auto") -> "LatentActionLabeller":
        """The labeller of a latent action model or of a Genie, given by its folder or, if it ships with the package, by its name.

        Raises FileNotFoundError where a file is missing and ValueError where one is damaged or belongs to another model.
        """
        return cls(LatentActionModel.from_pretrained(folder), identity=identify_model(folder), device=device)

    @property
    def num_codes(self) -> int:
        """How many latent actions there are: labels lie in 0 ... num_codes - 1."""
        return self.model.config.num_codes

    def label(
        self,
        video: np.ndarray | VideoFile | str | Path,
        *,
        batch_size: int = 16,
        write_back: bool = False,
        progress: Callable[[int, int], None] | None = None,
    ) -> np.ndarray:
        """The latent actions, int64, of an array (or a list of frames) or of a video file; labels[t] leads from frame t to frame t+1.

        One episode (T, H, W, C) uint8 gives (T-1,); episodes of one length (B, T, H, W, C) give (B, T-1); a VideoFile or the path
        of one gives (N,), one label a frame and -1 on each episode's last frame. With `write_back` these are also stored in the
        file; a VideoFile that is open must be opened again to see them. `batch_size` is how many parts of a video (of 16 frames
        or a little more) are computed at once, and `progress(frames_done, num_frames)` is called after each such batch.

        Raises ValueError for frames of a size or type the model does not take, and what VideoFile raises for bad files.
        """
        if isinstance(video, (str, Path)):
            with VideoFile(video) as opened:
                return self.label(opened, batch_size=batch_size, write_back=write_back, progress=progress)
        if not isinstance(video, VideoFile):
            if write_back:
                raise ValueError("write_back stores labels in a video file: give a VideoFile or its path, not an array")
            video = np.asarray(video)
        frames, episode_starts = self._episodes(video)
        labels = np.full(len(frames), -1, np.int64)
        for start, stop, num_seen, _, part in self._describe_parts(frames, episode_starts, batch_size, progress):
            labels[start + num_seen : stop - 1] = part[num_seen : stop - 1 - start]
        if not isinstance(video, VideoFile):
            return labels.reshape(video.shape[:-3])[..., :-1]
        if write_back:
            write_latent_actions(video.path, labels, labeller=self.identity)
        return labels

    def describe(
        self, video: np.ndarray | VideoFile | str | Path, *, batch_size: int = 16, progress: Callable[[int, int], None] | None = None
    ) -> Description:
        """The labels of an array or a video file, and features from which labelled samples can teach more than the labels tell.

        Arguments and errors are those of `label`.
        """
        if isinstance(video, (str, Path)):
            with VideoFile(video) as opened:
                return self.describe(opened, batch_size=batch_size, progress=progress)
        if not isinstance(video, VideoFile):
            video = np.asarray(video)
        frames, episode_starts = self._episodes(video)
        labels = np.full(len(frames), -1, np.int64)
        features, begins = np.empty((len(frames), self.model.config.d_model), np.float32), set(episode_starts.tolist())
        for start, stop, num_seen, part_features, part in self._describe_parts(frames, episode_starts, batch_size, progress):
            labels[start + num_seen : stop - 1] = part[num_seen : stop - 1 - start]
            first_row = 0 if start in begins else num_seen + 1  # a part's first frame is described without the one before it
            features[start + first_row : stop] = part_features[first_row : stop - start]
        if isinstance(video, VideoFile):
            return Description(labels, features)
        return Description(labels.reshape(video.shape[:-3])[..., :-1], features.reshape(*video.shape[:-3], features.shape[1]))

    def _episodes(self, video: np.ndarray | VideoFile) -> tuple[np.ndarray | StoredFrames, np.ndarray]:
        """All frames (N, H, W, C) in a row and where each episode begins (E+1,)."""
        frames = video.frames if isinstance(video, VideoFile) else video
        self._check_frames(frames)
        if isinstance(video, VideoFile):
            return frames, video.episode_starts
        if video.ndim not in (4, 5) or video.shape[-4] < 2:
            raise ValueError(f"expected frames (T, H, W, C) or (B, T, H, W, C) with T of at least 2, got shape {video.shape}")
        frames = video.reshape(-1, *video.shape[-3:])
        return frames, np.arange(0, len(frames) + 1, video.shape[-4])

    def _check_frames(self, frames: np.ndarray | StoredFrames) -> None:
        config = self.model.config
        expected = (config.image_height, config.image_width, config.channels)
        if frames.shape[-3:] != expected or frames.dtype != np.uint8:
            raise ValueError(
                f"this model labels uint8 frames of shape {expected}, got {frames.dtype} frames of shape "
                f"{tuple(frames.shape[-3:])}: resize or convert them first"
            )

    def _describe_parts(
        self,
        frames: np.ndarray | StoredFrames,
        episode_starts: np.ndarray,
        batch_size: int,
        progress: Callable[[int, int], None] | None,
    ) -> Iterator[tuple[int, int, int, np.ndarray, np.ndarray]]:
        """Features and labels of the frames (N, H, W, C) by parts, after where each lies: (start, stop, num_seen), see `_parts`."""
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        parts = self._parts(episode_starts)
        while batch := list(islice(parts, batch_size)):
            first, last = batch[0][0], batch[-1][1]
            block = frames[first:last]  # a file is read once, in order, and not part by part
            clips = np.stack([self._padded(block[start - first : stop - first]) for start, stop, _ in batch])
            with torch.inference_mode(), bf16_autocast(self.device):
                features, labels = self.model.describe(torch.from_numpy(clips).to(self.device))
            for place, part_features, part_labels in zip(batch, features.float().cpu().numpy(), labels.cpu().numpy(), strict=True):
                yield *place, part_features, part_labels
            if progress is not None:
                progress(int(last), len(frames))

    def _parts(self, episode_starts: np.ndarray) -> Iterator[tuple[int, int, int]]:
        """(start, stop, num_seen): each part of each episode, and how many of its first transitions only serve as context."""
        num_context = self.model.config.context_frames - 2
        for begin, end in zip(episode_starts[:-1].tolist(), episode_starts[1:].tolist(), strict=True):
            start, num_seen = begin, 0
            while True:
                stop = min(start + self.part_frames, end)
                yield start, stop, num_seen
                if stop == end:
                    break
                # The last part reaches back rather than being padded: it costs the same and all parts stay of one length.
                start, num_seen = min(stop - 1 - num_context, end - self.part_frames), num_context

    def _padded(self, frames: np.ndarray) -> np.ndarray:
        """Repeat the last frame of an episode shorter than a part; labels never depend on later frames."""
        return np.pad(frames, [(0, self.part_frames - len(frames))] + 3 * [(0, 0)], mode="edge")
