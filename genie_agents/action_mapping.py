"""From latent actions to the keys of the real game, learned from a few hundred labelled samples (Genie, section 3.3)."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

FORMAT = "genie-agents latent-to-real mapping, version 1"


@dataclass
class LatentToRealMapping:
    """The paper's dictionary: each latent action's list of the real actions seen with it, from which one is drawn.

    A latent action that no labelled sample showed falls back on all samples' real actions; `num_fallbacks` counts how often.
    `real_actions[k]` is the list of latent action k.
    """

    real_actions: list[np.ndarray]
    num_fallbacks: int = field(default=0, compare=False)

    @classmethod
    def fit(cls, latent_actions: np.ndarray, actions: np.ndarray, *, num_codes: int) -> LatentToRealMapping:
        """Fit to labelled samples: latent actions (N,) in 0 ... num_codes - 1 and the real actions (N,) taken with them.

        Raises:
            ValueError: no samples, arrays of different length, or a latent action out of range.
        """
        if latent_actions.shape != actions.shape or latent_actions.ndim != 1 or len(actions) == 0:
            raise ValueError(
                f"need as many latent as real actions, at least one, in flat arrays; got shapes {latent_actions.shape} and {actions.shape}"
            )
        if latent_actions.min() < 0 or latent_actions.max() >= num_codes:
            raise ValueError(f"latent actions must lie in 0 ... {num_codes - 1}; found {latent_actions.min()} ... {latent_actions.max()}")
        return cls([actions[latent_actions == code].astype(np.int64) for code in range(num_codes)])

    def sample(self, latent_actions: np.ndarray, generator: np.random.Generator, *, temperature: float = 1.0) -> np.ndarray:
        """Real actions (N,) for latent actions (N,), drawn by how often each is in the list, to the power of 1 / `temperature`: 1 draws
        uniformly from the list, as the paper does, 0 takes its most frequent action. Raises ValueError for a negative one."""
        if temperature < 0:
            raise ValueError(f"temperature is {temperature}; give 0 for the most frequent action, 1 to draw uniformly")
        everything = np.concatenate(self.real_actions)
        lists = [choices if len(choices) else everything for choices in self.real_actions]
        self.num_fallbacks += sum(len(self.real_actions[code]) == 0 for code in latent_actions)
        with np.errstate(divide="ignore"):  # an action that was never seen is never drawn
            scores_KA = np.log([np.bincount(choices, minlength=everything.max() + 1) for choices in lists])
        scores_NA = scores_KA[latent_actions]
        return (scores_NA + temperature * generator.gumbel(size=scores_NA.shape)).argmax(-1)  # Gumbel's trick, as for a policy's logits

    def agreement(self, latent_actions: np.ndarray, actions: np.ndarray, aliases: np.ndarray) -> float:
        """Chance that a real action drawn at temperature 1 equals the true one after merging `aliases` (action -> representative), over
        other samples."""
        everything = np.concatenate(self.real_actions)
        chances = []
        for code, choices in enumerate(self.real_actions):
            true = aliases[actions[latent_actions == code]]
            drawn = aliases[choices if len(choices) else everything]
            shares = np.bincount(drawn, minlength=len(aliases)) / len(drawn)
            chances.append(shares[true])
        return float(np.concatenate(chances).mean())

    def save(self, path: str | Path) -> None:
        path = Path(path)
        temporary = path.with_name(path.name + ".tmp")
        temporary.write_text(json.dumps({"format": FORMAT, "real_actions": [choices.tolist() for choices in self.real_actions]}))
        os.replace(temporary, path)

    @classmethod
    def load(cls, path: str | Path) -> LatentToRealMapping:
        """Raises ValueError when the file is not a saved mapping."""
        try:
            content = json.loads(Path(path).read_text())
        except json.JSONDecodeError as error:
            raise ValueError(f"{path} is not a saved mapping ({error}); fit one and save it again") from error
        if not isinstance(content, dict) or content.get("format") != FORMAT:
            raise ValueError(f"{path} is not a saved mapping of this version; fit one and save it again")
        return cls([np.array(choices, dtype=np.int64) for choices in content["real_actions"]])
