"""Percent of levels solved in the real game: all levels are played at once, the network sees one batch of the games still running."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from scipy import stats

from genie_agents.action_mapping import FrameMapping, LatentToRealMapping, draw
from genie_agents.coinrun import NUM_ACTIONS, ProcgenEnv
from genie_agents.policy import Policy
from world_model.precision import bf16_autocast


class Agent(Protocol):
    """Plays many games side by side; `games` (n,) says which of them the observations (n, 64, 64, 3) belong to."""

    def begin(self, num_games: int, seed: int) -> None: ...

    def act(self, obs: np.ndarray, games: np.ndarray) -> np.ndarray:
        """Real actions (n,)."""
        ...


class RandomAgent:
    """Uniform over all 15 actions."""

    def begin(self, num_games: int, seed: int) -> None:
        self._generator = np.random.default_rng(seed)

    def act(self, obs: np.ndarray, games: np.ndarray) -> np.ndarray:
        return self._generator.integers(NUM_ACTIONS, size=len(games))


class ConstantAgent:
    """Always the same action. RIGHT+UP alone solves about two thirds of CoinRun: the baseline that a collapsed policy would reach."""

    def __init__(self, action: int) -> None:
        self.action = action

    def begin(self, num_games: int, seed: int) -> None:
        pass

    def act(self, obs: np.ndarray, games: np.ndarray) -> np.ndarray:
        return np.full(len(games), self.action)


class LastFrames:
    """The last `num_frames` frames of many games that begin together; a game's first frame stands in for its past."""

    def __init__(self, num_frames: int) -> None:
        self.num_frames = num_frames
        self._frames: np.ndarray | None = None

    def push(self, obs: np.ndarray, games: np.ndarray) -> np.ndarray:
        """Add the observations (n, H, W, C) of `games` (n,), at first those of all games, and return their last frames (n, T, H, W, C)."""
        if self._frames is None:
            self._frames = np.repeat(obs[:, None], self.num_frames, axis=1)
        else:
            self._frames[games] = np.concatenate([self._frames[games, 1:], obs[:, None]], axis=1)
        return self._frames[games]


class ClonedAgent:
    """Samples from a cloned policy's logits (Genie, Appendix E), and maps latent to real actions where a mapping is given, both at
    `temperature`."""

    def __init__(self, policy: Policy, mapping: LatentToRealMapping | FrameMapping | None = None, *, temperature: float = 1.0) -> None:
        if temperature < 0:
            raise ValueError(f"temperature is {temperature}; give 0 for the likeliest action, 1 to sample as learned")
        if mapping is None and policy.config.num_actions != NUM_ACTIONS:
            raise ValueError(f"the policy chooses among {policy.config.num_actions} latent actions: give the mapping that names their keys")
        if mapping is not None and policy.config.num_actions != mapping.num_codes:
            raise ValueError(
                f"the policy chooses among {policy.config.num_actions} latent actions and the mapping names keys of {mapping.num_codes}: "
                "give the mapping of its own latent action model"
            )
        self.policy, self.mapping, self.temperature = policy.eval(), mapping, temperature
        self._num_frames = max(policy.config.num_frames, mapping.num_frames if isinstance(mapping, FrameMapping) else 0)
        self._device = next(policy.parameters()).device

    def begin(self, num_games: int, seed: int) -> None:
        self._generator = np.random.default_rng(seed)
        self._frames = LastFrames(self._num_frames)
        self._previous_actions = np.full((num_games, self.policy.config.num_frames), -1)

    @torch.inference_mode()
    def act(self, obs: np.ndarray, games: np.ndarray) -> np.ndarray:
        frames, previous = self._frames.push(obs, games), torch.from_numpy(self._previous_actions[games])
        seen = torch.from_numpy(frames[:, -self.policy.config.num_frames :])
        with bf16_autocast(self._device):
            logits = self.policy(seen.to(self._device), previous.to(self._device))[:, -1].float().cpu().numpy()
        actions = draw(logits, self._generator, self.temperature)
        self._previous_actions[games] = np.concatenate([self._previous_actions[games, 1:], actions[:, None]], axis=1)
        if self.mapping is None:
            return actions
        if isinstance(self.mapping, FrameMapping):
            return self.mapping.sample(actions, frames, self._generator, temperature=self.temperature)
        return self.mapping.sample(actions, self._generator, temperature=self.temperature)


@dataclass(frozen=True)
class Evaluation:
    """solved (L,) bool and steps (L,) played, per level seed."""

    level_seeds: np.ndarray
    solved: np.ndarray
    steps: np.ndarray


def evaluate(
    agent: Agent,
    level_seeds: Sequence[int],
    *,
    difficulty: str,
    seed: int,
    game: str = "coinrun",
    max_steps: int | None = None,
    on_step: Callable[[int, np.ndarray], None] | None = None,
) -> Evaluation:
    """Play each level once, all at once, to its end or for `max_steps`. `on_step(number of games running, all games' observations)`
    serves progress bars and films. Raises ValueError where there is no level."""
    if not len(level_seeds):
        raise ValueError("level_seeds is empty; give at least one level to play")
    envs = [ProcgenEnv(game, difficulty=difficulty) for _ in level_seeds]
    obs = np.stack([env.reset(options={"level_seed": level})[0] for env, level in zip(envs, level_seeds, strict=True)])
    solved, steps = np.zeros(len(envs), dtype=bool), np.zeros(len(envs), dtype=np.int64)
    running = np.arange(len(envs))
    agent.begin(len(envs), seed)
    while len(running) and (max_steps is None or steps.max() < max_steps):
        actions = agent.act(obs[running], running)
        still_running = []
        for game_index, action in zip(running, actions, strict=True):
            obs[game_index], _, terminated, truncated, info = envs[game_index].step(int(action))
            steps[game_index] += 1
            if terminated or truncated:
                solved[game_index] = info["level_solved"]
                envs[game_index].close()
            else:
                still_running.append(game_index)
        running = np.array(still_running, dtype=np.int64)
        if on_step is not None:
            on_step(len(running), obs)
    for env in envs:
        env.close()
    return Evaluation(np.array(level_seeds), solved, steps)


def confidence_interval(percents: Sequence[float], level: float = 0.95) -> tuple[float, float]:
    """Student's t interval for the mean over seeds, as the paper reports it; (nan, nan) for a single seed."""
    if len(percents) < 2:
        return float("nan"), float("nan")
    mean, error = float(np.mean(percents)), float(stats.sem(percents))
    if error == 0:
        return mean, mean
    low, high = stats.t.interval(level, len(percents) - 1, loc=mean, scale=error)
    return float(low), float(high)
