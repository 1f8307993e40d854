"""`SelfAttention`: options that torch's MultiheadAttention does not have. Users and decoder blocks call it.

One product makes queries, keys and values; rotation happens in its rows, attention looks at them through strides.
Relative positions are tables as long as the sequence, and a window bounds what is read, so that memory and, with a
window, time are linear in the length. A new scheme of positions is a case in `_position_options`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from transformer_fast import functional as F
from transformer_fast.functional.arrays import as_array
from transformer_fast.nn.attention.masks import Visible, check_heads, visible, weights_form
from transformer_fast.nn.linear import Linear
from transformer_fast.nn.module import Module
from transformer_fast.nn.position import RelativePositionBias, RotaryEmbedding, alibi_slopes

if TYPE_CHECKING:
    from transformer_fast.nn.cache import KeyValueCache


class SelfAttention(Module):
    """Self-attention with grouped heads, a window, positions and a cache; batch first.

    num_kv_heads: as many keys and values as that, each for num_heads / num_kv_heads queries (Ainslie et al., 2023,
    "GQA"; 1: Shazeer, 2019, "MQA"). head_dim: by default embed_dim / num_heads.
    window: (left, right): the number of tokens before and after itself that a token attends, -1 is unlimited. This is
    truncated self-attention for long signals, in linear time and memory. A "sliding window of W" that counts the token
    itself is (W - 1, 0).
    position: None; a RotaryEmbedding, which turns queries and keys; "alibi", which lowers scores by slope * distance
    (Press et al., 2021; on both sides alike without is_causal); or a RelativePositionBias of num_heads heads, as in T5.
    scale: of the scores, by default 1 / sqrt(head_dim); T5 has 1.

    Parameters: in_proj.weight ((num_heads + 2 num_kv_heads) head_dim, embed_dim), the rows of queries, then of keys,
    then of values; out_proj.weight (embed_dim, num_heads head_dim); their biases; those of position, under its name.
    They start as in Linear.

    Raises:
        ValueError, TypeError: numbers that do not fit, or an unknown position.

    Example:
        >>> import numpy as np
        >>> from transformer_fast.nn import RotaryEmbedding, SelfAttention
        >>> attention = SelfAttention(64, 4, num_kv_heads=2, window=(7, 0), position=RotaryEmbedding(16))
        >>> output, _ = attention(np.ones((1, 100, 64), np.float32), is_causal=True)
        >>> output.shape
        (1, 100, 64)
    """

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        *,
        num_kv_heads: int | None = None,
        head_dim: int | None = None,
        bias: bool = True,
        window: tuple[int, int] = (-1, -1),
        position: RotaryEmbedding | RelativePositionBias | str | None = None,
        scale: float | None = None,
    ) -> None:
        super().__init__()
        if head_dim is None:
            check_heads(embed_dim, num_heads)
            head_dim = embed_dim // num_heads
        num_kv_heads = num_heads if num_kv_heads is None else num_kv_heads
        if min(embed_dim, num_heads, num_kv_heads, head_dim) <= 0 or num_heads % num_kv_heads:
            raise ValueError(
                f"embed_dim={embed_dim}, num_heads={num_heads}, num_kv_heads={num_kv_heads}, head_dim={head_dim}; "
                "needed: positive numbers, num_heads a multiple of num_kv_heads"
            )
        _check_position(position, num_heads, head_dim)
        self.embed_dim = embed_dim
        self.num_heads = num_heads
        self.num_kv_heads = num_kv_heads
        self.head_dim = head_dim
        self.window = window
        self.scale = scale
        self.in_proj = Linear(embed_dim, (num_heads + 2 * num_kv_heads) * head_dim, bias)
        self.out_proj = Linear(num_heads * head_dim, embed_dim, bias)
        self.position = position

    def forward(
        self,
        input: np.ndarray,
        key_padding_mask: np.ndarray | None = None,
        attn_mask: np.ndarray | None = None,
        is_causal: bool = False,
        *,
        need_weights: bool | str = False,
        average_attn_weights: bool = True,
        positions: np.ndarray | None = None,
        cache: KeyValueCache | None = None,
        residual: np.ndarray | None = None,
        mask: Any = None,
    ) -> tuple[np.ndarray, Any]:
        """input (B, L, E) or (L, E) -> (output of the same shape plus residual, weights or None).

        Masks as in `MultiheadAttention` (True: NOT allowed): key_padding_mask (B, L), without a batch (L,); attn_mask
        (L, L) or (B * H, L, L). weights are (B, L, Lk), or (B, H, L, Lk) if not average_attn_weights; with
        need_weights="sparse" an array (B,) or (B, H) of scipy.sparse.csr_array, as of `MultiheadAttention`.
        positions (L,) or (B, L): where the tokens stand, for a RotaryEmbedding; by default 0, 1, ...
        cache (`nn.KeyValueCache(B, num_kv_heads, head_dim, capacity)`): the tokens follow those that it holds, attend
        them too, and are appended; Lk is then all of them. Padding, at the end only, is not appended. A cache with a
        window needs positions.
        mask: a structure of `transformer_fast.masks` or `functional.KeyRanges`, of L queries and all keys, those of the
        cache first: **what it has is seen**, and all else costs nothing. It joins the other masks and the window. Row 0
        is the first new token; with a cache, which does not know whether a structure counts from there, KeyRanges are
        needed: its `ranges(L, Lk, offset=past)`, of a tree `ranges(L, Lk)`. A call that is refused leaves the cache as
        it was.

        Raises:
            ValueError, TypeError: shapes or types do not fit, attn_mask or padding in the middle with a cache, or a
                table of positions ("alibi" without is_causal, RelativePositionBias) with a cache of unequal lengths.
            RuntimeError: the cache is in use by a call of another thread.
        """
        masks = key_padding_mask, attn_mask, is_causal
        if cache is None:
            return self._attended(input, *masks, need_weights, average_attn_weights, positions, None, residual, mask)
        with cache.in_use:
            return self._attended(input, *masks, need_weights, average_attn_weights, positions, cache, residual, mask)

    def _attended(
        self,
        input,
        key_padding_mask,
        attn_mask,
        is_causal,
        need_weights,
        average_attn_weights,
        positions,
        cache,
        residual,
        mask,
    ) -> tuple[np.ndarray, Any]:
        """`forward` in the one call that the cache may have."""
        weights = weights_form(need_weights, average_attn_weights)
        x = np.asarray(input)
        if x.ndim not in (2, 3) or x.shape[-1] != self.embed_dim:
            raise ValueError(f"input has shape {x.shape}; needed: (B, L, {self.embed_dim}) or (L, {self.embed_dim})")
        if x.ndim == 2:
            x = x[None]
            key_padding_mask = (
                None if key_padding_mask is None else as_array(key_padding_mask, "key_padding_mask")[None]
            )
        B, L, _ = x.shape
        seen = visible(attn_mask, key_padding_mask, is_causal, (B, self.num_heads, L, L))
        H, Hkv = self.num_heads, self.num_kv_heads
        heads = self.in_proj(x).reshape(B, L, H + 2 * Hkv, self.head_dim).swapaxes(1, 2)
        query, key, value = heads[:, :H], heads[:, H : H + Hkv], heads[:, H + Hkv :]
        offset, lengths, scales = 0, seen.kv_lengths, {}
        if cache is not None:
            self._check_cache(cache, seen, attn_mask is not None, positions)
            if mask is not None and not isinstance(mask, F.KeyRanges):
                raise TypeError(
                    f"mask is a {type(mask).__name__} and a cache was given; needed: KeyRanges, its ranges(Lq, Lk, ...)"
                )
            offset = cache.lengths.copy()
        if isinstance(self.position, RotaryEmbedding):
            self._rotate(heads[:, : H + Hkv], positions, offset)
        if cache is not None:
            cache.append(key, value, lengths)
            # A cache with a window may have dropped what came first.
            offset = cache.lengths - (L if lengths is None else lengths)
            key, value, lengths, scales = cache.keys, cache.values, cache.lengths, cache.scales()
        try:
            context = np.empty((B, L, H * self.head_dim), np.float32)
            result = F.scaled_dot_product_attention(
                query,
                key,
                value,
                seen.attn_mask,
                is_causal=seen.is_causal,
                scale=self.scale,
                enable_gqa=True,
                causal_offset=offset,
                window=self.window,
                kv_lengths=lengths,
                mask=mask,
                return_weights=weights,
                out=context.reshape(B, L, H, self.head_dim).swapaxes(1, 2),
                **scales,
                **self._position_options(L, key.shape[2], offset, seen.is_causal),
            )
            residual = None if residual is None else np.asarray(residual).reshape(x.shape)
            output = self.out_proj(context, residual=residual).reshape(np.shape(input))
        except BaseException:
            if cache is not None:
                cache.crop(offset)  # as if the call had not been: it may be made again
            raise
        if not weights:
            return output, None
        return output, result[1] if np.ndim(input) == 3 else result[1][0]

    def _check_cache(self, cache: KeyValueCache, seen: Visible, masked: bool, positions: np.ndarray | None) -> None:
        """Refuses wrong arguments before anything is appended."""
        if masked or seen.attn_mask is not None:
            raise ValueError("attn_mask, or padding that is not at the end, was given with a cache; needed: None")
        if cache.window is not None and positions is None and isinstance(self.position, RotaryEmbedding):
            raise ValueError("positions is None, and a cache with a window does not know them; needed: (L,) or (B, L)")
        self._position_options(0, 0, cache.lengths, seen.is_causal)

    def _rotate(self, heads: np.ndarray, positions: np.ndarray | None, offset: int | np.ndarray) -> None:
        """Turns heads (B, H, L, D) in place; by default positions start at `offset` (one, or (B,))."""
        if positions is None:
            positions = np.arange(heads.shape[2]) + (offset if isinstance(offset, int) else offset[:, None])
        self.position(heads, positions, out=heads)

    def _position_options(self, Lq: int, Lk: int, offset: int | np.ndarray, is_causal: bool) -> dict[str, Any]:
        """The options of functional's attention that add a bias by position."""
        if self.position is None or isinstance(self.position, RotaryEmbedding):
            return {}
        if self.position == "alibi" and is_causal:
            return {"alibi_slopes": alibi_slopes(self.num_heads)}
        offset = _one(offset)
        if self.position == "alibi":
            distances = np.abs(np.arange(1 - Lq, Lk) - offset).astype(np.float32)
            return {"relative_bias": -alibi_slopes(self.num_heads)[:, None] * distances}
        return {"relative_bias": self.position.table(Lq, Lk, offset)}

    def extra_repr(self) -> str:
        position = f", position={self.position!r}" if isinstance(self.position, str) else ""
        return (
            f"embed_dim={self.embed_dim}, num_heads={self.num_heads}, num_kv_heads={self.num_kv_heads}, "
            f"window={self.window}{position}"
        )


def _check_position(position, num_heads: int, head_dim: int) -> None:
    if isinstance(position, RotaryEmbedding):
        if position.dim > head_dim:
            raise ValueError(f"position rotates {position.dim} columns; needed: at most head_dim={head_dim}")
    elif isinstance(position, RelativePositionBias):
        if position.num_heads != num_heads:
            raise ValueError(f"position has {position.num_heads} heads; needed: num_heads={num_heads}")
    elif position is not None and position != "alibi":
        raise TypeError(f'position is {position!r}; needed: None, "alibi", a RotaryEmbedding or a RelativePositionBias')


def _one(offset: int | np.ndarray) -> int:
    """The offset of all rows."""
    values = np.unique(offset)
    if len(values) > 1:
        raise ValueError(
            f"cache has rows of {values.min()} to {values.max()} tokens; a table of relative positions needs one length"
        )
    return int(values[0]) if len(values) else 0
