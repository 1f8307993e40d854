"""`AnswerParser`: the text of an answer, piece by piece, becomes content, reasoning and calls of tools.

`chat.ChatFormat.parser` makes one for each answer; `tool_calls` reads the calls. A further part of answers is a state
of the parser: a method that takes what it knows from the text that is there, and says whether to go on.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from transformer_fast.serving.tool_calls import CallStyle, ToolCall, new_id


@dataclass(frozen=True)
class Reasoning:
    """How a model writes its reasoning: the texts before and after it, and those that go with them and say nothing."""

    begin: str
    end: str
    around: tuple[str, ...] = ()

    @property
    def words(self) -> tuple[str, ...]:
        return (self.begin, self.end, *self.around)


THINK = Reasoning("<think>", "</think>")
# gpt-oss: https://github.com/openai/harmony
_FINAL = "<|channel|>final<|message|>"
CHANNELS = Reasoning(
    "<|channel|>analysis<|message|>",
    "<|end|>",
    (_FINAL, f"<|start|>assistant{_FINAL}", "<|start|>assistant", "<|return|>"),
)


def reasoning_of(template: str) -> Reasoning | None:
    """The form of reasoning in a template; None where it has none that is known here."""
    if "<|channel|>" in template:
        return CHANNELS
    return THINK if THINK.begin in template or THINK.end in template else None


@dataclass(frozen=True)
class Delta:
    """What a piece of text adds to an answer; tool_calls are whole, each comes once."""

    content: str = ""
    reasoning_content: str = ""
    tool_calls: tuple[ToolCall, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.content or self.reasoning_content or self.tool_calls)


class AnswerParser:
    """Takes the text of one answer in pieces; what comes out does not depend on where they are cut (but for ids).

    What looks like a call and is none, because it is cut off or malformed, is content. Nothing raises.

    style: how calls are written; None: there are none. reasoning: how reasoning is, which is taken out; None: there is
    none. thinking: the prompt has opened it already. dropped: texts of special tokens that are no part of an answer.

    Example:
        >>> from transformer_fast.serving.answers import THINK, AnswerParser
        >>> from transformer_fast.serving.tool_calls import HERMES_STYLE
        >>> parser = AnswerParser(HERMES_STYLE, THINK)
        >>> parser.feed("<think>Sum.</think>It is ")
        Delta(content='It is', reasoning_content='Sum.', tool_calls=())
        >>> parser.feed("4.<tool_"), parser.end()
        (Delta(content=' 4.', reasoning_content='', tool_calls=()), Delta(content='<tool_', reasoning_content='', \
tool_calls=()))
    """

    def __init__(
        self,
        style: CallStyle | None = None,
        reasoning: Reasoning | None = None,
        thinking: bool = False,
        dropped: Sequence[str] = (),
    ) -> None:
        reasoning = THINK if thinking and reasoning is None else reasoning
        self._style, self._reasoning = style, reasoning
        dropped = tuple(filter(None, (*dropped, *(reasoning.around if reasoning else ()))))
        self._markers = style.markers if style is not None else ()
        begin, end = ((reasoning.begin,), (reasoning.end,)) if reasoning is not None else ((), ())
        # Of reasoning, of the start of an answer, and of what follows.
        self._thinking = _marks((*end, *dropped))
        self._opening = _marks((*self._markers, *begin, *dropped))
        self._talking = _marks((*self._markers, *dropped))
        self._state: Callable[[bool], bool] = self._think if thinking else self._talk
        self._text = ""  # not understood so far
        self._content: list[str] = []
        self._thoughts: list[str] = []
        self._calls: list[ToolCall] = []
        self._sent = 0  # of the calls
        self._space = ""  # at the end of the content so far: dropped where a call follows
        self._thought_space = ""
        self._fresh = True  # nothing but calls so far: an answer that begins with { may be one
        self._begun = self._thought_begun = False
        self._trim = False  # space that begins content is dropped

    @property
    def tool_calls(self) -> tuple[ToolCall, ...]:
        """All calls so far."""
        return tuple(self._calls)

    def feed(self, text: str) -> Delta:
        """What a piece of text adds."""
        self._text += text
        while self._state(False):
            pass
        return self._taken()

    def end(self) -> Delta:
        """What is left when no more text comes."""
        while self._state(True):
            pass
        if not self._calls:
            self._content.append(self._space)
        self._space = ""
        return self._taken()

    def parse(self, text: str) -> Delta:
        """All of an answer that is there as a whole."""
        first, last = self.feed(text), self.end()
        return Delta(
            first.content + last.content,
            first.reasoning_content + last.reasoning_content,
            first.tool_calls + last.tool_calls,
        )

    def _taken(self) -> Delta:
        found = Delta("".join(self._content), "".join(self._thoughts), tuple(self._calls[self._sent :]))
        self._content, self._thoughts, self._sent = [], [], len(self._calls)
        return found

    # ------------------------------------------------------------------------------------------------------------------
    # States: each takes from self._text and returns whether there may be more to take

    def _think(self, final: bool) -> bool:
        before, mark = self._until(self._thinking, final)
        self._thought(before)
        if mark == self._reasoning.end:
            self._state, self._thought_space, self._trim = self._talk, "", True
        return mark is not None

    def _talk(self, final: bool) -> bool:
        if self._bare_call(final):
            return self._state is self._call and bool(self._text)
        opening = not self._begun and not self._calls
        before, mark = self._until(self._opening if opening else self._talking, final)
        thinks = mark is not None and self._reasoning is not None and mark == self._reasoning.begin
        if thinks and (before.strip() or self._begun):
            before, mark = before + mark, ""  # a word of the answer
        self._say(before)
        if mark in self._markers:
            self._text, self._state = mark + self._text, self._call
        elif thinks and mark:
            self._state, self._space = self._think, ""
        return mark is not None

    def _bare_call(self, final: bool) -> bool:
        """Whether the text may be a call without a marker, or it is not known yet."""
        if self._style is None or not self._style.bare or not self._fresh:
            return False
        text = self._text.lstrip(" \t\r\n;" if self._calls else None)
        if not text:
            return not final
        if text[0] == "{":
            if not self._calls:
                self._space += self._text[: len(self._text) - len(text)]
            self._text, self._state = text, self._call
            return True
        return False

    def _call(self, final: bool) -> bool:
        found = self._style.read(self._text, final)
        if found is None:
            return False
        text, self._text, self._state = self._text[: found.length], self._text[found.length :], self._talk
        if found.calls:
            self._calls += [
                ToolCall(len(self._calls) + i, given or new_id(), name, arguments)
                for i, (name, arguments, given) in enumerate(found.calls)
            ]
            self._space, self._trim, self._fresh = "", True, True
        else:
            self._trim = False
            self._say(text)
        return True

    # ------------------------------------------------------------------------------------------------------------------

    def _until(self, marks: _Marks, final: bool) -> tuple[str, str | None]:
        """Takes the text before the first of marks, and that mark.

        (text, None) where none is there, without an end that may be the start of one.
        """
        if marks.firsts.isdisjoint(self._text):
            text, self._text = self._text, ""
            return text, None
        found = [(place, -len(mark), mark) for mark in marks.texts if (place := self._text.find(mark)) >= 0]
        if found:
            place, _, mark = min(found)
            rest = self._text[place:]
            if not final and rest in marks.begun:
                before, self._text = self._text[:place], rest
                return before, None  # it may become a longer one
            before, self._text = self._text[:place], self._text[place + len(mark) :]
            return before, mark
        longest = 0 if final else min(marks.longest, len(self._text))
        held = next((n for n in range(longest, 0, -1) if self._text[-n:] in marks.begun), 0)
        before, self._text = self._text[: len(self._text) - held], self._text[len(self._text) - held :]
        return before, None

    def _say(self, text: str) -> None:
        if self._trim:
            text = text.lstrip()
        if not text:
            return
        self._trim = False
        told = text.rstrip()
        if told:
            self._content.append(self._space + told)
            self._begun, self._fresh, self._space = True, False, ""
        self._space += text[len(told) :]

    def _thought(self, text: str) -> None:
        """Reasoning, without the space around it."""
        if not self._thought_begun:
            text = text.lstrip()
        told = text.rstrip()
        if told:
            self._thoughts.append(self._thought_space + told)
            self._thought_begun, self._thought_space = True, ""
        self._thought_space += text[len(told) :]


class _Marks:
    """Texts that are looked for: models have up to 6,000 special tokens, and each piece is looked through for all.

    firsts: their first characters. begun: what may become one of them; longest: the most characters of it.
    """

    def __init__(self, texts: Sequence[str]) -> None:
        self.texts = tuple(texts)
        self.firsts = frozenset(text[0] for text in texts)
        self.begun = frozenset(text[:n] for text in texts for n in range(1, len(text)))
        self.longest = max(map(len, self.begun), default=0)


@functools.lru_cache(maxsize=64)
def _marks(texts: tuple[str, ...]) -> _Marks:
    return _Marks(texts)
