"""A cloned policy improved by reward: PPO (Stable-Baselines3) on the real game, started from what was cloned from video.

LAPO's last stage (Schmidt & Jiang 2024): the latent policy, with its mapping to real actions as a last layer, goes on
learning from a small budget of environment steps. Started from nothing, the same network is the baseline.

Shapes: B games, T frames that the policy sees, K latent actions, A real actions.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium.wrappers import FrameStackObservation
from stable_baselines3 import PPO
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.vec_env import DummyVecEnv, VecMonitor
from torch import Tensor, nn

from genie_agents.action_mapping import LatentToRealMapping, draw
from genie_agents.coinrun import DEMONSTRATION_LEVELS, NUM_ACTIONS, ProcgenEnv
from genie_agents.evaluation import LastFrames
from genie_agents.experts.players import PPO_CHECKPOINT
from genie_agents.experts.ppo import PretrainedActorCritic, TimeLimit, procgen_settings, save
from genie_agents.policy import ImpalaNetwork, NatureNetwork, Policy, stack

CHANCE_OF_UNSEEN = 0.01
"""Share of the chances of each latent action that goes to keys which no labelled sample showed: PPO may still discover them."""


class ClonedFeatures(BaseFeaturesExtractor):
    """The cloned network without its last layer, as a Stable-Baselines3 features extractor."""

    def __init__(self, observation_space: gymnasium.spaces.Box, network: NatureNetwork | ImpalaNetwork, features_dim: int) -> None:
        super().__init__(observation_space, features_dim)
        self.encoder, self.hidden = network.encoder, network.head[:-1]

    def forward(self, observations: Tensor) -> Tensor:
        return self.hidden(self.encoder(stack(observations)))


class LatentHead(nn.Module):
    """Log-chances (B, A) of real actions: those of the latent actions, by the cloned last layer, times the mapping's, both learned on."""

    def __init__(self, last_layer: nn.Module, mapping: LatentToRealMapping) -> None:
        super().__init__()
        self.last_layer = last_layer
        chances = (1 - CHANCE_OF_UNSEEN) * mapping.chances() + CHANCE_OF_UNSEEN / NUM_ACTIONS
        self.log_chances = nn.Parameter(torch.from_numpy(np.log(chances)).float())

    def forward(self, features: Tensor) -> Tensor:
        latent = self.last_layer(features).log_softmax(-1)
        return (latent[:, :, None] + self.log_chances.log_softmax(-1)).logsumexp(dim=1)


class FinetunedAgent:
    """Plays by a fine-tuned model; samples its actions as they were learned, at temperature 1."""

    def __init__(self, model: PPO, num_frames: int) -> None:
        self.model, self.num_frames = model, num_frames

    def begin(self, num_games: int, seed: int) -> None:
        self._generator = np.random.default_rng(seed)
        self._frames = LastFrames(self.num_frames)

    @torch.inference_mode()
    def act(self, obs: np.ndarray, games: np.ndarray) -> np.ndarray:
        frames = torch.from_numpy(self._frames.push(obs, games)).to(self.model.device)
        policy = self.model.policy
        logits = policy.action_net(policy.features_extractor(frames))
        return draw(logits.cpu().numpy(), self._generator, temperature=1.0)


def finetune(
    folder: str | Path,
    policy: Policy,
    mapping: LatentToRealMapping | None,
    *,
    total_steps: int,
    difficulty: str = "easy",
    level_seeds: Sequence[int] = DEMONSTRATION_LEVELS,
    num_envs: int = 64,
    steps_per_rollout: int = 256,
    learning_rate: float = 2.5e-4,
    seed: int = 0,
    device: str | torch.device = "cpu",
    on_rollout: Callable[[int, float], None] | None = None,
) -> FinetunedAgent:
    """Improve `policy` (a Nature or IMPALA network) by PPO for `total_steps` environment steps of CoinRun; `policy` itself changes with it.

    `mapping` belongs to a policy of latent actions; None for one of real actions. `on_rollout(steps, mean return of the last 100
    episodes)` is called after each rollout of `num_envs` x `steps_per_rollout` steps, and the model saved in `folder` when it has learned
    from them. A call that was interrupted goes on from there, with the weights, the mapping and the settings of that model (remove it
    to start anew). Hyper-parameters are `procgen_settings`.

    Raises:
        ValueError: an ST-ViViT policy, which needs its previous actions, or one whose actions are neither the mapping's nor Procgen's.
    """
    network = policy.network
    if not isinstance(network, NatureNetwork | ImpalaNetwork):
        raise ValueError(f"only nature and impala policies can be fine-tuned, not {policy.config.architecture!r}")
    expected = NUM_ACTIONS if mapping is None else mapping.num_codes
    if policy.config.num_actions != expected:
        raise ValueError(
            f"the policy chooses among {policy.config.num_actions} actions, and {expected} are to be mapped to keys: "
            "give a policy of latent actions with its mapping, or one of real actions without"
        )

    def make_env() -> gymnasium.Env[Any, Any]:
        env = ProcgenEnv(difficulty=difficulty, level_seeds=level_seeds)
        return FrameStackObservation(env, policy.config.num_frames, padding_type="reset")

    env = VecMonitor(DummyVecEnv([make_env] * num_envs))
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    if (folder / PPO_CHECKPOINT).is_file():
        model = PPO.load(folder / PPO_CHECKPOINT, env=env, device=device)
    else:
        last_layer = network.head[-1]
        model = PPO(
            PretrainedActorCritic,
            env,
            learning_rate=learning_rate,
            **procgen_settings(num_envs, steps_per_rollout),
            policy_kwargs={
                "actor": last_layer if mapping is None else LatentHead(last_layer, mapping),
                "features_extractor_class": ClonedFeatures,
                "features_extractor_kwargs": {"network": network, "features_dim": policy.config.hidden},
                "net_arch": [],
                "ortho_init": False,
            },
            seed=seed,
            device=device,
        )
    env.seed(seed + model.num_timesteps)  # a resumed run must not meet the same levels again
    steps_left = total_steps - model.num_timesteps
    if steps_left > 0:
        model.learn(steps_left, callback=TimeLimit(math.inf, folder, on_rollout), reset_num_timesteps=False)
        save(model, folder)
    env.close()
    return FinetunedAgent(model, policy.config.num_frames)
