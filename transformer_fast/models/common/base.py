"""`PretrainedModel`: what all families share between a checkpoint's tensors and a model's parameters, both ways.

A family's model derives from it and says in class attributes and in `sources` how its parameters are made of the
checkpoint's tensors; reading, checking and writing stand here. `load_model` calls `from_checkpoint`. A new way in which
a parameter is made of tensors is a new field of `Source`, used in `read` and `write`.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Collection, Iterator, Mapping
from operator import attrgetter
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from transformer_fast.files.checkpoint import Checkpoint, CheckpointError, find_folder, save_checkpoint
from transformer_fast.functional.linear import FORMATS
from transformer_fast.models.common.config import read_config
from transformer_fast.nn import Module
from transformer_fast.nn.init import unset_parameters

Model = TypeVar("Model", bound="PretrainedModel")


class Source:
    """How one parameter is made: of the tensors `names`, whose rows follow each other.

    transpose: each tensor is the transposed of what is needed (GPT-2's Conv1D). rows: how many rows each gives, where
    they do not give the same number. shape: the tensor's shape in the file, where it is another than the parameter's
    (one tensor, the same elements in the same order: a convolution that runs as a linear layer). copies: names under
    which the one tensor is written, too.

    Example:
        >>> import numpy as np
        >>> tensors = {"q": np.zeros((2, 3), np.float32), "k": np.ones((2, 3), np.float32)}
        >>> Source("q", "k").read(tensors, (4, 3))[:, 0]
        array([0., 0., 1., 1.], dtype=float32)
    """

    __slots__ = ("copies", "names", "rows", "shape", "transpose")

    def __init__(
        self,
        *names: str,
        transpose: bool = False,
        rows: tuple[int, ...] | None = None,
        shape: tuple[int, ...] | None = None,
        copies: tuple[str, ...] = (),
    ) -> None:
        if not names or (rows is not None and len(rows) != len(names)):
            raise ValueError(f"names={names} and rows={rows}; needed: names, and as many rows as names")
        if len(names) > 1 and (shape is not None or copies):
            raise ValueError("shape or copies is given with several names; needed: one name")
        self.names, self.transpose, self.rows, self.shape, self.copies = names, transpose, rows, shape, copies

    def shapes(self, own: tuple[int, ...]) -> list[tuple[int, ...]]:
        """The shape of each tensor in the file for a parameter of shape `own`."""
        if self.shape is not None:
            return [self.shape]
        rows = self._rows(own)
        return [(n, *own[1:])[::-1] if self.transpose else (n, *own[1:]) for n in rows]

    def read(self, tensors: Mapping[str, np.ndarray], own: tuple[int, ...]) -> np.ndarray:
        """The parameter; a matrix is a view of its one tensor (transposed by its strides): nothing is copied."""
        parts = [tensors[name].T if self.transpose else tensors[name] for name in self.names]
        array = (parts[0] if len(parts) == 1 else np.concatenate(parts)).reshape(own)
        if array.ndim == 1:
            array = array.copy()  # each vector left in the file would bring the pages around it into memory
        array.flags.writeable = False  # so that load_state_dict shares it
        return array

    def write(self, parameter: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
        """(name, tensor) of each tensor that the parameter is made of: the inverse of `read`."""
        if len(self.names) == 1:
            tensor = parameter.T if self.transpose else parameter
            for name in self.names + self.copies:
                yield name, tensor if self.shape is None else tensor.reshape(self.shape)
            return
        first = 0
        for name, rows in zip(self.names, self._rows(parameter.shape), strict=True):
            part = parameter[first : first + rows]
            yield name, part.T if self.transpose else part
            first += rows

    def _rows(self, own: tuple[int, ...]) -> tuple[int, ...]:
        if self.rows is None and len(self.names) == 1:
            return own[:1]
        return self.rows or (own[0] // len(self.names),) * len(self.names)


def weight_format_of(compute_type: str) -> str:
    """How weights are packed for a compute_type of `load_model`.

    Raises:
        ValueError: there is no such compute_type.
    """
    formats = {"auto": "float32"} | {name: name for name in FORMATS}
    if compute_type not in formats:
        raise ValueError(f"compute_type is {compute_type!r}, needed: one of {', '.join(formats)}")
    return formats[compute_type]


def under(prefix: str, sources: Mapping[str, Source]) -> dict[str, Source]:
    """The sources of a model that is the part `prefix` of another one."""
    return {f"{prefix}.{ours}": source for ours, source in sources.items()}


class PretrainedModel(Module):
    """A model with a config that is read from a checkpoint and can be written back.

    A family sets:
        config_class: a frozen dataclass, the checkpoint's own field names (see models/common/config.py).
        model_types: what config.json calls the family.
        neutral: field -> the values that change nothing (see models/config.read_config).
        ignored: prefixes of tensors that the model does not need, after `canonical`.
        stacks: prefix of numbered layers -> the field that says how many there are (with dots into nested configs).
        base_prefix: what stands before the tensors of the model proper in the files of models with a head ("bert.").
        head_prefixes: prefixes of the head's tensors; empty for the model without a head.

    Attributes:
        config: the config_class.

    Example:
        >>> model = BertModel.from_pretrained("bert-base-uncased")                                    # doctest: +SKIP
        >>> model.save_pretrained("a-folder")                                                         # doctest: +SKIP
    """

    config_class: type
    model_types: tuple[str, ...] = ()
    neutral: Mapping[str, tuple] = {}
    ignored: tuple[str, ...] = ()
    stacks: Mapping[str, str] = {}
    base_prefix: str = ""
    head_prefixes: tuple[str, ...] = ()

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.config = config
        # What save_pretrained writes back: the whole config.json, and which tensors the file had.
        self._content: dict[str, Any] = {}
        self._names: Collection[str] | None = None

    # ------------------------------------------------------------------------------------------------------------------
    # What a family defines

    @classmethod
    def sources(cls, config: Any, names: Collection[str]) -> dict[str, Source]:
        """Our parameter's name -> how it is made; names: the checkpoint's tensors, after `canonical`.

        Two parameters that name the same tensor are tied.
        """
        raise NotImplementedError(f"{cls.__name__} has no sources(); needed: the map from its parameters to tensors")

    @classmethod
    def canonical(cls, name: str) -> str:
        """A tensor's name as `sources` has it: without the prefix that models with a head put before it."""
        return name.removeprefix(cls.base_prefix)

    @classmethod
    def read_config(cls, content: dict[str, Any], source: Path) -> Any:
        """The Config of a config.json; families whose file holds several configs read it their own way."""
        return read_config(cls.config_class, content, source, cls.neutral)

    @classmethod
    def options(cls, config: Any, names: Collection[str]) -> dict[str, Any]:
        """Further arguments of the class, as the checkpoint's tensors ask for them (is there a pooler?)."""
        return {}

    # ------------------------------------------------------------------------------------------------------------------
    # Reading and writing

    @classmethod
    def from_pretrained(
        cls: type[Model],
        path_or_hub_id: str | Path,
        *,
        revision: str | None = None,
        cache_dir: str | Path | None = None,
        token: str | bool | None = None,
        local_files_only: bool = False,
        compute_type: str = "auto",
    ) -> Model:
        """The model in a folder, or on the Hugging Face hub; whatever class its config.json names. See `load_model`."""
        folder = find_folder(
            path_or_hub_id, revision=revision, cache_dir=cache_dir, token=token, local_files_only=local_files_only
        )
        return cls.from_checkpoint(Checkpoint.open(folder), compute_type=compute_type)

    @classmethod
    def from_checkpoint(cls: type[Model], checkpoint: Checkpoint, *, compute_type: str = "auto") -> Model:
        """The model of a checkpoint; compute_type: of `load_model`.

        Raises:
            ValueError: there is no such compute_type.
            CheckpointError: config.json asks for what is not supported, or tensors are missing, unused or misshapen.
        """
        weight_format = weight_format_of(compute_type)
        source = checkpoint.folder / "config.json"
        model_type = checkpoint.config.get("model_type")
        if cls.model_types and model_type not in cls.model_types:
            raise CheckpointError(
                f"{source}: model_type is {model_type!r}; needed by {cls.__name__}: {' or '.join(cls.model_types)}"
            )
        config = cls.read_config(checkpoint.config, source)
        checkpoint = checkpoint.renamed(cls.canonical)
        names = checkpoint.tensors.keys()
        cls._check_stacks(config, checkpoint)
        with unset_parameters():
            try:
                model = cls(config, **cls.options(config, names))
            except ValueError as error:
                raise CheckpointError(f"{source}: {error}") from None
        model.set_weight_format(weight_format)
        own, sources = model.state_dict(), cls.sources(config, names)
        expected: dict[str, tuple[int, ...]] = {}
        for ours, parameter in own.items():
            for name, shape in zip(sources[ours].names, sources[ours].shapes(parameter.shape), strict=True):
                if expected.setdefault(name, shape) != shape:
                    raise CheckpointError(f"{source}: tensor {name!r} would have to be {shape} and {expected[name]}")
        tensors = checkpoint.take(expected, cls.ignored)
        model.load_state_dict({ours: sources[ours].read(tensors, array.shape) for ours, array in own.items()})
        checkpoint.release()
        model._content, model._names = dict(checkpoint.config), frozenset(names)
        return model

    def save_pretrained(self, folder: str | Path) -> None:
        """Writes config.json and model.safetensors (float32), as transformers would for the class of this name.

        The folder is made if it is not there. The file that the model was read from may be written over.

        Raises:
            ValueError: tied parameters differ.
            OSError: a file cannot be written.
        """
        tensors: dict[str, np.ndarray] = {}
        seen: set[tuple] = set()
        tied = getattr(self.config, "tie_word_embeddings", False)
        sources = self.sources(self.config, _Everything() if self._names is None else self._names)
        for ours, parameter in self.state_dict().items():
            memory = (parameter.ctypes.data, parameter.shape, parameter.strides)
            if tied and memory in seen:
                continue
            seen.add(memory)
            for name, tensor in sources[ours].write(parameter):
                if not np.array_equal(tensors.setdefault(name, tensor), tensor, equal_nan=True):
                    raise ValueError(f"{ours} differs from the parameter that it is tied to; both are {name!r}")
        config = self._content or self._fresh_content()
        config = {name: value for name, value in config.items() if name not in ("torch_dtype", "dtype")}
        config |= {"architectures": [type(self).__name__], "dtype": "float32"}
        save_checkpoint(Path(folder), config, {self._written(name): tensor for name, tensor in tensors.items()})

    @classmethod
    def _check_stacks(cls, config: Any, checkpoint: Checkpoint) -> None:
        """As many layers as config.json says: asked first, since a wrong number may be a huge one."""
        for prefix, field in cls.stacks.items():
            matches = (re.match(re.escape(prefix) + r"(\d+)\.", name) for name in checkpoint.tensors)
            layers, needed = len({match[1] for match in matches if match}), attrgetter(field)(config)
            if layers != needed:
                raise CheckpointError(
                    f"{checkpoint.folder / 'config.json'}: {field} is {needed}, "
                    f"but {checkpoint.source} holds {layers} layers"
                )

    @classmethod
    def _written(cls, name: str) -> str:
        """The inverse of `canonical`: the name in the files of transformers' class of this name."""
        if not cls.head_prefixes or name.startswith(cls.head_prefixes):
            return name
        return cls.base_prefix + name

    def _fresh_content(self) -> dict[str, Any]:
        """config.json of a model that was not read from one."""
        content = {"model_type": self.model_types[0]} if self.model_types else {}
        content |= dataclasses.asdict(self.config)
        # transformers takes one of them, and is confused by both.
        content.pop("num_labels" if content.get("id2label") else "id2label", None)
        return content


class _Everything(Collection):
    """The tensors of a fresh model: whatever `sources` asks for is there."""

    def __contains__(self, name: object) -> bool:
        return True

    def __iter__(self) -> Iterator[str]:
        return iter(())

    def __len__(self) -> int:
        return 0
