"""Runs: texts of different lengths in batches that keep all threads busy, tokenised while the last ones run.

The encoders of texts and `CrossEncoder` call `runs` with a function that makes tokens, `show_progress`, and the checks
of texts. What is done with the tokens is the caller's business. `texts` does the same for pipelines that have all
tokens before they begin.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Mapping, Sequence, Sized
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from itertools import islice
from typing import Any, TypeVar

import numpy as np

from transformer_fast import functional as F
from transformer_fast.files.errors import optional_import

_T = TypeVar("_T")
Tokens = TypeVar("Tokens", bound=Sized)
Text = str | tuple[str, str]

# Seconds of work after which a progress bar appears by itself.
_PROGRESS_DELAY = 1.0

# Batches run together until they hold this many tokens for each thread. Measured: linear layers reach 95 % of their
# speed from about 640 rows on, below that the weights are read too often; and threads wait less for each other at the
# end.
TOKENS_OF_A_THREAD = 1024
# More never run together: nothing gets faster, and the memory that a run needs grows with its tokens.
_MOST_TOKENS = 16_384


def runs(
    texts: Sequence[Text], tokens: Callable[[list[Text]], list[Tokens]], batch_size: int
) -> Generator[tuple[list[int], list[Tokens]]]:
    """Indices and tokens of the texts that run together, until all have run.

    Batches of batch_size are merged until they hold 1,024 tokens for each thread, and cut at 16,384. With several
    threads the next ones are tokenised on a thread of its own; it ends when the generator is closed.
    """
    n_threads = F.get_num_threads()  # asked here: a limit may be the calling thread's own
    together = _together(texts, tokens, batch_size, TOKENS_OF_A_THREAD * n_threads)
    if n_threads > 1 and len(texts) > batch_size:
        together = _made_ahead(together)
    with closing(together):  # the other thread ends even after an error here
        yield from together


def _together(
    texts: Sequence[Text], tokens: Callable[[list[Text]], list[Tokens]], batch_size: int, enough: int
) -> Generator[tuple[list[int], list[Tokens]]]:
    # The longest first: the memory needed is known at once, and the progress bar speeds up rather than slows down.
    order = sorted(range(len(texts)), key=lambda i: _characters(texts[i]), reverse=True)
    indices, held, total = [], [], 0
    for start in range(0, len(order), batch_size):
        batch = order[start : start + batch_size]
        for i, found in zip(batch, tokens([texts[i] for i in batch]), strict=True):
            if indices and total + len(found) > _MOST_TOKENS:
                yield indices, held
                indices, held, total = [], [], 0
            indices.append(i)
            held.append(found)
            total += len(found)
        if total >= enough:
            yield indices, held
            indices, held, total = [], [], 0
    if indices:
        yield indices, held


def _characters(text: Text) -> int:
    return len(text) if isinstance(text, str) else sum(map(len, text))


def _made_ahead(items: Iterator[_T]) -> Generator[_T]:
    """The items; each is made by another thread while the one before it is used. Tokenizers work without the GIL."""

    def begin(pool: ThreadPoolExecutor) -> Future[list[_T]] | None:
        try:
            return pool.submit(list, islice(items, 1))
        except RuntimeError:  # the interpreter is ending: the rest runs on this thread
            return None

    with ThreadPoolExecutor(1, "tokenizing") as pool:
        coming = begin(pool)
        while coming is not None:
            try:
                found = coming.result()
            finally:
                coming = None  # an error, which it holds, holds this frame: all would stay until the next collection
            if not found:
                return
            coming = begin(pool)
            yield from found
        yield from items


def column(name: str, texts: Any) -> Iterable[Any]:
    """What a caller gives as texts, one by one: any iterable, or a column of NumPy, pandas or Arrow.

    Raises:
        TypeError: it is no iterable, or a table of several columns.
    """
    if isinstance(texts, (str, bytes, Mapping)) or hasattr(texts, "columns") or not isinstance(texts, Iterable):
        raise TypeError(f"{name} is a {type(texts).__name__}; needed: a string, or several")
    # Arrow's columns give scalars of their own, one by one.
    return texts.to_pylist() if hasattr(texts, "to_pylist") else texts


def check_positive(name: str, value: Any) -> None:
    """
    Raises:
        ValueError: it is no integer >= 1.
    """
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < 1:
        raise ValueError(f"{name} is {value!r}; needed: an integer >= 1")


def check_device(device: Any) -> None:
    """
    Raises:
        ValueError: it is something else than None and "cpu".
    """
    if device is not None and str(device) != "cpu":
        raise ValueError(f"device is {device!r}; needed: 'cpu', which is where all is computed")


def check_without_torch(convert_to_tensor: Any) -> None:
    """
    Raises:
        ValueError: a tensor is asked for.
    """
    if convert_to_tensor:
        raise ValueError(
            f"convert_to_tensor is {convert_to_tensor!r}; needed: False (torch.from_numpy(result) shares its memory)"
        )


def one_of(name: str, value: Any, known: Collection[Any]) -> None:
    """
    Raises:
        ValueError: the value is not among those known.
    """
    if value not in known:
        raise ValueError(f"{name} is {value!r}; needed: one of {', '.join(map(repr, known))}")


def show_progress(total: int | None, show: bool | None) -> Any:
    """A tqdm bar on stderr: as asked, and by itself only in a terminal and when the work turns out to be long."""
    tqdm = optional_import("tqdm").tqdm
    if show is None:
        show = sys.stderr.isatty()
        return tqdm(total=total, unit="text", disable=not show, delay=_PROGRESS_DELAY, file=sys.stderr)
    return tqdm(total=total, unit="text", disable=not show, file=sys.stderr)
