"""How models write calls of tools: which form a chat template asks for, how a call is forced, and how one is read.

`chat.ChatFormat` calls `style_of`; `answers.AnswerParser` reads with the style. A further form is a `CallStyle` here
and a line in `style_of`.

Sources: the chat templates of Qwen2.5, Qwen3 and Hermes-3 (<tool_call>), Llama 3.1 to 3.3 (JSON), Mistral v0.3 to Small
3.2 ([TOOL_CALLS]).
"""

from __future__ import annotations

import json
import re
import secrets
import string
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

# JSON that ends so near to its error may go on without one: "-Infinity" is the longest word that it knows.
_LONGEST_WORD = 10
_LETTERS = string.ascii_letters + string.digits
_ID_LENGTH = 9  # Mistral's templates refuse others

HERMES, HERMES_END, MISTRAL, MISTRAL_ARGUMENTS, PYTHON = (
    "<tool_call>",
    "</tool_call>",
    "[TOOL_CALLS]",
    "[ARGS]",
    "<|python_tag|>",
)
_NAMED_CALL = re.compile(r"\s*([\w.-]+)(?:\[CALL_ID\](\w+))?(?:\[ARGS\])?\s*(?=\{)")
_BEGUN_CALL = re.compile(r"\s*[\w.-]*(\[[A-Z_]*\]?\w*)*(\[[A-Z]*\]?)?\s*")


@dataclass(frozen=True)
class ToolCall:
    """index: its place in the answer. arguments: the text of a JSON object, as OpenAI's interface has it."""

    index: int
    id: str
    name: str
    arguments: str


@dataclass(frozen=True)
class Found:
    """What a style has read at the start of a text: calls as (name, arguments, id or None), in so many characters.

    Without calls the characters are plain content.
    """

    calls: tuple[tuple[str, str, str | None], ...]
    length: int


@dataclass(frozen=True)
class CallStyle:
    """name: for error texts. markers: what begins a call. bare: an answer that begins with { may be a call.

    read(text, final): the call at the start of a text, which begins with a marker or {; None: more text is needed.
    arguments: the name of a call's arguments. after, space: what follows a call, and what is between (Lark's escapes).
    several: calls are written as an array.
    """

    name: str
    markers: tuple[str, ...]
    bare: bool
    read: Callable[[str, bool], Found | None]
    arguments: str
    after: str = ""
    space: str = ""
    several: bool = False

    @property
    def words(self) -> tuple[str, ...]:
        """All texts that may be special tokens, which an engine has to keep in its text."""
        return (*self.markers, *filter(None, [self.after]))

    def grammar(self, tools: Sequence[Mapping[str, Any]], spelled: Callable[[str], str]) -> str:
        """The rules, in llguidance's Lark, of `call`: one of one of the tools. spelled(marker): how it is written."""
        choices = [self._schema(tool["function"]) for tool in tools]
        schema: Any = choices[0] if len(choices) == 1 else {"anyOf": choices}
        if self.several:
            schema = {"type": "array", "items": schema, "minItems": 1, "maxItems": 1}
        before = [f'{spelled(self.markers[0])} "{self.space}"'] if not self.bare else []
        after = [f'"{self.space}" {spelled(self.after)}'] if self.after else []
        parts = [*before, "called", *after]
        return f"call: {' '.join(parts)}\ncalled: %json {json.dumps(schema, ensure_ascii=False)}\n"

    def _schema(self, function: Mapping[str, Any]) -> dict[str, Any]:
        parameters = function.get("parameters") or {"type": "object", "properties": {}}
        return {
            "type": "object",
            "properties": {"name": {"const": function["name"]}, self.arguments: parameters},
            "required": ["name", self.arguments],
            "additionalProperties": False,
        }


def new_id() -> str:
    """An id of a call that all templates take."""
    return "".join(secrets.choice(_LETTERS) for _ in range(_ID_LENGTH))


def style_of(template: str) -> CallStyle | None:
    """The form of calls that a template writes; None where it is none of those known here."""
    if MISTRAL in template:
        return NAMED_MISTRAL_STYLE if MISTRAL_ARGUMENTS in template else MISTRAL_STYLE
    # Templates of Qwen3-Coder and GLM have the same tags around another form.
    if HERMES in template and not any(other in template for other in ("<function=", "<arg_key>")):
        return HERMES_STYLE
    if PYTHON in template or ("<|start_header_id|>" in template and '"parameters"' in template):
        return LLAMA_STYLE
    return None


# ----------------------------------------------------------------------------------------------------------------------
# Reading


def _hermes(text: str, final: bool) -> Found | None:
    value, end = _json_at(text, len(HERMES), final)
    if end is None:
        return None if value is None else _no_call(HERMES)
    rest = text[end:].lstrip()
    if not rest.startswith(HERMES_END):
        if not HERMES_END.startswith(rest):
            return _no_call(HERMES)
        if not final:
            return None
    call = _call(value)
    length = min(len(text) - len(rest) + len(HERMES_END), len(text))
    return _no_call(HERMES) if call is None else Found((call,), length)


def _llama(text: str, final: bool) -> Found | None:
    start = len(PYTHON) if text.startswith(PYTHON) else 0
    value, end = _json_at(text, start, final)
    if end is None:
        return None if value is None else Found((), max(start, 1))
    call = _call(value)
    return Found((), end) if call is None else Found((call,), end)


def _mistral(text: str, final: bool) -> Found | None:
    start = len(MISTRAL)
    begun = text[start:].lstrip()
    if not begun:
        return _no_call(MISTRAL) if final else None
    if not begun.startswith("["):
        return _named_mistral(text, start, final)
    value, end = _json_at(text, start, final)
    if end is None:
        return None if value is None else _no_call(MISTRAL)
    calls = [_call(one) for one in value]
    return Found(tuple(calls), end) if calls and None not in calls else _no_call(MISTRAL)


def _named_mistral(text: str, start: int, final: bool) -> Found | None:
    """[TOOL_CALLS]name[ARGS]{...}, of releases since Small 3.2."""
    found = _NAMED_CALL.match(text, start)
    if found is None:
        whole = _BEGUN_CALL.fullmatch(text, start)
        return None if whole and not final else _no_call(MISTRAL)
    value, end = _json_at(text, found.end(), final)
    if end is None:
        return None if value is None else _no_call(MISTRAL)
    return Found(((found[1], json.dumps(value, ensure_ascii=False), found[2]),), end)


def _no_call(marker: str) -> Found:
    return Found((), len(marker))


class _Malformed:
    """Stands for JSON that no further text can mend."""


def _json_at(text: str, start: int, final: bool) -> tuple[Any, int | None]:
    """(the JSON value at a place, where it ends), (None, None) where more text is needed, (_Malformed, None)."""
    start += len(text) - start - len(text[start:].lstrip())
    try:
        return json.JSONDecoder(strict=False).raw_decode(text, start)
    except json.JSONDecodeError as error:
        open_string = error.msg.startswith("Unterminated string")
        if not final and (open_string or len(text) - error.pos <= _LONGEST_WORD):
            return None, None
    except RecursionError:
        pass
    return _Malformed, None


def _call(value: Any) -> tuple[str, str, str | None] | None:
    """(name, arguments, id) of what a model has written as a call; None: it is none."""
    if not isinstance(value, dict) or not isinstance(name := value.get("name"), str) or not name:
        return None
    arguments = value.get("arguments", value.get("parameters", {}))
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments)
        except (ValueError, RecursionError):
            return None
    if not isinstance(arguments, dict):
        return None
    given = value.get("id")
    return name, json.dumps(arguments, ensure_ascii=False), given if isinstance(given, str) and given else None


HERMES_STYLE = CallStyle("<tool_call>", (HERMES,), False, _hermes, "arguments", after=HERMES_END, space="\\n")
LLAMA_STYLE = CallStyle("Llama 3's JSON", (PYTHON,), True, _llama, "parameters")
MISTRAL_STYLE = CallStyle("[TOOL_CALLS]", (MISTRAL,), False, _mistral, "arguments", several=True)


class _NamedMistral(CallStyle):
    """Calls have their name outside of the JSON, which has the arguments alone."""

    @property
    def words(self) -> tuple[str, ...]:
        return MISTRAL, MISTRAL_ARGUMENTS

    def grammar(self, tools: Sequence[Mapping[str, Any]], spelled: Callable[[str], str]) -> str:
        rules = [f"call: {spelled(MISTRAL)} ({' | '.join(f'call{i}' for i in range(len(tools)))})"]
        for i, tool in enumerate(tools):
            function = tool["function"]
            schema = json.dumps(function.get("parameters") or {"type": "object", "properties": {}}, ensure_ascii=False)
            rules += [
                f"call{i}: {json.dumps(function['name'])} {spelled(MISTRAL_ARGUMENTS)} arguments{i}",
                f"arguments{i}: %json {schema}",
            ]
        return "\n".join(rules) + "\n"


NAMED_MISTRAL_STYLE = _NamedMistral("[TOOL_CALLS]", (MISTRAL,), False, _mistral, "arguments")
