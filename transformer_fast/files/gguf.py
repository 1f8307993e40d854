"""Files in the GGUF format: metadata and tensors as views of the mapped file.

`gguf_source` calls it: one GGUF file holds what a folder holds, settings, tokenizer and weights. Nothing in the file is
trusted: every length is compared with what is left of the file before anything is allocated, so that a header
of absurd numbers is an error that names the file and the place, and reading takes a fraction of the file's size.

A new tensor type is a line in `_TYPES`; what its blocks hold is told in `gguf_blocks`.

Format (versions 2 and 3, little-endian): https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from transformer_fast.files.errors import CheckpointError
from transformer_fast.files.gguf_blocks import BLOCKS, expand
from transformer_fast.files.source import Tensor

_MAGIC, _VERSIONS = b"GGUF", (2, 3)
_ALIGNMENT = "general.alignment"
_MOST_AXES = 4  # GGML_MAX_DIMS

# Type of a metadata value -> NumPy's; strings and arrays have no line here.
_SCALARS = {
    0: "u1",
    1: "i1",
    2: "<u2",
    3: "<i2",
    4: "<u4",
    5: "<i4",
    6: "<f4",
    7: "?",
    10: "<u8",
    11: "<i8",
    12: "<f8",
}
_STRING, _ARRAY = 8, 9
# Type of a tensor -> its name: a key of `gguf_blocks.BLOCKS`, or of `_PLAIN`, bytes of a number.
_TYPES = {
    0: "F32",
    1: "F16",
    2: "Q4_0",
    3: "Q4_1",
    6: "Q5_0",
    7: "Q5_1",
    8: "Q8_0",
    10: "Q2_K",
    11: "Q3_K",
    12: "Q4_K",
    13: "Q5_K",
    14: "Q6_K",
    20: "IQ4_NL",
    24: "I8",
    25: "I16",
    26: "I32",
    27: "I64",
    28: "F64",
    30: "BF16",
    39: "MXFP4",
}
_PLAIN = {"F32": 4, "F16": 2, "BF16": 2, "F64": 8, "I8": 1, "I16": 2, "I32": 4, "I64": 8}
# Types that the format knows and this library does not, for the error text.
_REFUSED = {
    9: "Q8_1",
    15: "Q8_K",
    16: "IQ2_XXS",
    17: "IQ2_XS",
    18: "IQ3_XXS",
    19: "IQ1_S",
    21: "IQ3_S",
    22: "IQ2_S",
    23: "IQ4_XS",
    29: "IQ1_M",
    34: "TQ1_0",
    35: "TQ2_0",
}


@dataclass(frozen=True)
class BlockTensor(Tensor):
    """A tensor whose last axis is stored in blocks: some values with a scale."""

    def array(self) -> np.ndarray:
        """float32: the values that the blocks stand for, a copy."""
        return expand(self.code, self.data).reshape(self.shape)

    def floating(self) -> np.ndarray:
        return self.array()

    def blocks(self) -> np.ndarray:
        """The bytes of each row, (..., bytes): a view of the file."""
        values, nbytes, _ = BLOCKS[self.code]
        return self.data.reshape(*self.shape[:-1], self.shape[-1] // values * nbytes)


class Strings(Sequence[str]):
    """An array of strings in the file, decoded one by one: a vocabulary is larger as Python strings than as bytes."""

    def __init__(self, reader: _Reader, count: int) -> None:
        self._reader = reader
        self._ends = np.empty(count + 1, np.int64)  # of the last string; that of the one before is 8 bytes on
        self._ends[0] = reader.at
        for i in range(count):
            reader.skip_string()
            self._ends[i + 1] = reader.at

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __getitem__(self, index):
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        index = range(len(self))[index]
        return self._reader.text(int(self._ends[index]) + 8, int(self._ends[index + 1]))

    def __iter__(self) -> Iterator[str]:
        return (self[i] for i in range(len(self)))


@dataclass(frozen=True)
class GgufFile:
    """What a file holds: metadata by key, and tensors by the file's own names.

    A metadata value is a number, a bool, a str, a NumPy array or `Strings`. Shapes are NumPy's: the axis that is dense
    in memory is the last one, where the file has it first.
    """

    path: Path
    metadata: dict[str, Any]
    tensors: dict[str, Tensor]


def read_gguf(path: str | Path) -> GgufFile:
    """The headers of a file; tensors are views of its memory map, read when they are used.

    Raises:
        CheckpointError: the file cannot be read, is no GGUF file of a version and byte order that are known, is cut
            off, or says something that contradicts itself; a tensor has a type that is not supported.
    """
    path = Path(path)
    try:
        if not path.stat().st_size:
            raise CheckpointError(f"{path}: is empty; needed: a GGUF file")
        mapped = np.asarray(np.memmap(path, dtype=np.uint8, mode="r"))
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror or error}") from None
    reader = _Reader(path, mapped)
    n_tensors, n_values = reader.begin()
    metadata: dict[str, Any] = {}
    for _ in range(n_values):
        key = reader.string("a metadata key")
        if key in metadata:
            raise reader.error(f"metadata has the key {key!r} twice")
        metadata[key] = reader.value(f"metadata {key!r}")
    tensors = _read_tensors(reader, n_tensors, _alignment(reader, metadata))
    return GgufFile(path, metadata, tensors)


def _alignment(reader: _Reader, metadata: dict[str, Any]) -> int:
    found = metadata.get(_ALIGNMENT, 32)
    # ggml asks for a power of two; the largest one in use is a page.
    if not isinstance(found, int) or isinstance(found, bool) or found not in [2**i for i in range(3, 21)]:
        raise reader.error(f"metadata {_ALIGNMENT!r} is {found!r}; needed: a power of two from 8 to 2^20")
    return found


@dataclass(frozen=True)
class _Entry:
    """A tensor as the header lists it; `shape` as NumPy has it."""

    name: str
    shape: tuple[int, ...]
    code: str
    offset: int
    nbytes: int


def _read_entry(reader: _Reader, alignment: int) -> _Entry:
    name = reader.string("a tensor's name")
    n_axes = reader.number("<u4", f"axes of tensor {name!r}")
    if n_axes > _MOST_AXES:
        raise reader.error(f"tensor {name!r} has {n_axes} axes; needed: {_MOST_AXES} at most")
    shape = tuple(reader.number("<u8", f"shape of tensor {name!r}") for _ in range(n_axes))[::-1]
    kind = reader.number("<u4", f"type of tensor {name!r}")
    offset = reader.number("<u8", f"offset of tensor {name!r}")
    if kind not in _TYPES:
        told = _REFUSED.get(kind, f"number {kind}")
        raise reader.error(f"tensor {name!r} has type {told}; supported: {', '.join(_TYPES.values())}")
    code = _TYPES[kind]
    values, nbytes = BLOCKS[code][:2] if code in BLOCKS else (1, _PLAIN[code])
    if values > 1 and (not shape or shape[-1] % values):
        raise reader.error(
            f"tensor {name!r} has shape {shape}; needed by its type {code}: rows of whole {values} values"
        )
    if offset % alignment:
        raise reader.error(f"tensor {name!r} begins at offset {offset}; needed: a multiple of {alignment}")
    return _Entry(name, shape, code, offset, math.prod(shape) // values * nbytes)


def _read_tensors(reader: _Reader, count: int, alignment: int) -> dict[str, Tensor]:
    entries = [_read_entry(reader, alignment) for _ in range(count)]
    start = -(-reader.at // alignment) * alignment
    room = len(reader.data) - start
    tensors: dict[str, Tensor] = {}
    end, before = 0, ""
    for entry in sorted(entries, key=lambda entry: (entry.offset, entry.nbytes)):
        if entry.name in tensors:
            raise reader.error(f"there are two tensors {entry.name!r}")
        if entry.offset < end:
            raise reader.error(f"tensors {before!r} and {entry.name!r} overlap")
        end, before = entry.offset + entry.nbytes, entry.name
        if end > room:
            raise reader.error(
                f"tensor {entry.name!r} ends at byte {start + end}, the file at {len(reader.data)}: it is cut off"
            )
        data = reader.data[start + entry.offset : start + end]
        kind = BlockTensor if entry.code in BLOCKS else Tensor
        tensors[entry.name] = kind(entry.name, reader.path, entry.code, entry.shape, data)
    return {entry.name: tensors[entry.name] for entry in entries}


class _Reader:
    """A place in the header, and the next thing there."""

    def __init__(self, path: Path, data: np.ndarray) -> None:
        self.path, self.data, self.at = path, data, 0

    def error(self, text: str) -> CheckpointError:
        return CheckpointError(f"{self.path}: {text}")

    def begin(self) -> tuple[int, int]:
        """Number of tensors and of metadata values."""
        if self._take(4, "the file's first bytes").tobytes() != _MAGIC:
            raise self.error("does not begin with 'GGUF'; needed: a GGUF file")
        version = self.number("<u4", "the version")
        if version not in _VERSIONS:
            swapped = int.from_bytes(version.to_bytes(4, "little"), "big") in _VERSIONS
            told = "big-endian numbers" if swapped else f"version {version}"
            raise self.error(f"has {told}; needed: version 2 or 3, little-endian")
        return self.number("<u8", "the number of tensors"), self.number("<u8", "the number of metadata values")

    def _take(self, count: int, what: str) -> np.ndarray:
        left = len(self.data) - self.at
        if count > left:
            raise self.error(f"{what} at byte {self.at} has {count} bytes, and {left} are left: the file is cut off")
        self.at += count
        return self.data[self.at - count : self.at]

    def number(self, dtype: str, what: str) -> Any:
        return self._take(np.dtype(dtype).itemsize, what).view(dtype)[0].item()

    def skip_string(self) -> None:
        self._take(self.number("<u8", "a string's length"), "a string")

    def text(self, begin: int, end: int) -> str:
        try:
            return self.data[begin:end].tobytes().decode("utf-8")
        except UnicodeDecodeError as error:
            raise self.error(f"the string at byte {begin} is not UTF-8: {error}") from None

    def string(self, what: str) -> str:
        length = self.number("<u8", what)
        self._take(length, what)
        return self.text(self.at - length, self.at)

    def value(self, what: str) -> Any:
        kind = self.number("<u4", what)
        if kind == _STRING:
            return self.string(what)
        if kind == _ARRAY:
            return self._array(what)
        if kind not in _SCALARS:
            raise self.error(f"{what} has the type {kind}; needed: one of 0 to 12")
        return self._boolean(what) if _SCALARS[kind] == "?" else self.number(_SCALARS[kind], what)

    def _boolean(self, what: str) -> bool:
        found = self.number("u1", what)
        if found > 1:
            raise self.error(f"{what} is the boolean {found}; needed: 0 or 1")
        return bool(found)

    def _array(self, what: str) -> Any:
        kind, count = self.number("<u4", what), self.number("<u8", what)
        if kind == _STRING:
            if count * 8 > len(self.data) - self.at:  # the lengths alone
                raise self.error(f"{what} is an array of {count} strings, which the file is too short for")
            return Strings(self, count)
        if kind not in _SCALARS:
            raise self.error(f"{what} is an array of the type {kind}; needed: numbers, booleans or strings")
        found = self._take(count * np.dtype(_SCALARS[kind]).itemsize, what)
        if _SCALARS[kind] == "?" and (found > 1).any():
            raise self.error(f"{what} holds a boolean that is neither 0 nor 1")
        return found.view(_SCALARS[kind])
