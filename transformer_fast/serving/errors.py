"""What an engine answers instead of a result: it has too much to do, or it is stopping.

The engines of this package raise them; `transformer_fast.server` makes 429 and 503 of them.
"""

from __future__ import annotations


class Busy(RuntimeError):
    """The engine holds as much as it may: nothing was taken. retry_after: seconds after which there may be room."""

    def __init__(self, message: str, retry_after: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class Stopping(RuntimeError):
    """The engine ends what it has and takes no more."""
