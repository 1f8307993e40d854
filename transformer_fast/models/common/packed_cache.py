"""`PackedCache`: a model's packed weights in a file that any number of processes map, and so have in memory once.

`PretrainedModel.from_checkpoint` makes one where `load_model` is given packed_cache. `files.mapped_arrays` knows the
file, `functional.packed_bytes` the bytes of a weight, and `nn.packed_weights` asks for a weight before it packs one.
Matrices that are put together from several tensors are in the file as well: others are views of the checkpoint's own
file, which is mapped, too. To share something else, put it into `content` of the file, and raise _VERSION.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from transformer_fast import functional as F
from transformer_fast.files.checkpoint import Checkpoint
from transformer_fast.files.errors import CheckpointError
from transformer_fast.files.mapped_arrays import MappedArrays, read_arrays, write_arrays
from transformer_fast.files.source import mapping_of
from transformer_fast.functional.bfloat16 import bfloat16_dtype
from transformer_fast.functional.packed_bytes import describe, restore, sample_digest
from transformer_fast.models.common.compute_types import ComputeType
from transformer_fast.nn import Module
from transformer_fast.nn.packed_weights import packed_parameters

# Of what a file holds and how its name is made.
_VERSION = 1
# Bytes of each tensor that go into a model's identity: weights that were trained further differ in all tensors, and to
# read all bytes would take longer than to pack them.
_SAMPLED = 4096


class PackedCacheWarning(UserWarning):
    """A file of a packed_cache is damaged, and is written anew."""


def identity(checkpoint: Checkpoint, kind: list[Any], compute_type: ComputeType, ignore_fields: Collection[str]) -> str:
    """SHA-256 of what decides the values of a model's packed weights.

    It is made of the library's version, config.json, the options, and of each tensor its name, type, shape, the first
    4 KB of it, and its file's size and time of change. kind: the model's class, and what else
    decides which weights it packs, and how.
    """
    from transformer_fast import __version__

    types = sorted(compute_type.items()) if isinstance(compute_type, Mapping) else compute_type
    said = [__version__, _VERSION, kind, checkpoint.config, types, sorted(ignore_fields)]
    digest = hashlib.sha256(json.dumps(said, default=repr).encode())
    for path in sorted({tensor.file for tensor in checkpoint.tensors.values()}):
        if path.is_file():  # a source of another kind than a folder may have none
            status = path.stat()
            digest.update(f"{path.name} {status.st_size} {status.st_mtime_ns}\n".encode())
    for name, tensor in sorted(checkpoint.tensors.items()):
        digest.update(f"{name} {tensor.code} {tensor.shape}\n".encode())
        digest.update(np.ascontiguousarray(tensor.data[:_SAMPLED]).tobytes())
    return digest.hexdigest()


class PackedCache:
    """The packed weights of one model in a file of a folder; there is one file for each instruction set level.

    Use: `attach` to a model before its parameters are loaded, `complete` after. In between weights are taken from the
    file, and are packed where there is none, or one that does not fit.

    Attributes:
        path: the file. parameters: those that it holds, name -> array.

    Raises:
        OSError: the folder cannot be made.
    """

    def __init__(self, folder: str | Path, kind: str, identity: str) -> None:
        self._folder = Path(folder)
        self._folder.mkdir(parents=True, exist_ok=True)
        self._kind, self._identity = kind, identity
        self._isa = F.get_isa()
        self.path = self._folder / f"{kind}-{self._isa}-{identity[:32]}.packed"
        self.parameters: dict[str, np.ndarray] = {}
        self._weights = self._read()
        self._known: dict[int, Any] | None = None  # id -> parameter, once all are loaded

    def attach(self, model: Module) -> None:
        """Lets all parts of a model look here before they pack; until `complete`, parameters are those of the file."""
        for name, module in model.named_modules():
            module.__dict__["_packed_source"] = _Part(self, name)

    def complete(self, model: Module) -> None:
        """Called when all parameters are loaded. Writes the file if there is none that fits, and maps it.

        Raises:
            OSError: the file cannot be written.
        """
        if self._weights is None:
            self._write(model)
            self._weights = self._read()
            for _, module in model.named_modules():
                for pack in packed_parameters(module):
                    pack.forget()
        self._known = {id(parameter): parameter for parameter in model.parameters()}

    def find(self, key: str, shape: tuple[int, int], made_from: tuple) -> F.PackedWeight | None:
        """As `PackedSource.find`, with the module's name in the key."""
        if self._weights is None or F.get_isa() != self._isa or key not in self._weights:
            return None
        if self._known is not None and any(self._known.get(id(source)) is not source for source in made_from):
            return None
        packed = self._weights[key]
        return packed if packed.shape == shape else None

    def _read(self) -> dict[str, F.PackedWeight] | None:
        """The weights in the file; None if there is none, or one that another build of the library wrote."""
        try:
            return self._restored(read_arrays(self.path))
        except FileNotFoundError:
            return None
        except CheckpointError as error:
            warnings.warn(f"{error}; it is written anew", PackedCacheWarning, stacklevel=2)
            return None

    def _restored(self, file: MappedArrays) -> dict[str, F.PackedWeight] | None:
        try:
            if file.content["identity"] != self._identity or not _packs_alike(file.content["samples"]):
                return None
            weights, arrays = {}, iter(file.arrays)
            for key, description in file.content["weights"].items():
                weights[key] = restore(description, [next(arrays) for _ in description["parts"]])
            self.parameters = {
                name: next(arrays).view(_dtype(dtype)).reshape(shape)
                for name, dtype, shape in file.content["parameters"]
            }
            return weights
        except (KeyError, TypeError, ValueError, AttributeError, StopIteration) as error:
            raise CheckpointError(f"{self.path}: holds no packed weights: {error!r}") from None

    def _write(self, model: Module) -> None:
        found = {}
        for name, module in model.named_modules():
            kept = (pack.kept() for pack in packed_parameters(module))
            found |= {f"{name} {one[0]}": describe(one[1]) for one in kept if one is not None}
        descriptions = {key: description for key, (description, _) in found.items()}
        layouts = {tuple(part["layout"][:2]) for d in descriptions.values() for part in d["parts"]}
        samples = [[*layout, sample_digest(*layout)] for layout in sorted(layouts)]
        arrays = [array for _, arrays in found.values() for array in arrays]
        copied = {name: array for name, array in model.named_parameters() if _is_copy(array)}
        parameters = [[name, array.dtype.name, array.shape] for name, array in copied.items()]
        content = {"identity": self._identity, "samples": samples, "weights": descriptions, "parameters": parameters}
        try:
            write_arrays(self.path, content, [*arrays, *copied.values()])
        except OSError as error:
            raise type(error)(
                error.errno,
                f"packed_cache: cannot be written ({error.strerror}); needed: a folder that may be written, or one "
                "that already has the file",
                str(self.path),
            ) from None


class _Part(NamedTuple):
    """The `PackedSource` of one module of a model."""

    cache: PackedCache
    name: str

    def find(self, key: str, shape: tuple[int, int], made_from: tuple) -> F.PackedWeight | None:
        return self.cache.find(f"{self.name} {key}", shape, made_from)


def _is_copy(parameter: Any) -> bool:
    """Is it a matrix of numbers in this process' own memory?"""
    return isinstance(parameter, np.ndarray) and parameter.ndim > 1 and mapping_of(parameter) is None


def _dtype(name: str) -> Any:
    return bfloat16_dtype() if name == "bfloat16" else np.dtype(name)


def _packs_alike(samples: list[list[Any]]) -> bool:
    """Does this build lay out weights as the one that wrote these digests?"""
    return all(sample_digest(number, for_decode) == digest for number, for_decode, digest in samples)
