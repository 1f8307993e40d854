"""`Linear`, of which attention and feed-forward blocks are made.

`packed_weights` packs its weight when it is loaded, or when it is first used.
"""

from __future__ import annotations

import numpy as np

from transformer_fast import functional as F
from transformer_fast.nn import init
from transformer_fast.nn.module import Module
from transformer_fast.nn.packed_weights import PackedParameters


class Linear(Module):
    """y = x W^T + b, as torch.nn.Linear: weight (out_features, in_features), bias (out_features,) or None.

    Fresh weights and biases are U(-1/sqrt(in_features), 1/sqrt(in_features)).

    Example:
        >>> linear = nn.Linear(3, 2)
        >>> linear.load_state_dict({"weight": np.ones((2, 3)), "bias": np.array([0.0, 10.0])})
        IncompatibleKeys(missing_keys=[], unexpected_keys=[])
        >>> linear(np.array([[1, 2, 3]], np.float32))
        array([[ 6., 16.]], dtype=float32)
    """

    def __init__(self, in_features: int, out_features: int, bias: bool = True) -> None:
        super().__init__()
        self.in_features = in_features
        self.out_features = out_features
        self.register_parameter("weight", (out_features, in_features), init.uniform(in_features), packed=True)
        self.register_parameter("bias", (out_features,) if bias else None, init.uniform(in_features))
        self._packed_weight = PackedParameters("weight", takes_input=True)

    def forward(
        self,
        input: np.ndarray,
        *,
        activation: str | None = None,
        residual: np.ndarray | None = None,
        out: np.ndarray | None = None,
    ) -> np.ndarray:
        """(..., in_features) -> activation(input W^T + bias) + residual (..., out_features); see functional.linear."""
        return F.linear(input, self.packed(), self.bias, activation=activation, residual=residual, out=out)

    def packed(self) -> F.PackedWeight:
        """The weight, packed for the instruction set in force."""
        return self._packed_weight.get(self)

    def _loaded(self) -> None:
        self.packed()

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}"
