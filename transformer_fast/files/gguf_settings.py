"""`Settings`: the metadata that a GGUF file has under its architecture's name, read with their types.

`gguf_names` makes one, and `gguf_architectures` reads by it what an architecture needs.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from transformer_fast.files.errors import CheckpointError
from transformer_fast.files.gguf import GgufFile


class Settings:
    """Metadata under the architecture's name; every error names the file and the key."""

    def __init__(self, file: GgufFile, name: str) -> None:
        self.file, self._name = file, name

    def get(self, key: str) -> Any:
        """The value, a number for all layers: an array is one if all its numbers are equal."""
        value = self._value(key)
        if isinstance(value, np.ndarray) and len(value) and (value == value[0]).all():
            value = value[0].item()
        if value is not None and (isinstance(value, bool) or not isinstance(value, (int, float))):
            raise self._error(key, "one number")
        return value

    def text(self, key: str) -> str | None:
        value = self._value(key)
        if value is not None and not isinstance(value, str):
            raise self._error(key, "a string")
        return value

    def same(self, key: str, expected: Any) -> None:
        """An error where a value is there and is another one."""
        found = self._value(key) if isinstance(expected, bool) else self.get(key)
        if found is not None and (type(found) is bool) != (type(expected) is bool) or found not in (None, expected):
            raise self._error(key, repr(expected))

    def by_layer(self, key: str, count: int) -> list[bool] | int | None:
        """A number, or a flag for each layer."""
        value = self._value(key)
        if not isinstance(value, np.ndarray):
            return self.get(key)
        if value.dtype.kind != "b" or len(value) != count:
            raise self._error(key, f"a number, or {count} booleans, one for each layer")
        return value.tolist()

    def required(self, key: str) -> Any:
        value = self.get(key)
        if value is None:
            raise CheckpointError(f"{self.file.path}: there is no metadata {self._key(key)!r}; needed: a number")
        return value

    def _key(self, key: str) -> str:
        return f"{self._name}.{key}"

    def _value(self, key: str) -> Any:
        return self.file.metadata.get(self._key(key))

    def _error(self, key: str, needed: str) -> CheckpointError:
        return CheckpointError(
            f"{self.file.path}: metadata {self._key(key)!r} is {plain(self._value(key))!r}; needed: {needed}"
        )


def plain(value: Any) -> Any:
    """What JSON can hold of a metadata value: a long array is told by its type."""
    return value if isinstance(value, (bool, int, float, str)) else f"an array of {len(value)} values"
