"""The spatiotemporal transformer of Genie (Bruce et al. 2024, section 2, figure 4).

Full attention over a video of T frames of N tokens costs (T N)^2. Here a token looks first at its own frame, then at its own
place in earlier frames, and one feed-forward follows both, so the cost is linear in the number of frames.

Shape key: B batch, T time, N tokens of a frame, D d_model, H heads, K width of a head; `...` any leading dimensions.
"""

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn


class SpatialAttention(nn.Module):
    """Every token attends to all tokens of its own frame."""

    def __init__(self, d_model: int, num_heads: int) -> None:
        super().__init__()
        self.heads = AttentionHeads(d_model, num_heads)

    def forward(self, tokens_BTND: Tensor) -> Tensor:
        query, key, value = self.heads.split(rearrange(tokens_BTND, "b t n d -> (b t) n d"))
        attended = self.heads.merge(F.scaled_dot_product_attention(query, key, value))
        return rearrange(attended, "(b t) n d -> b t n d", b=tokens_BTND.shape[0])


class TemporalAttention(nn.Module):
    """Every token attends to its own place in its own frame and in earlier ones, never in later ones.

    Times are rotary, so only the distance between two frames counts: any length works, and keys stay valid when old frames
    are dropped. `window` is the number of frames seen, the present one included; None sees all of the past.
    """

    def __init__(self, d_model: int, num_heads: int, window: int | None = None) -> None:
        super().__init__()
        self.heads = AttentionHeads(d_model, num_heads)
        self.window = window

    def forward(self, tokens_BTND: Tensor) -> Tensor:
        num_places = tokens_BTND.shape[2]
        query, key, value = self.heads.split(rearrange(tokens_BTND, "b t n d -> (b n) t d"))
        times = torch.arange(query.shape[-2], device=query.device)
        query, key = rotate(query, times), rotate(key, times)
        attended = self.heads.merge(F.scaled_dot_product_attention(query, key, value, attn_mask=self.visible(times)))
        return rearrange(attended, "(b n) t d -> b t n d", n=num_places)

    def visible(self, times: Tensor) -> Tensor:
        """(T, T) bool: whether the row's frame may see the column's frame."""
        age = times[:, None] - times[None, :]
        return age >= 0 if self.window is None else (age >= 0) & (age < self.window)


class AttentionHeads(nn.Module):
    """The projections around attention over the last but one dimension of (..., S, D), with normalised queries and keys.

    Normalising them keeps the attention logits bounded, which is what keeps bfloat16 training stable (QK-norm, section 3).
    """

    def __init__(self, d_model: int, num_heads: int) -> None:
        super().__init__()
        if d_model % (2 * num_heads):
            raise ValueError(f"d_model {d_model} must be a multiple of 2 * num_heads = {2 * num_heads}: rotation takes pairs")
        self.num_heads = num_heads
        self.inputs = nn.Linear(d_model, 3 * d_model, bias=False)
        self.query_norm = nn.RMSNorm(d_model // num_heads)
        self.key_norm = nn.RMSNorm(d_model // num_heads)
        self.output = nn.Linear(d_model, d_model, bias=False)

    def split(self, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(..., S, D) to queries, keys and values (..., H, S, K)."""
        query, key, value = rearrange(self.inputs(tokens), "... s (three h k) -> three ... h s k", three=3, h=self.num_heads).unbind(0)
        return self.query_norm(query.float()), self.key_norm(key.float()), value

    def merge(self, attended: Tensor) -> Tensor:
        """(..., H, S, K) back to (..., S, D)."""
        return self.output(rearrange(attended, "... h s k -> ... s (h k)"))


def rotate(vectors: Tensor, times: Tensor, base: float = 10_000.0) -> Tensor:
    """Rotary position embedding (Su et al. 2021): turn (..., T, K) by angles that grow with `times` (T,).

    The product of a turned query and a turned key depends on the difference of their times alone.
    """
    half = vectors.shape[-1] // 2
    frequencies = base ** (-torch.arange(half, device=vectors.device) / half)
    angles = times[:, None] * frequencies
    cosine, sine = angles.cos(), angles.sin()
    first, second = vectors.float().chunk(2, dim=-1)
    turned = torch.cat([first * cosine - second * sine, first * sine + second * cosine], dim=-1)
    return turned.to(vectors.dtype)


class STBlock(nn.Module):
    """Spatial attention, causal temporal attention, then ONE feed-forward; each on normalised input, added to the stream."""

    def __init__(self, d_model: int, num_heads: int, temporal_window: int | None = None) -> None:
        super().__init__()
        self.spatial_norm = nn.LayerNorm(d_model)
        self.spatial = SpatialAttention(d_model, num_heads)
        self.temporal_norm = nn.LayerNorm(d_model)
        self.temporal = TemporalAttention(d_model, num_heads, temporal_window)
        self.feed_forward_norm = nn.LayerNorm(d_model)
        self.feed_forward = nn.Sequential(nn.Linear(d_model, 4 * d_model), nn.GELU(), nn.Linear(4 * d_model, d_model))

    def forward(self, tokens_BTND: Tensor) -> Tensor:
        tokens_BTND = tokens_BTND + self.spatial(self.spatial_norm(tokens_BTND))
        tokens_BTND = tokens_BTND + self.temporal(self.temporal_norm(tokens_BTND))
        return tokens_BTND + self.feed_forward(self.feed_forward_norm(tokens_BTND))


class STTransformer(nn.Module):
    """A stack of ST-blocks over (B, T, N, D): learned embeddings say where in the frame a token is, rotation says when.

    With a window of W frames in each of L layers, an output depends on the last 1 + L (W - 1) frames only.
    """

    def __init__(self, *, num_layers: int, d_model: int, num_heads: int, num_tokens: int, temporal_window: int | None = None) -> None:
        super().__init__()
        self.places = nn.Parameter(0.02 * torch.randn(num_tokens, d_model))
        self.blocks = nn.ModuleList(STBlock(d_model, num_heads, temporal_window) for _ in range(num_layers))
        self.norm = nn.LayerNorm(d_model)

    def forward(self, tokens_BTND: Tensor) -> Tensor:
        tokens_BTND = tokens_BTND + self.places
        for block in self.blocks:
            tokens_BTND = block(tokens_BTND)
        return self.norm(tokens_BTND)
