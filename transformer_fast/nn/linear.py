"""`Linear`, and `PackedRows`, which keeps the packed form of a weight for whoever multiplies by it.

Attention and feed-forward blocks are made of this. How a weight is packed is the engine's business
(`functional.pack_weight`); when it is packed is decided here: once, and again if the ISA has changed since.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from transformer_fast import functional as F
from transformer_fast.nn import init
from transformer_fast.nn.module import Module


class PackedRows:
    """The packed forms of ranges of rows of one weight; each is made when it is first asked for."""

    def __init__(self) -> None:
        self._packs: dict[tuple[int, int], tuple[np.ndarray, Any]] = {}

    def get(self, weight: np.ndarray, first: int, last: int, *, format: str, few_rows: bool = False) -> Any:
        """`weight[first:last]`, packed in that format for the current ISA.

        `weight` must never change in place; few_rows is the same in all calls (see `Module.expect_few_rows`).
        """
        source, packed = self._packs.get((first, last), (None, None))
        if source is not weight or packed.isa != F.get_isa() or packed.format != format:
            packed = F.pack_weight(weight[first:last], format=format, for_decode=few_rows)
            self._packs[first, last] = weight, packed
        return packed

    def __reduce__(self) -> tuple[type, tuple[()]]:
        # Packed forms belong to this process and ISA: copies and pickles start anew.
        return PackedRows, ()


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
        self.register_parameter("weight", (out_features, in_features), init.uniform(in_features), half=True)
        self.register_parameter("bias", (out_features,) if bias else None, init.uniform(in_features))
        self._packs = PackedRows()

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

    def packed(self) -> Any:
        """The weight, packed for the instruction set in force."""
        return self._packs.get(self.weight, 0, self.out_features, format=self.weight_format, few_rows=self.few_rows)

    def _loaded(self) -> None:
        self.packed()

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}"
