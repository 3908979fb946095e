"""Stable-Baselines3 on environments that compute all their worlds in one batch.

envs = gymnasium.make_vec("Genie-v0", num_envs=64, autoreset_mode=AutoresetMode.SAME_STEP)
PPO("CnnPolicy", VecMonitor(GymnasiumVecEnv(envs))).learn(100_000)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gymnasium
import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.wrappers.vector import DictInfoToList
from stable_baselines3.common.vec_env import VecEnv
from stable_baselines3.common.vec_env.base_vec_env import VecEnvIndices, VecEnvObs, VecEnvStepReturn


class GymnasiumVecEnv(VecEnv):
    """Any Gymnasium vector environment in SAME_STEP mode as a Stable-Baselines3 `VecEnv`.

    As in SB3's own, an episode's last `info` holds `terminal_observation`, every `info` says in `TimeLimit.truncated` whether time ran
    out, and `reset_infos` are those of the newest episodes. The batch has no environments inside it: attributes and methods are
    those of the whole batch, the same for every index.

    Raises ValueError for a vector environment in another autoreset mode.
    """

    def __init__(self, envs: VectorEnv[Any, Any, Any]) -> None:
        if envs.metadata.get("autoreset_mode") != AutoresetMode.SAME_STEP:
            raise ValueError("Stable-Baselines3 needs episodes reset in the step that ends them: autoreset_mode=AutoresetMode.SAME_STEP")
        self.envs = envs
        self._list_infos = DictInfoToList(envs)
        self._actions: np.ndarray | None = None
        super().__init__(envs.num_envs, envs.single_observation_space, envs.single_action_space)

    def reset(self) -> VecEnvObs:
        options = self._options[0]
        if any(other is not options and (other or options) for other in self._options):
            raise ValueError("the worlds of one batch share their options: give set_options one dictionary, not one for each")
        obs, self.reset_infos = self._list_infos.reset(seed=self._seeds, options=options or None)  # type: ignore
        self._reset_seeds()
        self._reset_options()
        return obs

    def step_async(self, actions: np.ndarray) -> None:
        self._actions = actions

    def step_wait(self) -> VecEnvStepReturn:
        obs, rewards, terminations, truncations, infos = self._list_infos.step(self._actions)
        dones = np.logical_or(terminations, truncations)
        for env in np.flatnonzero(dones):
            final_obs, final_info = infos[env].pop("final_obs"), infos[env].pop("final_info")
            self.reset_infos[env], infos[env] = infos[env], final_info | {"terminal_observation": final_obs}
        for info, terminated, truncated in zip(infos, terminations, truncations, strict=True):
            info["TimeLimit.truncated"] = bool(truncated and not terminated)
        return obs, np.asarray(rewards, dtype=np.float32), dones, infos

    def close(self) -> None:
        self.envs.close()

    def get_images(self) -> Sequence[np.ndarray | None]:
        images: Any = self.envs.render()
        return [None] * self.num_envs if images is None else list(images)

    def get_attr(self, attr_name: str, indices: VecEnvIndices = None) -> list[Any]:
        return [getattr(self.envs, attr_name) for _ in self._get_indices(indices)]

    def set_attr(self, attr_name: str, value: Any, indices: VecEnvIndices = None) -> None:
        if indices is not None:
            raise ValueError(f"the worlds of one batch share {attr_name}: set it without indices")
        setattr(self.envs, attr_name, value)

    def env_method(self, method_name: str, *method_args: Any, indices: VecEnvIndices = None, **method_kwargs: Any) -> list[Any]:
        result = getattr(self.envs, method_name)(*method_args, **method_kwargs)
        return [result for _ in self._get_indices(indices)]

    def env_is_wrapped(self, wrapper_class: type[gymnasium.Wrapper], indices: VecEnvIndices = None) -> list[bool]:
        return [False for _ in self._get_indices(indices)]
