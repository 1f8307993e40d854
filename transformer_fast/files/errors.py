"""Errors and imports that all readers of files share.

`CheckpointError` is the error of every file that cannot be used; `optional_import` loads a package of an extra.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from types import ModuleType

_NAMES_SHOWN = 8


class CheckpointError(ValueError):
    """A model that cannot be used; the text names the file and, where there is one, the tensor or the field."""


def optional_import(name: str, extra: str = "models", purpose: str = "") -> ModuleType:
    """A module that an extra of this package installs; purpose, such as "to read a.ogg", goes into the error.

    Raises:
        ImportError: it is not installed; the text says how to install it.
    """
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        needed = f"needed {purpose}" if purpose else "needed"
        raise ImportError(
            f"{error.name} is not installed; {needed}: pip install 'transformer-fast[{extra}]'"
        ) from error


def listed(names: Sequence[str]) -> str:
    """The names for an error text; the first few of a long list."""
    more = len(names) - _NAMES_SHOWN
    return ", ".join(map(repr, names[:_NAMES_SHOWN])) + (f" and {more} more" if more > 0 else "")
