"""What a sentence encoder does with its pooled vectors: the modules of modules.json that follow the pooling.

`sentence_settings` finds them, `read_modules` makes them, `sentence_encoder` calls them in order. A further kind is a
class with `dimension` and `__call__`, and a line in `_KINDS`.

Source: sentence-transformers 6, base/modules/dense.py and sentence_transformer/modules.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from transformer_fast.files.checkpoint import Checkpoint
from transformer_fast.files.errors import CheckpointError
from transformer_fast.files.source import ModelSource
from transformer_fast.files.tokenizer import typed
from transformer_fast.nn import Linear

# Opens a module's own files. Modules without any, such as Normalize, may have no folder: a hub's snapshot has none.
Part = Callable[[], ModelSource]

# config.json's names of an activation -> functional.linear's.
_ACTIVATIONS = {"Identity": None, "Tanh": "tanh", "ReLU": "relu", "GELU": "gelu", "SiLU": "silu"}
_DENSE_FIELDS = {
    "in_features",
    "out_features",
    "bias",
    "activation_function",
    "module_input_name",
    "module_output_name",
    "use_residual",
}


class Normalize:
    """Vectors (B, dim) of length 1."""

    def __init__(self, part: Part, dimension: int, weight_format: str) -> None:
        self.dimension = dimension

    def __call__(self, vectors: np.ndarray) -> np.ndarray:
        return normalized(vectors)


class Dense:
    """A linear layer with an activation, (B, in_features) -> (B, out_features), and what it began with added to it.

    Raises:
        CheckpointError: its config or weights are malformed, do not fit, or ask for what is not supported.
    """

    def __init__(self, part: Part, dimension: int, weight_format: str) -> None:
        source = part()
        checkpoint, place = Checkpoint.open(source), source.place("config.json")
        config = checkpoint.config
        unknown = config.keys() - _DENSE_FIELDS
        if unknown:
            raise CheckpointError(f"{place}: holds {', '.join(sorted(unknown))}; supported: {', '.join(_DENSE_FIELDS)}")
        for name in ("module_input_name", "module_output_name"):
            if typed(place, config, name, str, "sentence_embedding") != "sentence_embedding":
                raise CheckpointError(f"{place}: {name} is {config[name]!r}; supported: 'sentence_embedding'")
        width, self.dimension = (typed(place, config, name, int) for name in ("in_features", "out_features"))
        if width != dimension or self.dimension is None:
            raise CheckpointError(
                f"{place}: in_features is {width} and out_features {self.dimension}; "
                f"needed: {dimension}, which is what comes before, and an integer >= 1"
            )
        bias = typed(place, config, "bias", bool, True)
        shapes: dict[str, tuple[int, ...]] = {"linear.weight": (self.dimension, width)}
        shapes |= {"linear.bias": (self.dimension,)} if bias else {}
        self._residual = typed(place, config, "use_residual", bool, False)
        if self._residual and width != self.dimension:
            shapes["residual.weight"] = (self.dimension, width)
        tensors = checkpoint.take(shapes)
        self._activation = _activation(place, config)
        self._linear = _linear(tensors, "linear", weight_format)
        self._shortcut = _linear(tensors, "residual", weight_format) if "residual.weight" in shapes else None

    def __call__(self, vectors: np.ndarray) -> np.ndarray:
        found = self._linear(vectors, activation=self._activation)
        if self._residual:
            found = found + (vectors if self._shortcut is None else self._shortcut(vectors))
        return found


def normalized(vectors: np.ndarray) -> np.ndarray:
    """Rows of length 1; those shorter than 1e-12 are divided by that, as torch.nn.functional.normalize does."""
    norms = np.sqrt(np.add.reduce(vectors * vectors, axis=1, keepdims=True))
    return vectors / np.maximum(norms, np.float32(1e-12))


# The last part of a module's type -> its class; None: it has no effect on inference.
_KINDS: Mapping[str, Callable[[Part, int, str], Any] | None] = {"Dense": Dense, "Dropout": None, "Normalize": Normalize}
KINDS = tuple(_KINDS)


def read_modules(following: Sequence[tuple[str, Part]], dimension: int, weight_format: str) -> list[Any]:
    """The modules of these kinds and parts; dimension: of the vectors that come before the first.

    Raises:
        CheckpointError: as `Dense`.
    """
    modules = []
    for kind, part in following:
        make = _KINDS[kind]
        if make is not None:
            modules.append(make(part, dimension, weight_format))
            dimension = modules[-1].dimension
    return modules


def _activation(place: Any, config: Mapping[str, Any]) -> str | None:
    path = typed(place, config, "activation_function", str, "torch.nn.modules.activation.Tanh")
    name = path.rpartition(".")[2]
    if not path.startswith("torch.nn.") or name not in _ACTIVATIONS:
        raise CheckpointError(
            f"{place}: activation_function is {path!r}; supported: torch.nn's {', '.join(_ACTIVATIONS)}"
        )
    return _ACTIVATIONS[name]


def _linear(tensors: Mapping[str, np.ndarray], name: str, weight_format: str) -> Linear:
    weight = tensors[f"{name}.weight"]
    layer = Linear(weight.shape[1], weight.shape[0], bias=f"{name}.bias" in tensors)
    layer.set_weight_format(weight_format)
    layer.load_state_dict({key.removeprefix(f"{name}."): t for key, t in tensors.items() if key.startswith(f"{name}.")})
    return layer
