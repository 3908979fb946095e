"""Any picture can begin a world: it is fitted, not distorted, and what is no picture is refused."""

import numpy as np
import pytest
from PIL import Image
from random_world import picture

from world_model.prompts import fit_prompt


def test_frames_of_the_models_size_stay_as_they_are():
    frames = np.stack([picture(12, 20, seed) for seed in range(3)])
    np.testing.assert_array_equal(fit_prompt(frames, 12, 20), frames)


@pytest.mark.parametrize(("height", "width"), [(1, 1), (7, 300), (300, 7), (64, 64), (90, 160), (500, 400)])
def test_pictures_of_any_size_are_fitted_and_not_distorted(height, width):
    assert fit_prompt(picture(height, width), 16, 24).shape == (1, 16, 24, 3)


def test_a_circle_stays_round():
    rows, columns = np.ogrid[:300, :500]
    circle = np.repeat((np.hypot(rows - 150, columns - 250) < 75)[..., None] * np.uint8(255), 3, axis=-1)
    inside = fit_prompt(circle, 64, 64)[0, ..., 0] > 127
    assert inside.any(axis=1).sum() == inside.any(axis=0).sum() == 32


def test_fine_detail_is_averaged_and_does_not_flicker():
    checkers = np.repeat((np.indices((256, 256)).sum(axis=0) % 2 * 255).astype(np.uint8)[..., None], 3, axis=-1)
    assert np.abs(fit_prompt(checkers, 16, 16).astype(int) - 127).max() <= 2


def test_a_photo_held_sideways_is_turned_upright(tmp_path):
    upright = np.zeros((40, 40, 3), np.uint8)
    upright[:20] = 200  # the sky
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held so that the picture must be turned clockwise
    Image.fromarray(np.rot90(upright)).save(tmp_path / "photo.png", exif=exif)
    np.testing.assert_array_equal(fit_prompt(tmp_path / "photo.png", 40, 40)[0], upright)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "HSV", "I;16"])
def test_every_colour_mode_becomes_rgb(mode):
    grey = Image.fromarray(np.full((30, 20), 65535, np.uint16))
    white = grey if mode == "I;16" else Image.new("RGB", (20, 30), "white").convert(mode)
    assert white.mode == mode
    np.testing.assert_array_equal(fit_prompt(white, 16, 16), np.full((1, 16, 16, 3), 255))


def test_numbers_without_a_range_are_no_picture(tmp_path):
    for dtype in (np.int32, np.float32):
        with pytest.raises(ValueError, match="has no set range"):
            fit_prompt(Image.fromarray(np.full((30, 20), 200, dtype)), 16, 16)
    Image.fromarray(np.full((30, 20), 65535, np.uint16)).save(tmp_path / "grey.png")  # mode I or I;16, as Pillow's version reads it
    assert fit_prompt(tmp_path / "grey.png", 16, 16).min() == 255


def test_what_is_transparent_lies_on_white(tmp_path):
    sketch = np.zeros((16, 16, 4), np.uint8)
    sketch[:8, :, 3] = 255  # black ink above, nothing below
    expected = np.repeat(np.where(np.arange(16) < 8, 0, 255), 16 * 3).reshape(16, 16, 3)
    Image.fromarray(sketch).save(tmp_path / "sketch.png")
    np.testing.assert_array_equal(fit_prompt(str(tmp_path / "sketch.png"), 16, 16)[0], expected)
    palette = Image.fromarray(np.where(np.arange(256).reshape(16, 16) < 128, 0, 1).astype(np.uint8)).convert("P")
    palette.info["transparency"] = 1
    np.testing.assert_array_equal(fit_prompt(palette, 16, 16)[0], expected)


def test_a_file_that_is_no_picture_is_named(tmp_path):
    (tmp_path / "notes.txt").write_text("no picture")
    Image.fromarray(picture(100, 100)).save(tmp_path / "cut.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "cut.png").read_bytes()[:1000])
    for name in ("notes.txt", "cut.png", ""):
        with pytest.raises(ValueError, match=str(tmp_path / name)):
            fit_prompt(tmp_path / name, 16, 16)
    with pytest.raises(FileNotFoundError, match="no picture at .*missing.png: check the path"):
        fit_prompt(tmp_path / "missing.png", 16, 16)
