"""`ModelSource`: where a model comes from, and `Tensor`: a tensor of it that is not yet read.

A folder is one kind of source (`folder`). `Checkpoint`, `Tokenizer`, pipelines, image processors and generation read
settings and tensors through a source only, so that another kind is one more class that derives from `ModelSource` here
in `files/`, and a line in `folder.open_source`. A new tensor type is its code in `_DTYPES`.
"""

from __future__ import annotations

import mmap
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from transformer_fast.files.errors import CheckpointError
from transformer_fast.files.json_files import checked_json, checked_object
from transformer_fast.functional.bfloat16 import bfloat16_dtype

# safetensors code -> NumPy type; the format is little-endian. BF16 is `bfloat16_dtype`'s.
_DTYPES = {
    "F64": "<f8",
    "F32": "<f4",
    "F16": "<f2",
    "I64": "<i8",
    "I32": "<i4",
    "I16": "<i2",
    "I8": "i1",
    "U64": "<u8",
    "U32": "<u4",
    "U16": "<u2",
    "U8": "u1",
    "BOOL": "?",
}
_FLOATS = ("F64", "F32", "F16", "BF16")


@dataclass(frozen=True)
class Tensor:
    """One tensor of a source: what its header says, and its bytes in the mapped file."""

    name: str
    file: Path
    code: str
    shape: tuple[int, ...]
    data: np.ndarray

    def array(self) -> np.ndarray:
        """The tensor as a read-only view of the file (a copy only where the file does not align it)."""
        view = self.data.view(_dtype(self)).reshape(self.shape)
        if view.flags.aligned:
            return view
        view = view.copy()
        view.flags.writeable = False
        return view

    def floating(self) -> np.ndarray:
        """As `array`, for a tensor that must be of a floating-point type: float64, float32, float16 or bfloat16."""
        if self.code not in _FLOATS:
            raise CheckpointError(
                f"{self.file}: tensor {self.name!r} has type {self.code}; needed: one of {', '.join(_FLOATS)}"
            )
        return self.array()


class ModelSource(ABC):
    """The files and tensors of one model, under the names that Hugging Face folders have for them.

    Malformed files raise a CheckpointError that names the file. `str(source)` names the source in error texts.

    Models and tokenizers pickle as their source and options: a source that pickles as a path keeps them small, and one
    that has its content in memory takes it along, if it can be pickled at all. Nothing changes in a source, so that a
    copy is the source itself.
    """

    def __copy__(self) -> ModelSource:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> ModelSource:
        return self

    @abstractmethod
    def read(self, name: str) -> bytes | None:
        """The content of the file `name` ("tokenizer.json", "vocab.txt", ...); None if the source has none."""

    def names(self, folder: str) -> list[str]:
        """The files in a folder of the source ("additional_chat_templates"), as `read` takes them; [] without one."""
        return []

    def json(self, name: str) -> Any | None:
        """The content of the JSON file `name` ("config.json", ...); None if the source has none."""
        data = self.read(name)
        content = None if data is None else checked_json(self.place(name), data)
        if data is not None and content is None:
            raise CheckpointError(f"{self.place(name)}: holds null; needed: a list or an object")
        return content

    @abstractmethod
    def tensors(self) -> Mapping[str, Tensor]:
        """The tensors by name. Only their headers are read."""

    @property
    @abstractmethod
    def weights(self) -> Path:
        """The file that says which tensors there are, for error texts."""

    @abstractmethod
    def place(self, name: str) -> Path:
        """The path of the file `name`, whether it is there or not, for error texts."""

    def part(self, name: Any, told_by: str) -> ModelSource:
        """The source of the model's part `name`, which the file `told_by` names; "" is the source itself.

        Raises:
            CheckpointError: there is no such part.
        """
        if name == "":
            return self
        raise CheckpointError(f"{self.place(told_by)}: names the part {name!r}, which {self} does not have")

    def object(self, name: str, required: bool = True) -> dict[str, Any]:
        """As `json`, for a file that must hold a JSON object; {} if there is none and it is not required.

        Raises:
            CheckpointError: there is no such file, or it holds something else.
        """
        content = self.json(name)
        if content is None:
            if required:
                raise CheckpointError(f"{self.place(name)}: there is no such file")
            return {}
        return checked_object(self.place(name), content)

    def tensor(self, name: str) -> Tensor:
        """The tensor `name`.

        Raises:
            CheckpointError: there is none.
        """
        found = self.tensors().get(name)
        if found is None:
            raise CheckpointError(f"{self.weights}: there is no tensor {name!r}")
        return found

    def release(self) -> None:
        """Give the memory of the mapped tensors back: their pages are read again when a tensor is next used.

        For after loading, when weights are packed. Where the system has no such call, nothing happens.
        """
        if not hasattr(mmap, "MADV_DONTNEED"):
            return
        maps = (mapping_of(tensor.data) for tensor in self.tensors().values())
        for mapping in {id(mapping): mapping for mapping in maps if mapping is not None}.values():
            mapping.madvise(mmap.MADV_DONTNEED)
            # From now on single rows of embeddings are read: without this, each brings its neighbourhood along.
            mapping.madvise(mmap.MADV_RANDOM)


def mapping_of(data: np.ndarray) -> mmap.mmap | None:
    """The map that an array is a view of; None: its memory is the process' own."""
    base: Any = data
    while isinstance(base, np.ndarray):
        base = base.base
    return base if isinstance(base, mmap.mmap) else None


def _dtype(tensor: Tensor) -> np.dtype:
    if tensor.code == "BF16":
        return bfloat16_dtype()
    if tensor.code not in _DTYPES:
        raise CheckpointError(f"{tensor.file}: tensor {tensor.name!r} has type {tensor.code}, which NumPy cannot show")
    return np.dtype(_DTYPES[tensor.code])
