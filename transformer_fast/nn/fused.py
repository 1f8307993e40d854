"""`FusedLinear`: several linear layers of the same input as one product.

Attention blocks of decoders use it for query, key and value. The parts stay parameters of their own (views of a mapped
file cost nothing); only the packed form, which the product reads, has them one after the other.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np

from transformer_fast import functional as F
from transformer_fast.nn import init
from transformer_fast.nn.module import Module
from transformer_fast.nn.packed_weights import JoinedBias, PackedParameters


class FusedLinear(Module):
    """[x W1^T + b1, x W2^T + b2, ...] side by side; parameters <part>_weight (n, in_features) and <part>_bias (n,).

    parts: name -> number of outputs, in the order of the result. bias: of all parts, of none, or the names of those
    that have one. Fresh parameters are those of `Linear`.

    Raises:
        ValueError: there is no part.

    Example:
        >>> import numpy as np
        >>> projections = FusedLinear(8, {"query": 8, "key": 4, "value": 4}, bias=False)
        >>> projections(np.ones((3, 8), np.float32)).shape
        (3, 16)
    """

    def __init__(self, in_features: int, parts: Mapping[str, int], bias: bool | Collection[str] = True) -> None:
        super().__init__()
        if not parts:
            raise ValueError("parts is empty; needed: at least one name with its number of outputs")
        self.in_features = in_features
        self.parts = dict(parts)
        self.out_features = sum(parts.values())
        biased = parts if bias is True else bias or ()
        for name, n in parts.items():
            self.register_parameter(f"{name}_weight", (n, in_features), init.uniform(in_features), packed=True)
            self.register_parameter(f"{name}_bias", (n,) if name in biased else None, init.uniform(in_features))
        weights, biases = ([f"{name}_{kind}" for name in parts] for kind in ("weight", "bias"))
        self._packed_weight = PackedParameters(*weights, takes_input=True)
        self._joined_bias = JoinedBias(tuple(biases), tuple(parts.values()))

    def forward(self, input: np.ndarray, *, out: np.ndarray | None = None) -> np.ndarray:
        """(..., in_features) -> (..., out_features)."""
        packed, bias = self.packed()
        return F.linear(input, packed, bias, out=out)

    def packed(self) -> tuple[F.PackedWeight, np.ndarray | None]:
        """All weights, packed for the instruction set in force, and all biases (None without any)."""
        return self._packed_weight.get(self), self._joined_bias.get(self)

    def _loaded(self) -> None:
        self.packed()

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, parts={self.parts}"
