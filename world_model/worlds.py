"""What GenieEnv and GenieVectorEnv have in common: N worlds of one Genie, told and shown in NumPy.

Shape key: N worlds, T tokens of a frame, H x W x 3 a frame.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch
from einops import rearrange
from gymnasium.utils import seeding

from world_model.genie import Genie
from world_model.maskgit import SamplingConfig
from world_model.prompts import fit_prompt
from world_model.rollout import Rollout, RolloutState
from world_model.window import FPS, Window

METADATA: dict[str, Any] = {"render_modes": ["human", "rgb_array"], "render_fps": FPS}


@dataclass(frozen=True)
class GenieState:
    """Everything an environment needs to go on from here: its worlds, what it counts and what it draws seeds from."""

    rollout: RolloutState
    latent_actions: np.ndarray
    elapsed_steps: np.ndarray
    random: list[Any]
    given: list[np.ndarray | None]


class Worlds:
    """A Rollout, told and shown in NumPy, with what is counted for each world beside it.

    `random` holds each world's NumPy generator, from which every episode's seed is drawn; `elapsed_steps` (N,) is -1 before the first;
    `given` holds the prompt that each world was last given, from which it begins again where the Genie has none of its own.
    """

    def __init__(
        self,
        model: str | Path | Genie,
        num_worlds: int,
        sampling: SamplingConfig | None,
        render_mode: str | None,
        device: str | torch.device,
    ) -> None:
        if render_mode not in (None, *METADATA["render_modes"]):
            raise ValueError(f"unknown render_mode {render_mode!r}; choose 'human', 'rgb_array' or None")
        genie = model if isinstance(model, Genie) else Genie.from_pretrained(model)
        if device != "auto":
            genie = genie.to(device)
        elif genie is not model and torch.cuda.is_available():
            genie = genie.to("cuda")
        if genie.prompts.shape[-1] != 3:
            raise ValueError(f"environments show colour pictures, and this Genie's frames have {genie.prompts.shape[-1]} channels, not 3")
        self.rollout = Rollout(genie, num_worlds, sampling=sampling)
        self.observation_space = gymnasium.spaces.Box(0, 255, genie.prompts.shape[1:], np.uint8)
        self.action_space = gymnasium.spaces.Discrete(genie.num_latent_actions)
        self.random, self.random_seeds = map(list, zip(*(seeding.np_random() for _ in range(num_worlds)), strict=True))
        self.latent_actions = np.full(num_worlds, -1)
        self.elapsed_steps = np.full(num_worlds, -1)
        self.given: list[np.ndarray | None] = [None] * num_worlds
        self._window = Window() if render_mode == "human" else None

    @property
    def frames(self) -> np.ndarray:
        """A copy (N, H, W, 3) of what the worlds look like now."""
        return self.rollout.frames.cpu().numpy().copy()

    def info(self) -> dict[str, np.ndarray]:
        return {
            "tokens": self.rollout.tokens.cpu().numpy().copy(),
            "latent_action": self.latent_actions.copy(),
            "confidence": self.rollout.confidence.mean(dim=-1).double().cpu().numpy(),
        }

    def reset(self, mask: np.ndarray, prompts: list[Any] | None = None) -> np.ndarray:
        """Begin the worlds in `mask` anew, each from its own of the N prompts or from one of the model's; all frames (N, H, W, 3)."""
        chosen, fitted, (height, width) = np.flatnonzero(mask).tolist(), {}, self.rollout.frames.shape[1:3]
        if prompts is None and len(self.rollout.genie.prompts) == 0:
            fitted = {world: prompt for world in chosen if (prompt := self.given[world]) is not None}
            if len(fitted) < len(chosen):
                raise ValueError("this Genie holds no prompts of its own: give a picture to begin from, reset(options={'prompt': ...})")
        if prompts is not None:  # before anything else, so that a refused prompt changes no world
            different = {id(prompts[world]): prompts[world] for world in chosen}  # a picture that many worlds share is read once
            frames = {key: fit_prompt(prompt, height, width) for key, prompt in different.items()}
            fitted = {world: frames[id(prompts[world])] for world in chosen}
        seeds = {world: int(self.random[world].integers(2**63)) for world in chosen}
        self.elapsed_steps[mask] = -1  # until all has gone well
        if mask.all():
            self.rollout.rewind()
        if not fitted:
            self.rollout.reset(seeds=list(seeds.values()), mask=mask.tolist())
        for length in {len(prompt) for prompt in fitted.values()}:  # prompts of different lengths do not stack
            group = [world for world, prompt in fitted.items() if len(prompt) == length]
            members = np.isin(np.arange(len(mask)), group)
            self.rollout.reset(np.stack([fitted[world] for world in group]), seeds=[seeds[world] for world in group], mask=members.tolist())
        for world in chosen:
            self.given[world] = fitted.get(world)
        self.latent_actions[mask], self.elapsed_steps[mask] = -1, 0
        return self.frames

    def step(self, actions: np.ndarray) -> np.ndarray:
        if (self.elapsed_steps < 0).any():
            raise gymnasium.error.ResetNeeded("a world has no first frame yet; call reset() before step()")
        self.rollout.step(actions)
        self.latent_actions = np.array(actions, dtype=np.int64)
        self.elapsed_steps += 1
        return self.frames

    def get_state(self) -> GenieState:
        if (self.elapsed_steps < 0).any():
            raise gymnasium.error.ResetNeeded("there is no world to save yet; call reset() first")
        random = [generator.bit_generator.state for generator in self.random]
        return GenieState(self.rollout.get_state(), self.latent_actions.copy(), self.elapsed_steps.copy(), random, list(self.given))

    def set_state(self, state: GenieState) -> np.ndarray:
        self.rollout.set_state(state.rollout)
        self.latent_actions, self.elapsed_steps = state.latent_actions.copy(), state.elapsed_steps.copy()
        self.given = list(state.given)
        for generator, saved in zip(self.random, state.random, strict=True):
            generator.bit_generator.state = saved
        self.random_seeds = [-1] * len(self.random)  # as Gymnasium says of a generator whose seed is not known
        return self.frames

    def show(self) -> None:
        """Show the worlds in the window, if there is to be one: a single picture, or a square of them."""
        if self._window is not None:
            frames = self.frames
            columns = math.ceil(math.sqrt(len(frames)))
            empty = np.zeros((-len(frames) % columns, *frames.shape[1:]), dtype=np.uint8)
            self._window.show(rearrange(np.concatenate([frames, empty]), "(rows columns) h w c -> (rows h) (columns w) c", columns=columns))

    def close(self) -> None:
        if self._window is not None:
            self._window.close()
