"""PPO by Stable-Baselines3 with an IMPALA encoder: an expert for any Procgen game, learned from reward."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import gymnasium
import numpy as np
import torch
from stable_baselines3 import PPO
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.preprocessing import is_image_space
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from torch import Tensor, nn

from genie_agents.action_mapping import draw
from genie_agents.coinrun import DEMONSTRATION_LEVELS, ProcgenEnv, make_sb3_vec_env
from genie_agents.experts.players import PPO_CHECKPOINT
from genie_agents.policy import ImpalaEncoder
from world_model.files import replace_when_written


class ImpalaExtractor(BaseFeaturesExtractor):
    """The IMPALA encoder as a Stable-Baselines3 features extractor (which hands it images (B, C, H, W) in [0, 1])."""

    def __init__(self, observation_space: gymnasium.spaces.Box, channels: tuple[int, ...] = (16, 32, 32), features_dim: int = 256) -> None:
        super().__init__(observation_space, features_dim)
        in_channels, image_size, _ = observation_space.shape
        self.encoder = ImpalaEncoder(in_channels=in_channels, image_size=image_size, channels=channels)
        self.linear = torch.nn.Linear(self.encoder.num_features, features_dim)

    def forward(self, observations: Tensor) -> Tensor:
        return torch.relu(self.linear(self.encoder(observations)))


class PretrainedActorCritic(ActorCriticPolicy):
    """Stable-Baselines3's policy whose `actor`, the layers that follow the features, is given; its critic is a new layer on the same
    features."""

    def __init__(self, *arguments: Any, actor: nn.Module, **options: Any) -> None:
        self._actor = [actor]  # in a list: a module cannot hold another before its own initialisation
        super().__init__(*arguments, **options)

    def _build(self, lr_schedule: Callable[[float], float]) -> None:
        super()._build(lr_schedule)
        self.action_net = self._actor.pop()
        nn.init.zeros_(self.value_net.weight)
        self.optimizer = torch.optim.Adam(self.parameters(), lr=lr_schedule(1), eps=1e-5)  # anew: the actor has changed


class TimeLimit(BaseCallback):
    """Stop after so many seconds, save after each update, and report (steps so far, mean return of the last 100 episodes)."""

    def __init__(self, seconds: float, folder: Path, on_rollout: Callable[[int, float], None] | None) -> None:
        super().__init__()
        self.deadline = time.monotonic() + seconds
        self.folder, self.on_rollout = folder, on_rollout
        self.is_over = False

    def _on_step(self) -> bool:
        self.is_over = time.monotonic() >= self.deadline
        return not self.is_over

    def _on_rollout_start(self) -> None:
        save(self.model, self.folder)  # when a rollout ends, what it teaches has not been learned yet

    def _on_rollout_end(self) -> None:
        if self.on_rollout is not None:
            returns = [episode["r"] for episode in self.model.ep_info_buffer or ()]
            self.on_rollout(self.num_timesteps, float(np.mean(returns)) if returns else float("nan"))


def save(model: BaseAlgorithm, folder: Path) -> None:
    with replace_when_written(folder / PPO_CHECKPOINT) as temporary, temporary.open("wb") as file:  # a name would get another suffix
        model.save(file)


def procgen_settings(num_envs: int, steps_per_rollout: int) -> dict[str, Any]:
    """Settings of PPO from the Procgen paper (Cobbe et al. 2020, appendix D), but for the learning rate."""
    batch_size = max(num_envs * steps_per_rollout // 8, 2)
    return {"n_steps": steps_per_rollout, "batch_size": batch_size, "n_epochs": 3, "gamma": 0.999, "gae_lambda": 0.95, "ent_coef": 0.01}


def train_ppo(
    folder: str | Path,
    *,
    minutes: float,
    total_steps: int = 25_000_000,
    game: str = "coinrun",
    difficulty: str = "easy",
    level_seeds: Sequence[int] = DEMONSTRATION_LEVELS,
    num_envs: int = 64,
    steps_per_rollout: int = 256,
    seed: int = 0,
    device: str = "auto",
    on_rollout: Callable[[int, float], None] | None = None,
) -> PPO:
    """Train for `minutes`, or until `total_steps` in all; called again with the same folder, it goes on where it
    stopped, with the `steps_per_rollout` and `seed` saved there (remove it to start anew).

    Hyper-parameters are `procgen_settings` at the paper's learning rate. The model is saved after every update; a rollout that
    the end of the time cuts is played again, so that `minutes` must be enough for one.

    Raises:
        ValueError: the folder holds a model that learned another game or difficulty.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    env = make_sb3_vec_env(num_envs, game, difficulty=difficulty, level_seeds=level_seeds)
    if (folder / PPO_CHECKPOINT).is_file():
        model = PPO.load(folder / PPO_CHECKPOINT, env=env, device=device)
        learned = vars(model).get("game_learned", [game, difficulty])  # older models do not say it
        if learned != [game, difficulty]:
            raise ValueError(f"{folder} holds a model that learned {' '.join(learned[::-1])}, not {difficulty} {game}: give another folder")
        # Levels are drawn by the environments' own generators: a resumed run must not meet the same levels again.
        env.seed(seed + model.num_timesteps)
    else:
        model = PPO(
            "CnnPolicy",
            env,
            learning_rate=5e-4,
            **procgen_settings(num_envs, steps_per_rollout),
            policy_kwargs={"features_extractor_class": ImpalaExtractor, "net_arch": [], "normalize_images": True},
            seed=seed,
            device=device,
        )
    vars(model)["game_learned"] = [game, difficulty]  # Stable-Baselines3 saves all attributes
    steps_left = total_steps - model.num_timesteps
    if steps_left > 0:
        limit = TimeLimit(60 * minutes, folder, on_rollout)
        model.learn(steps_left, callback=limit, reset_num_timesteps=False)
        if not limit.is_over:  # else the steps of a rollout that was cut would count, though nothing was learned from them
            save(model, folder)
    env.close()
    return model


class PPOExpert:
    """A trained PPO policy as an expert for demonstrations; samples its actions, by `seed`.

    Raises ValueError for a damaged file, for a model that sees something else than one frame, as those of train_sighted.py and of
    fine-tuning do, or that learned another game.
    """

    def __init__(self, folder: str | Path, seed: int = 0, game: str = "coinrun") -> None:
        # With the saved seed, loading would restart the random generators of the whole program.
        try:
            self.model = PPO.load(Path(folder) / PPO_CHECKPOINT, device="cpu", custom_objects={"seed": None})
        except (BadZipFile, ValueError) as error:
            raise ValueError(f"{Path(folder) / PPO_CHECKPOINT} is damaged ({error}): train the expert again") from error
        self._generator = np.random.default_rng(seed)
        learned, *_ = vars(self.model).get("game_learned", [game])  # older models do not say it
        if learned != game:
            raise ValueError(f"{folder} holds a model that learned {learned}, and {game} is to be played: give another folder")
        space = self.model.observation_space
        if not is_image_space(space):
            raise ValueError(
                f"{folder} holds a model that sees {space.shape}, not the frame of a game: give the folder of a finished train_sighted.py, "
                "or of train_ppo.py"
            )

    def begin(self, env: ProcgenEnv) -> bool:
        return True

    @torch.inference_mode()
    def act(self, obs: np.ndarray) -> int:
        distribution = self.model.policy.get_distribution(self.model.policy.obs_to_tensor(obs)[0]).distribution
        assert isinstance(distribution, torch.distributions.Categorical)  # as all games' actions are discrete
        return int(draw(distribution.logits.numpy(), self._generator, temperature=1.0)[0])
