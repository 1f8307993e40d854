"""What a sentence encoder does with its pooled vectors: the modules of modules.json that follow the pooling.

`sentence_routes` makes them by `read_modules`, and calls them in order. A further kind is a class with `dimension` and
`__call__`, and a line in `_KINDS`.

Source: sentence-transformers 6, base/modules/dense.py and sentence_transformer/modules.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from transformer_fast import functional as F
from transformer_fast.files.checkpoint import Checkpoint
from transformer_fast.files.errors import CheckpointError
from transformer_fast.files.tokenizer import typed
from transformer_fast.nn import Linear
from transformer_fast.pipelines.activations import ACTIVATIONS, Activation, activation_of
from transformer_fast.pipelines.sentence_settings import ModuleFiles, Part, check_fields
from transformer_fast.util import normalize_embeddings

_NAMES = ("module_input_name", "module_output_name")
_FEATURE = "sentence_embedding"
_SPARSE_SIZES = {"hidden_dim": 512, "k": 8}
_SPARSE_FIELDS = {"input_dim", *_SPARSE_SIZES, "k_aux", "normalize", "dead_threshold"}
_DENSE_FIELDS = {"in_features", "out_features", "bias", "activation_function", "use_residual", *_NAMES}


class FromFiles:
    """A module that nothing changes after it is made: it pickles as its files, and its copies are itself.

    made_from: the arguments of its class, sources and settings.
    """

    def __init__(self, *made_from: Any) -> None:
        self._made_from = made_from

    def __reduce__(self) -> tuple:
        return type(self), self._made_from

    def __copy__(self) -> FromFiles:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> FromFiles:
        return self


class Normalize(FromFiles):
    """Vectors (B, dim) of length 1. feature: what the module works on, as its files call it.

    Raises:
        CheckpointError: its config asks for what is not supported.
    """

    def __init__(self, part: Part, dimension: int, weight_format: str, feature: str = _FEATURE) -> None:
        super().__init__(part, dimension, weight_format, feature)
        self.dimension = dimension
        try:
            source = part()
        except CheckpointError:  # older releases wrote an empty folder, which a hub does not keep
            return
        config, place = source.object("config.json", required=False), source.place("config.json")
        check_fields(place, config, _NAMES)
        _check_names(place, config, feature)

    def __call__(self, vectors: np.ndarray) -> np.ndarray:
        return normalize_embeddings(vectors)


class LayerNorm(FromFiles):
    """torch's LayerNorm of vectors (B, dim), with its eps of 1e-5.

    Raises:
        CheckpointError: its config or weights are malformed or do not fit.
    """

    def __init__(self, part: Part, dimension: int, weight_format: str) -> None:
        super().__init__(part, dimension, weight_format)
        source = part()
        checkpoint, place = Checkpoint.open(source), source.place("config.json")
        check_fields(place, checkpoint.config, {"dimension"})
        self.dimension = dimension
        if typed(place, checkpoint.config, "dimension", int) != dimension:
            raise CheckpointError(
                f"{place}: dimension is {checkpoint.config.get('dimension')}; needed: {dimension}, which comes before"
            )
        tensors = checkpoint.take({"norm.weight": (dimension,), "norm.bias": (dimension,)})
        self._weight, self._bias = (tensors[f"norm.{name}"].astype(np.float32) for name in ("weight", "bias"))

    def __call__(self, vectors: np.ndarray) -> np.ndarray:
        return F.layer_norm(vectors, self._weight, self._bias)


class Dense(FromFiles):
    """A linear layer with an activation, (B, in_features) -> (B, out_features), and what it began with added to it.

    feature: as of `Normalize`.

    Raises:
        CheckpointError: its config or weights are malformed, do not fit, or ask for what is not supported.
    """

    def __init__(self, part: Part, dimension: int, weight_format: str, feature: str = _FEATURE) -> None:
        super().__init__(part, dimension, weight_format, feature)
        source = part()
        checkpoint, place = Checkpoint.open(source), source.place("config.json")
        config = checkpoint.config
        check_fields(place, config, _DENSE_FIELDS)
        _check_names(place, config, feature)
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
        self._linear = linear_layer(tensors, "linear", weight_format)
        self._shortcut = linear_layer(tensors, "residual", weight_format) if "residual.weight" in shapes else None

    def __call__(self, vectors: np.ndarray) -> np.ndarray:
        found = self._activation(self._linear(vectors))
        if self._residual:
            found = found + (vectors if self._shortcut is None else self._shortcut(vectors))
        return found


class SparseAutoEncoder(FromFiles):
    """The k largest of hidden_dim latents, (B, input_dim) -> (B, hidden_dim) with zeros elsewhere: CSR embeddings.

    Of equal latents those of lower index stay; negative ones are zeros. k_aux, dead_threshold and the statistics among
    the tensors are of training. Source: Wen et al. 2025, https://arxiv.org/abs/2503.01776.

    Raises:
        CheckpointError: its config or weights are malformed or do not fit.
    """

    def __init__(self, part: Part, dimension: int, weight_format: str) -> None:
        super().__init__(part, dimension, weight_format)
        source = part()
        checkpoint, place = Checkpoint.open(source), source.place("config.json")
        config = checkpoint.config
        check_fields(place, config, _SPARSE_FIELDS)
        width = typed(place, config, "input_dim", int)
        if width != dimension:
            raise CheckpointError(f"{place}: input_dim is {width}; needed: {dimension}, which comes before")
        self.dimension, self.k = (typed(place, config, size, int, usual) for size, usual in _SPARSE_SIZES.items())
        if not 1 <= self.k <= self.dimension:
            raise CheckpointError(f"{place}: k is {self.k}; needed: 1 to {self.dimension}, which is hidden_dim")
        self._normalize = typed(place, config, "normalize", bool, False)
        # The decoder's weight is the encoder's: files have it under one name of the two.
        name = "encoder.weight" if "encoder.weight" in checkpoint.tensors else "decoder.linear.weight"
        shapes = {"pre_bias": (width,), "latent_bias": (self.dimension,), name: (self.dimension, width)}
        tensors = checkpoint.take(shapes, ignore=("stats_last_nonzero", "decoder."))
        self._shift = tensors["pre_bias"].astype(np.float32)
        weights = {"encoder.weight": tensors[name], "encoder.bias": tensors["latent_bias"].astype(np.float32)}
        self._encoder = linear_layer(weights, "encoder", weight_format)

    def __call__(self, vectors: np.ndarray, k: int | None = None) -> np.ndarray:
        """k: instead of the config's.

        Raises:
            ValueError: k is more than hidden_dim.
        """
        k = self.k if k is None else k
        if k > self.dimension:
            raise ValueError(f"max_active_dims is {k}; needed: at most {self.dimension}, the numbers of a vector")
        if self._normalize:
            vectors = vectors - vectors.mean(axis=-1, keepdims=True)
            vectors = vectors / (vectors.std(axis=-1, ddof=1, keepdims=True) + np.float32(1e-5))
        latents = self._encoder(vectors - self._shift, activation="relu")
        return largest(latents, k)


def largest(vectors: np.ndarray, k: int) -> np.ndarray:
    """Vectors (B, dim) of numbers >= 0 with only the k largest of each; of equal ones those of lower index."""
    if k >= vectors.shape[1]:
        return vectors
    least = np.partition(vectors, -k, axis=1)[:, -k, None]
    above, equal = vectors > least, vectors == least
    free = k - np.add.reduce(above, axis=1, keepdims=True)
    return np.where(above | (equal & (np.cumsum(equal, axis=1) <= free)), vectors, np.float32(0))


# The last part of a module's type -> its class; None: it has no effect on inference.
_KINDS: Mapping[str, Callable[[Part, int, str], Any] | None] = {
    "Dense": Dense,
    "Dropout": None,
    "LayerNorm": LayerNorm,
    "Normalize": Normalize,
    "SparseAutoEncoder": SparseAutoEncoder,
}
KINDS = tuple(_KINDS)


def read_modules(following: Sequence[ModuleFiles], dimension: int, weight_format: str) -> list[Any]:
    """The modules of these files; dimension: of the vectors that come before the first.

    Raises:
        CheckpointError: as `Dense` and `LayerNorm`.
    """
    modules = []
    for files in following:
        make = _KINDS[files.kind]
        if make is not None:
            modules.append(make(files.part, dimension, weight_format))
            dimension = modules[-1].dimension
    return modules


def _check_names(place: Any, config: Mapping[str, Any], feature: str) -> None:
    for name in _NAMES:
        if typed(place, config, name, str, feature) != feature:
            raise CheckpointError(f"{place}: {name} is {config[name]!r}; supported: {feature!r}")


def _activation(place: Any, config: Mapping[str, Any]) -> Activation:
    if config.get("activation_function", "") is None:
        raise CheckpointError(f"{place}: activation_function is null; supported: torch.nn's {', '.join(ACTIVATIONS)}")
    path = typed(place, config, "activation_function", str, "torch.nn.modules.activation.Tanh")
    if not path.startswith("torch.nn."):
        raise CheckpointError(
            f"{place}: activation_function is {path!r}; supported: torch.nn's {', '.join(ACTIVATIONS)}"
        )
    try:
        return activation_of(path)
    except ValueError as error:
        raise CheckpointError(f"{place}: activation_function is {error}") from None


def linear_layer(tensors: Mapping[str, np.ndarray], name: str, weight_format: str) -> Linear:
    """A layer of the tensors name.weight and, if it is there, name.bias."""
    weight = tensors[f"{name}.weight"]
    layer = Linear(weight.shape[1], weight.shape[0], bias=f"{name}.bias" in tensors)
    layer.set_weight_format(weight_format)
    layer.load_state_dict({key.removeprefix(f"{name}."): t for key, t in tensors.items() if key.startswith(f"{name}.")})
    return layer
