"""Learned worlds behind Gymnasium's interface: GenieEnv is one world, GenieVectorEnv is N worlds computed in one batch.

A world's draws come from its own seed, so world i of `GenieVectorEnv.reset(seed=s)` shows the frames of `GenieEnv.reset(seed=s + i)`.

Shape key: N worlds, T tokens of a frame, H x W x 3 a frame.
"""

from __future__ import annotations

import math
import string
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium.utils import seeding
from gymnasium.vector import AutoresetMode
from gymnasium.vector.utils import batch_space

from world_model.genie import Genie
from world_model.maskgit import SamplingConfig
from world_model.worlds import METADATA, GenieState, Worlds

KEYS = string.digits + string.ascii_lowercase  # the key that plays each latent action


class GenieEnv(gymnasium.Env[np.ndarray, np.int64]):
    """One learned world. Observations (H, W, 3) uint8; one discrete action per latent action of the model.

    `model` is a Genie, a folder that it was saved in or the name of one that ships. `sampling` overrides the model's own settings.
    `reward_fn(previous_frame, latent_action, frame)` gives the reward, 0 without one. `device="auto"` picks CUDA where there is one; a
    Genie that is given stays where it is.

    `reset` begins from `options={"prompt": ...}`: a path to any picture, a PIL image, a frame (H', W', 3) uint8 or several
    (P, H', W', 3), of any size (see `fit_prompt`); else from one of the model's own prompts or, where it holds none, from the last that it
    was given. `info` holds the `tokens` (T,) int64 of the frame, the `latent_action` that led to it (-1 after reset) and its `confidence`,
    the mean probability of its tokens.
    A learned world does not know when it ends: `terminated` is always False, and `gymnasium.make` sets the time limit.

    Raises:
        FileNotFoundError, ValueError: no such model, or a damaged one; an unknown render_mode.
        gymnasium.error.DependencyNotInstalled: render_mode "human" without pygame.
    """

    metadata = METADATA

    def __init__(
        self,
        model: str | Path | Genie = "coinrun-small",
        *,
        sampling: SamplingConfig | None = None,
        reward_fn: Callable[[np.ndarray, int, np.ndarray], float] | None = None,
        render_mode: str | None = None,
        device: str | torch.device = "auto",
    ) -> None:
        self._worlds = Worlds(model, 1, sampling, render_mode, device)
        self.reward_fn, self.render_mode = reward_fn, render_mode
        self.observation_space, self.action_space = self._worlds.observation_space, self._worlds.action_space

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        prompt = _check_options(options, "prompt").get("prompt")
        self._worlds.random = [self.np_random]
        frame = self._worlds.reset(np.ones(1, dtype=bool), None if prompt is None else [prompt])[0]
        self._worlds.show()
        return frame, self._info()

    def step(self, action: int | np.integer[Any]) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        if not self.action_space.contains(action):
            raise ValueError(f"an action is one whole number in 0 ... {self._worlds.action_space.n - 1}, got {action!r}")
        before = self._worlds.frames[0]
        frame = self._worlds.step(np.array([action]))[0]
        reward = 0.0 if self.reward_fn is None else float(self.reward_fn(before, int(action), frame))
        self._worlds.show()
        return frame, reward, False, False, self._info()

    def render(self) -> np.ndarray | None:
        self._worlds.show()
        return self._worlds.frames[0] if self.render_mode == "rgb_array" else None

    def close(self) -> None:
        self._worlds.close()

    def get_keys_to_action(self) -> dict[tuple[int, ...], int]:
        """Keys for `gymnasium.utils.play`: 0 to 9, then a to z. No key is at rest, so play with `wait_on_player=True`."""
        return {(ord(key),): action for action, key in zip(range(int(self._worlds.action_space.n)), KEYS, strict=False)}

    def get_action_meanings(self) -> list[str]:
        """What each latent action does, in words, as Atari's environments say it: see `GenieConfig.action_meanings`."""
        return list(self._worlds.rollout.genie.action_meanings)

    def get_state(self) -> GenieState:
        """The world as it is now. A TimeLimit around this environment counts on by itself."""
        return self._worlds.get_state()

    def set_state(self, state: GenieState) -> np.ndarray:
        """Return to a saved state of an environment with the same model, and to its observation. What `gymnasium.make` wraps it in asks for
        a `reset()` before the first `step()` all the same."""
        self._worlds.random = [self.np_random]
        return self._worlds.set_state(state)[0]

    def _info(self) -> dict[str, Any]:
        info = self._worlds.info()
        return {
            "tokens": info["tokens"][0],
            "latent_action": int(info["latent_action"][0]),
            "confidence": float(info["confidence"][0]),
        }


class GenieVectorEnv(gymnasium.vector.VectorEnv[np.ndarray, np.ndarray, np.ndarray]):
    """`num_envs` learned worlds in one batch; see GenieEnv for the settings that both have.

    `reward_fn` gets batches, (N, H, W, 3), (N,) and (N, H, W, 3), and gives rewards (N,). Worlds are truncated after
    `max_episode_steps` (None: never) and reset as `autoreset_mode` says. The options of `reset` are `prompt`, one for all worlds or a
    list of N, and `reset_mask` (N,) bool: which worlds to reset.
    """

    def __init__(
        self,
        num_envs: int = 1,
        model: str | Path | Genie = "coinrun-small",
        *,
        sampling: SamplingConfig | None = None,
        reward_fn: Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray] | None = None,
        max_episode_steps: int | None = None,
        autoreset_mode: AutoresetMode | str = AutoresetMode.NEXT_STEP,
        render_mode: str | None = None,
        device: str | torch.device = "auto",
    ) -> None:
        if max_episode_steps is not None and max_episode_steps < 1:
            raise ValueError(f"max_episode_steps is {max_episode_steps}; give 1 or more, or None for no limit")
        self.autoreset_mode = AutoresetMode(autoreset_mode)
        self._worlds = Worlds(model, num_envs, sampling, render_mode, device)
        self.num_envs, self.reward_fn, self.render_mode = num_envs, reward_fn, render_mode
        self.metadata = {**METADATA, "autoreset_mode": self.autoreset_mode}
        self.max_episode_steps = max_episode_steps
        self.single_observation_space, self.single_action_space = self._worlds.observation_space, self._worlds.action_space
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)

    @property  # type: ignore[misc]
    def np_random(self) -> tuple[np.random.Generator, ...]:  # type: ignore[override]
        """Each world's own generator, as `gymnasium.vector.SyncVectorEnv` gives them."""
        return tuple(self._worlds.random)

    @property
    def np_random_seed(self) -> tuple[int, ...]:  # type: ignore[override]
        """The seed of each world's generator, -1 where it is not known."""
        return tuple(self._worlds.random_seeds)

    def reset(
        self, *, seed: int | Sequence[int | None] | np.ndarray | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Begin the worlds anew: world i draws from seed + i, or from seed[i]; without a seed each goes on with its own draws."""
        options = _check_options(options, "prompt", "reset_mask")
        mask = self._reset_mask(options.get("reset_mask"))
        prompts = self._prompts(options.get("prompt"))
        for world, world_seed in enumerate(self._seeds(seed)):
            if mask[world] and world_seed is not None:
                self._worlds.random[world], self._worlds.random_seeds[world] = seeding.np_random(world_seed)
        frames = self._worlds.reset(mask, prompts)
        self._worlds.show()
        return frames, self._infos(mask)

    def step(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        worlds, waiting, infos = self._worlds, self._ended(), {}
        if waiting.any() and self.autoreset_mode == AutoresetMode.DISABLED:
            which = np.flatnonzero(waiting).tolist()
            raise gymnasium.error.ResetNeeded(f"the episodes of worlds {which} have ended; reset them with options={{'reset_mask': ...}}")
        frames, rewards = worlds.frames, np.zeros(self.num_envs)
        if not waiting.all():  # worlds that wait for their reset are stepped along, in vain
            before, frames = frames, worlds.step(actions)
            if self.reward_fn is not None:
                rewards = np.where(waiting, 0.0, self._check_rewards(self.reward_fn(before, np.asarray(actions), frames)))
        if waiting.any():
            frames = worlds.reset(waiting)
        ended = self._ended()
        if ended.any() and self.autoreset_mode == AutoresetMode.SAME_STEP:
            final_obs = np.full(self.num_envs, None, dtype=object)
            for world in np.flatnonzero(ended):
                final_obs[world] = frames[world].copy()  # a view would keep all worlds' frames in memory
            infos = {"final_obs": final_obs, "_final_obs": ended.copy(), "final_info": self._infos(ended), "_final_info": ended.copy()}
            frames = worlds.reset(ended)
        infos |= self._infos(np.ones(self.num_envs, dtype=bool))
        worlds.show()
        return frames, rewards, np.zeros(self.num_envs, dtype=bool), ended, infos

    def render(self) -> tuple[np.ndarray, ...] | None:
        self._worlds.show()
        return tuple(self._worlds.frames) if self.render_mode == "rgb_array" else None

    def close_extras(self, **kwargs: Any) -> None:
        if hasattr(self, "_worlds"):  # Gymnasium before 1.3 also closes what could not be built
            self._worlds.close()

    def get_action_meanings(self) -> list[str]:
        """What each latent action does, in words: see `GenieConfig.action_meanings`."""
        return list(self._worlds.rollout.genie.action_meanings)

    def get_state(self) -> GenieState:
        """All worlds as they are now, with their step counts and random generators."""
        return self._worlds.get_state()

    def set_state(self, state: GenieState) -> np.ndarray:
        """Return to a saved state of an environment with as many worlds of the same model, and to its observations."""
        return self._worlds.set_state(state)

    def _ended(self) -> np.ndarray:
        return self._worlds.elapsed_steps >= (math.inf if self.max_episode_steps is None else self.max_episode_steps)

    def _infos(self, mask: np.ndarray) -> dict[str, Any]:
        """The infos of the worlds in `mask`, as Gymnasium's vector environments give them: zeros elsewhere, and the mask as `_key`."""
        infos: dict[str, Any] = {}
        for key, values in self._worlds.info().items():
            values[~mask] = 0
            infos |= {key: values, f"_{key}": mask.copy()}
        return infos

    def _seeds(self, seed: int | Sequence[int | None] | np.ndarray | None) -> Sequence[int | None]:
        if seed is None or isinstance(seed, int | np.integer):
            return [None if seed is None else int(seed) + world for world in range(self.num_envs)]
        if len(seed) != self.num_envs:
            raise ValueError(f"got {len(seed)} seeds for {self.num_envs} worlds; give one for each, or one number for all")
        return [None if world_seed is None else int(world_seed) for world_seed in seed]  # Gymnasium refuses NumPy's integers

    def _reset_mask(self, mask: Any) -> np.ndarray:
        if mask is None:
            return np.ones(self.num_envs, dtype=bool)
        if not isinstance(mask, np.ndarray) or mask.shape != (self.num_envs,) or mask.dtype != np.bool_ or not mask.any():
            raise ValueError(f"reset_mask must be a NumPy array of {self.num_envs} booleans, at least one of them True, got {mask!r}")
        return mask

    def _prompts(self, prompt: Any) -> list[Any] | None:
        if prompt is None:
            return None
        if not isinstance(prompt, list | tuple) and getattr(prompt, "ndim", 0) != 5:
            if getattr(prompt, "ndim", 0) == 4 and len(prompt) == self.num_envs > 1:
                raise ValueError(
                    f"{self.num_envs} frames for {self.num_envs} worlds may be a clip for all or a picture for each: "
                    "give [clip] * num_envs or list(pictures)"
                )
            return [prompt] * self.num_envs
        if len(prompt) != self.num_envs:
            raise ValueError(
                f"got {len(prompt)} prompts for {self.num_envs} worlds; give one for each, or one that is not in a list for all"
            )
        return list(prompt)

    def _check_rewards(self, rewards: Any) -> np.ndarray:
        rewards = np.asarray(rewards, dtype=np.float64)
        if rewards.shape != (self.num_envs,):
            raise ValueError(f"reward_fn gave rewards of shape {rewards.shape}; it gets batches and must return one reward a world")
        return rewards


def _check_options(options: dict[str, Any] | None, *known: str) -> dict[str, Any]:
    """The options of a reset; ValueError where one is misspelt, which would begin another world than was asked for."""
    if options is not None and (not isinstance(options, dict) or set(options) - set(known)):
        raise ValueError(f"the options of reset are a dictionary with {' and '.join(known)}, got {options!r}")
    return options or {}
