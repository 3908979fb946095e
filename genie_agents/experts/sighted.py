"""An expert that sees what the camera shows and no more, and decides anew on every frame, but for LEFT, which it may hold for some.

Whoever is to be imitated from pictures must have all its reasons in the last of them. This one reads the view (`view.look`), so the looks
of a level do not matter to it, and it learned from reward alone, in a game that shows it where it is only as well as a picture of 64
pixels does (`compiled_coinrun`, `sighted_training`): it takes the risks that are worth taking and leaves room for its pupil's errors.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from genie_agents.coinrun import LEFT, RIGHT, RIGHT_UP, ProcgenEnv
from genie_agents.experts.apprentice import Apprentice
from genie_agents.experts.compiled_coinrun import KEYS, OBSERVATION_SIZE
from genie_agents.experts.game_state import read_state
from genie_agents.experts.run_and_jump import AgentTracker, make_teacher
from genie_agents.experts.view import look
from world_model.serialization import load_model

UP_SPEED = 1.0
"""The expert holds UP while it rises faster, in cells a step, as a hand would: for the first four frames of a jump. In the air the key does
nothing, but what a latent action model sees and calls by one name, the rise, then goes with that key more often; pressed on the first
frame alone, it is the rarer key of that name. It is so too where a disturbance has begun the jump."""

_RELUCTANCE = 1.5  # to brake: by an apprentice's costs braking a frame longer is seldom worse, and who decides anew would brake for ever


@dataclass(frozen=True, kw_only=True)
class SightedConfig:
    """The units of its hidden layers, and for how many frames it holds LEFT at least, while it stands."""

    hidden: tuple[int, ...] = (704, 384)
    brake_frames: int = 1

    def __post_init__(self) -> None:
        if self.brake_frames < 1:
            raise ValueError(f"brake_frames is {self.brake_frames}; a key is held for 1 frame or more")
        if not self.hidden or min(self.hidden) < 1:
            raise ValueError(f"hidden is {self.hidden}; give the units of at least one hidden layer")


class ViewFeatures(nn.Module):
    """Observations of `CompiledCoinRun` (B, OBSERVATION_SIZE) to features (B, F), the last of which says whether LEFT may be pressed."""

    def __init__(self, config: SightedConfig) -> None:
        super().__init__()
        self.config = config
        sizes, layers = (OBSERVATION_SIZE, *config.hidden), list[nn.Module]()
        for inputs, outputs in zip(sizes[:-1], sizes[1:], strict=True):
            layers += [nn.Linear(inputs, outputs), nn.ReLU()]
        self.layers = nn.Sequential(*layers)
        self.num_features = sizes[-1] + 1

    def forward(self, observations: Tensor) -> Tensor:
        return torch.cat([self.layers(observations), observations[:, -1:]], dim=1)


class KeyChooser(nn.Module):
    """Features (B, F) to logits (B, K) of `KEYS`; LEFT is never chosen where it may not be pressed."""

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.linear = nn.Linear(num_features - 1, len(KEYS))

    def forward(self, features: Tensor) -> Tensor:
        logits = self.linear(features[:, :-1])
        barred = torch.tensor([key == LEFT for key in KEYS], device=logits.device) & (features[:, -1:] == 0)
        return logits.masked_fill(barred, -1e8)


class SightedPolicy(nn.Module):
    """Both: observations to logits."""

    def __init__(self, config: SightedConfig) -> None:
        super().__init__()
        self.config = config
        self.features = ViewFeatures(config)
        self.head = KeyChooser(self.features.num_features)

    def forward(self, observations: Tensor) -> Tensor:
        return self.head(self.features(observations))

    @classmethod
    def from_apprentice(cls, apprentice: Apprentice, *, brake_frames: int = 1) -> SightedPolicy:
        """What an apprentice expects of its first moves, run, jump, and brake and jump, as logits of the keys that they begin with.

        Raises ValueError when it cannot brake.
        """
        if apprentice.config.num_moves < len(KEYS):
            raise ValueError(f"the apprentice knows {apprentice.config.num_moves} moves; give one that brakes, of {len(KEYS)} or more")
        policy = cls(SightedConfig(hidden=apprentice.config.hidden, brake_frames=brake_frames))
        *hidden, costs = (layer for layer in apprentice.layers if isinstance(layer, nn.Linear))
        with torch.no_grad():
            for mine, its in zip((layer for layer in policy.features.layers if isinstance(layer, nn.Linear)), hidden, strict=True):
                mine.weight.zero_()  # it knows nothing of the last number, whether it may brake
                mine.weight[:, : its.in_features] = its.weight
                mine.bias.copy_(its.bias)
            policy.head.linear.weight.copy_(costs.weight[: len(KEYS)])
            policy.head.linear.bias.copy_(costs.bias[: len(KEYS)] - torch.tensor([0.0, 0.0, _RELUCTANCE]))
        return policy

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> SightedPolicy:
        """Raises FileNotFoundError or ValueError when the folder holds no sighted policy."""
        return load_model(folder, cls, SightedConfig)


class SightedExpert:
    """A sighted policy as an `Expert`: its likeliest key wherever it stands, LEFT for its `brake_frames` as long as it stands, RIGHT in
    the air; UP is held above `UP_SPEED`. With `num_keys` 2 it never brakes: it presses RIGHT and RIGHT+UP alone, as it has learned too.

    Raises ValueError for another number than 2 or 3.
    """

    def __init__(self, policy: SightedPolicy, *, num_keys: int | None = None) -> None:
        self.policy, self.num_keys = policy.eval(), len(KEYS) if num_keys is None else num_keys
        if self.num_keys not in (2, len(KEYS)):
            raise ValueError(f"num_keys is {num_keys}; this expert plays with 3 keys, or with 2 if it is not to brake")
        self._may_brake = np.array([self.num_keys == len(KEYS)], dtype=np.float32)
        self._teacher = make_teacher(self.num_keys)  # says what is lost to one who has these keys: the first moves begin with them

    def begin(self, env: ProcgenEnv) -> bool:
        self._env, self._agent, self._brake_frames_left = env, AgentTracker(env), 0
        return self._teacher.plan(env.get_state().simulator) is not None

    @torch.inference_mode()
    def act(self, obs: np.ndarray) -> int:
        if not self._agent.on_ground:
            self._brake_frames_left = 0
            action = RIGHT_UP if self._agent.vertical_speed > UP_SPEED else RIGHT
        elif self._brake_frames_left:
            self._brake_frames_left -= 1
            action = LEFT
        else:
            view = look(read_state(self._env.get_state().simulator))
            logits = self.policy(torch.from_numpy(np.concatenate([view, self._may_brake]))[None])[0]
            action = KEYS[int(logits.argmax())]
            self._brake_frames_left = self.policy.config.brake_frames - 1 if action == LEFT else 0
        self._agent.step(action)
        return action
