"""The text of an answer while its ids come: whole characters only, and nothing that a stop string may take away.

A request of the language engine has an `AnswerText`. `generation.streaming.GrowingText` decodes; `StopStrings` looks
for the strings that end an answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from transformer_fast.generation.streaming import GrowingText


class StopStrings:
    """Text that is fed in parts comes out again up to the first stop string; what may be its beginning is held back.

    Example:
        >>> stop = StopStrings(["END"])
        >>> stop.feed("the E"), stop.feed("n"), stop.feed(" END of it"), stop.found
        ('the ', 'En', ' ', True)
    """

    def __init__(self, strings: Sequence[str], include: bool = False) -> None:
        self._strings, self._include = strings, include
        self._held = ""
        self.found = False

    def feed(self, text: str) -> str:
        """The text that is final now."""
        text = self._held + text
        begins = [(at, string) for string in self._strings if (at := text.find(string)) >= 0]
        if begins:
            at, string = min(begins, key=lambda one: one[0])
            self.found, self._held = True, ""
            return text[: at + len(string) if self._include else at]
        kept = max((_overlap(text, string) for string in self._strings), default=0)
        self._held = text[len(text) - kept :]
        return text[: len(text) - kept]

    def rest(self) -> str:
        """What is held back, where the answer ends for another reason."""
        held, self._held = self._held, ""
        return held


def _overlap(text: str, string: str) -> int:
    """The length of the longest end of `text` that is a beginning of `string`, and not all of it."""
    return next((n for n in range(min(len(text), len(string) - 1), 0, -1) if text.endswith(string[:n])), 0)


class AnswerText:
    """Ids of an answer in, final text out. prompt: the ids before it, which decide whether it begins with a space.

    A stop string that has the text of a special token ("<|im_end|>") is found although such tokens are skipped: then
    the text is decoded with them, and their parts are left out.
    """

    def __init__(
        self, tokenizer: Any, prompt: Sequence[int], stop: Sequence[str], include_stop: bool, skip_special_tokens: bool
    ) -> None:
        self._tokenizer, self._stop = tokenizer, StopStrings(stop, include_stop)
        self._hides = skip_special_tokens and any(self._has_special(string) for string in stop)
        self._text = GrowingText(tokenizer, prompt, skip_special_tokens and not self._hides)
        self._searches = bool(stop)
        self._hidden: list[tuple[int, str]] = []  # with _hides: parts of special tokens, and where they begin
        self._given = self._seen = 0

    @property
    def stopped(self) -> bool:
        """Whether a stop string has come."""
        return self._stop.found

    def add(self, id: int) -> str:
        """The text that is final with this id."""
        new = self._text.add(id)
        if not self._searches:
            return new
        if self._hides and self._is_special(id):
            self._hidden.append((self._seen, new))
        self._seen += len(new)
        return self._shown(self._stop.feed(new))

    def rest(self) -> str:
        """What is held back, where the answer ends without a stop string."""
        new = self._text.rest()
        return self._shown(self._stop.feed(new) + ("" if self._stop.found else self._stop.rest()))

    def _shown(self, final: str) -> str:
        """`final`, the next part of the text, without parts of special tokens."""
        begin, self._given = self._given, self._given + len(final)
        shown, at = "", begin
        while self._hidden and self._hidden[0][0] < self._given:
            first, part = self._hidden.pop(0)
            shown += final[at - begin : max(first - begin, 0)]
            at = first + len(part)
            if at > self._given:  # the rest of it is not final yet
                self._hidden.insert(0, (self._given, part[self._given - first :]))
                break
        return shown + final[at - begin :]

    def _has_special(self, string: str) -> bool:
        return any(self._is_special(id) for id in self._tokenizer.encode(string, add_special_tokens=False).ids)

    def _is_special(self, id: int) -> bool:
        return not self._tokenizer.decode([id], skip_special_tokens=True)
