"""`ChatFormat`: messages and tools, as OpenAI's interface has them, become a prompt; answers become messages again.

`transformer_fast.server` and programs make one for a tokenizer, whose chat template says what the model was trained on.
`tool_calls` knows the forms of calls, `answers` reads answers. A further field of messages is checked in `_message`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from transformer_fast.files.tokenizer import Tokenizer
from transformer_fast.files.tokenizer.chat import variables_of
from transformer_fast.generation import Constraint
from transformer_fast.serving.answers import THINK, AnswerParser, reasoning_of
from transformer_fast.serving.tool_calls import style_of

_ROLES = ("system", "developer", "user", "assistant", "tool")
_TOOL_NAME = re.compile(r"[\w.-]{1,64}", re.ASCII)
_FORMATS = ("text", "json_object", "json_schema", "regex", "grammar")
_OWN = ("messages", "tools", "tokenize", "chat_template")  # of apply_chat_template, which `prompt` sets itself


@dataclass(frozen=True)
class Prompt:
    """What an engine is given for a conversation.

    ids: of the prompt. constraint: what the answer has to be, or None. stop: texts that end it. skip_special_tokens:
    whether the engine leaves special tokens out of its text; False where some of them begin calls. thinking: the prompt
    ends inside the model's reasoning. tools: those that the answer may call.
    """

    ids: list[int]
    constraint: Constraint | None = None
    stop: tuple[str, ...] = ()
    skip_special_tokens: bool = True
    thinking: bool = False
    tools: tuple[Mapping[str, Any], ...] = ()


class ChatFormat:
    """The conversations of a tokenizer's model.

    Raises:
        ValueError: the tokenizer has no chat template; the text says so when `prompt` is called.

    Example:
        >>> chat = ChatFormat(load_tokenizer("Qwen/Qwen3-0.6B"))                                      # doctest: +SKIP
        >>> prompt = chat.prompt([{"role": "user", "content": "2 + 2?"}])                             # doctest: +SKIP
        >>> answer = engine.submit(prompt.ids, skip_special_tokens=prompt.skip_special_tokens)        # doctest: +SKIP
        >>> chat.parser(prompt=prompt).parse(answer.result().text).content                            # doctest: +SKIP
        '4'
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        templates = tokenizer.chat_templates
        self._text = "\n".join(templates.values())
        self._style = style_of(self._text)
        self._reasoning = reasoning_of(self._text)
        added = getattr(tokenizer.tokenizer, "get_added_tokens_decoder", dict)()  # Marian's has none
        self._special = {token.content: number for number, token in added.items() if token.special}

    def prompt(
        self,
        messages: Sequence[Mapping[str, Any]],
        tools: Sequence[Mapping[str, Any]] | None = None,
        tool_choice: str | Mapping[str, Any] | None = None,
        response_format: Mapping[str, Any] | None = None,
        *,
        constraint: Constraint | None = None,
        **template_kwargs: Any,
    ) -> Prompt:
        """The prompt of a conversation; the arguments are those of OpenAI's chat completions.

        messages: role is system, developer (which becomes system), user, assistant or tool; content is a text or a list
        of parts of text, which are joined by line ends.
        tools: functions with JSON schemas. tool_choice: "auto" (the default with tools), "none", which leaves them out
        of the prompt, "required" or one function, which the answer is then constrained to call.
        response_format: {"type": "text" | "json_object" | "json_schema" | "regex" | "grammar"}, with json_schema,
        pattern or grammar beside it. constraint: the same as a `Constraint`.
        template_kwargs: further names that the template knows, enable_thinking=False for some; add_generation_prompt
        and continue_final_message.

        Raises:
            ValueError: something is malformed, contradicts itself, or is not supported by the model's template.
        """
        self.check()
        own = [name for name in _OWN if name in template_kwargs]
        if own:
            raise ValueError(
                f"chat_template_kwargs has {own[0]}, which is set by the request itself; needed: without it"
            )
        chat = _messages(messages)
        offered, forced = _choice(_tools(tools), tool_choice)
        if offered:
            self._check_tools()
        if not template_kwargs.get("continue_final_message"):
            template_kwargs.setdefault("add_generation_prompt", True)
        try:
            text = self.tokenizer.apply_chat_template(
                chat, tools=list(offered) or None, tokenize=False, **template_kwargs
            )
        except TypeError as error:
            raise ValueError(str(error)) from error
        ids = self.tokenizer.encode(text, add_special_tokens=False).ids
        thinking = self._reasoning is not None and text.rstrip().endswith(self._reasoning.begin)
        constraint = self._constraint(response_format, constraint, offered, forced, thinking)
        keep = self._keeps(self._words(bool(offered)))
        return Prompt(ids, constraint, (), not keep, thinking, offered)

    def parser(self, tools: Sequence[Mapping[str, Any]] | None = None, prompt: Prompt | None = None) -> AnswerParser:
        """A parser for one answer. prompt: what it answers, which knows its tools and whether reasoning is open."""
        tools = prompt.tools if tools is None and prompt is not None else tools
        style = self._style if tools else None
        words = self._words(style is not None)
        # Where the engine leaves special tokens out, there is nothing to drop.
        dropped = [text for text in self._special if text not in words] if self._keeps(words) else ()
        return AnswerParser(style, self._reasoning, prompt is not None and prompt.thinking, dropped)

    def _keeps(self, words: Sequence[str]) -> bool:
        """Whether special tokens have to be in the text, since one of them is in these words."""
        joined = "\n".join(words)
        return any(token in joined for token in self._special)

    def _words(self, calls: bool) -> tuple[str, ...]:
        """The texts by which answers are read, in which special tokens may be."""
        of_calls = self._style.words if calls and self._style is not None else ()
        return (*of_calls, *(self._reasoning.words if self._reasoning is not None else ()))

    def check(self) -> None:
        """Raises ValueError where the model has no chat template."""
        if not self.tokenizer.chat_templates:
            raise ValueError(
                f"{self.tokenizer.place}: the model has no chat template, so that it is not known how it was given "
                "messages; needed: a model with one, or completions of plain text"
            )

    def _check_tools(self) -> None:
        known = any("tools" in variables_of(template) for template in self.tokenizer.chat_templates.values())
        if not known or self._style is None:
            told = "knows no tools" if not known else "writes calls in a form that is not known here"
            raise ValueError(
                f"tools are given, and the model's chat template {told}; supported: <tool_call> with JSON (Hermes, "
                "Qwen), JSON (Llama 3), [TOOL_CALLS] (Mistral)"
            )

    def _constraint(
        self,
        response_format: Any,
        constraint: Constraint | None,
        offered: Sequence[Mapping[str, Any]],
        forced: bool,
        thinking: bool,
    ) -> Constraint | None:
        asked = response_constraint(response_format)
        if None not in (asked, constraint):
            raise ValueError("response_format and constraint are given; needed: one of them")
        asked = constraint if asked is None else asked
        if asked is not None and offered:
            raise ValueError(
                "response_format (or another constraint) and tools are given, and an answer cannot follow both; "
                'needed: one of them, or tool_choice "none"'
            )
        if asked is not None and self._reasoning not in (None, THINK):
            raise ValueError(
                "response_format (or another constraint) is given, which is not supported for a chat template with "
                "channels (gpt-oss); needed: none, and text"
            )
        if forced:
            asked = Constraint.grammar("start: call\n" + self._style.grammar(offered, self._spelled))
        return asked.after(self._reasoning.end) if asked is not None and thinking else asked

    def _spelled(self, text: str) -> str:
        """A text in a grammar: the token, where it is a special one, which no text can be."""
        number = self._special.get(text)
        return json.dumps(text, ensure_ascii=False) if number is None else f"<[{number}]>"


def response_constraint(response_format: Mapping[str, Any] | None) -> Constraint | None:
    """The constraint that a response_format asks for; None for a plain text.

    Raises:
        ValueError: it is malformed.
    """
    if response_format is None:
        return None
    kind = response_format.get("type") if isinstance(response_format, Mapping) else None
    if kind not in _FORMATS:
        raise ValueError(
            f"response_format is {response_format!r:.80}; needed: an object whose type is one of {_FORMATS}"
        )
    if kind == "text":
        return None
    if kind == "json_object":
        return Constraint.json_object()
    if kind == "regex":
        return Constraint.regex(response_format.get("pattern"))
    if kind == "grammar":
        return Constraint.grammar(response_format.get("grammar"))
    described = response_format.get("json_schema")
    schema = described.get("schema") if isinstance(described, Mapping) else None
    if not isinstance(schema, Mapping):
        raise ValueError(f"response_format: json_schema.schema is {schema!r:.60}; needed: a JSON schema")
    return Constraint.json_schema(schema)


# ----------------------------------------------------------------------------------------------------------------------
# What clients send


def _messages(messages: Any) -> list[dict[str, Any]]:
    if isinstance(messages, (str, bytes, Mapping)) or not isinstance(messages, Sequence) or not messages:
        raise ValueError(f"messages is {messages!r:.60}; needed: a list of at least one message")
    names: dict[str, str] = {}  # id of a call -> the name of its tool
    return [_message(f"messages[{i}]", message, names) for i, message in enumerate(messages)]


def _message(where: str, message: Any, names: dict[str, str]) -> dict[str, Any]:
    role = message.get("role") if isinstance(message, Mapping) else None
    if role not in _ROLES:
        raise ValueError(f"{where}: role is {role!r:.40}; needed: one of {', '.join(_ROLES)}")
    found = {name: value for name, value in message.items() if value is not None}
    for name in ("function_call", "audio"):
        if found.pop(name, None):
            raise ValueError(f"{where}: {name} is given, which is not supported; needed: text, and tool_calls")
    found["role"] = "system" if role == "developer" else role
    refusal = found.pop("refusal", None)
    content = found.get("content", refusal)
    calls = found.pop("tool_calls", None)
    if calls:
        if role != "assistant":
            raise ValueError(f"{where}: tool_calls is given and role is {role}; needed: assistant")
        found["tool_calls"] = _calls(where, calls, names)
    if content is None and not calls and not found.get("reasoning_content"):
        raise ValueError(f"{where}: content is missing; needed: a text, or parts of text")
    # Templates expect a text where there are calls, too.
    found["content"] = "" if content is None else _content(where, content)
    if role == "tool":
        call = found.get("tool_call_id")
        if not isinstance(call, str):
            raise ValueError(f"{where}: tool_call_id is {call!r:.40}; needed: the id of the call that it answers")
        if call in names:
            found.setdefault("name", names[call])
    return found


def _content(where: str, content: Any) -> str:
    if isinstance(content, str):
        return content
    if not isinstance(content, Sequence) or isinstance(content, bytes):
        raise ValueError(f"{where}: content is {content!r:.40}; needed: a text, or a list of parts")
    texts = []
    for i, part in enumerate(content):
        kind = part.get("type") if isinstance(part, Mapping) else None
        if kind not in ("text", "refusal"):
            raise ValueError(
                f"{where}: content[{i}] is of type {kind!r:.40}, which is not supported; needed: text (the models here "
                "read no pictures, sound or files)"
            )
        text = part.get(kind)
        if not isinstance(text, str):
            raise ValueError(f"{where}: content[{i}].{kind} is {text!r:.40}; needed: a string")
        texts.append(text)
    return "\n".join(texts)


def _calls(where: str, calls: Any, names: dict[str, str]) -> list[dict[str, Any]]:
    """Calls as templates expect them: arguments are an object."""
    if not isinstance(calls, Sequence) or isinstance(calls, (str, bytes)):
        raise ValueError(f"{where}: tool_calls is {calls!r:.40}; needed: a list")
    found = []
    for i, call in enumerate(calls):
        function = call.get("function") if isinstance(call, Mapping) else None
        name = function.get("name") if isinstance(function, Mapping) else None
        if not isinstance(name, str):
            raise ValueError(f"{where}: tool_calls[{i}] is {call!r:.60}; needed: an object with function.name")
        arguments = function.get("arguments", {})
        if isinstance(arguments, str):
            try:
                arguments = json.loads(arguments or "{}")
            except (ValueError, RecursionError):
                arguments = None
        if not isinstance(arguments, Mapping):
            raise ValueError(
                f"{where}: tool_calls[{i}].function.arguments is {function.get('arguments')!r:.60}; needed: the text "
                "of a JSON object"
            )
        if isinstance(call.get("id"), str):
            names[call["id"]] = name
        found.append({**call, "type": "function", "function": {**function, "arguments": arguments}})
    return found


def _tools(tools: Any) -> tuple[Mapping[str, Any], ...]:
    if tools is None:
        return ()
    if not isinstance(tools, Sequence) or isinstance(tools, (str, bytes)):
        raise ValueError(f"tools is {tools!r:.60}; needed: a list of functions")
    names = set()
    for i, tool in enumerate(tools):
        kind = tool.get("type") if isinstance(tool, Mapping) else None
        function = tool.get("function") if kind == "function" else None
        name = function.get("name") if isinstance(function, Mapping) else None
        if not isinstance(name, str) or not _TOOL_NAME.fullmatch(name):
            raise ValueError(
                f'tools[{i}] is {tool!r:.80}; needed: {{"type": "function", "function": {{"name": ..., "parameters": '
                "...}}, the name of up to 64 letters, digits, _, - and ."
            )
        if name in names:
            raise ValueError(f"tools[{i}]: there are two of the name {name}; needed: names of their own")
        names.add(name)
        if not isinstance(function.get("parameters", {}), (Mapping, type(None))):
            raise ValueError(f"tools[{i}].function.parameters is {function['parameters']!r:.60}; needed: a JSON schema")
    return tuple(tools)


def _choice(tools: tuple[Mapping[str, Any], ...], choice: Any) -> tuple[tuple[Mapping[str, Any], ...], bool]:
    """(the tools of the prompt, whether the answer has to call one of them)."""
    if choice in (None, "auto"):
        return tools, False
    if choice == "none":
        return (), False
    if not tools:
        raise ValueError(f"tool_choice is {choice!r:.60} and there are no tools; needed: tools")
    if choice == "required":
        return tools, True
    function = choice.get("function") if isinstance(choice, Mapping) and choice.get("type") == "function" else None
    name = function.get("name") if isinstance(function, Mapping) else None
    found = tuple(tool for tool in tools if tool["function"]["name"] == name)
    if not found:
        raise ValueError(
            f"tool_choice is {choice!r:.80}; needed: auto, none, required, or "
            '{"type": "function", "function": {"name": ...}} with the name of one of the tools'
        )
    return found, True
