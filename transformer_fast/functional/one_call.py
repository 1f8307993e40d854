"""`OneCall`: refuses a second thread in what holds a state that a call changes. Caches and sessions have one.

A model may be called by many threads at once; a past may not: while one call writes keys behind its length, another
would move them, or free the memory that the engine writes to. Waiting would not help, since the order of the calls
decides what the past holds. Whatever gets a mutable state of its own has a `OneCall`, and enters it where it is read
or changed; `one_call` does so for a method.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar

from transformer_fast import _core

_Method = TypeVar("_Method", bound=Callable[..., Any])


class OneCall(_core.OneCall):
    """A context that one thread at a time may be in, as often as it likes. 0.4 us each time.

    what: names the state in the error. Copies and pickles are new ones. An exception leaves it free at any
    moment, that of Ctrl-C included.

    Raises:
        RuntimeError: when it is entered while another thread is in it; nothing has changed then.

    Example:
        >>> in_use = OneCall("past_key_values")
        >>> with in_use:
        ...     with in_use:
        ...         pass
    """

    __slots__ = ()


def one_call(method: _Method) -> _Method:
    """A method that runs inside the `in_use` of its object."""

    @functools.wraps(method)
    def guarded(self: Any, *args: Any, **kwargs: Any) -> Any:
        with self.in_use:
            return method(self, *args, **kwargs)

    return guarded  # type: ignore[return-value]
