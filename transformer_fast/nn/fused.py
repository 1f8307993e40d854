"""`FusedLinear`: several linear layers of the same input as one product.

Attention blocks of decoders use it for query, key and value. The parts stay parameters of their own (views of a mapped
file cost nothing); only the packed form, which the product reads, has them one after the other.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np

from transformer_fast import functional as F
from transformer_fast.nn import init
from transformer_fast.nn.module import Module


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
            self.register_parameter(f"{name}_weight", (n, in_features), init.uniform(in_features), half=True)
            self.register_parameter(f"{name}_bias", (n,) if name in biased else None, init.uniform(in_features))
        self._pack = _Pack()

    def forward(self, input: np.ndarray, *, out: np.ndarray | None = None) -> np.ndarray:
        """(..., in_features) -> (..., out_features)."""
        packed, bias = self.packed()
        return F.linear(input, packed, bias, out=out)

    def packed(self) -> tuple[Any, np.ndarray | None]:
        """All weights, packed for the instruction set in force, and all biases (None without any)."""
        return self._pack.get(self)

    def _loaded(self) -> None:
        self.packed()

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, parts={self.parts}"


class _Pack:
    """The packed weight and the whole bias, made when first asked for, and again if a part or the ISA has changed."""

    def __init__(self) -> None:
        self._sources: list[np.ndarray] = []
        self._made: tuple[Any, np.ndarray | None] | None = None

    def get(self, module: FusedLinear) -> tuple[Any, np.ndarray | None]:
        parameters = module._parameters
        if (
            self._made is None
            or self._made[0].isa != F.get_isa()
            or self._made[0].format != module.weight_format
            or any(a is not b for a, b in zip(self._sources, parameters.values(), strict=True))
        ):
            weights, biases = ([parameters[f"{n}_{kind}"] for n in module.parts] for kind in ("weight", "bias"))
            bias = None
            if any(part is not None for part in biases):
                zeros = (np.zeros(n, np.float32) for n in module.parts.values())
                bias = np.concatenate([z if part is None else part for z, part in zip(zeros, biases, strict=True)])
            packed = F.pack_weight(weights, format=module.weight_format, for_decode=module.few_rows)
            self._made = packed, bias
            self._sources = list(parameters.values())
        return self._made

    def __reduce__(self) -> tuple[type, tuple[()]]:
        return _Pack, ()  # packed weights belong to this process and ISA
