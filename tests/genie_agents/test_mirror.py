"""Which way pictures face, learned without a label."""

import numpy as np
import pytest

from genie_agents.mirror import MirrorClassifier


def draw_players(rng: np.random.Generator, faces_left: np.ndarray) -> np.ndarray:
    """Players of two colours on noise (N, 6, 6, 3) uint8: the bright ones have a brighter face than body, the dark ones a darker one."""
    pictures = rng.integers(100, 140, (len(faces_left), 6, 6, 3), dtype=np.uint8)
    is_bright = rng.random(len(faces_left)) < 0.5
    body, face = np.where(is_bright, 180, 70), np.where(is_bright, 250, 0)
    pictures[:, 2:5, 2:4] = body[:, None, None, None]
    pictures[:, 2, 3] = face[:, None]
    pictures[faces_left] = pictures[faces_left, :, ::-1]
    return pictures


def test_the_few_that_face_the_other_way_look_like_mirror_images():
    rng = np.random.default_rng(0)
    classifier = MirrorClassifier.fit(draw_players(rng, rng.random(5000) < 0.02))
    faces_left = rng.random(2000) < 0.5
    pictures = draw_players(rng, faces_left)
    log_odds = classifier.log_odds(pictures)
    assert ((log_odds > 0) == faces_left).mean() > 0.99
    np.testing.assert_allclose(classifier.log_odds(pictures[:, :, ::-1]), -log_odds, atol=1e-4)
    assert classifier.log_odds(pictures[:0]).shape == (0,)


@pytest.mark.parametrize("shape", [(0, 6, 6, 3), (5, 0, 6, 3), (5, 108)])
def test_what_are_no_pictures_is_refused(shape):
    with pytest.raises(ValueError, match=r"need pictures \(N, H, W, C\), at least one; got shape"):
        MirrorClassifier.fit(np.zeros(shape, np.uint8))
