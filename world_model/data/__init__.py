"""Videos on disk and random clips from them."""

from world_model.data.clips import ClipBatch, ClipSampler, check_same_source
from world_model.data.video_file import FORMAT_VERSION, StoredFrames, VideoFile, VideoFileError, VideoWriter, write_latent_actions
from world_model.data.video_import import VideoImportConfig, import_video, is_cut, is_imported

__all__ = [
    "FORMAT_VERSION",
    "ClipBatch",
    "ClipSampler",
    "StoredFrames",
    "VideoFile",
    "VideoFileError",
    "VideoImportConfig",
    "VideoWriter",
    "check_same_source",
    "import_video",
    "is_cut",
    "is_imported",
    "write_latent_actions",
]
