"""The script that makes HDF5 videos of ordinary ones, through its command line."""

import json
import sys

import numpy as np
from evaluate_video_import import write_video
from scripts import refuse, run, say

from world_model.data import VideoFile


def test_videos_are_imported_once_and_what_cannot_be_read_is_named_at_the_end(tmp_path):
    frames = np.random.default_rng(0).integers(0, 256, (2, 40, 48, 32, 3), dtype=np.uint8)
    good, other, bad = (tmp_path / name for name in ("good.mkv", "other.mkv", "bad.mp4"))
    for path, clip in ((good, frames[0]), (other, frames[1])):
        write_video(path, clip, range(0, 2000, 50))
    bad.write_text("words")
    arguments = (good, bad, other, "--output", tmp_path / "videos", "--height", "24", "--width", "16", "--cut-threshold", "None")
    result = run("import_videos.py", *arguments)
    assert result.returncode == 1 and "Traceback" not in result.stderr, result.stderr
    assert result.stderr.rstrip().splitlines()[-1].startswith(f"{bad} cannot be read as a video"), result.stderr
    assert f"| {tmp_path / 'videos' / 'good.h5'} | 1 | 20 |" in result.stdout and "other.h5 | 1 | 20 |" in result.stdout
    with VideoFile(tmp_path / "videos" / "good.h5") as video:
        assert video.frame_shape == (24, 16, 3) and video.num_frames == 20
    assert (tmp_path / "videos" / "good.png").read_bytes()[:4] == b"\x89PNG"
    assert sorted(path.name for path in (tmp_path / "videos").iterdir()) == ["good.h5", "good.png", "other.h5", "other.png"]

    before = (tmp_path / "videos" / "good.h5").stat().st_mtime_ns
    again = say("import_videos.py", good, *arguments[3:])
    assert again.returncode == 0 and "good.h5 | 1 | 20 |" in again.stdout, again.stderr
    assert (tmp_path / "videos" / "good.h5").stat().st_mtime_ns == before, "a video was read again"
    other_rate = say("import_videos.py", good, *arguments[3:], "--frames-per-second", "20")
    assert "good.h5 | 1 | 40 |" in other_rate.stdout, other_rate.stderr


def test_cuts_between_levels_are_counted(tmp_path):
    arguments = ("--games", "climber", "--difficulties", "easy", "--levels", "3", "--max-steps", "5", "--output", tmp_path)
    counted = say("evaluate_video_import.py", *arguments, "--thresholds", "0.01", "14", "255")
    assert counted.returncode == 0, counted.stderr
    (count,) = json.loads((tmp_path / "results.json").read_text())["counts"].values()
    found = {float(threshold): tuple(of.values()) for threshold, of in count["thresholds"].items()}
    assert count["cuts"] == 2 and found[255.0] == (0, 0) and found[14.0][0] > 0 and found[0.01][0] == 2 and found[0.01][1] > 0
    assert "| all | 2 |" in counted.stdout
    assert "play 2" in refuse("evaluate_video_import.py", "--levels", "1")
    assert "choose of" in refuse("evaluate_video_import.py", "--games", "pong")


def test_without_its_library_it_says_how_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    (tmp_path / "a.mp4").write_text("words")
    assert 'pip install "genie-agents[video]"' in refuse("import_videos.py", tmp_path / "a.mp4", "--output", tmp_path / "videos")


def test_bad_options_are_refused(tmp_path):
    assert "videos is empty" in refuse("import_videos.py")
    assert "two videos would become" in refuse("import_videos.py", "a/play.mp4", "b/play.mkv", "--output", tmp_path)
    assert "frames_per_second is 0" in refuse("import_videos.py", "a.mp4", "--frames-per-second", "0", "--output", tmp_path)
    assert f"no video at {tmp_path / 'none.mp4'}" in refuse("import_videos.py", tmp_path / "none.mp4", "--output", tmp_path / "videos")
