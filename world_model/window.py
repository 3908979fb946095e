"""A window that shows a world while it is played."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np

FPS = 10  # frames a second, as in the videos of the paper (section 3, Platformers)
WINDOW_PIXELS = 512  # small frames are scaled up to about this size


class Window:
    """A pygame window, opened with the first picture, that shows no more than `FPS` pictures a second."""

    def __init__(self) -> None:
        try:
            import pygame  # here, because it is an optional extra
        except ImportError as error:
            raise gymnasium.error.DependencyNotInstalled('render_mode "human" needs pygame: pip install "genie-agents[play]"') from error
        self._pygame, self._clock = pygame, pygame.time.Clock()
        self._screen: Any = None

    def show(self, picture: np.ndarray) -> None:
        pygame, (height, width) = self._pygame, picture.shape[:2]
        if self._screen is None:
            scale = max(1, WINDOW_PIXELS // max(height, width))
            pygame.display.init()
            pygame.display.set_caption("Genie")
            self._screen = pygame.display.set_mode((width * scale, height * scale))
        surface = pygame.surfarray.make_surface(picture.swapaxes(0, 1))
        self._screen.blit(pygame.transform.scale(surface, self._screen.get_size()), (0, 0))
        pygame.event.pump()
        pygame.display.flip()
        self._clock.tick(FPS)

    def close(self) -> None:
        if self._screen is not None:
            self._pygame.display.quit()
            self._screen = None
