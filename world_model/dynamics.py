"""The dynamics model (Genie, section 2.1): given past tokens and latent actions, which tokens does the next frame have?

A MaskGIT ST-transformer (Chang et al. 2022): some tokens are replaced by a mask token, and the model says for every place which
token belongs there. Generating a frame starts from masks alone and fills in the surest tokens first (maskgit.py).

The action that leads to a frame enters at that frame's own time: added to all its tokens (the paper's way, which helped control)
or as one token more in front of them (Jasmine's). A clip's first frame has no action, which is written as the zero vector; latent
actions are unit vectors, so no code has it.

Beyond the paper, `previous_frame` adds to each token the one that stood in its place a frame before. The paper's blocks look to the sides
within a frame and back in time within a place, so what moves from place to place takes two blocks to follow; with the previous frame in
view one spatial attention does. In training that frame is known in full while the frames before it are half masked, as when playing.

Shape key: B clips, T frames, N tokens of a frame, D d_model, E code_dim of the latent actions, V num_codes of the tokenizer.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from world_model.layers.st_transformer import STTransformer, TransformerConfig
from world_model.layers.temporal_cache import TemporalCache
from world_model.serialization import load_model, save_model


@dataclass(frozen=True, kw_only=True)
class DynamicsConfig:
    """Shape of a dynamics model over frames of `num_tokens` tokens of `num_codes` kinds; actions are vectors of `action_dim`.

    `previous_frame`: whether each frame also reads the tokens of the frame before it in their places.
    """

    num_tokens: int = 64
    num_codes: int = 1024
    action_dim: int = 32
    conditioning: Literal["add", "prepend"] = "add"
    previous_frame: bool = False
    transformer: TransformerConfig = TransformerConfig(num_layers=6, d_model=256, num_heads=8, temporal_window=16)

    def __post_init__(self) -> None:
        for name in ("num_tokens", "num_codes", "action_dim"):
            value = getattr(self, name)
            if type(value) is not int or value < 1:
                raise ValueError(f"{name} must be a whole number of at least 1, got {value!r}")
        if self.conditioning not in ("add", "prepend"):
            raise ValueError(f"conditioning must be 'add' or 'prepend', got {self.conditioning!r}")
        if self.transformer.attention != "st":
            raise ValueError(f"the dynamics model needs attention='st', got {self.transformer.attention!r}: it must see the past")

    @property
    def mask_token(self) -> int:
        """The token that stands for "not known yet"."""
        return self.num_codes


class DynamicsModel(nn.Module):
    """Tokens, some of them masked, and the actions that led to their frames in; a guess for every place out."""

    def __init__(self, config: DynamicsConfig = DynamicsConfig(), *, seed: int = 0) -> None:
        super().__init__()
        self.config = config
        d_model, prepended = config.transformer.d_model, int(config.conditioning == "prepend")
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            self.embed_token = nn.Embedding(config.num_codes + 1, d_model)
            nn.init.normal_(self.embed_token.weight, std=0.5)
            if config.previous_frame:
                self.embed_previous = nn.Embedding(config.num_codes + 1, d_model)
                nn.init.normal_(self.embed_previous.weight, std=0.5)
            self.embed_action = nn.Linear(config.action_dim, d_model)
            nn.init.normal_(self.embed_action.weight)  # loud enough to be heard beside the tokens
            self.transformer = STTransformer(config.transformer, num_tokens=config.num_tokens + prepended)
            self.head = nn.Linear(d_model, config.num_codes)

    def hidden(self, tokens: Tensor, actions: Tensor, previous: Tensor | None = None, cache: TemporalCache | None = None) -> Tensor:
        """What `head` reads, (B, T, N, D), for tokens (B, T, N) and actions (B, T, E).

        `previous` (B, T, N) are the tokens of the frame before each (see `previous_tokens`), needed with `config.previous_frame` only.
        With `cache` these frames follow the cached ones.
        """
        tokens_BTND = self.embed_token(tokens)
        if self.config.previous_frame:
            if previous is None:
                raise ValueError("this model has previous_frame=True: give the tokens of the frame before each, see previous_tokens")
            tokens_BTND = tokens_BTND + self.embed_previous(previous)
        action_BT1D = self.embed_action(actions)[:, :, None]
        if self.config.conditioning == "add":
            return self.transformer(tokens_BTND + action_BT1D, cache)
        return self.transformer(torch.cat([action_BT1D.to(tokens_BTND.dtype), tokens_BTND], dim=2), cache)[:, :, 1:]

    def forward(self, tokens: Tensor, actions: Tensor, previous: Tensor | None = None) -> Tensor:
        """Logits (B, T, N, V) for tokens (B, T, N), `config.mask_token` where masked, and action vectors (B, T, E).

        actions[:, t] led to frame t; zero where none is known, as at a clip's first frame. `previous`: see `hidden`.
        """
        return self.head(self.hidden(tokens, actions, previous))

    def save_pretrained(self, folder: str | Path) -> None:
        """Write config.json and model.safetensors into `folder`, each complete or not at all."""
        save_model(folder, self)

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> "DynamicsModel":
        """The model of a folder, on the CPU, in evaluation mode; raises FileNotFoundError or ValueError where there is none."""
        return load_model(folder, cls, DynamicsConfig)


def actions_to_frames(vectors_BTE: Tensor) -> Tensor:
    """Latent actions (B, T-1, E) between T frames as the actions (B, T, E) that led to each: none to the first."""
    return F.pad(vectors_BTE, (0, 0, 1, 0))


def previous_tokens(tokens: Tensor, mask_token: int) -> Tensor:
    """The tokens (B, T, N) of the frame before each of the frames `tokens` (B, T, N); `mask_token` before the first."""
    return F.pad(tokens[:, :-1], (0, 0, 1, 0), value=mask_token)


def draw_mask(shape: tuple[int, ...], seeds: Tensor, *, min_rate: float = 0.5) -> Tensor:
    """Which tokens (B, T, N) to hide, bool: a rate from U(min_rate, 1) for each clip, and never in its first frame.

    One rate a clip, not one a batch, makes the loss far less noisy. `seeds` (B,) decides clip by clip, so that the masks of a batch
    do not depend on how it is spread over devices.
    """
    mask_BTN = torch.empty(shape)
    for clip, seed in zip(mask_BTN, seeds.tolist(), strict=True):
        generator = torch.Generator().manual_seed(seed)
        rate = min_rate + (1 - min_rate) * torch.rand((), generator=generator)
        clip.copy_(torch.rand(shape[1:], generator=generator) < rate)
    mask_BTN[:, 0] = 0
    return mask_BTN.bool()


def corrupt_tokens(tokens: Tensor, seeds: Tensor, *, num_codes: int, max_rate: float) -> Tensor:
    """A copy of tokens (B, T, N) with some of them replaced by random ones, at a rate from U(0, max_rate) for each clip.

    A world that plays on sees its own mistakes; one that saw only real frames in training takes them for granted and adds to them.
    `seeds` (B,) decides clip by clip, as in `draw_mask`.
    """
    corrupted_BTN = tokens.clone()
    for clip, seed in zip(corrupted_BTN, seeds.tolist(), strict=True):
        generator = torch.Generator().manual_seed(seed // 2)  # draw_mask takes the seed itself
        rate = max_rate * torch.rand((), generator=generator)
        wrong = (torch.rand(clip.shape, generator=generator) < rate).to(clip.device)
        clip[wrong] = torch.randint(num_codes, clip.shape, generator=generator).to(clip.device)[wrong]
    return corrupted_BTN


def dynamics_loss(logits: Tensor, tokens: Tensor, mask: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """Cross-entropy in nats of the original tokens (B, T, N) where `mask` hid them, from logits (B, T, N, V); and detached metrics.

    The mean over a clip's hidden tokens, then over clips: it does not depend on how a batch is spread over devices. `accuracy` is the
    share of hidden tokens guessed right, taken in the same way.
    """
    hidden_logits, hidden_tokens = logits[mask].float(), tokens[mask]
    weight_B = 1 / (len(mask) * mask.sum(dim=(1, 2)).clamp(min=1))
    weight = weight_B.repeat_interleave(mask.sum(dim=(1, 2)))
    loss = (weight * F.cross_entropy(hidden_logits, hidden_tokens, reduction="none")).sum()
    accuracy = (weight * (hidden_logits.argmax(-1) == hidden_tokens)).sum()
    return loss, {"cross_entropy": loss.detach(), "accuracy": accuracy}
