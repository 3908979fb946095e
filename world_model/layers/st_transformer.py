"""The spatiotemporal transformer of Genie (Bruce et al. 2024, section 2, figure 4).

Full attention over a video of T frames of N tokens costs (T N)^2. Here a token looks first at its own frame, then at its own
place in earlier frames, and one feed-forward follows both, so the cost is linear in the number of frames. As no frame looks
ahead, a video can also be computed frame by frame: what earlier frames left behind stands in a TemporalCache.

Shape key: B batch, T time, N tokens of a frame, D d_model, H heads, G heads of keys and values, K width of a head, S frames seen.
"""

from dataclasses import dataclass, fields
from typing import Literal

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from world_model.layers.temporal_cache import CachedFrames, TemporalCache


@dataclass(frozen=True, kw_only=True)
class TransformerConfig:
    """Shape of a stack of ST-blocks.

    `head_dim` is the width of a head, d_model / num_heads unless given; `num_key_value_heads` below `num_heads` lets groups of heads
    share keys and values (Ainslie et al. 2023; 1 is multi-query attention), which shrinks cache and weights. `temporal_window` counts
    the frames a layer looks at, the present one included; None is all of the past. `attention`: "st" is Genie's; "space" (ViT) sees no
    other frame; "joint" (C-ViViT) looks at all tokens of this and earlier frames at once, the paper's table 3.
    """

    num_layers: int = 4
    d_model: int = 128
    num_heads: int = 4
    head_dim: int | None = None
    num_key_value_heads: int | None = None
    feed_forward_expansion: int = 4
    temporal_window: int | None = None
    attention: Literal["st", "space", "joint"] = "st"

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name != "attention" and value is not None and (type(value) is not int or value < 1):
                raise ValueError(f"{field.name} must be a whole number of at least 1, got {value!r}")
        if self.head_dim is None and self.d_model % (2 * self.num_heads):
            raise ValueError(f"d_model {self.d_model} must be a multiple of 2 * num_heads = {2 * self.num_heads}, or give head_dim")
        if self.head_dim is not None and self.head_dim % 2:
            raise ValueError(f"head_dim {self.head_dim} must be even: rotation takes pairs")
        if self.num_key_value_heads is not None and self.num_heads % self.num_key_value_heads:
            raise ValueError(f"num_heads {self.num_heads} must be a multiple of num_key_value_heads {self.num_key_value_heads}")
        if self.attention not in ("st", "space", "joint"):
            raise ValueError(f"attention must be 'st', 'space' or 'joint', got {self.attention!r}")

    @property
    def cached_frames(self) -> int | None:
        """How many frames must be kept to compute frames one by one, as a world is played; None where that cannot be done."""
        return None if self.attention == "joint" else self.temporal_window

    @property
    def width_of_head(self) -> int:
        return self.head_dim or self.d_model // self.num_heads

    @property
    def heads_of_keys(self) -> int:
        return self.num_key_value_heads or self.num_heads


@dataclass(frozen=True)
class Frames:
    """When the frames of one pass are, and what each may see; the same for all layers.

    `cosine`, `sine` (T, K/2) turn queries and keys; `visible` (T, S), or (B N, 1, T, S) where worlds differ, says which frames are seen.
    """

    cosine: Tensor
    sine: Tensor
    visible: Tensor


class AttentionHeads(nn.Module):
    """The projections around attention, with normalised queries and keys.

    Normalising them keeps the attention logits bounded, which is what keeps bfloat16 training stable (QK-norm, section 3).
    """

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.head_counts = (config.num_heads, config.heads_of_keys, config.heads_of_keys)
        width = config.width_of_head
        self.inputs = nn.Linear(config.d_model, sum(self.head_counts) * width, bias=False)
        self.query_norm = nn.RMSNorm(width)
        self.key_norm = nn.RMSNorm(width)
        self.output = nn.Linear(config.num_heads * width, config.d_model, bias=False)

    def split(self, tokens_BTND: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries (B, T, N, H, K), keys and values (B, T, N, G, K)."""
        heads = self.inputs(tokens_BTND).unflatten(-1, (sum(self.head_counts), -1))
        query, key, value = heads.split(self.head_counts, dim=-2)
        return self.query_norm(query.float()), self.key_norm(key.float()), value

    def merge(self, attended_BTNHK: Tensor) -> Tensor:
        """The heads' answers back to tokens (B, T, N, D)."""
        # Flat rows: on a strided view with more dimensions torch would copy the weights for every row.
        return self.output(rearrange(attended_BTNHK, "b t n h k -> (b t n) (h k)")).unflatten(0, attended_BTNHK.shape[:3])


def attend(query: Tensor, key: Tensor, value: Tensor, visible: Tensor | None = None) -> Tensor:
    """Attention of queries (R, H, S, K) to keys and values (R, G, S', K), each of the G groups serving H / G heads."""
    shared = query.shape[1] != key.shape[1]
    return F.scaled_dot_product_attention(query.to(value.dtype), key.to(value.dtype), value, attn_mask=visible, enable_gqa=shared)


class SpatialAttention(nn.Module):
    """Every token attends to all tokens of its own frame."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.heads = AttentionHeads(config)

    def forward(self, tokens_BTND: Tensor, frames: Frames) -> Tensor:
        query, key, value = (rearrange(x, "b t n h k -> (b t) h n k") for x in self.heads.split(tokens_BTND))
        attended = attend(query, key, value)
        return self.heads.merge(rearrange(attended, "(b t) h n k -> b t n h k", b=len(tokens_BTND)))


class TemporalAttention(nn.Module):
    """Every token attends to its own place in its own frame and in earlier ones, never in later ones.

    Times are rotary, so only the distance between two frames counts: any length works, and keys stay valid when old frames
    are dropped.
    """

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.heads = AttentionHeads(config)

    def forward(self, tokens_BTND: Tensor, frames: Frames, past: CachedFrames | None = None) -> Tensor:
        query, key, value = (rearrange(x, "b t n h k -> (b n) h t k") for x in self.heads.split(tokens_BTND))
        query, key = rotate(query, frames), rotate(key, frames)
        if past is not None:
            key, value = past.write(key, value)
        attended = attend(query, key, value, frames.visible)
        return self.heads.merge(rearrange(attended, "(b n) h t k -> b t n h k", b=len(tokens_BTND)))


class JointAttention(nn.Module):
    """Every token attends to all tokens of its own and of earlier frames: C-ViViT's, at a cost that grows with (T N)^2."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.heads = AttentionHeads(config)

    def forward(self, tokens_BTND: Tensor, frames: Frames) -> Tensor:
        num_places = tokens_BTND.shape[2]
        query, key, value = (rearrange(x, "b t n h k -> b n h t k") for x in self.heads.split(tokens_BTND))
        query, key, value = (rearrange(x, "b n h t k -> b h (t n) k") for x in (rotate(query, frames), rotate(key, frames), value))
        visible = frames.visible.repeat_interleave(num_places, 0).repeat_interleave(num_places, 1)
        attended = attend(query, key, value, visible)
        return self.heads.merge(rearrange(attended, "b h (t n) k -> b t n h k", n=num_places))


class STBlock(nn.Module):
    """Spatial attention, causal temporal attention, then ONE feed-forward; each on normalised input, added to the stream."""

    hidden_layers = True  # Muon may train its matrices

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        d_model, hidden = config.d_model, config.feed_forward_expansion * config.d_model
        self.spatial_norm = nn.LayerNorm(d_model)
        self.spatial = JointAttention(config) if config.attention == "joint" else SpatialAttention(config)
        self.temporal_norm = nn.LayerNorm(d_model) if config.attention == "st" else None
        self.temporal = TemporalAttention(config) if config.attention == "st" else None
        self.feed_forward_norm = nn.LayerNorm(d_model)
        self.feed_forward = nn.Sequential(nn.Linear(d_model, hidden), nn.GELU(), nn.Linear(hidden, d_model))

    def forward(self, tokens_BTND: Tensor, frames: Frames, past: CachedFrames | None = None) -> Tensor:
        tokens_BTND = tokens_BTND + self.spatial(self.spatial_norm(tokens_BTND), frames)
        if self.temporal is not None and self.temporal_norm is not None:
            tokens_BTND = tokens_BTND + self.temporal(self.temporal_norm(tokens_BTND), frames, past)
        return tokens_BTND + self.feed_forward(self.feed_forward_norm(tokens_BTND))


class STTransformer(nn.Module):
    """A stack of ST-blocks over (B, T, N, D): learned embeddings say where in the frame a token is, rotation says when.

    With a window of W frames in each of L layers, an output depends on the last 1 + L (W - 1) frames only.
    """

    def __init__(self, config: TransformerConfig, *, num_tokens: int) -> None:
        super().__init__()
        self.config = config
        self.places = nn.Parameter(0.02 * torch.randn(num_tokens, config.d_model))
        self.blocks = nn.ModuleList(STBlock(config) for _ in range(config.num_layers))
        self.norm = nn.LayerNorm(config.d_model)

    def forward(self, tokens_BTND: Tensor, cache: TemporalCache | None = None) -> Tensor:
        """The frames by themselves, or, with `cache`, as those that follow the cached ones; their keys and values are left in it."""
        times_T = torch.arange(tokens_BTND.shape[1], device=tokens_BTND.device)
        if cache is None:
            age = times_T[:, None] - times_T[None, :]
            visible = (age >= 0) & (age < (self.config.temporal_window or len(times_T)))
        else:
            times_T = times_T + cache.clock
            visible = cache.place(times_T).repeat_interleave(tokens_BTND.shape[2], dim=0)
        frames = Frames(*rotation(times_T, self.config.width_of_head), visible)
        tokens_BTND = tokens_BTND + self.places
        for index, block in enumerate(self.blocks):
            tokens_BTND = block(tokens_BTND, frames, cache.layers[index] if cache is not None else None)
        return self.norm(tokens_BTND)

    def make_cache(self, batch_size: int, *, dtype: torch.dtype = torch.float32) -> TemporalCache:
        """An empty cache for `batch_size` worlds on the model's device; ValueError where frames cannot be computed one by one."""
        config = self.config
        if config.cached_frames is None:
            raise ValueError("frames can be computed one by one with attention='st' or 'space' and a temporal_window only; set them")
        return TemporalCache(
            batch_size=batch_size,
            num_tokens=len(self.places),
            num_layers=config.num_layers,
            num_heads=config.heads_of_keys,
            head_dim=config.width_of_head,
            window=config.cached_frames,
            device=self.places.device,
            dtype=dtype,
        )


def rotation(times_T: Tensor, width: int, base: float = 10_000.0) -> tuple[Tensor, Tensor]:
    """Cosine and sine (T, K/2) of the angles by which rotary embedding (Su et al. 2021) turns queries and keys at `times_T`.

    The product of a turned query and a turned key depends on the difference of their times alone. Angles are float64 until they
    are small again, so a world may run for millions of frames.
    """
    half = width // 2
    frequencies = base ** (-torch.arange(half, device=times_T.device, dtype=torch.float64) / half)
    angles = times_T[:, None] * frequencies
    return angles.cos().float(), angles.sin().float()


def rotate(vectors: Tensor, frames: Frames) -> Tensor:
    """Turn (..., T, K) by the angles of its frames."""
    first, second = vectors.chunk(2, dim=-1)
    return torch.cat([first * frames.cosine - second * frames.sine, first * frames.sine + second * frames.cosine], dim=-1)
