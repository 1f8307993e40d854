"""Activations that files and callers name as torch's classes: of a Dense module, and of a CrossEncoder's scores.

`sentence_modules` and `cross_encoder` call it. A further one is a line in `_ACTIVATIONS`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from transformer_fast import functional as F

Activation = Callable[[np.ndarray], np.ndarray]


def sigmoid(x: np.ndarray) -> np.ndarray:
    """1 / (1 + exp(-x)), written so that nothing overflows.

    Example:
        >>> sigmoid(np.array([0, 200], np.float32))
        array([0.5, 1. ], dtype=float32)
    """
    return (1 + F.tanh(x / 2)) / 2


def identity(x: np.ndarray) -> np.ndarray:
    """x itself."""
    return x


# The last part of torch.nn's path -> what it computes, with the options that torch gives it by itself.
_ACTIVATIONS: dict[str, Activation] = {
    "Identity": identity,  # no lambda: pipelines pickle their activation
    "Tanh": F.tanh,
    "ReLU": F.relu,
    "GELU": F.gelu,
    "SiLU": F.silu,
    "Sigmoid": sigmoid,
}
ACTIVATIONS = tuple(_ACTIVATIONS)
# Modules of torch that have no options beyond that of writing in place.
_WITHOUT_OPTIONS = ("Identity", "Tanh", "ReLU", "SiLU", "Sigmoid")


def activation_of(name: str) -> Activation:
    """The activation with that name ("Sigmoid"), or path ("torch.nn.modules.activation.Sigmoid").

    Raises:
        ValueError: it is not known.
    """
    last = name.rpartition(".")[2]
    if last not in _ACTIVATIONS or not (last == name or name.startswith("torch.nn.")):
        raise ValueError(f"{name!r}; supported: torch.nn's {', '.join(ACTIVATIONS)}")
    return _ACTIVATIONS[last]


def as_activation(name: str, given: Any) -> Activation:
    """What a caller gives as an activation: a name, one of torch's modules without options, or a function of arrays.

    Raises:
        ValueError: the name or the module is not known.
        TypeError: it is none of these.
    """
    if isinstance(given, str):
        try:
            return activation_of(given)
        except ValueError as error:
            raise ValueError(f"{name} is {error}") from None
    kind = type(given)
    if kind.__module__.startswith("torch."):  # without torch: the class says what it is
        if kind.__name__ not in _WITHOUT_OPTIONS:
            raise ValueError(
                f"{name} is torch's {kind.__name__}; needed: one of {', '.join(_WITHOUT_OPTIONS)}, or a function of "
                "NumPy arrays"
            )
        return _ACTIVATIONS[kind.__name__]
    if not callable(given):
        raise TypeError(f"{name} is a {kind.__name__}; needed: a name, or a function of NumPy arrays")
    return given
