"""Linear layers on packed weights.

Called by users and nn.linear; the kernel is csrc/kernels/gemm.h, the blocking csrc/ops/linear.c.
"""

from __future__ import annotations

import numpy as np

from transformer_fast import _core
from transformer_fast.functional import arrays

PackedWeight = _core.PackedWeight

# tfast_activation of csrc/base/types.h
ACTIVATIONS = {None: 0, "relu": 1, "gelu": 2, "gelu_tanh": 3, "quick_gelu": 4, "silu": 5, "tanh": 6}


def pack_weight(weight) -> PackedWeight:
    """A weight (N, K), as torch.nn.Linear has it, in the layout of the instruction set in force: done once, at load.

    The result has shape, isa and nbytes, and goes wherever a weight goes. It holds a copy; `weight` may be a view of a
    mapped file and is not kept. Under another instruction set (set_isa) its use is a RuntimeError. Raises TypeError
    (not float32) and ValueError (not two axes).

    Example:
        >>> weight = F.pack_weight(np.array([[1, 2, 3], [4, 5, 6]], np.float32))
        >>> F.linear(np.ones((1, 3), np.float32), weight)
        array([[ 6., 15.]], dtype=float32)
    """
    weight = arrays.float32(weight, "weight")
    if weight.ndim != 2:
        raise ValueError(f"weight has shape {weight.shape}; (N, K) is needed")
    return PackedWeight(weight, 0)


def linear(x, weight, bias=None, *, activation=None, residual=None, out=None) -> np.ndarray:
    """activation(x weight^T + bias) + residual.

    x (..., K), weight (N, K) or what pack_weight made of it, bias (N,), residual (..., N), or one that broadcasts to
    it, -> (..., N); all float32.
    activation: None, "relu", "gelu" (by erf), "gelu_tanh", "quick_gelu", "silu" or "tanh", applied while the result is
    in cache. A weight that is not packed is packed for this one call. out may be `residual` itself, and must not
    overlap x.
    Raises TypeError, ValueError, and RuntimeError for a weight packed under another instruction set. Source:
    torch.nn.functional.linear.

    Example:
        >>> x = np.array([[1, -2, 3]], np.float32)
        >>> F.linear(x, np.eye(3, dtype=np.float32), activation="relu", residual=x)
        array([[ 2., -2.,  6.]], dtype=float32)
    """
    packed = weight if type(weight) is PackedWeight else pack_weight(weight)
    N, K = packed.shape
    x = arrays.float32(x, "x")
    if x.ndim == 0 or x.shape[-1] != K:
        raise ValueError(f"weight has shape {packed.shape}, x has shape {x.shape}: (N, K) and (..., K) are needed")
    if activation not in ACTIVATIONS:
        raise ValueError(f"activation is {activation!r}; one of {list(ACTIVATIONS)} is needed")
    if bias is not None:
        bias = arrays.vector(bias, "bias", N)
    shape = (*x.shape[:-1], N)
    if residual is not None:
        residual = arrays.float32(residual, "residual")
        if residual.shape != shape:
            residual = _broadcast(residual, shape)
    if out is not None:
        arrays.check_out(
            out,
            shape,
            arrays.FLOAT32,
            {"x": x, "residual": residual, "weight": weight, "bias": bias},
            in_place=("residual",),
        )
    result = arrays.result_array(out, shape, arrays.FLOAT32)
    if result.size:
        rows = arrays.as_rows(result)
        if not np.may_share_memory(rows, result):
            result = np.empty(shape, arrays.FLOAT32)
            rows = arrays.as_rows(result)
        _core.linear(
            arrays.as_rows(x),
            packed,
            bias,
            ACTIVATIONS[activation],
            None if residual is None else arrays.as_rows(residual),
            rows,
            0,
        )
    return arrays.finish(out, result)


def _broadcast(residual: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    try:
        return arrays.dense(np.broadcast_to(residual, shape))
    except ValueError:
        raise ValueError(f"residual has shape {residual.shape}; {shape} is needed") from None
