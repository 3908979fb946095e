"""MaskGIT sampling of one frame (Chang et al. 2022; Genie, section 2.1): all places masked at first, the surest filled in first.

Past frames stand in a TemporalCache, so a pass computes the new frame alone. What a pass leaves in the cache for the new frame is of
half-masked tokens and must not become the past: the finished frame is computed once more, in the same pass as the first one over
the frame that follows it. The cache therefore ends one frame before the last finished one, which the caller keeps as `last`.

Shape key: B worlds, N tokens of a frame, M of them masked, E action_dim, V num_codes.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from world_model.dynamics import DynamicsModel
from world_model.layers.temporal_cache import TemporalCache


@dataclass(frozen=True, kw_only=True)
class SamplingConfig:
    """How a frame is drawn: in `steps` passes, of which the last fills in all that is left (Genie: 25 steps, temperature 1 on CoinRun).

    `temperature` flattens (above 1) or sharpens (below 1; 0 takes the likeliest) the distribution of each token, after all but the
    `top_k` likeliest are dropped. `confidence_noise` scales the Gumbel noise, fading to 0 over the steps, on the log-probabilities by
    which the surest tokens are chosen; without it flat regions always come first.

    `anchor_frames`, against drift: whenever a world's past has filled the temporal window, it begins anew with its last `anchor_frames`
    frames, at least 2. The model then never sees a longer past than in its training clips, which begin somewhere too. None: never.
    """

    steps: int = 25
    temperature: float = 1.0
    top_k: int | None = None
    confidence_noise: float = 1.0
    anchor_frames: int | None = None

    def __post_init__(self) -> None:
        if type(self.steps) is not int or self.steps < 1:
            raise ValueError(f"steps is {self.steps!r}; at least 1 pass is needed to draw a frame")
        if not (0 <= self.temperature < math.inf and 0 <= self.confidence_noise < math.inf):
            raise ValueError(f"temperature {self.temperature} and confidence_noise {self.confidence_noise} must be finite, not negative")
        if self.top_k is not None and (type(self.top_k) is not int or self.top_k < 1):
            raise ValueError(f"top_k is {self.top_k!r}; keep at least 1 token, or give None to keep all")
        if self.anchor_frames is not None and (type(self.anchor_frames) is not int or self.anchor_frames < 2):
            raise ValueError(f"anchor_frames is {self.anchor_frames!r}; a past begins anew with at least 2 frames, or never, with None")

    def num_masked_after(self, step: int, num_tokens: int) -> int:
        """Masked tokens left after `step` (from 0): the cosine schedule, with at least one token filled in by every step."""
        share = math.cos(math.pi / 2 * (step + 1) / self.steps)
        return 0 if step + 1 == self.steps else min(int(num_tokens * share), max(0, num_tokens - step - 1))


@dataclass(frozen=True)
class Frame:
    """One frame of B worlds: `tokens` (B, N), the `action` (B, E) that led to it, each token's `confidence` (B, N), and the tokens of the
    frame before it, `previous` (B, N), mask tokens where there was none.

    The confidence is the probability that the model gave the token when it was chosen; 1 in a prompt.
    """

    tokens: Tensor
    action: Tensor
    confidence: Tensor
    previous: Tensor


def sample_next_frame(
    model: DynamicsModel,
    cache: TemporalCache,
    last: Frame,
    action: Tensor,
    sampling: SamplingConfig,
    generators: Sequence[torch.Generator],
) -> Frame:
    """The frame to which `action` (B, E) leads from `last`, which is moved into `cache`.

    `generators`, one a world on the model's device, decide all draws: a world's frames do not depend on the worlds beside it.
    """
    num_worlds, num_tokens = last.tokens.shape
    tokens_BN = torch.full_like(last.tokens, model.config.mask_token)
    confidence_BN = torch.zeros(num_worlds, num_tokens, device=tokens_BN.device)
    masked_BM = torch.arange(num_tokens, device=tokens_BN.device).expand(num_worlds, num_tokens)
    for step in range(sampling.steps):
        if step == 0:
            pair_B2N, pair_B2E = torch.stack([last.tokens, tokens_BN], dim=1), torch.stack([last.action, action], dim=1)
            hidden_BND = model.hidden(pair_B2N, pair_B2E, torch.stack([last.previous, last.tokens], dim=1), cache)[:, 1]
            cache.advance()
        else:
            hidden_BND = model.hidden(tokens_BN[:, None], action[:, None], last.tokens[:, None], cache)[:, 0]
        hidden_BMD = hidden_BND.gather(1, masked_BM[..., None].expand(-1, -1, hidden_BND.shape[-1]))
        drawn_BM, log_probability_BM = draw_tokens(model.head(hidden_BMD).float(), sampling, generators)
        tokens_BN = tokens_BN.scatter(1, masked_BM, drawn_BM)
        confidence_BN = confidence_BN.scatter(1, masked_BM, log_probability_BM.exp())
        num_masked = sampling.num_masked_after(step, num_tokens)
        if num_masked == 0:
            break
        noise = sampling.confidence_noise * (1 - (step + 1) / sampling.steps)
        sureness_BM = log_probability_BM + noise * gumbel(log_probability_BM.shape, generators)
        masked_BM = masked_BM.gather(1, sureness_BM.topk(num_masked, largest=False).indices)
        tokens_BN = tokens_BN.scatter(1, masked_BM, model.config.mask_token)
    return Frame(tokens_BN, action, confidence_BN, last.tokens)


def draw_tokens(logits_BMV: Tensor, sampling: SamplingConfig, generators: Sequence[torch.Generator]) -> tuple[Tensor, Tensor]:
    """Tokens (B, M) drawn from logits (B, M, V), and the log-probabilities that the model, at temperature 1, gives them."""
    scores_BMV = logits_BMV
    if sampling.top_k is not None and sampling.top_k < logits_BMV.shape[-1]:
        least_BM1 = logits_BMV.topk(sampling.top_k).values[..., -1:]
        scores_BMV = logits_BMV.masked_fill(logits_BMV < least_BM1, -torch.inf)
    if sampling.temperature > 0:  # the largest sum of logit and Gumbel noise is a draw from the softmax
        scores_BMV = scores_BMV / sampling.temperature + gumbel(scores_BMV.shape, generators)
    tokens_BM1 = scores_BMV.argmax(dim=-1, keepdim=True)
    return tokens_BM1[..., 0], logits_BMV.log_softmax(dim=-1).gather(-1, tokens_BM1)[..., 0]


def gumbel(shape: Sequence[int], generators: Sequence[torch.Generator]) -> Tensor:
    """Gumbel noise of `shape` (B, ...), each world's from its own generator."""
    exponential = [torch.empty(*shape[1:], device=g.device).exponential_(generator=g) for g in generators]
    return -torch.stack(exponential).log()
