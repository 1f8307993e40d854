"""Activations as modules, and modules that do nothing at inference: the steps between the layers of a `Sequential`.

Users and `integrations.torch` make them. Each calls the function of `functional` that has its formula. `fused` is the
name under which `functional.linear` applies the same function while its result is in cache; `Sequential` asks for it.
A new activation is a class here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from transformer_fast import functional as F
from transformer_fast.nn.module import Module

# What the products do on the way out (names of `functional.linear`), for results that no product makes.
FUNCTIONS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "relu": F.relu,
    "gelu": F.gelu,
    "gelu_tanh": lambda x: F.gelu(x, "tanh"),
    "quick_gelu": F.quick_gelu,
    "silu": F.silu,
    "tanh": F.tanh,
}


class Elementwise(Module):
    """A function of every element: float32 (...) -> the same shape; errors as those of the function."""

    fused: str | None = None  # what `functional.linear` calls the function, if it has it


class ReLU(Elementwise):
    """max(x, 0), as torch.nn.ReLU. inplace is accepted; the input is never written to.

    Example:
        >>> nn.ReLU()(np.array([-1, 0, 1], np.float32))
        array([0., 0., 1.], dtype=float32)
    """

    fused = "relu"

    def __init__(self, inplace: bool = False) -> None:
        super().__init__()

    def forward(self, input: np.ndarray) -> np.ndarray:
        return F.relu(input)


class GELU(Elementwise):
    """x * Phi(x), as torch.nn.GELU; approximate="tanh" takes GPT-2's formula (Hendrycks, Gimpel, 2016).

    Example:
        >>> nn.GELU()(np.array([-1, 0, 1], np.float32))
        array([-0.1587,  0.    ,  0.8413], dtype=float32)
    """

    def __init__(self, approximate: str = "none") -> None:
        super().__init__()
        if approximate not in ("none", "tanh"):
            raise ValueError(f'approximate is {approximate!r}; needed: "none" or "tanh"')
        self.approximate = approximate
        self.fused = "gelu" if approximate == "none" else "gelu_tanh"

    def forward(self, input: np.ndarray) -> np.ndarray:
        return F.gelu(input, self.approximate)

    def extra_repr(self) -> str:
        return f"approximate={self.approximate!r}"


class QuickGELU(Elementwise):
    """x * sigmoid(1.702 x): CLIP's approximation of GELU (transformers calls it quick_gelu).

    Example:
        >>> nn.QuickGELU()(np.array([-1, 0, 1], np.float32))
        array([-0.1542,  0.    ,  0.8458], dtype=float32)
    """

    fused = "quick_gelu"

    def forward(self, input: np.ndarray) -> np.ndarray:
        return F.quick_gelu(input)


class SiLU(Elementwise):
    """x * sigmoid(x), as torch.nn.SiLU. inplace is accepted; the input is never written to.

    Example:
        >>> nn.SiLU()(np.array([-1, 0, 1], np.float32))
        array([-0.2689,  0.    ,  0.7311], dtype=float32)
    """

    fused = "silu"

    def __init__(self, inplace: bool = False) -> None:
        super().__init__()

    def forward(self, input: np.ndarray) -> np.ndarray:
        return F.silu(input)


class Tanh(Elementwise):
    """The hyperbolic tangent, as torch.nn.Tanh.

    Example:
        >>> nn.Tanh()(np.array([-1, 0, 1], np.float32))
        array([-0.7616,  0.    ,  0.7616], dtype=float32)
    """

    fused = "tanh"

    def forward(self, input: np.ndarray) -> np.ndarray:
        return F.tanh(input)


class Sigmoid(Elementwise):
    """1 / (1 + exp(-x)), as torch.nn.Sigmoid, computed as (1 + tanh(x / 2)) / 2.

    Example:
        >>> nn.Sigmoid()(np.array([-1, 0, 1], np.float32))
        array([0.2689, 0.5   , 0.7311], dtype=float32)
    """

    def forward(self, input: np.ndarray) -> np.ndarray:
        result = F.tanh(np.asarray(input) * np.float32(0.5))
        result *= np.float32(0.5)
        result += np.float32(0.5)
        return result


class Softmax(Module):
    """exp(x) / sum(exp(x)) along the axis dim, as torch.nn.Softmax; float32, any shape.

    Example:
        >>> nn.Softmax(dim=-1)(np.log(np.array([[1, 2, 5]], np.float32)))
        array([[0.125, 0.25 , 0.625]], dtype=float32)
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        if not isinstance(dim, int):
            raise TypeError(f"dim is {dim!r}; needed: the number of an axis")
        self.dim = dim

    def forward(self, input: np.ndarray) -> np.ndarray:
        return F.softmax(input, self.dim)

    def extra_repr(self) -> str:
        return f"dim={self.dim}"


class Identity(Module):
    """Gives its input back, as torch.nn.Identity; any arguments are accepted.

    Example:
        >>> nn.Identity()(np.array([1, 2]))
        array([1, 2])
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__()

    def forward(self, input: np.ndarray) -> np.ndarray:
        return input


class Dropout(Identity):
    """Gives its input back, as torch.nn.Dropout in evaluation: there is no other mode. p is kept for `repr`.

    Example:
        >>> nn.Dropout(0.1)(np.array([1, 2]))
        array([1, 2])
    """

    def __init__(self, p: float = 0.5, inplace: bool = False) -> None:
        super().__init__()
        if not 0 <= p <= 1:
            raise ValueError(f"p is {p!r}; needed: a probability")
        self.p = p

    def extra_repr(self) -> str:
        return f"p={self.p}"
