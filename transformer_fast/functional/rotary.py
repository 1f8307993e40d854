"""Rotary position embedding. Called by users and nn.position; the kernel is csrc/kernels/rope.h."""

from __future__ import annotations

import numpy as np

from transformer_fast import _core
from transformer_fast.functional import arrays


def rotary_embedding(x, cos, sin, *, interleaved=False, out=None) -> np.ndarray:
    """Turns pairs of the first R of D elements by their position's angles: (a, b) -> (a cos - b sin, b cos + a sin).

    x (..., H, L, D), any strides with a dense last axis; cos and sin (L, R/2), or (B, L, R/2) with one of the leading
    axes' B entries each, R <= D and even -> (..., H, L, D); float32. Pair i is (i, i + R/2), or (2i, 2i + 1) if
    interleaved. What lies behind R stays as it is. out may be x itself.
    Raises TypeError and ValueError. Source: Su et al. 2021, arXiv:2104.09864; Llama's layout, GPT-J's if interleaved;
    the ONNX operator RotaryEmbedding.

    Example:
        >>> quarter_turn = np.array([[0.0]], np.float32), np.array([[1.0]], np.float32)
        >>> rotary_embedding(np.array([[[1, 0]]], np.float32), *quarter_turn)
        array([[[0., 1.]]], dtype=float32)
    """
    x = arrays.float32(x, "x")
    if x.ndim < 3:
        raise ValueError(f"x has shape {x.shape}; needed: (..., H, L, D)")
    *leading, H, L, D = x.shape
    cos, sin = (_angles(a, name, L, D, leading) for a, name in ((cos, "cos"), (sin, "sin")))
    if cos.shape != sin.shape:
        raise ValueError(f"cos has shape {cos.shape}, sin has shape {sin.shape}; needed: one shape")
    if out is not None:
        arrays.check_out(out, x.shape, arrays.FLOAT32, {"x": x, "cos": cos, "sin": sin}, in_place=("x",))
    result = arrays.result_array(out, x.shape, arrays.FLOAT32)
    if result.size:
        source, target = (a.reshape(-1, H, L, D) for a in (x, result))
        if not np.may_share_memory(target, result):
            result = np.empty(x.shape, arrays.FLOAT32)
            target = result.reshape(-1, H, L, D)
        angles = (np.broadcast_to(a, (len(source), *a.shape[-2:])) for a in (cos, sin))
        _core.rope(source, *angles, bool(interleaved), target, 0)
    return arrays.finish(out, result)


def _angles(angles, name: str, L: int, D: int, leading: list[int]) -> np.ndarray:
    """`angles` as a dense array (L, R/2) or (B, L, R/2)."""
    angles = np.ascontiguousarray(arrays.float32(angles, name))
    fits = angles.ndim in (2, 3) and angles.shape[-2] == L and 2 * angles.shape[-1] <= D
    if not fits or (angles.ndim == 3 and [angles.shape[0]] != leading):
        raise ValueError(
            f"{name} has shape {angles.shape}; needed: ({L}, R/2), or ({', '.join(map(str, [*leading, L]))}, R/2), "
            f"R <= {D}"
        )
    return angles
