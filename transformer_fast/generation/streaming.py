"""`TextStreamer`: the text of a generation while it is being generated. `GrowingText`: text by id.

For `generate(streamer=...)` and the command; one row at a time. Engines (serving.answer_text) use `GrowingText`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

_INCOMPLETE = "\ufffd"  # what decoders write for the first bytes of a character

# Ids that are decoded again with the next one, and the number at which the first of them are left out: decoding all
# at each id would take quadratic time. A character has up to four ids, and the clean-up of spaces joins three.
_KEPT_IDS = 8
_MOST_IDS = 24


class GrowingText:
    """The text of ids that come one after the other: each gives what no later one can change.

    tokenizer has decode(ids, skip_special_tokens=) -> text. before: ids whose text is there already, a prompt's; the
    text goes on from theirs, so that it begins with a space where one belongs.

    Example:
        >>> text = GrowingText(tokenizer, [464, 2068])                                                # doctest: +SKIP
        >>> text.add(7586)                                                                            # doctest: +SKIP
        ' brown'
    """

    def __init__(self, tokenizer: Any, before: Sequence[int] = (), skip_special_tokens: bool = True) -> None:
        self._tokenizer, self._skip = tokenizer, skip_special_tokens
        self._ids = list(before)
        self._forget()

    def add(self, id: int) -> str:
        """The text that this id completes; "" within a character."""
        self._ids.append(id)
        text = self._decoded(self._ids)
        if text.endswith(_INCOMPLETE):
            return ""
        new = text[len(self._shown) :]
        self._shown = text
        if len(self._ids) > _MOST_IDS:
            self._forget()
        return new

    def rest(self) -> str:
        """No more ids come: what is left of a character that is not complete."""
        text = self._decoded(self._ids)
        new, self._shown = text[len(self._shown) :], text
        return new

    def _forget(self) -> None:
        """Leaves out the first ids, up to one that is a text by itself: decoders treat the first of a text in another
        way, and bytes that are no character make others in front of them none."""
        first = max(len(self._ids) - _KEPT_IDS, 0)
        while first and (not (text := self._decoded(self._ids[first : first + 1])) or _INCOMPLETE in text):
            first -= 1
        self._ids = self._ids[first:]
        self._shown = self._decoded(self._ids)

    def _decoded(self, ids: list[int]) -> str:
        return self._tokenizer.decode(ids, skip_special_tokens=self._skip)


class TextStreamer:
    """Decodes ids as they come and hands on each piece of text that no later id can change.

    tokenizer has decode(ids, skip_special_tokens=) -> text; write gets the pieces (print without a newline by
    default). The prompt is left out if skip_prompt.

    Raises:
        ValueError: put() gets ids of more than one row.

    Example:
        >>> model.generate(ids, streamer=TextStreamer(tokenizer))                                     # doctest: +SKIP
    """

    def __init__(
        self,
        tokenizer: Any,
        skip_prompt: bool = True,
        skip_special_tokens: bool = True,
        write: Callable[[str], None] | None = None,
    ) -> None:
        self.tokenizer = tokenizer
        self.skip_special_tokens = skip_special_tokens
        self._write = write if write is not None else lambda text: print(text, end="", flush=True)
        self._prompt_to_skip = skip_prompt
        self._text = GrowingText(tokenizer, (), skip_special_tokens)

    def put(self, ids: np.ndarray) -> None:
        """The prompt (1, L) first, then ids (1,)."""
        ids = np.asarray(ids)
        if ids.ndim > 1 and len(ids) != 1 or ids.ndim == 1 and len(ids) != 1:
            raise ValueError(f"ids have shape {ids.shape}; needed: one row")
        ids = ids.reshape(-1).tolist()
        if self._prompt_to_skip:
            self._prompt_to_skip = False
            self._text = GrowingText(self.tokenizer, ids, self.skip_special_tokens)
            return
        self._show("".join([self._text.add(id) for id in ids]))

    def end(self) -> None:
        """No more ids come: write the text that is held back."""
        self._show(self._text.rest())

    def _show(self, text: str) -> None:
        if text:
            self._write(text)
