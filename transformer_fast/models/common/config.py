"""Reading a config.json into a family's Config dataclass, with checks: what the files of all families share.

A Config dataclass has the checkpoint's own field names, and calls `check_fields(self)` in its `__post_init__`;
`base.PretrainedModel.from_checkpoint` calls `read_config`. A new activation name goes into ACTIVATIONS, a new kind of
field into _KINDS, a field that families of all kinds meet and that needs no reading into `known_fields`.
"""

from __future__ import annotations

import dataclasses
import re
import sys
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any, TypeVar

from transformer_fast.files.errors import CheckpointError, listed
from transformer_fast.models.common.known_fields import NEUTRAL, WITHOUT_EFFECT

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

# Fields whose values are configs themselves.
_NESTED = ("text_config", "vision_config", "text_config_dict", "vision_config_dict")

Config = TypeVar("Config")


def read_config(
    config_class: type[Config], content: dict[str, Any], source: Path | str, neutral: Mapping[str, tuple]
) -> Config:
    """A Config from the content of `source`; fields that are not there keep the dataclass' defaults.

    Every field of the content is read, or known to have no effect, or refused; a name that is not known and has no
    value (null) asks for nothing. A Config class may declare

        general_names: transformers' name -> the field that it means (its `attribute_map`);
        without_effect: further names that have no effect on the family's results;
        translated(content): a static method that returns the content with what older files say in the words of the
            fields; it may raise a ValueError.

    neutral: field -> the values with which it changes nothing; with another value the checkpoint is refused.

    Raises:
        CheckpointError: a field is missing, not known, of a wrong type, out of range or not supported.
    """
    fields = dataclasses.fields(config_class)
    general = getattr(config_class, "general_names", {})
    own = {field.name for field in fields} | general.keys()
    without_effect = set(getattr(config_class, "without_effect", ()))
    refused = {name: values for name, values in NEUTRAL.items() if name not in own | without_effect} | dict(neutral)
    for name, values in refused.items():
        if name in content and not any(content[name] is v or content[name] == v for v in values):
            raise CheckpointError(
                f"{source}: {name} is {content[name]!r}, which is not supported; needed: {values[0]!r}"
            )
    known = own | without_effect | refused.keys() | WITHOUT_EFFECT
    unknown = [name for name, value in content.items() if name not in known and value is not None]
    if unknown:
        raise CheckpointError(
            f"{source}: {config_class.__name__} does not know {listed(unknown)}, which may change the results; "
            f"needed, if nothing depends on it: load_model(..., ignore_fields={unknown})"
        )
    names = {general[name]: name for name in content if name in general}
    try:
        content = getattr(config_class, "translated", dict)(content)
        # As in transformers, a general name wins over the family's own, and the last one over others of the same field.
        content = content | {field: content[name] for field, name in names.items()}
        required = (f.name for f in fields if f.default is f.default_factory is dataclasses.MISSING)
        missing = [name for name in required if name not in content]
        if missing:
            raise ValueError(f"missing fields: {', '.join(missing)}")
        return config_class(**{f.name: content[f.name] for f in fields if f.name in content})
    except ValueError as error:
        called = [f"{field} is called {name} there" for field, name in names.items() if field in str(error)]
        raise CheckpointError(f"{source}: {error}{''.join(f' ({text})' for text in called)}") from None


def without_fields(content: Mapping[str, Any], ignored: Collection[str]) -> dict[str, Any]:
    """The content of a config.json, and of the configs inside it, without the fields of these names.

    Raises:
        TypeError: ignored is a string.
    """
    if isinstance(ignored, str) or not isinstance(ignored, Collection) or not all(isinstance(n, str) for n in ignored):
        raise TypeError(f"ignore_fields is {ignored!r}; needed: a list of names")
    return {
        name: without_fields(value, ignored) if name in _NESTED and isinstance(value, dict) else value
        for name, value in content.items()
        if name not in ignored
    }


# Further annotations of Config fields: a number that may be 0 (ids), and one that may be negative.
Index = int
Number = float


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) <= sys.float_info.max  # isfinite fails on integers beyond


# Annotation -> (test of a value, what is needed).
_KINDS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "int": (lambda value: type(value) is int and 1 <= value <= _INT_MAX, f"an integer from 1 to {_INT_MAX}"),
    "Index": (lambda value: type(value) is int and 0 <= value <= _INT_MAX, f"an integer from 0 to {_INT_MAX}"),
    "float": (lambda value: _is_number(value) and value >= 0, "a number >= 0"),
    "Number": (_is_number, "a number"),
    "bool": (lambda value: type(value) is bool, "true or false"),
    "str": (lambda value: type(value) is str, "a string"),
    "dict": (lambda value: type(value) is dict, "an object"),
    "None": (lambda value: value is None, "null"),
}
_LIST = re.compile(r"list\[(.+)\]")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Labels:
    """Base of a Config whose models may have a head for labels.

    id2label: number (as text) -> name; num_labels is its length, and counts where id2label is missing.
    """

    id2label: dict | None = None
    num_labels: int = 2

    @property
    def labels(self) -> tuple[str, ...]:
        """The names of the labels, by number."""
        return tuple((self.id2label or {}).get(str(i), f"LABEL_{i}") for i in range(self.label_count))

    @property
    def label_count(self) -> int:
        return len(self.id2label) if self.id2label else self.num_labels


def check_fields(config: Any) -> None:
    """Checks a Config by the annotations of its fields, which are the names in _KINDS, list[kind], and "a | b".

    A field annotated otherwise (a Config inside a Config) is left alone.

    Raises:
        ValueError: naming the field, its value and what is needed.
    """
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        alternatives = [_kind(part) for part in field.type.split(" | ")]
        if None not in alternatives and not any(ok(value) for ok, _ in alternatives):
            raise ValueError(f"{field.name} is {value!r}; needed: {' or '.join(needed for _, needed in alternatives)}")


def _kind(annotation: str) -> tuple[Callable[[Any], bool], str] | None:
    match = _LIST.fullmatch(annotation)
    if match is None:
        return _KINDS.get(annotation)
    ok, needed = _KINDS[match[1]]
    return lambda value: type(value) is list and all(map(ok, value)), f"a list, each of it {needed}"


def check_activation(config: Any, field: str) -> None:
    """config.<field> names an activation that there is, or a ValueError says which there are."""
    name = getattr(config, field)
    if name not in ACTIVATIONS:
        raise ValueError(f"{field} is {name!r}; supported: {', '.join(ACTIVATIONS)}")


def check_heads(config: Any, heads: str = "num_attention_heads", width: str = "hidden_size") -> None:
    """config.<heads> divides config.<width>, or a ValueError says so."""
    if getattr(config, width) % getattr(config, heads):
        raise ValueError(f"{heads} is {getattr(config, heads)}; needed: a divisor of {width}={getattr(config, width)}")
