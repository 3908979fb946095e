"""From latent actions to the keys of the real game, learned from a few hundred labelled samples.

`LatentToRealMapping` is the paper's dictionary, which knows the code alone (Genie, section 3.3). `FeatureClassifier` reads features of
the latent action model, which tell more than the code: for relabelling whole videos before cloning (LAPO+, arXiv 2602.02762), or,
as a `FrameMapping`, beside the latent action that a policy has chosen.

Shapes: N samples, F features, K latent actions, A real actions, T frames, H, W, C pixels.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from genie_agents.coinrun import NUM_ACTIONS
from world_model import LatentActionModel
from world_model.precision import bf16_autocast


def draw(logits: np.ndarray, generator: np.random.Generator, temperature: float) -> np.ndarray:
    """Actions (N,) drawn from the softmax of logits (N, A) over `temperature`; 0 takes the likeliest.

    Gumbel's trick: the largest logit plus noise is a draw from the softmax."""
    return (logits + temperature * generator.gumbel(size=logits.shape)).argmax(-1)


def check_codes(latent_actions: np.ndarray, num_codes: int) -> None:
    """Raises ValueError where latent actions (N,) are out of range, as is the -1 that labels give an episode's last frame."""
    if len(latent_actions) and (latent_actions.min() < 0 or latent_actions.max() >= num_codes):
        raise ValueError(f"latent actions must lie in 0 ... {num_codes - 1}; found {latent_actions.min()} ... {latent_actions.max()}")


def check_actions(actions: np.ndarray, num_actions: int = NUM_ACTIONS) -> None:
    """Raises ValueError where actions (N,) are out of range; Procgen's keys, unless said otherwise."""
    if actions.min() < 0 or actions.max() >= num_actions:
        raise ValueError(f"actions must lie in 0 ... {num_actions - 1}; found {actions.min()} ... {actions.max()}")


@dataclass
class LatentToRealMapping:
    """The paper's dictionary: each latent action's list of the real actions seen with it, from which one is drawn.

    A latent action that no labelled sample showed falls back on all samples' real actions.
    `real_actions[k]` is the list of latent action k.
    """

    real_actions: list[np.ndarray]

    @classmethod
    def fit(cls, latent_actions: np.ndarray, actions: np.ndarray, *, num_codes: int) -> LatentToRealMapping:
        """Fit to labelled samples: latent actions (N,) in 0 ... num_codes - 1 and the real actions (N,) taken with them.

        Raises:
            ValueError: no samples, arrays of different length, a latent action out of range, or an action that is no key of Procgen.
        """
        if latent_actions.shape != actions.shape or latent_actions.ndim != 1 or len(actions) == 0:
            raise ValueError(
                f"need as many latent as real actions, at least one, in flat arrays; got shapes {latent_actions.shape} and {actions.shape}"
            )
        check_codes(latent_actions, num_codes)
        check_actions(actions)
        return cls([actions[latent_actions == code].astype(np.int64) for code in range(num_codes)])

    @property
    def num_codes(self) -> int:
        """How many latent actions it names the keys of."""
        return len(self.real_actions)

    def sample(self, latent_actions: np.ndarray, generator: np.random.Generator, *, temperature: float = 1.0) -> np.ndarray:
        """Real actions (N,) for latent actions (N,), drawn by how often each is in the list, to the power of 1 / `temperature`: 1 draws
        uniformly from the list, as the paper does, 0 takes its most frequent action. Raises ValueError for a negative one, or for latent
        actions out of range."""
        if temperature < 0:
            raise ValueError(f"temperature is {temperature}; give 0 for the most frequent action, 1 to draw uniformly")
        check_codes(latent_actions, self.num_codes)
        with np.errstate(divide="ignore"):  # an action that was never seen is never drawn
            return draw(np.log(self.chances()[latent_actions]), generator, temperature)

    def chances(self) -> np.ndarray:
        """(K, A): how probable each real action is for each latent action, by its share of the list."""
        everything = np.concatenate(self.real_actions)
        lists = [choices if len(choices) else everything for choices in self.real_actions]
        counts_KA = np.array([np.bincount(choices, minlength=NUM_ACTIONS) for choices in lists])
        return counts_KA / counts_KA.sum(axis=1, keepdims=True)

    def predict(self, latent_actions: np.ndarray) -> np.ndarray:
        """The most frequent real action (N,) int64 of latent actions (N,). Raises ValueError for one out of range."""
        check_codes(latent_actions, self.num_codes)
        return self.chances().argmax(-1)[latent_actions]


class FeatureClassifier:
    """Real actions from features: a linear layer, or a small network with `hidden` units, on standardised features.

    Of `num_actions` it knows, and names, those that a sample had: features unlike all samples would go to the others otherwise.
    """

    def __init__(self, network: nn.Module, mean: np.ndarray, scale: np.ndarray, known_actions: np.ndarray, num_actions: int) -> None:
        self.network, self.mean, self.scale = network, mean, scale
        self.known_actions, self.num_actions = known_actions, num_actions

    @classmethod
    def fit(
        cls,
        features: np.ndarray,
        actions: np.ndarray,
        *,
        num_actions: int = NUM_ACTIONS,
        emphasis: np.ndarray | None = None,
        hidden: int = 0,
        steps: int = 300,
        weight_decay: float = 0.3,
        seed: int = 0,
    ) -> FeatureClassifier:
        """Fit to labelled samples, features (N, F) and actions (N,), by cross-entropy; a few hundred samples take a second.

        By `emphasis` (F,), once they are standardised, the features are multiplied: what is known to tell more is learned from sooner.

        Raises:
            ValueError: no samples, arrays of different length, features that are not finite, an action out of range, or an emphasis of
                another length than a sample has features.
        """
        if features.ndim != 2 or actions.shape != features.shape[:1] or len(actions) == 0:
            raise ValueError(f"need features (N, F) and as many actions, at least one; got shapes {features.shape} and {actions.shape}")
        check_actions(actions, num_actions)
        if emphasis is not None and emphasis.shape != features.shape[1:]:
            raise ValueError(f"need an emphasis for each of {features.shape[1]} features; got shape {emphasis.shape}")
        if not np.isfinite(features).all():
            raise ValueError("features must be finite; found NaN or infinity, so train the latent action model that gave them anew")
        mean, scale = features.mean(0), features.std(0) + 1e-6
        scale[scale < 1e-5] = 1  # what never varied among the samples, a code that none has, must not drown all else when it does
        if emphasis is not None:
            scale = scale / emphasis
        known_actions, indices = np.unique(actions, return_inverse=True)
        with torch.random.fork_rng(devices=[]):  # initial weights come from `seed` and leave the caller's generator alone
            torch.manual_seed(seed)
            network: nn.Module = nn.Linear(hidden or features.shape[1], len(known_actions))
            if hidden:
                network = nn.Sequential(nn.Linear(features.shape[1], hidden), nn.ReLU(), network)
            else:  # a layer alone needs no random beginning, of which, where there are few samples, too much would be left in the end
                for parameter in network.parameters():
                    nn.init.zeros_(parameter)
        inputs, targets = torch.from_numpy((features - mean) / scale).float(), torch.from_numpy(indices)
        optimizer = torch.optim.AdamW(network.parameters(), lr=1e-2, weight_decay=weight_decay)
        for _ in range(steps):
            optimizer.zero_grad()
            F.cross_entropy(network(inputs), targets).backward()
            optimizer.step()
        return cls(network.eval(), mean, scale, known_actions, num_actions)

    @torch.inference_mode()
    def logits(self, features: np.ndarray) -> np.ndarray:
        """(N, A) float32 for features (N, F); minus infinity for actions that no sample had."""
        logits = np.full((len(features), self.num_actions), -np.inf, dtype=np.float32)
        logits[:, self.known_actions] = self.network(torch.from_numpy((features - self.mean) / self.scale).float()).numpy()
        return logits

    def predict(self, features: np.ndarray) -> np.ndarray:
        """The likeliest real actions (N,) int64 for features (N, F)."""
        return self.logits(features).argmax(-1)


class FrameMapping:
    """Real actions for the latent actions of a policy by a look at the frames: a `FeatureClassifier` of the code and of the features that
    the latent action model finds in the present frame."""

    def __init__(self, model: LatentActionModel, classifier: FeatureClassifier) -> None:
        self.model, self.classifier = model.eval(), classifier
        self.num_frames, self.num_codes = model.config.context_frames, model.config.num_codes

    @staticmethod
    def join(latent_actions: np.ndarray, features: np.ndarray, *, num_codes: int) -> np.ndarray:
        """What the classifier reads, (N, K + F): latent actions (N,) one-hot, and features (N, F) of the frames they are taken in."""
        return np.concatenate([np.eye(num_codes, dtype=np.float32)[latent_actions], features], axis=1)

    @torch.inference_mode()
    def sample(
        self, latent_actions: np.ndarray, frames: np.ndarray, generator: np.random.Generator, *, temperature: float = 1.0
    ) -> np.ndarray:
        """Real actions (N,) for latent actions (N,) chosen after the frames (N, T, H, W, C) uint8, T at least `num_frames`."""
        device = next(self.model.parameters()).device
        with bf16_autocast(device):
            features, _ = self.model.describe(torch.from_numpy(frames[:, -self.num_frames :]).to(device))
        inputs = self.join(latent_actions, features[:, -1].float().cpu().numpy(), num_codes=self.num_codes)
        return draw(self.classifier.logits(inputs), generator, temperature)
