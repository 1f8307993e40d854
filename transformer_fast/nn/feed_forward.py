"""The feed-forward half of a Transformer block: linear, activation, linear.

`feed_forward` is the computation; `FeedForward` holds the two layers for models that name it as a part, while
`TransformerEncoderLayer` keeps them under torch's names and calls the function.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from transformer_fast.nn.linear import Linear
from transformer_fast.nn.module import Module

Activation = str | Callable[[np.ndarray], np.ndarray]


def feed_forward(
    input: np.ndarray,
    linear1: Linear,
    linear2: Linear,
    activation: Activation,
    *,
    residual: np.ndarray | None = None,
    hidden: np.ndarray | None = None,
    out: np.ndarray | None = None,
) -> np.ndarray:
    """linear2(activation(linear1(input))) + residual.

    activation is a name that `functional.linear` knows, which costs no pass of its own, or a function of an array.
    hidden (..., linear1.out_features) is scratch that a caller may reuse.
    """
    if callable(activation):
        inner = activation(linear1(input, out=hidden))
    else:
        inner = linear1(input, activation=activation, out=hidden)
    return linear2(inner, residual=residual, out=out)


class FeedForward(Module):
    """linear1 (d_model -> dim_feedforward), activation, linear2 (dim_feedforward -> d_model).

    Example:
        >>> nn.FeedForward(16, 64, activation="gelu")(np.ones((2, 16), np.float32)).shape
        (2, 16)
    """

    def __init__(self, d_model: int, dim_feedforward: int, activation: Activation = "relu", bias: bool = True) -> None:
        super().__init__()
        self.activation = activation
        self.linear1 = Linear(d_model, dim_feedforward, bias)
        self.linear2 = Linear(dim_feedforward, d_model, bias)

    def forward(
        self,
        input: np.ndarray,
        *,
        residual: np.ndarray | None = None,
        hidden: np.ndarray | None = None,
        out: np.ndarray | None = None,
    ) -> np.ndarray:
        """(..., d_model) -> (..., d_model); see `feed_forward`."""
        return feed_forward(
            input, self.linear1, self.linear2, self.activation, residual=residual, hidden=hidden, out=out
        )

    def extra_repr(self) -> str:
        return f"activation={self.activation!r}"
