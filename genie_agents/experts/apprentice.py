"""A player that sees what the camera shows and no more, taught by the planner, which knows the whole level (AggreVaTe; Ross & Bagnell
2014, section 2); the sighted expert begins as one (`sighted_training`).

The apprentice plays CoinRun by running and jumping. Wherever it stands, the planner says what each of its moves would cost, played
well from there on, and the apprentice learns to expect that cost from what is in view. What is not, a saw beyond the edge of the
picture, is averaged over all levels that look the same: the apprentice takes the risks that are worth taking and no others, and every
reason that it has can be seen. It learns on the states that its own play leads to.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from genie_agents.coinrun import DEMONSTRATION_LEVELS, DIFFICULTIES, ProcgenEnv
from genie_agents.experts.planner import Planner
from genie_agents.experts.run_and_jump import MOVES, RUN, RunAndJump, make_teacher
from genie_agents.experts.view import VIEW_SIZE
from world_model.precision import bf16_autocast
from world_model.serialization import load_model, save_model
from world_model.training import TrainingConfig, train

if TYPE_CHECKING:
    from lightning.fabric import Fabric

COST_OF_LOSING = 400.0
"""In the planner's prices, whose unit is a step: what a needless jump or a wait may cost before a risk is the better choice."""
HIGHEST_REGRET = 30.0
"""What a worse move may cost more at most, where neither loses: a long way round is not worth a lost level."""


@dataclass(frozen=True, kw_only=True)
class ApprenticeConfig:
    """How many of `run_and_jump.MOVES` it plays, the first ones, and the units of its hidden layers."""

    num_moves: int = len(MOVES)
    hidden: tuple[int, ...] = (704, 384)

    def __post_init__(self) -> None:
        if not 2 <= self.num_moves <= len(MOVES):
            raise ValueError(f"num_moves is {self.num_moves}; an apprentice plays 2 to {len(MOVES)} moves")
        if not self.hidden or min(self.hidden) < 1:
            raise ValueError(f"hidden is {self.hidden}; give the units of at least one hidden layer")


class Apprentice(nn.Module):
    """A network from views (B, VIEW_SIZE) to logits (B, M): the sigmoid of a negated logit is the cost expected of its move."""

    def __init__(self, config: ApprenticeConfig) -> None:
        super().__init__()
        self.config = config
        sizes, layers = (VIEW_SIZE, *config.hidden), list[nn.Module]()
        for inputs, outputs in zip(sizes[:-1], sizes[1:], strict=True):
            layers += [nn.Linear(inputs, outputs), nn.ReLU()]
        self.layers = nn.Sequential(*layers, nn.Linear(sizes[-1], config.num_moves))

    def forward(self, views: Tensor) -> Tensor:
        return self.layers(views)

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> Apprentice:
        """Raises FileNotFoundError or ValueError when the folder holds no apprentice."""
        return load_model(folder, cls, ApprenticeConfig)


@dataclass(frozen=True)
class ApprenticeBatch:
    """views (B, VIEW_SIZE); costs (B, M): of each move above the best one, as a share of the cost of losing; the share of the last
    episodes that were solved."""

    views: Tensor
    costs: Tensor
    solved: float


def label(planner: Planner, game: RunAndJump) -> np.ndarray | None:
    """costs (M,) of the game's moves in the present state, in 0 ... 1, where 1 says that the teacher finds no way; None where all have 1.

    Against a wall running costs as much as losing: the planner could wait there and jump when it knows that it is safe, but the
    apprentice would wait for ever, as the picture stays the same.
    """
    costs = planner.costs(game.simulator_state, MOVES[: game.num_moves])
    if game.is_blocked:
        costs[RUN] = np.inf
    if np.isinf(costs).all():
        return None
    regrets = np.minimum(costs - costs.min(), HIGHEST_REGRET) / COST_OF_LOSING
    return np.where(np.isinf(costs), 1.0, regrets).astype(np.float32)


class ApprenticeBatches:
    """Every batch plays one step in all games with the apprentice as it is, has it labelled, and is drawn from all that is remembered.

    The games are easy and hard in turn; processes that train together, told apart by `rank`, play games of their own. A game in which the
    teacher finds no way is given up. The memory is not saved: a resumed run fills it anew, on other levels.
    """

    def __init__(
        self,
        apprentice: Apprentice,
        *,
        level_seeds: Sequence[int],
        num_envs: int,
        batch_size: int,
        memory_size: int,
        exploration: float,
        seed: int,
        rank: int = 0,
    ) -> None:
        if num_envs < 1:
            raise ValueError(f"num_envs is {num_envs}; play at least one game")
        if not 1 <= batch_size <= memory_size:
            raise ValueError(f"batch_size {batch_size} must lie between 1 and memory_size {memory_size}")
        if not 0 <= exploration <= 1:
            raise ValueError(f"exploration is {exploration}; give the share of random moves, from 0 to 1")
        self.apprentice, self.batch_size, self.exploration, self.seed = apprentice, batch_size, exploration, (seed, rank)
        num_moves = apprentice.config.num_moves
        self._planner = make_teacher(num_moves)
        difficulties = [DIFFICULTIES[index % len(DIFFICULTIES)] for index in range(num_envs)]
        envs = [ProcgenEnv(difficulty=difficulty, level_seeds=level_seeds) for difficulty in difficulties]
        self._envs = [RunAndJump(env, num_moves=num_moves) for env in envs]
        self._views = np.empty((memory_size, VIEW_SIZE), dtype=np.float16)
        self._costs = np.empty((memory_size, num_moves), dtype=np.float32)
        self.num_states = 0
        self._begin()

    def _begin(self) -> None:
        self._generator = np.random.default_rng((*self.seed, self.num_states))
        seeds = self._generator.integers(2**31, size=len(self._envs))
        self._obs = np.stack([env.reset(seed=int(seed))[0] for env, seed in zip(self._envs, seeds, strict=True)])
        self._remembered, self._solved = 0, deque[bool](maxlen=500)

    @torch.inference_mode()
    def _act(self) -> np.ndarray:
        device = next(self.apprentice.parameters()).device
        logits = self.apprentice(torch.from_numpy(self._obs).to(device))
        chosen, drawn = logits.argmax(-1).cpu().numpy(), self._generator.integers(logits.shape[1], size=len(self._obs))
        return np.where(self._generator.random(len(self._obs)) < self.exploration, drawn, chosen)

    def _play(self) -> None:
        actions = self._act()
        for index, env in enumerate(self._envs):
            costs = label(self._planner, env)
            ended, solved = costs is None, False
            if costs is not None:
                place = self._remembered % len(self._views)
                self._views[place], self._costs[place] = self._obs[index], costs
                self._remembered += 1
                self._obs[index], _, terminated, truncated, info = env.step(actions[index])
                ended, solved = terminated or truncated, info["level_solved"]
            if ended:
                self._solved.append(solved)
                self._obs[index] = env.reset()[0]
        self.num_states += len(self._envs)

    def __next__(self) -> ApprenticeBatch:
        self._play()
        while self._remembered < min(8 * self.batch_size, len(self._views)):
            self._play()
        samples = self._generator.integers(min(self._remembered, len(self._views)), size=self.batch_size)
        views, costs = torch.from_numpy(self._views[samples]).float(), torch.from_numpy(self._costs[samples])
        return ApprenticeBatch(views, costs, float(np.mean(self._solved or 0)))

    def state_dict(self) -> dict[str, Any]:
        return {"num_states": self.num_states}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.num_states = state["num_states"]
        self._begin()


def apprentice_loss(apprentice: nn.Module, batch: ApprenticeBatch) -> tuple[Tensor, dict[str, Tensor]]:
    """Cross-entropy of the costs, which are shares: the least where each move's sigmoid is the cost expected of it."""
    device = next(apprentice.parameters()).device
    views, costs = batch.views.to(device), batch.costs.to(device)
    with bf16_autocast(device):
        logits = apprentice(views)
    loss = F.binary_cross_entropy_with_logits(-logits.float(), costs)
    return loss, {"solved": torch.tensor(batch.solved, device=device)}


def train_apprentice(
    folder: str | Path,
    config: ApprenticeConfig,
    training_config: TrainingConfig,
    *,
    level_seeds: Sequence[int] = DEMONSTRATION_LEVELS,
    num_envs: int,
    batch_size: int,
    memory_size: int,
    exploration: float,
    minutes: float | None = None,
    seed: int = 0,
    fabric: Fabric | None = None,
    on_step: Callable[[int, dict[str, Tensor]], None] | None = None,
) -> Apprentice:
    """Teach an apprentice on easy and hard levels and save it in `folder`; called again with the same folder, it goes on where it stopped.

    In a step each process plays `num_envs` decisions, a share of `exploration` drawn at random, and learns from `batch_size` of its last
    `memory_size` ones (2.7 KiB of memory each). `fabric` says how many processes there are (see `train`). The learning rate follows
    `training_config.steps`, whenever `minutes` end a call.

    Raises:
        ValueError: a checkpoint of another learning rate or network.
    """
    folder = Path(folder)
    with torch.random.fork_rng(devices=[]):  # initial weights come from `seed` and leave the caller's generator alone
        torch.manual_seed(seed)
        apprentice = Apprentice(config)
    batches = ApprenticeBatches(
        apprentice,
        level_seeds=level_seeds,
        num_envs=num_envs,
        batch_size=batch_size,
        memory_size=memory_size,
        exploration=exploration,
        seed=seed,
        rank=fabric.global_rank if fabric else 0,
    )
    train(
        apprentice,
        apprentice_loss,
        batches,
        training_config,
        fabric=fabric,
        checkpoint=folder / "checkpoint.safetensors",
        minutes=minutes,
        on_step=on_step,
    )
    if fabric is None or fabric.is_global_zero:
        save_model(folder, apprentice)
    return apprentice
