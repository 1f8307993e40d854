"""A file of a JSON header and arrays of bytes, which any number of processes map and thereby share.

`models.common.packed_cache` keeps packed weights in such files. Nothing in one is code: the header is JSON, the rest is
numbers. A file is written once, under another name until it is complete; a further field of the header goes into
`content`, whose meaning is the caller's.

Format, numbers little-endian: 8 bytes of magic, the header's length in 8, its SHA-256 in 32; the header, with the
file's size and the place of each array; the arrays, each at a multiple of 64 bytes, with 64 bytes after the last, as
memory of packed weights has them.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from transformer_fast.files.errors import CheckpointError
from transformer_fast.files.json_files import parse_json

_MAGIC = b"TFASTMA1"
_ALIGNMENT = 64
_START = len(_MAGIC) + 8 + 32


class MappedArrays(NamedTuple):
    """content: what the writer said of the arrays. arrays: uint8, read-only views of the mapped file."""

    content: dict[str, Any]
    arrays: list[np.ndarray]


def write_arrays(path: Path, content: Mapping[str, Any], arrays: Sequence[np.ndarray]) -> None:
    """Write a file, which appears under its name when it is complete and on the disk. arrays: dense, of any type.

    Two processes may write the same file at once: the last one's stays, and a reader has one of them.

    Raises:
        OSError: it cannot be written.
    """
    sizes = [array.nbytes for array in arrays]
    header, places = _header(content, sizes)
    unfinished = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        with open(unfinished, "xb") as file:
            file.write(_MAGIC + len(header).to_bytes(8, "little") + hashlib.sha256(header).digest() + header)
            for array, place in zip(arrays, places, strict=True):
                file.write(bytes(place - file.tell()))
                file.write(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
            file.write(bytes(_ALIGNMENT))
            file.flush()
            os.fsync(file.fileno())  # a name that survives a crash must not lead to half a file
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)


def read_arrays(path: Path) -> MappedArrays:
    """Map a file. Of the arrays nothing is read: what the header says is checked, against its own sum and the size.

    Raises:
        FileNotFoundError: there is no such file.
        CheckpointError: it cannot be read, or is no complete file of this format.
    """
    try:
        mapped = np.asarray(np.memmap(path, dtype=np.uint8, mode="r"))
    except FileNotFoundError:
        raise
    except (OSError, ValueError) as error:  # ValueError: it is empty
        raise CheckpointError(f"{path}: cannot be mapped: {error}") from None
    start, digest = mapped[:_START].tobytes(), mapped[16:_START].tobytes()
    end = _START + int.from_bytes(start[8:16], "little")
    header = mapped[_START:end].tobytes()
    if len(start) < _START or not start.startswith(_MAGIC) or hashlib.sha256(header).digest() != digest:
        raise CheckpointError(f"{path}: is no file of mapped arrays, or its header is damaged")
    try:
        fields = parse_json(header)
        size, places, content = fields["size"], fields["arrays"], fields["content"]
        if size != len(mapped):
            raise CheckpointError(f"{path}: has {len(mapped)} bytes; its header says {size}")
        arrays = [mapped[place : place + nbytes] for place, nbytes in places]
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path}: its header is malformed: {error}") from None
    return MappedArrays(content, arrays)


def _header(content: Mapping[str, Any], sizes: Sequence[int]) -> tuple[bytes, list[int]]:
    """The header, and where the arrays begin: behind the longest header that there could be for their number."""
    longest = {"size": 2**53, "arrays": [[2**53, size] for size in sizes], "content": content}
    place = _START + len(json.dumps(longest).encode())
    places = []
    for size in sizes:
        place = -(-place // _ALIGNMENT) * _ALIGNMENT
        places.append(place)
        place += size
    fields = {"size": place + _ALIGNMENT, "arrays": list(zip(places, sizes, strict=True)), "content": content}
    return json.dumps(fields).encode(), places
