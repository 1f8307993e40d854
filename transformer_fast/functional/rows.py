"""Layer norm, RMS norm, softmax and element-wise functions.

Called by users, nn and models; the kernels are csrc/kernels/{norm,softmax,activation}.h.
"""

from __future__ import annotations

import numpy as np

from transformer_fast import _core
from transformer_fast.functional import arrays
from transformer_fast.functional.linear import ACTIVATIONS


def layer_norm(x, weight=None, bias=None, eps=1e-5, *, residual=None, out=None) -> np.ndarray:
    """(z - mean(z)) / sqrt(variance(z) + eps) * weight + bias over the last axis, with z = x + residual.

    x and residual (..., N), weight and bias (N,) -> (..., N); float32. The variance is the biased one. out may be x or
    residual itself.
    Raises TypeError and ValueError. Source: Ba, Kiros, Hinton 2016, arXiv:1607.06450; torch.nn.LayerNorm.

    Example:
        >>> F.layer_norm(np.array([[1, 2, 3]], np.float32), eps=0.0)
        array([[-1.2247,  0.    ,  1.2247]], dtype=float32)
    """
    x, residual, weight, bias = _norm_operands(x, residual, weight, bias, eps, out)
    result = _row_result(out, x.shape)
    if result.size:
        rows = None if residual is None else arrays.as_rows(residual)
        _core.layer_norm(arrays.as_rows(x), rows, weight, bias, eps, arrays.as_rows(result), 0)
    return arrays.finish(out, result)


def rms_norm(x, weight=None, eps=1e-6, *, residual=None, out=None) -> np.ndarray:
    """z / sqrt(mean(z^2) + eps) * weight over the last axis, with z = x + residual.

    x and residual (..., N), weight (N,) -> (..., N); float32. out may be x or residual itself.
    Raises TypeError and ValueError. Source: Zhang, Sennrich 2019, arXiv:1910.07467; torch.nn.RMSNorm (whose eps,
    when it is not given, is the type's epsilon).

    Example:
        >>> rms_norm(np.array([3, 4], np.float32) * 2, eps=0).round(3)
        array([0.849, 1.131], dtype=float32)
    """
    x, residual, weight, _ = _norm_operands(x, residual, weight, None, eps, out)
    result = _row_result(out, x.shape)
    if result.size:
        rows = None if residual is None else arrays.as_rows(residual)
        _core.rms_norm(arrays.as_rows(x), rows, weight, eps, arrays.as_rows(result), 0)
    return arrays.finish(out, result)


def _norm_operands(x, residual, weight, bias, eps, out) -> tuple:
    x = arrays.float32(x, "x")
    if x.ndim == 0:
        raise ValueError("x has shape (); needed: at least one axis")
    N = x.shape[-1]
    if arrays.number(eps, "eps") < 0:
        raise ValueError(f"eps is {eps!r}; needed: a number >= 0")
    if residual is not None:
        residual = arrays.float32(residual, "residual", last=N)
        if residual.shape != x.shape:
            raise ValueError(f"residual has shape {residual.shape}; needed: that of x, {x.shape}")
    weight = None if weight is None else arrays.vector(weight, "weight", N)
    bias = None if bias is None else arrays.vector(bias, "bias", N)
    if out is not None:
        arrays.check_out(
            out,
            x.shape,
            arrays.FLOAT32,
            {"x": x, "residual": residual, "weight": weight, "bias": bias},
            in_place=("x", "residual"),
        )
    return x, residual, weight, bias


def softmax(x, axis=-1, *, out=None) -> np.ndarray:
    """exp(x) / sum(exp(x)) along `axis`; float32, any shape.

    A row of -inf alone, or with NaN or +inf in it, gives NaN, as in torch. out may be x itself.
    Raises TypeError, ValueError, and numpy.exceptions.AxisError for an axis that x does not have.

    Example:
        >>> F.softmax(np.log(np.array([[1, 2, 5]], np.float32)))
        array([[0.125, 0.25 , 0.625]], dtype=float32)
    """
    x = arrays.float32(x, "x")
    if not -x.ndim <= arrays.integer(axis, "axis") < x.ndim:
        raise np.exceptions.AxisError(axis, x.ndim)
    if out is not None:
        arrays.check_out(out, x.shape, arrays.FLOAT32, {"x": x}, in_place=("x",))
    last = axis % x.ndim == x.ndim - 1
    rows = x if last else arrays.dense(np.ascontiguousarray(np.moveaxis(x, axis, -1)))
    result = _row_result(out, x.shape) if last else np.empty(rows.shape, arrays.FLOAT32)
    if result.size:
        _core.softmax(arrays.as_rows(rows), arrays.as_rows(result), 0)
    return arrays.finish(out, result if last else np.ascontiguousarray(np.moveaxis(result, -1, axis)))


def _row_result(out, shape) -> np.ndarray:
    """An array whose rows the engine can write: `out` unless its leading axes do not merge into one stride."""
    result = arrays.result_array(out, shape, arrays.FLOAT32)
    if result.size and not np.may_share_memory(arrays.as_rows(result), result):
        return np.empty(shape, arrays.FLOAT32)
    return result


def _elementwise(x, name: str, out) -> np.ndarray:
    x = arrays.float32(x, "x")
    if out is not None:
        arrays.check_out(out, x.shape, arrays.FLOAT32, {"x": x}, in_place=("x",))
    flat = x if x.flags.c_contiguous else np.ascontiguousarray(x)
    result = out if out is not None and out.flags.c_contiguous else np.empty(x.shape, arrays.FLOAT32)
    if result.size:
        _core.activate(flat, result, ACTIVATIONS[name], 0)
    return arrays.finish(out, result)


def gelu(x, approximate="none", *, out=None) -> np.ndarray:
    """x * Phi(x), Phi the normal distribution; approximate="tanh" takes GPT-2's formula.

    float32, any shape; out may be x itself. Source: Hendrycks, Gimpel 2016, arXiv:1606.08415; torch.nn.functional.gelu.

    Example:
        >>> F.gelu(np.array([-1, 0, 1], np.float32))
        array([-0.1587,  0.    ,  0.8413], dtype=float32)
    """
    if approximate not in ("none", "tanh"):
        raise ValueError(f'approximate is {approximate!r}; needed: "none" or "tanh"')
    return _elementwise(x, "gelu" if approximate == "none" else "gelu_tanh", out)


def relu(x, *, out=None) -> np.ndarray:
    """max(x, 0). float32, any shape; out may be x itself.

    Example:
        >>> F.relu(np.array([-1, 0, 1], np.float32))
        array([0., 0., 1.], dtype=float32)
    """
    return _elementwise(x, "relu", out)


def silu(x, *, out=None) -> np.ndarray:
    """x * sigmoid(x). float32, any shape; out may be x itself.

    Example:
        >>> F.silu(np.array([-1, 0, 1], np.float32))
        array([-0.2689,  0.    ,  0.7311], dtype=float32)
    """
    return _elementwise(x, "silu", out)


def tanh(x, *, out=None) -> np.ndarray:
    """The hyperbolic tangent. float32, any shape; out may be x itself.

    Example:
        >>> F.tanh(np.array([-1, 0, 1], np.float32))
        array([-0.7616,  0.    ,  0.7616], dtype=float32)
    """
    return _elementwise(x, "tanh", out)


def quick_gelu(x, *, out=None) -> np.ndarray:
    """x * sigmoid(1.702 x), CLIP's approximation of GELU. float32, any shape; out may be x itself.

    Example:
        >>> F.quick_gelu(np.array([-1, 0, 1], np.float32))
        array([-0.1542,  0.    ,  0.8458], dtype=float32)
    """
    return _elementwise(x, "quick_gelu", out)
