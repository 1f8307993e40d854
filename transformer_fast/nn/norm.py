"""`LayerNorm` and `RMSNorm`. A norm over several axes is one over all of them joined, which `_over_axes` does."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from transformer_fast import functional as F
from transformer_fast.nn import init
from transformer_fast.nn.module import Module


class LayerNorm(Module):
    """(x - mean) / sqrt(variance + eps) * weight + bias over the last axes, as torch.nn.LayerNorm (Ba et al., 2016).

    normalized_shape is the size of the last axis, or a tuple for several axes. Fresh weights are 1, biases 0.

    Example:
        >>> nn.LayerNorm(3, eps=0.0)(np.array([[1, 2, 3]], np.float32))
        array([[-1.2247,  0.    ,  1.2247]], dtype=float32)
    """

    def __init__(
        self,
        normalized_shape: int | Sequence[int],
        eps: float = 1e-5,
        elementwise_affine: bool = True,
        bias: bool = True,
    ) -> None:
        super().__init__()
        shape = self.normalized_shape = _shape(normalized_shape)
        self.eps = eps
        self.register_parameter("weight", shape if elementwise_affine else None, init.ones)
        self.register_parameter("bias", shape if elementwise_affine and bias else None, init.zeros)

    def forward(
        self, input: np.ndarray, *, residual: np.ndarray | None = None, out: np.ndarray | None = None
    ) -> np.ndarray:
        """Normalises input + residual, (..., *normalized_shape); see `functional.layer_norm`."""
        return _over_axes(self.normalized_shape, F.layer_norm, input, (self.weight, self.bias), self.eps, residual, out)

    def output_range(self) -> np.ndarray:
        """About how large outputs become, normalized_shape: 4 |weight| + |bias|."""
        size = _range(self.normalized_shape, self.weight)
        return size if self.bias is None else size + np.abs(self.bias)

    def extra_repr(self) -> str:
        return f"{self.normalized_shape}, eps={self.eps}, elementwise_affine={self.weight is not None}"


class RMSNorm(Module):
    """x / sqrt(mean(x^2) + eps) * weight over the last axes, as torch.nn.RMSNorm (Zhang and Sennrich, 2019).

    normalized_shape is the size of the last axis, or a tuple for several axes. eps None is float32's epsilon. Fresh
    weights are 1.

    Example:
        >>> RMSNorm(2)(np.array([[3, -3]], np.float32)).round(4)
        array([[ 1., -1.]], dtype=float32)
    """

    def __init__(
        self, normalized_shape: int | Sequence[int], eps: float | None = None, elementwise_affine: bool = True
    ) -> None:
        super().__init__()
        self.normalized_shape = _shape(normalized_shape)
        self.eps = float(np.finfo(np.float32).eps) if eps is None else eps
        self.register_parameter("weight", self.normalized_shape if elementwise_affine else None, init.ones)

    def forward(
        self, input: np.ndarray, *, residual: np.ndarray | None = None, out: np.ndarray | None = None
    ) -> np.ndarray:
        """Normalises input + residual, (..., *normalized_shape); see `functional.rms_norm`."""
        return _over_axes(self.normalized_shape, F.rms_norm, input, (self.weight,), self.eps, residual, out)

    def output_range(self) -> np.ndarray:
        """About how large outputs become, normalized_shape: 4 |weight|."""
        return _range(self.normalized_shape, self.weight)

    def extra_repr(self) -> str:
        return f"{self.normalized_shape}, eps={self.eps}, elementwise_affine={self.weight is not None}"


# Of some hundred normalised numbers the largest is about four standard deviations off.
_DEVIATIONS = np.float32(4)


def _range(shape: tuple[int, ...], weight: np.ndarray | None) -> np.ndarray:
    return _DEVIATIONS * (np.ones(shape, np.float32) if weight is None else np.abs(weight))


def _shape(normalized_shape: int | Sequence[int]) -> tuple[int, ...]:
    shape = (normalized_shape,) if isinstance(normalized_shape, int) else tuple(normalized_shape)
    if not shape:
        raise ValueError("normalized_shape is empty; needed: the sizes of at least one axis")
    return shape


def _over_axes(shape: tuple[int, ...], norm, input, parameters: tuple, eps: float, residual, out) -> np.ndarray:
    if len(shape) == 1:
        return norm(input, *parameters, eps, residual=residual, out=out)
    if out is not None:
        raise NotImplementedError("out= is there for a normalized_shape of one axis only")
    input = np.asarray(input)
    if input.shape[-len(shape) :] != shape:
        raise ValueError(f"input has shape {input.shape}; needed: (..., {', '.join(map(str, shape))})")
    rows = (*input.shape[: -len(shape)], math.prod(shape))
    flat = [None if a is None else a.reshape(-1) for a in parameters]
    residual = None if residual is None else np.broadcast_to(residual, input.shape).reshape(rows)
    return norm(input.reshape(rows), *flat, eps, residual=residual).reshape(input.shape)
