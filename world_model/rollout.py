"""Live worlds, stepped action by action: what the environments, `Genie.imagine` and planners stand on.

Tokens are the state. They are never made from pixels again after the prompt; pixels are drawn from them only to be shown. Both the
dynamics model and the tokenizer's decoder compute the new frame alone, so a step costs the same and takes the same memory however
long the world has run.

Shape key: B worlds, R of them reset, P frames of a prompt, N tokens of a frame, E action_dim, H x W x C a frame.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from world_model.dynamics import actions_to_frames, previous_tokens
from world_model.layers.temporal_cache import TemporalCache
from world_model.maskgit import Frame, SamplingConfig, sample_next_frame

if TYPE_CHECKING:
    from world_model.genie import Genie


@dataclass(frozen=True)
class RolloutState:
    """Everything a Rollout needs to go on from here, apart from the models."""

    past: TemporalCache
    drawn: TemporalCache
    last: Frame
    recent_tokens: Tensor
    recent_actions: Tensor
    frames: Tensor
    begun: Tensor
    generators: list[Tensor]
    weights: Tensor


class Rollout:
    """`num_worlds` worlds of one Genie, which is put into evaluation mode, in a batch on the Genie's device.

    `frames` (B, H, W, C) uint8 are what the worlds look like now, `tokens` (B, N) what they are, `confidence` (B, N) how probable the model
    found each token when it chose it (1 in a prompt). `sampling` overrides the Genie's own settings. Matrix work is done in `dtype`:
    bfloat16 on a GPU, float32 on a CPU unless given.
    """

    def __init__(self, genie: Genie, num_worlds: int, *, sampling: SamplingConfig | None = None, dtype: torch.dtype | None = None) -> None:
        if num_worlds < 1:
            raise ValueError(f"num_worlds is {num_worlds}; at least 1 is needed")
        config, self.genie, self.num_worlds = genie.config, genie.eval(), num_worlds
        self.sampling = sampling or config.sampling
        self.device = device = genie.prompts.device
        self.dtype = dtype or (torch.bfloat16 if device.type == "cuda" else torch.float32)
        self._past = genie.dynamics.transformer.make_cache(num_worlds, dtype=self.dtype)
        self._drawn = genie.tokenizer.decoder.make_cache(num_worlds, dtype=self.dtype)
        # A past that fills the window would begin anew, with its last few frames alone, before anything is drawn from it.
        self.max_prompt_frames = self._past.window - (self.sampling.anchor_frames is not None)
        num_recent = self.sampling.anchor_frames or 0
        if num_recent >= self._past.window:
            raise ValueError(f"anchor_frames is {num_recent}; a window of {self._past.window} frames asks for fewer")
        # The frames from which a past can begin anew; whatever stands here in worlds younger than that is never read.
        self._recent_tokens = torch.zeros(num_worlds, num_recent, config.dynamics.num_tokens, dtype=torch.int64, device=device)
        self._recent_actions = torch.zeros(num_worlds, num_recent, config.dynamics.action_dim, device=device)
        self._last = Frame(
            torch.zeros(num_worlds, config.dynamics.num_tokens, dtype=torch.int64, device=device),
            torch.zeros(num_worlds, config.dynamics.action_dim, device=device),
            torch.ones(num_worlds, config.dynamics.num_tokens, device=device),
            torch.zeros(num_worlds, config.dynamics.num_tokens, dtype=torch.int64, device=device),
        )
        self.frames = torch.zeros(num_worlds, *genie.prompts.shape[1:], dtype=torch.uint8, device=device)
        self._generators = [torch.Generator(device).manual_seed(world) for world in range(num_worlds)]
        self._begun = torch.zeros(num_worlds, dtype=torch.bool, device=device)
        self._weights = torch.stack([weight.detach().double().sum() for weight in genie.parameters()])  # tells one Genie from another

    @property
    def tokens(self) -> Tensor:
        return self._last.tokens

    @property
    def confidence(self) -> Tensor:
        return self._last.confidence

    @torch.no_grad()
    def reset(
        self, prompts: Tensor | np.ndarray | None = None, *, seeds: Sequence[int | None] | None = None, mask: Sequence[bool] | None = None
    ) -> Tensor:
        """Begin the worlds that `mask` (B,) names anew (all, unless given), and return what all worlds look like now.

        `prompts` (R, P, H, W, C) uint8 are their first frames, of which the last `max_prompt_frames` count; without them each world
        draws one of the Genie's own. `seeds` (R,) restart the worlds' generators; None lets one go on as it is.

        Raises ValueError for prompts of another shape or type, or when there are none, and RuntimeError for a Genie that was put into
        training mode since.
        """
        if mask is not None and len(mask) != self.num_worlds:
            raise ValueError(f"need a mask for each of the {self.num_worlds} worlds, got {len(mask)}")
        rows = torch.arange(self.num_worlds)
        rows = rows if mask is None else rows[torch.as_tensor(mask, dtype=torch.bool)]
        if seeds is not None and len(seeds) != len(rows):
            raise ValueError(f"need seeds for the {len(rows)} worlds to reset, got {len(seeds)}")
        if len(rows) == 0:
            return self.frames.clone()
        # Whatever can be refused is refused before anything changes.
        if self.genie.training:
            raise RuntimeError("the Genie is in training mode, in which reading a prompt would change its codes: call genie.eval() first")
        if prompts is not None:
            prompts = self._check_prompts(torch.as_tensor(prompts), len(rows))[:, -self.max_prompt_frames :]
        elif len(self.genie.prompts) == 0:
            raise ValueError("this Genie holds no prompt frames: give prompts, pictures of the world to begin from")
        if seeds is not None:
            for row, seed in zip(rows.tolist(), seeds, strict=True):
                if seed is not None:
                    self._generators[row].manual_seed(int(seed))
        prompts = self._draw_prompts(rows) if prompts is None else prompts.to(self.device)
        rows = rows.to(self.device)
        self._begun[rows] = False  # until all has gone well
        if len(rows) == self.num_worlds:
            self.rewind()
        with self._autocast():
            tokens_RPN = self.genie.tokenizer.encode(prompts).indices
            actions_RPE = torch.zeros(*tokens_RPN.shape[:2], self._last.action.shape[-1], device=self.device)
            if prompts.shape[1] > 1:
                actions_RPE = actions_to_frames(self.genie.latent_action_model.encode(prompts).vectors)
            previous_RN = self._begin_past(rows, tokens_RPN, actions_RPE)
            shown_RPN = tokens_RPN[:, -self._drawn.window :]
            drawn = self._drawn.restart(rows, shown_RPN.shape[1])
            images = self.genie.tokenizer.decode(shown_RPN, drawn)
            drawn.advance(shown_RPN.shape[1])
            self._drawn.put(rows, drawn)
        tokens, action, confidence, previous = (
            part.clone() for part in (self._last.tokens, self._last.action, self._last.confidence, self._last.previous)
        )
        tokens[rows], action[rows], confidence[rows], previous[rows] = tokens_RPN[:, -1], actions_RPE[:, -1], 1.0, previous_RN
        self._last = Frame(tokens, action, confidence, previous)
        self._recent_tokens, self._recent_actions = self._recent_tokens.clone(), self._recent_actions.clone()
        if num_recent := min(tokens_RPN.shape[1], self._recent_tokens.shape[1]):
            self._recent_tokens[rows, -num_recent:] = tokens_RPN[:, -num_recent:]
            self._recent_actions[rows, -num_recent:] = actions_RPE[:, -num_recent:]
        self.frames = self.frames.clone()
        self.frames[rows] = to_uint8(images[:, -1])
        self._begun[rows] = True
        return self.frames.clone()

    def rewind(self) -> None:
        """Forget the past of all worlds, which are to be reset, though not in one call: begun at the same time, seeds give the same frames
        bit for bit."""
        self._past.rewind()
        self._drawn.rewind()

    @torch.no_grad()
    def step(self, latent_actions: Tensor | np.ndarray | Sequence[int]) -> Tensor:
        """Let each world take its latent action (B,): the frames (B, H, W, C) uint8 to which they lead.

        Raises ValueError for actions of another shape, type or range, and RuntimeError where a world was never reset.
        """
        actions, num_actions = torch.as_tensor(latent_actions), self.genie.num_latent_actions
        whole = actions.dtype != torch.bool and not actions.is_floating_point() and not actions.is_complex()
        actions = actions.to(torch.int64)  # torch takes bytes as an index for a mask
        if not whole or actions.shape != (self.num_worlds,) or not ((actions >= 0) & (actions < num_actions)).all():
            raise ValueError(f"need {self.num_worlds} latent actions, whole numbers in 0 ... {num_actions - 1}, got {latent_actions}")
        if not self._begun.all():
            raise RuntimeError("a world has no first frame yet: call reset() before step()")
        action = self.genie.latent_action_model.quantizer.lookup(actions.to(self.device))
        with self._autocast():
            if self.sampling.anchor_frames is not None:
                self._anchor()
            clock = self._past.clock
            try:
                frame = sample_next_frame(self.genie.dynamics, self._past, self._last, action, self.sampling, self._generators)
                images = self.genie.tokenizer.decode(frame.tokens[:, None], self._drawn)
            except BaseException:  # Ctrl-C, or memory that runs out: the last frame is not in the past yet for who tries again
                self._past.clock = clock
                raise
            self._last = frame
            self._drawn.advance()
        if self.sampling.anchor_frames is not None:
            self._recent_tokens = torch.cat([self._recent_tokens[:, 1:], self.tokens[:, None]], dim=1)
            self._recent_actions = torch.cat([self._recent_actions[:, 1:], action[:, None]], dim=1)
        self.frames = to_uint8(images[:, 0])
        return self.frames.clone()

    def get_state(self) -> RolloutState:
        """A copy of all worlds, to go on from later with `set_state`: the same actions then lead to the same frames."""
        every = torch.arange(self.num_worlds, device=self.device)
        generators = [generator.get_state() for generator in self._generators]
        return RolloutState(
            past=self._past.take(every),
            drawn=self._drawn.take(every),
            last=self._last,
            recent_tokens=self._recent_tokens,
            recent_actions=self._recent_actions,
            frames=self.frames,
            begun=self._begun.clone(),
            generators=generators,
            weights=self._weights,
        )

    def set_state(self, state: RolloutState) -> None:
        """Return to a state that `get_state` of a Rollout with as many worlds of the same Genie gave; ValueError for other shapes,
        another dtype or device, or other weights."""
        if state.frames.shape != self.frames.shape:
            raise ValueError(f"the state holds worlds of shape {tuple(state.frames.shape)} and this rollout {tuple(self.frames.shape)}")
        if state.recent_tokens.shape != self._recent_tokens.shape:
            kept, needed = state.recent_tokens.shape[1], self._recent_tokens.shape[1]
            raise ValueError(f"the state keeps {kept} recent frames and this rollout {needed}: use the same sampling.anchor_frames in both")
        for theirs, ours in ((state.past, self._past), (state.drawn, self._drawn)):
            shapes = [[tuple(layer.keys.shape) for layer in cache.layers] for cache in (theirs, ours)]
            if shapes[0] != shapes[1]:
                raise ValueError(f"the state is of another Genie: its layers remember {shapes[0]}, and this one's {shapes[1]}")
            places = [f"{cache.layers[0].keys.dtype} on {cache.layers[0].keys.device}" for cache in (theirs, ours)]
            if places[0] != places[1]:
                raise ValueError(f"the state is of {places[0]}, and this rollout of {places[1]}: give both the same dtype and device")
        if not torch.equal(state.weights, self._weights):
            raise ValueError("the state is of another Genie, of other weights: return to it in a rollout of the Genie that it is from")
        every = torch.arange(self.num_worlds, device=self.device)
        self._past, self._drawn = state.past.take(every), state.drawn.take(every)
        self._last, self.frames = state.last, state.frames
        self._recent_tokens, self._recent_actions = state.recent_tokens, state.recent_actions
        for generator, saved in zip(self._generators, state.generators, strict=True):
            generator.set_state(saved)
        self._begun = state.begun.clone()

    def _begin_past(self, rows: Tensor, tokens_RPN: Tensor, actions_RPE: Tensor) -> Tensor:
        """Let the past of the worlds `rows` be that of clips of these frames alone; the tokens (R, N) before their last frame."""
        # The last frame is not yet part of the past: the first pass over its successor puts it there.
        num_past = tokens_RPN.shape[1] - 1
        past = self._past.restart(rows, num_past)
        previous_RPN = previous_tokens(tokens_RPN, self.genie.dynamics.config.mask_token)
        if num_past:
            self.genie.dynamics.hidden(tokens_RPN[:, :-1], actions_RPE[:, :-1], previous_RPN[:, :-1], past)
            past.advance(num_past)
        self._past.put(rows, past)
        return previous_RPN[:, -1]

    def _anchor(self) -> None:
        """Begin the past of worlds that have filled the window anew, with their last frames (see SamplingConfig.anchor_frames)."""
        rows = (self._past.clock - self._past.begin + 1 >= self._past.window).nonzero()[:, 0]
        if len(rows):
            self._begin_past(rows, self._recent_tokens[rows], actions_to_frames(self._recent_actions[rows, 1:]))

    def _check_prompts(self, prompts: Tensor, num_rows: int) -> Tensor:
        shape = tuple(self.frames.shape[1:])
        if (
            prompts.ndim != 5
            or len(prompts) != num_rows
            or not prompts.shape[1]
            or prompts.shape[2:] != shape
            or prompts.dtype != torch.uint8
        ):
            raise ValueError(
                f"expected prompts ({num_rows}, P, {', '.join(map(str, shape))}) uint8 of at least one frame each, got "
                f"{tuple(prompts.shape)} of {prompts.dtype}: resize or convert them first"
            )
        return prompts

    def _draw_prompts(self, rows: Tensor) -> Tensor:
        bank = self.genie.prompts
        chosen = [torch.randint(len(bank), (), generator=self._generators[row], device=self.device) for row in rows.tolist()]
        return bank[torch.stack(chosen)][:, None]

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32)


def to_uint8(images: Tensor) -> Tensor:
    """Images in [0, 1] as bytes."""
    return (images * 255).round().clamp(0, 255).to(torch.uint8)
