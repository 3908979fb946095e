"""How the sighted expert learns from reward: PPO (Stable-Baselines3) in CoinRun without its pictures. It begins as an apprentice, or as
another of its kind.

From nothing, in a first attempt, PPO learned more slowly and did not brake; the planner's apprentice (`apprentice`) knows when that pays,
but commits itself to its moves.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import gymnasium
import torch
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.vec_env import VecMonitor
from torch import Tensor

from genie_agents.experts.compiled_coinrun import CompiledCoinRun
from genie_agents.experts.game_state import GameState
from genie_agents.experts.players import PPO_CHECKPOINT
from genie_agents.experts.ppo import PretrainedActorCritic, TimeLimit, save
from genie_agents.experts.sighted import SightedPolicy, ViewFeatures
from genie_agents.sb3 import GymnasiumVecEnv
from world_model.serialization import save_model


class SightedExtractor(BaseFeaturesExtractor):
    """What actor and critic share, as a Stable-Baselines3 features extractor."""

    def __init__(self, observation_space: gymnasium.spaces.Box, features: ViewFeatures) -> None:
        super().__init__(observation_space, features.num_features)
        self.features = features

    def forward(self, observations: Tensor) -> Tensor:
        return self.features(observations)


class FadingEntropy(BaseCallback):
    """The price of certainty falls with the learning rate: the expert plays its likeliest keys, and has to be good at that."""

    def __init__(self, begin: float, end: float) -> None:
        super().__init__()
        self.begin, self.end = begin, end

    def _on_rollout_start(self) -> None:
        left = self.model._current_progress_remaining
        self.model.ent_coef = self.end + (self.begin - self.end) * left  # type: ignore[attr-defined]

    def _on_step(self) -> bool:
        return True


class LinearDecay:
    """A learning rate that falls to 2 % of itself."""

    def __init__(self, learning_rate: float) -> None:
        self.learning_rate = learning_rate

    def __call__(self, progress_remaining: float) -> float:
        return self.learning_rate * max(progress_remaining, 0.02)


def train_sighted(
    folder: str | Path,
    policy: SightedPolicy,
    beginnings: Sequence[GameState],
    *,
    total_decisions: int,
    minutes: float,
    num_envs: int,
    decisions_per_rollout: int,
    batch_size: int,
    learning_rate: float,
    seed: int = 0,
    on_rollout: Callable[[int, float], None] | None = None,
) -> SightedPolicy:
    """Let a copy of the policy learn from reward for `minutes`, or until `total_decisions` in all, on levels that `read_levels` gave, and
    save what comes of it in `folder`; called again with the same folder, it goes on where it stopped, with the settings saved there
    (remove it to start anew).

    `on_rollout(decisions so far, mean return of the last 100 episodes)` is called after each rollout of `num_envs` x
    `decisions_per_rollout` decisions, and the checkpoint saved when these have been learned from. The learning rate follows
    `total_decisions`, whenever `minutes` end a call.

    Raises:
        ValueError: no levels, or a policy of another configuration than the expert in the folder.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    policy = deepcopy(policy)
    env = VecMonitor(GymnasiumVecEnv(CompiledCoinRun(beginnings, num_envs, brake_frames=policy.config.brake_frames)))
    with torch.random.fork_rng(devices=[]):  # initial weights come from `seed` and leave the caller's generator alone
        torch.manual_seed(seed)
        if (folder / PPO_CHECKPOINT).is_file():
            model = PPO.load(folder / PPO_CHECKPOINT, env=env, device="cpu")
            learned: Any = model.policy
            if (config := getattr(learned.features_extractor.features, "config", "an earlier version")) != policy.config:
                raise ValueError(
                    f"{folder} holds an expert of {config}, and {policy.config} is to learn: give another folder, or remove it"
                )
        else:
            model = PPO(
                PretrainedActorCritic,
                env,
                learning_rate=LinearDecay(learning_rate),
                n_steps=decisions_per_rollout,
                batch_size=batch_size,
                n_epochs=2,
                gamma=1.0,  # a jump is one decision and a run of the same length 17: discounted, risky leaps would pay
                gae_lambda=0.95,
                policy_kwargs={
                    "actor": policy.head,
                    "features_extractor_class": SightedExtractor,
                    "features_extractor_kwargs": {"features": policy.features},
                    "net_arch": [],
                    "ortho_init": False,
                },
                seed=seed,
                device="cpu",  # a network so small learns no faster elsewhere
            )
        env.seed(seed + model.num_timesteps)  # a resumed run must not meet the same levels again
        decisions_left = total_decisions - model.num_timesteps
        if decisions_left > 0:
            limit = TimeLimit(60 * minutes, folder, on_rollout)
            model.learn(decisions_left, callback=[FadingEntropy(0.01, 0.001), limit], reset_num_timesteps=False)
            if not limit.is_over:  # else the decisions of a rollout that was cut would count, though nothing was learned from them
                save(model, folder)
    trained: Any = model.policy
    policy.features.load_state_dict(trained.features_extractor.features.state_dict())
    policy.head.load_state_dict(trained.action_net.state_dict())
    save_model(folder, policy)
    env.close()
    return policy.eval()
