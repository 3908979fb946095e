"""An expert that sees only pictures, taught by the planner, which knows the whole level (AggreVaTe; Ross & Bagnell 2014, section 2).

The apprentice plays CoinRun by running and jumping. Wherever it stands, the planner says what each of its moves would cost, played
well from there on, and the apprentice learns to expect that cost from the picture. What the picture does not show, a saw beyond its
edge, is averaged over all levels that look the same: the apprentice takes the risks that are worth taking and no others, and every
reason that it has can be seen. It learns on the states that its own play leads to.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from genie_agents.coinrun import DEMONSTRATION_LEVELS, ProcgenEnv
from genie_agents.experts.planner import Planner
from genie_agents.experts.run_and_jump import MOVES, RUN, RunAndJump, check_policy, make_teacher
from genie_agents.policy import Policy, PolicyConfig
from world_model.precision import bf16_autocast
from world_model.training import TrainingConfig, train

COST_OF_LOSING = 400.0
"""In the planner's prices, whose unit is a step: what a needless jump or a wait may cost before a risk is the better choice."""
HIGHEST_REGRET = 30.0
"""What a worse move may cost more at most, where neither loses: a long way round is not worth a lost level."""


@dataclass(frozen=True)
class ApprenticeBatch:
    """frames (B, 2, 64, 64, 3) uint8; costs (B, M): of each move above the best one, as a share of the cost of losing; the share of
    the last episodes that were solved."""

    frames: Tensor
    costs: Tensor
    solved: float


def label(planner: Planner, game: RunAndJump) -> np.ndarray | None:
    """costs (M,) of the game's moves in the present state, in 0 ... 1, where 1 says that the teacher finds no way; None where all have 1.

    Against a wall running costs as much as losing: the planner could wait there and jump when it knows that it is safe, but the
    apprentice would wait for ever, as the picture stays the same.
    """
    costs = planner.costs(game.env.get_state().simulator, MOVES[: game.num_moves])
    if game.is_blocked:
        costs[RUN] = np.inf
    if np.isinf(costs).all():
        return None
    regrets = np.minimum(costs - costs.min(), HIGHEST_REGRET) / COST_OF_LOSING
    return np.where(np.isinf(costs), 1.0, regrets).astype(np.float32)


class ApprenticeBatches:
    """Every batch plays one step in all games with the policy as it is, has it labelled, and is drawn from all that is remembered.

    A game in which the teacher finds no way is given up. The memory is not saved: a resumed run fills it anew, on other levels.
    """

    def __init__(
        self,
        policy: Policy,
        *,
        difficulty: str,
        level_seeds: Sequence[int],
        num_envs: int,
        batch_size: int,
        memory_size: int,
        exploration: float,
        seed: int,
    ) -> None:
        if num_envs < 1:
            raise ValueError(f"num_envs is {num_envs}; play at least one game")
        if not 1 <= batch_size <= memory_size:
            raise ValueError(f"batch_size {batch_size} must lie between 1 and memory_size {memory_size}")
        if not 0 <= exploration <= 1:
            raise ValueError(f"exploration is {exploration}; give the share of random moves, from 0 to 1")
        self.policy, self.batch_size, self.exploration, self.seed = policy, batch_size, exploration, seed
        self.difficulty = difficulty
        num_moves = policy.config.num_actions
        self._planner = make_teacher(num_moves)
        envs = [ProcgenEnv(difficulty=difficulty, level_seeds=level_seeds) for _ in range(num_envs)]
        self._envs = [RunAndJump(env, num_moves=num_moves) for env in envs]
        self._frames = np.empty((memory_size, 2, 64, 64, 3), dtype=np.uint8)
        self._costs = np.empty((memory_size, num_moves), dtype=np.float32)
        self.num_states = 0
        self._begin()

    def _begin(self) -> None:
        self._generator = np.random.default_rng((self.seed, self.num_states))
        seeds = self._generator.integers(2**31, size=len(self._envs))
        self._obs = np.stack([env.reset(seed=int(seed))[0] for env, seed in zip(self._envs, seeds, strict=True)])
        self._remembered, self._solved = 0, deque[bool](maxlen=500)

    @torch.inference_mode()
    def _act(self) -> np.ndarray:
        device = next(self.policy.parameters()).device
        logits = self.policy(torch.from_numpy(self._obs).to(device), torch.full((len(self._obs), 2), -1, device=device))[:, -1]
        chosen, drawn = logits.argmax(-1).cpu().numpy(), self._generator.integers(self.policy.config.num_actions, size=len(self._obs))
        return np.where(self._generator.random(len(self._obs)) < self.exploration, drawn, chosen)

    def _play(self) -> None:
        actions = self._act()
        for index, env in enumerate(self._envs):
            costs = label(self._planner, env)
            ended, solved = costs is None, False
            if costs is not None:
                place = self._remembered % len(self._frames)
                self._frames[place], self._costs[place] = self._obs[index], costs
                self._remembered += 1
                self._obs[index], _, terminated, truncated, info = env.step(actions[index])
                ended, solved = terminated or truncated, info["level_solved"]
            if ended:
                self._solved.append(solved)
                self._obs[index] = env.reset()[0]
        self.num_states += len(self._envs)

    def __next__(self) -> ApprenticeBatch:
        self._play()
        while self._remembered < min(8 * self.batch_size, len(self._frames)):
            self._play()
        samples = self._generator.integers(min(self._remembered, len(self._frames)), size=self.batch_size)
        frames, costs = torch.from_numpy(self._frames[samples]), torch.from_numpy(self._costs[samples])
        return ApprenticeBatch(frames, costs, float(np.mean(self._solved or 0)))

    def state_dict(self) -> dict[str, Any]:
        return {"num_states": self.num_states, "difficulty": self.difficulty}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if state["difficulty"] != self.difficulty:
            raise ValueError(f"the checkpoint was trained on {state['difficulty']} levels, not {self.difficulty} ones; give another folder")
        self.num_states = state["num_states"]
        self._begin()


def apprentice_loss(policy: torch.nn.Module, batch: ApprenticeBatch) -> tuple[Tensor, dict[str, Tensor]]:
    """Cross-entropy of the costs, so that the sigmoid of a negated logit comes to be the cost expected of its move."""
    device = next(policy.parameters()).device
    frames, costs = batch.frames.to(device), batch.costs.to(device)
    with bf16_autocast(device):
        logits = policy(frames, torch.full(frames.shape[:2], -1, device=device))[:, -1]
    loss = F.binary_cross_entropy_with_logits(-logits.float(), costs)
    return loss, {"solved": torch.tensor(batch.solved, device=device)}


def train_apprentice(
    folder: str | Path,
    policy_config: PolicyConfig,
    training_config: TrainingConfig,
    *,
    difficulty: str = "easy",
    level_seeds: Sequence[int] = DEMONSTRATION_LEVELS,
    num_envs: int = 32,
    batch_size: int = 256,
    memory_size: int = 200_000,
    exploration: float = 0.1,
    minutes: float | None = None,
    seed: int = 0,
    device: str | torch.device = "cpu",
    on_step: Callable[[int, dict[str, Tensor]], None] | None = None,
) -> Policy:
    """Teach a policy of the game of moves and save it in `folder`; called again with the same folder, it goes on where it stopped.

    A step plays `num_envs` decisions, a share of `exploration` drawn at random, and learns from `batch_size` of the last `memory_size`
    ones (24 KiB of memory each). The learning rate follows `training_config.steps`, whenever `minutes` end a call.

    Raises:
        ValueError: a policy of another shape than that game's, or a checkpoint of another difficulty, learning rate or network.
    """
    check_policy(policy_config)
    folder = Path(folder)
    with torch.random.fork_rng(devices=[]):  # initial weights come from `seed` and leave the caller's generator alone
        torch.manual_seed(seed)
        policy = Policy(policy_config).to(device)
    batches = ApprenticeBatches(
        policy,
        difficulty=difficulty,
        level_seeds=level_seeds,
        num_envs=num_envs,
        batch_size=batch_size,
        memory_size=memory_size,
        exploration=exploration,
        seed=seed,
    )
    train(policy, apprentice_loss, batches, training_config, checkpoint=folder / "checkpoint.safetensors", minutes=minutes, on_step=on_step)
    policy.save_pretrained(folder)
    return policy
