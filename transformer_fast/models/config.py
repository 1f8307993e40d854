"""Reading a config.json into a family's Config dataclass, with checks: what the files of all families share.

A Config dataclass has the checkpoint's own field names, and calls `check_fields(self)` in its `__post_init__`; the
family's `from_checkpoint` calls `read_config`. A new activation name goes into ACTIVATIONS.
"""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any, TypeVar

from transformer_fast.checkpoint import CheckpointError

# config.json's name of an activation -> functional.linear's name (transformers.activations.ACT2FN).
ACTIVATIONS = {
    "gelu": "gelu",
    "gelu_python": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "quick_gelu": "quick_gelu",
    "relu": "relu",
    "silu": "silu",
    "swish": "silu",
    "tanh": "tanh",
}

# A size may come from a hostile file: the bytes of a float32 matrix (3 n, n) must still be countable in 63 bits.
_INT_MAX = 2**29

Config = TypeVar("Config")


def read_config(config_class: type[Config], content: dict[str, Any], source: Path, neutral: dict[str, tuple]) -> Config:
    """A Config from the content of `source`; fields that are not there keep the dataclass' defaults.

    neutral: field -> the values with which it changes nothing. With another value the checkpoint is refused; other
    fields that the dataclass lacks (training, generation, bookkeeping) have no effect on the result.

    Raises:
        CheckpointError: a field is missing, of a wrong type, out of range or not supported.
    """
    for name, values in neutral.items():
        if name in content and not any(content[name] is v or content[name] == v for v in values):
            raise CheckpointError(
                f"{source}: {name} is {content[name]!r}, which is not supported; needed: {values[0]!r}"
            )
    fields = dataclasses.fields(config_class)
    missing = [f.name for f in fields if f.default is dataclasses.MISSING and f.name not in content]
    if missing:
        raise CheckpointError(f"{source}: missing fields: {', '.join(missing)}")
    try:
        return config_class(**{f.name: content[f.name] for f in fields if f.name in content})
    except ValueError as error:
        raise CheckpointError(f"{source}: {error}") from None


def check_fields(config: Any) -> None:
    """Checks a Config by the annotations of its fields: "int" is 1 to 2^29, "float" finite and >= 0, else a string.

    Raises:
        ValueError: naming the field, its value and what is needed.
    """
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if field.type == "int":
            ok, needed = type(value) is int and 1 <= value <= _INT_MAX, f"an integer from 1 to {_INT_MAX}"
        elif field.type == "float":
            ok, needed = type(value) in (int, float) and value >= 0 and math.isfinite(value), "a number >= 0"
        else:
            ok, needed = type(value) is str, "a string"
        if not ok:
            raise ValueError(f"{field.name} is {value!r}; needed: {needed}")
