"""Bridges to other frameworks: the only room of the package that imports them, and only when a bridge is used.

One file a framework. A new bridge gets a line in `_LAZY`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformer_fast.integrations.huggingface import register_attention
    from transformer_fast.integrations.torch import from_torch

__all__ = ["from_torch", "register_attention"]

# Public name -> the file that has it.
_LAZY = {
    "from_torch": "transformer_fast.integrations.torch",
    "register_attention": "transformer_fast.integrations.huggingface",
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_LAZY[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_LAZY})
