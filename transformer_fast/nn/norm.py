"""`LayerNorm`. Other norms (RMS) get a class each in this file."""

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
        shape = (normalized_shape,) if isinstance(normalized_shape, int) else tuple(normalized_shape)
        if not shape:
            raise ValueError("normalized_shape is empty; needed: the sizes of at least one axis")
        self.normalized_shape = shape
        self.eps = eps
        self.register_parameter("weight", shape if elementwise_affine else None, init.ones)
        self.register_parameter("bias", shape if elementwise_affine and bias else None, init.zeros)

    def forward(
        self, input: np.ndarray, *, residual: np.ndarray | None = None, out: np.ndarray | None = None
    ) -> np.ndarray:
        """Normalises input + residual, (..., *normalized_shape); see `functional.layer_norm`."""
        if len(self.normalized_shape) == 1:
            return F.layer_norm(input, self.weight, self.bias, self.eps, residual=residual, out=out)
        if out is not None:
            raise NotImplementedError("out= is there for a normalized_shape of one axis only")
        input = np.asarray(input)
        if input.shape[-len(self.normalized_shape) :] != self.normalized_shape:
            raise ValueError(
                f"input has shape {input.shape}; needed: (..., {', '.join(map(str, self.normalized_shape))})"
            )
        rows = (*input.shape[: -len(self.normalized_shape)], math.prod(self.normalized_shape))
        flat = [None if a is None else a.reshape(-1) for a in (self.weight, self.bias)]
        residual = None if residual is None else np.broadcast_to(residual, input.shape).reshape(rows)
        return F.layer_norm(input.reshape(rows), *flat, self.eps, residual=residual).reshape(input.shape)

    def extra_repr(self) -> str:
        return f"{self.normalized_shape}, eps={self.eps}, elementwise_affine={self.weight is not None}"
