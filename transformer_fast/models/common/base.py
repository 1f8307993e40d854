"""`PretrainedModel`: reads a model's parameters from a checkpoint's tensors, and writes them back.

A family's model derives from it, and says in class attributes and in `sources` how its parameters are made of the
checkpoint's tensors; reading, checking and writing are here. `load_model` calls `from_checkpoint`. A new way in which a
parameter is made of tensors is a new field of `Part` (rows of a tensor) or `Source`, used in `read` and `write`.
"""

from __future__ import annotations

import dataclasses
import inspect
import os
import re
from collections.abc import Collection, Iterator, Mapping
from operator import attrgetter
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from transformer_fast.files.checkpoint import Checkpoint, save_checkpoint
from transformer_fast.files.errors import CheckpointError
from transformer_fast.files.folder import open_source
from transformer_fast.files.source import ModelSource
from transformer_fast.functional.integer_weight import as_floats, concatenated
from transformer_fast.functional.linear import AS_STORED, INTEGER_FORMATS
from transformer_fast.functional.stored_weight import StoredWeight
from transformer_fast.models.common.blocks import with_blocks
from transformer_fast.models.common.compute_types import (
    ComputeType,
    check_blocks,
    formats_of_parameters,
    set_weight_formats,
)
from transformer_fast.models.common.config import read_config, without_fields
from transformer_fast.models.common.known_fields import REPORTS
from transformer_fast.models.common.mxfp4 import read_mxfp4
from transformer_fast.models.common.packed_cache import PackedCache, identity
from transformer_fast.models.common.pickles import ReadFromSource
from transformer_fast.models.common.quantised import IntegerTensor, read_integers
from transformer_fast.models.common.quantised_files import as_integers, integer_parameters, quantization_config
from transformer_fast.models.common.tensor_names import check_used, is_copy, unwrapped
from transformer_fast.nn.init import unset_parameters

Model = TypeVar("Model", bound="PretrainedModel")


@dataclasses.dataclass(frozen=True, eq=False)
class Part:
    """Rows of one tensor that go into a parameter.

    name: the tensor. of: how many rows the tensor has, where the parameter's parts are not whole tensors of one size.
    rows: which of them are taken; None: all. order: the row of those that comes first, second, ...: a permutation.
    matrix, matrices: the tensor stacks so many matrices (or vectors), and this is the one that is meant.

    Example:
        >>> Part("qkv_proj.weight", of=96, rows=slice(64, 80)).slice(16)      # the keys of a fused projection
        slice(64, 80, None)
    """

    name: str
    of: int | None = None
    rows: slice | None = None
    order: np.ndarray | None = None
    matrix: int | None = None
    matrices: int | None = None

    def __post_init__(self) -> None:
        rows = slice(0, self.of) if self.rows is None else self.rows
        step = 1 if rows.step is None else rows.step
        if self.rows is not None and (self.of is None or not 0 <= rows.start <= rows.stop <= self.of or step < 1):
            raise ValueError(
                f"rows is {self.rows} and of is {self.of}; needed: slice(a, b, step) with 0 <= a <= b <= of"
            )
        if (self.matrix is None) != (self.matrices is None) or not 0 <= (self.matrix or 0) < (self.matrices or 1):
            raise ValueError(f"matrix is {self.matrix} and matrices is {self.matrices}; needed: 0 <= matrix < matrices")
        if self.order is None:
            return
        count = len(self.order) if rows.stop is None else len(range(rows.start, rows.stop, step))
        if not np.array_equal(np.sort(self.order), np.arange(count)):
            raise ValueError(f"order has {len(self.order)} rows; needed: a permutation of the {count} rows")

    @property
    def whole(self) -> bool:
        """Is it a tensor as it is?"""
        return self.of is None and self.order is None and self.matrix is None

    def slice(self, of: int) -> slice:
        """The rows that are taken of a tensor of `of` rows."""
        return slice(0, of) if self.rows is None else self.rows

    def read(self, tensor: np.ndarray, transpose: bool = False) -> np.ndarray:
        """The rows of a tensor: a view, unless they are in another order. transpose: they are its columns."""
        matrix = tensor if self.matrix is None else tensor[self.matrix]
        matrix = matrix.T if transpose else matrix
        rows = matrix if self.rows is None else matrix[self.rows]
        return rows if self.order is None else rows[self.order]

    def restored(self, rows: np.ndarray) -> np.ndarray:
        """The rows in the order of the tensor: the inverse of the permutation in `read`."""
        return rows if self.order is None else rows[np.argsort(self.order)]


class Source:
    """How one parameter is made: of tensors, or parts of tensors, whose rows follow each other.

    parts: names, for whole tensors of the same number of rows, or `Part`s. transpose: each tensor is the transposed of
    the rows that are needed (GPT-2's Conv1D). shape: the tensor's shape in the file, where it is another than the
    parameter's (one tensor, the same elements in the same order: a convolution that runs as a linear layer). copies:
    names under which the one tensor is written, too.

    Example:
        >>> import numpy as np
        >>> tensors = {"q": np.zeros((2, 3), np.float32), "kv": np.arange(12, dtype=np.float32).reshape(4, 3)}
        >>> Source(Part("q", of=2), Part("kv", of=4, rows=slice(2, 4))).read(tensors, (4, 3))[:, 0]
        array([0., 0., 6., 9.], dtype=float32)
    """

    __slots__ = ("copies", "parts", "shape", "transpose")

    def __init__(
        self,
        *parts: str | Part,
        transpose: bool = False,
        shape: tuple[int, ...] | None = None,
        copies: tuple[str, ...] = (),
    ) -> None:
        self.parts = tuple(Part(part) if isinstance(part, str) else part for part in parts)
        if not parts:
            raise ValueError("parts is empty; needed: at least one name")
        if (shape is not None or copies) and not (len(parts) == 1 and self.parts[0].whole):
            raise ValueError("shape or copies is given with parts; needed: one name")
        self.transpose, self.shape, self.copies = transpose, shape, copies

    @property
    def names(self) -> tuple[str, ...]:
        """The tensors, in the order of the parts."""
        return tuple(part.name for part in self.parts)

    def shapes(self, own: tuple[int, ...]) -> list[tuple[int, ...]]:
        """The shape of each part's tensor in the file for a parameter of shape `own`."""
        if self.shape is not None:
            return [self.shape]
        shapes = [(n, *own[1:])[::-1] if self.transpose else (n, *own[1:]) for n in self._tensor_rows(own)]
        stacks = [() if part.matrices is None else (part.matrices,) for part in self.parts]
        return [stack + shape for stack, shape in zip(stacks, shapes, strict=True)]

    def read(self, tensors: Mapping[str, np.ndarray], own: tuple[int, ...]) -> np.ndarray:
        """The parameter. A matrix of one part is a view of the tensor (transposed by its strides) where it can be."""
        parts = [part.read(tensors[part.name], self.transpose) for part in self.parts]
        whole = concatenated(parts)
        if isinstance(whole, StoredWeight):
            return whole
        array = whole.reshape(own)
        if array.ndim == 1:
            array = array.copy()  # each vector left in the file would bring the pages around it into memory
        array.flags.writeable = False  # so that load_state_dict shares it
        return array

    def renamed(self, suffix: str) -> Source:
        """The same of tensors whose names have a suffix more."""
        return Source(*(dataclasses.replace(part, name=part.name + suffix) for part in self.parts))

    def write(self, parameter: np.ndarray, tensors: WrittenTensors) -> None:
        """Put the parameter's rows into the tensors that they are made of: the inverse of `read`.

        Raises:
            ValueError: other values are there already.
        """
        if self.shape is not None:
            parameter = parameter.reshape(self.shape)
        first = 0
        for part, of in zip(self.parts, self._tensor_rows(parameter.shape), strict=True):
            place = part.slice(of)
            last = first + len(range(*place.indices(of)))
            rows = part.restored(parameter[first:last]) if parameter.ndim else parameter
            for name in (part.name, *self.copies):
                if part.matrix is None:
                    tensors.put(name, rows, place, of, self.transpose)
                else:
                    tensors.put_matrix(name, rows, place, (part.matrices, of), part.matrix, self.transpose)
            first = last

    def _tensor_rows(self, own: tuple[int, ...]) -> list[int]:
        """How many rows each part's tensor has."""
        share = own[0] // len(self.parts) if own else 1
        return [share if part.of is None else part.of for part in self.parts]


class WrittenTensors:
    """The tensors of a file, put together from parameters; a tensor may be made of rows of several.

    Example:
        >>> tensors = WrittenTensors()
        >>> tensors.put("a", np.ones((1, 2), np.float32), slice(1, 2), 2)
        >>> tensors.put("a", np.zeros((1, 2), np.float32), slice(0, 1), 2)
        >>> tensors.finished()["a"][:, 0]
        array([0., 1.], dtype=float32)
    """

    def __init__(self) -> None:
        self._tensors: dict[str, np.ndarray] = {}
        self._filled: dict[str, np.ndarray] = {}

    def put(self, name: str, rows: np.ndarray, place: slice, of: int, transpose: bool = False) -> None:
        """Put rows at `place` into a tensor that has `of` rows, transposed in the file if asked for.

        Raises:
            ValueError: other values are there already.
        """
        if place == slice(0, of) and name not in self._filled:  # a whole tensor: a view is enough
            tensor = rows.T if transpose else rows
            self._check(name, self._tensors.setdefault(name, tensor), tensor)
            return
        if name not in self._tensors:
            self._make(name, (), of, rows, transpose)
        tensor = self._tensors[name].T if transpose else self._tensors[name]
        self._fill(name, tensor, self._filled.setdefault(name, np.ones(of, bool)), rows, place)

    def put_matrix(
        self, name: str, rows: np.ndarray, place: slice, of: tuple[int, int], matrix: int, transpose: bool = False
    ) -> None:
        """As `put`, into one of the matrices that a tensor stacks; of: how many there are, and the rows of each."""
        if name not in self._tensors:
            self._make(name, of[:1], of[1], rows, transpose)
        tensor = self._tensors[name][matrix]
        self._fill(name, tensor.T if transpose else tensor, self._filled[name][matrix], rows, place)

    def _make(self, name: str, stack: tuple[int, ...], of: int, rows: np.ndarray, transpose: bool) -> None:
        shape = (of, *rows.shape[1:])
        self._tensors[name] = np.zeros(stack + (shape[::-1] if transpose else shape), rows.dtype)
        self._filled[name] = np.zeros((*stack, of), bool)

    def _fill(self, name: str, tensor: np.ndarray, filled: np.ndarray, rows: np.ndarray, place: slice) -> None:
        filled = filled[place]
        self._check(name, tensor[place][filled], rows[filled])
        if not filled.all():
            tensor[place] = rows
            filled[...] = True

    @staticmethod
    def _check(name: str, there: np.ndarray, rows: np.ndarray) -> None:
        if not np.array_equal(there, rows, equal_nan=True):
            raise ValueError(f"differs from the parameter that it is tied to; both are {name!r}")

    def finished(self) -> dict[str, np.ndarray]:
        """The tensors.

        Raises:
            ValueError: rows of a tensor are in no parameter.
        """
        for name, filled in self._filled.items():
            if not filled.all():
                raise ValueError(f"{name!r} has {np.sum(~filled)} rows that no parameter holds; needed: all")
        return self._tensors


def under(prefix: str, sources: Mapping[str, Source]) -> dict[str, Source]:
    """The sources of a model that is the part `prefix` of another one."""
    return {f"{prefix}.{ours}": source for ours, source in sources.items()}


class PretrainedModel(ReadFromSource):
    """A model with a config that is read from a checkpoint and can be written back.

    A family sets:
        config_class: a frozen dataclass, the checkpoint's own field names (see models/common/config.py).
        model_types: what config.json calls the family.
        neutral: field -> the values that change nothing (see models/common/config.read_config).
        ignored: prefixes of tensors that the model does not need, after `canonical`.
        stacks: prefix of numbered layers -> the field that says how many there are (with dots into nested configs).
        base_prefix: the prefix of the tensors of the model without its head in files of models with a head ("bert.").
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
        # save_pretrained writes the whole config.json and the tensors that the file had.
        self._content: dict[str, Any] = {}
        self._names: Collection[str] | None = None
        self._reports: tuple[str, ...] = ()  # options of a call that config.json switches on

    def __call__(self, *args: Any, **options: Any) -> Any:
        if self._reports:
            given = inspect.signature(self.forward).bind_partial(*args, **options).arguments
            options |= {name: True for name in self._reports if name not in given | options}
        return self.forward(*args, **options)

    # ------------------------------------------------------------------------------------------------------------------
    # For families to define

    @classmethod
    def sources(cls, config: Any, names: Collection[str]) -> dict[str, Source]:
        """Our parameter's name -> how it is made; names: the checkpoint's tensors, after `canonical`.

        Two parameters that name the same tensor are tied.
        """
        raise NotImplementedError(f"{cls.__name__} has no sources(); needed: the map from its parameters to tensors")

    @classmethod
    def tied(cls, config: Any, names: Collection[str]) -> Mapping[str, str]:
        """Tensor of an output layer -> tensor of the embeddings whose values it has where it is tied.

        A file may hold both. Where their values are the same, the first is as if it was not there.
        """
        return {}

    @classmethod
    def canonical(cls, name: str) -> str:
        """A tensor's name as `sources` has it: without the prefix that models with a head put before it."""
        return name.removeprefix(cls.base_prefix)

    @classmethod
    def written_names(cls, names: Collection[str]) -> Collection[str]:
        """What `sources` is told that there is when a model is written that was read from a file with `names`.

        For a family that reads more forms of files than transformers does.
        """
        return names

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
        path_or_hub_id: str | Path | ModelSource,
        *,
        revision: str | None = None,
        cache_dir: str | Path | None = None,
        token: str | bool | None = None,
        local_files_only: bool = False,
        compute_type: ComputeType = "auto",
        ignore_fields: Collection[str] = (),
        packed_cache: str | Path | None = None,
    ) -> Model:
        """The model in a folder or on the Hugging Face hub, as this class even if config.json names another."""
        source = open_source(
            path_or_hub_id, revision=revision, cache_dir=cache_dir, token=token, local_files_only=local_files_only
        )
        return cls.from_checkpoint(
            Checkpoint.open(source), compute_type=compute_type, ignore_fields=ignore_fields, packed_cache=packed_cache
        )

    @classmethod
    def from_checkpoint(
        cls: type[Model],
        checkpoint: Checkpoint,
        *,
        compute_type: ComputeType = "auto",
        ignore_fields: Collection[str] = (),
        packed_cache: str | Path | None = None,
        whole_texts: bool = False,
    ) -> Model:
        """The model of a checkpoint; compute_type, ignore_fields and packed_cache: of `load_model`.

        whole_texts: it will generate nothing, so that weights are packed for many rows at a time.

        Raises:
            ValueError: there is no such compute_type.
            TypeError: ignore_fields is a string.
            CheckpointError: config.json asks for what is not supported, or tensors are missing, unused or misshapen.
            OSError: packed_cache cannot be written.
        """
        given = checkpoint.source
        options: dict[str, Any] = {"compute_type": compute_type, "ignore_fields": ignore_fields}
        options["whole_texts"] = whole_texts
        cache = None
        if packed_cache is not None:
            what = identity(checkpoint, [cls.__name__, cls.token_ids, whole_texts], compute_type, ignore_fields)
            cache = PackedCache(packed_cache, cls.__name__, what)
        source = checkpoint.source.place("config.json")
        model_type = checkpoint.config.get("model_type")
        if cls.model_types and model_type not in cls.model_types:
            raise CheckpointError(
                f"{source}: model_type is {model_type!r}; needed by {cls.__name__}: {' or '.join(cls.model_types)}"
            )
        checkpoint, stored_format = read_integers(read_mxfp4(checkpoint))
        content = without_fields(checkpoint.config, ignore_fields)
        config, reports = cls.read_config(content, source), cls._reports_of(content, source)
        checkpoint = unwrapped(checkpoint, cls)
        cls._check_stacks(config, checkpoint)
        checkpoint = cls._without_copies(config, checkpoint)
        names = checkpoint.tensors.keys()
        with unset_parameters():
            try:
                model = cls(config, **cls.options(config, names))
            except ValueError as error:
                raise CheckpointError(f"{source}: {error}") from None
        if whole_texts:
            model.pack_for_decode(False)
        own, sources = model.state_dict(), cls.sources(config, names)
        checkpoint = with_blocks(checkpoint, sources, model._names_of("_half_names"))
        in_file = {name: tensor.name for name, tensor in checkpoint.tensors.items()}
        theirs = {ours: [in_file.get(name, name) for name in source.names] for ours, source in sources.items()}
        stored = {
            ours: stored_format if cls._holds_integers(source, checkpoint) else AS_STORED
            for ours, source in sources.items()
        }
        set_weight_formats(model, compute_type, theirs, stored)
        expected: dict[str, tuple[int, ...]] = {}
        for ours, parameter in own.items():
            for name, shape in zip(sources[ours].names, sources[ours].shapes(parameter.shape), strict=True):
                if expected.setdefault(name, shape) != shape:
                    raise CheckpointError(f"{source}: tensor {name!r} would have to be {shape} and {expected[name]}")
        check_used(checkpoint, expected, cls)
        tensors = checkpoint.take(expected, cls.ignored)
        if cache is not None:
            cache.attach(model)
        shared = {} if cache is None else cache.parameters
        model.load_state_dict(
            {
                ours: shared[ours] if ours in shared else sources[ours].read(tensors, array.shape)
                for ours, array in own.items()
            }
        )
        check_blocks(model, compute_type)
        if cache is not None:
            cache.complete(model)
        checkpoint.source.release()
        model._content, model._names, model._reports = dict(checkpoint.config), frozenset(names), reports
        if packed_cache is not None:
            options["packed_cache"] = os.path.abspath(packed_cache)
        model.note_source(given, options)
        return model

    @classmethod
    def _holds_integers(cls, source: Source, checkpoint: Checkpoint) -> bool:
        """Are all tensors of a parameter integers?"""
        integers = [isinstance(checkpoint.tensors.get(name), IntegerTensor) for name in source.names]
        if any(integers) and (source.transpose or source.shape is not None):
            tensor = checkpoint.tensors[source.names[integers.index(True)]]
            raise CheckpointError(f"{tensor.file}: tensor {tensor.name!r} is of integers; needed there: floats")
        return all(integers)

    @classmethod
    def _reports_of(cls, content: Mapping[str, Any], source: Path) -> tuple[str, ...]:
        """Which of output_attentions and output_hidden_states config.json switches on for every call."""
        options = inspect.signature(cls.forward).parameters
        takes_all = any(option.kind is inspect.Parameter.VAR_KEYWORD for option in options.values())
        for name in REPORTS:
            value = content.get(name)
            if value is not None and type(value) is not bool:
                raise CheckpointError(f"{source}: {name} is {value!r}; needed: true or false")
            if value and name not in options and not takes_all:
                raise CheckpointError(f"{source}: {name} is True, which {cls.__name__} does not know; needed: False")
        return tuple(name for name in REPORTS if content.get(name))

    @classmethod
    def _without_copies(cls, config: Any, checkpoint: Checkpoint) -> Checkpoint:
        """Without the tensors of output layers that repeat the embeddings: one copy in memory is enough."""
        tensors = checkpoint.tensors
        copies = {
            name
            for name, other in cls.tied(config, tensors.keys()).items()
            if name in tensors and other in tensors and name != other and is_copy(tensors[name], tensors[other])
        }
        if not copies:
            return checkpoint
        kept = {name: tensor for name, tensor in tensors.items() if name not in copies}
        return dataclasses.replace(checkpoint, tensors=kept)

    def save_pretrained(self, folder: str | Path, *, compute_type: ComputeType = "float32") -> None:
        """Writes config.json and model.safetensors (float32), as transformers would for the class of this name.

        compute_type "int8" or "int8_a16", or a mapping of parts to types: weights of products are written as 8-bit
        integers with a scale a row, in the form "int-quantized" of compressed-tensors, and config.json says so. They
        are rounded without smoothing, which that form does not know: "int8" from a file of floats is more accurate.
        The folder is made if it is not there. The file that the model was read from may be written over.

        Raises:
            ValueError: tied parameters differ; there is no such compute_type, or it cannot be written.
            OSError: a file cannot be written.
        """
        tensors, seen = WrittenTensors(), set()
        tied = getattr(self.config, "tie_word_embeddings", False)
        names = _Everything() if self._names is None else self.written_names(self._names)
        sources = self.sources(self.config, names)
        integers = self._written_as_integers(compute_type, sources)
        for ours, parameter in self.state_dict().items():
            if ours in integers:
                try:
                    weight = as_integers(parameter, integers[ours])
                except ValueError as error:
                    raise ValueError(f"{ours} {error}") from None
                sources[ours].write(weight.integers, tensors)
                sources[ours].renamed("_scale").write(weight.scale[:, None], tensors)
                continue
            if isinstance(parameter, StoredWeight):  # its values are in memory for as long as they are written
                parameter = as_floats(parameter)
            else:
                memory = (parameter.ctypes.data, parameter.shape, parameter.strides)
                if tied and memory in seen:
                    continue
                seen.add(memory)
            try:
                sources[ours].write(parameter, tensors)
            except ValueError as error:
                raise ValueError(f"{ours} {error}") from None
        config = self._content or self._fresh_content()
        config = {name: value for name, value in config.items() if name not in ("torch_dtype", "dtype")}
        config |= {"architectures": [type(self).__name__], "dtype": "float32"}
        if integers:
            config["quantization_config"] = self._quantization_config(integers, sources)
        save_checkpoint(
            Path(folder), config, {self._written(name): tensor for name, tensor in tensors.finished().items()}
        )

    def _written_as_integers(self, compute_type: ComputeType, sources: Mapping[str, Source]) -> dict[str, str]:
        """Parameter -> format, of those that `save_pretrained` writes as integers."""
        own = self.state_dict()
        names = {ours: [*sources[ours].names, *map(self._written, sources[ours].names)] for ours in own}
        formats = formats_of_parameters(self, compute_type, names, {})
        unknown = set(formats.values()) - {"float32", *INTEGER_FORMATS}
        if unknown:
            raise ValueError(f"compute_type is {unknown.pop()!r}; needed: float32 or {' or '.join(INTEGER_FORMATS)}")
        return integer_parameters(formats, self._names_of("_packed_names"), {ours: sources[ours] for ours in own})

    def _quantization_config(self, integers: Mapping[str, str], sources: Mapping[str, Source]) -> dict[str, Any]:
        layers = {
            self._written(name).removesuffix(".weight")
            for ours in self._names_of("_packed_names") - integers.keys()
            if ours in self.state_dict()
            for name in sources[ours].names
        }
        return quantization_config(integers.values(), layers)

    @classmethod
    def _check_stacks(cls, config: Any, checkpoint: Checkpoint) -> None:
        """As many layers as config.json says: asked first, since a wrong number may be a huge one."""
        for prefix, field in cls.stacks.items():
            matches = (re.match(re.escape(prefix) + r"(\d+)\.", name) for name in checkpoint.tensors)
            layers, needed = len({match[1] for match in matches if match}), attrgetter(field)(config)
            if not layers:
                raise CheckpointError(
                    f"{checkpoint.source.weights}: holds no tensors {prefix + '0.'!r}...; needed by {cls.__name__}: "
                    f"those of {needed} layers ({field})"
                )
            if layers != needed:
                raise CheckpointError(
                    f"{checkpoint.source.place('config.json')}: {field} is {needed}, "
                    f"but {checkpoint.source.weights} holds {layers} layers"
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
    """The tensors of a fresh model: each one that `sources` asks for."""

    def __contains__(self, name: object) -> bool:
        return True

    def __iter__(self) -> Iterator[str]:
        return iter(())

    def __len__(self) -> int:
        return 0
