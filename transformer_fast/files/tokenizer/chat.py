"""Chat templates: messages become the text that a model was trained on, by the Jinja template in the model's files.

`tokenizer.Tokenizer.apply_chat_template` calls `read_templates` when it is made, and `chosen` and `rendered` for each
conversation. Templates come with models and are not trusted: they run in Jinja's sandbox, on plain data alone. A
function or a tag that templates may use is added in `_environment`.

Source: apply_chat_template of transformers 5.24, and utils/chat_template_utils.py there.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from transformer_fast.files.errors import CheckpointError, optional_import
from transformer_fast.files.source import ModelSource

Templates = Mapping[str, str]

DEFAULT, _TOOLS = "default", "tool_use"  # names of templates that are chosen without being asked for
_FILE, _FOLDER = "chat_template.jinja", "additional_chat_templates"
# Older releases of Jinja have ways out of the sandbox, which its release notes list.
_LEAST_JINJA = (3, 1, 6)
# What may go wrong inside a template that expects other messages.
_FAILURES = (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError)
# Stands behind the text that is to be continued, so that the place is found after the template has run.
_CONTINUED = "CONTINUE_FINAL_MESSAGE_TAG "
# The names of a message's reasoning: templates read one of them. The first one is the usual one.
_REASONING = ("reasoning_content", "thinking", "reasoning")
# Options of transformers' method that are no variables of a template, so that one is not taken for such.
_NOT_SUPPORTED = frozenset(
    {
        "max_length",
        "padding",
        "return_assistant_tokens_mask",
        "return_dict",
        "return_tensors",
        "sanitize_control_tokens",
        "tokenizer_kwargs",
        "truncation",
    }
)


def read_templates(source: ModelSource, place: Path, told: Any) -> Templates:
    """The templates of a source by name; that of a model with a single one is "default". Files of their own count more.

    told: chat_template of tokenizer_config.json, which is at `place`: a template, or templates with names.

    Raises:
        CheckpointError: one of them is malformed.
    """
    files = {DEFAULT: _FILE} | {PurePosixPath(name).stem: name for name in source.names(_FOLDER) if _is_template(name)}
    found = {name: _text(source, file) for name, file in files.items() if source.read(file) is not None}
    return found or _told(place, told)


def _is_template(name: str) -> bool:
    return name.endswith(".jinja")


def _text(source: ModelSource, name: str) -> str:
    try:
        return (source.read(name) or b"").decode("utf-8")
    except UnicodeDecodeError as error:
        raise CheckpointError(f"{source.place(name)}: not UTF-8: {error}") from None


def _told(place: Path, told: Any) -> Templates:
    if told is None:
        return {}
    if isinstance(told, str):
        return {DEFAULT: told}
    if isinstance(told, list) and all(isinstance(one, dict) and {"name", "template"} <= one.keys() for one in told):
        told = {one["name"]: one["template"] for one in told if isinstance(one["name"], str)}
    if not isinstance(told, dict) or not all(isinstance(template, str) for template in told.values()):
        raise CheckpointError(
            f"{place}: chat_template is {str(told)[:80]!r}; needed: a template, or a list of them with names"
        )
    return told


def chosen(place: Path, templates: Templates, asked: str | None, tools: Any) -> str:
    """The template for a call. asked: the name of one, or a template; None: the model's own.

    Raises:
        ValueError: the model has none, or several of which none is the default.
    """
    if asked is not None:
        return templates.get(asked, asked)
    for name in (_TOOLS, DEFAULT) if tools is not None else (DEFAULT,):
        if name in templates:
            return templates[name]
    if templates:
        raise ValueError(f"chat_template is None; needed: one of the model's, {', '.join(sorted(templates))}")
    raise ValueError(f"{place}: there is no chat_template; needed: one there, or as the argument")


def rendered(
    place: Path,
    template: str,
    messages: Sequence[Mapping[str, Any]],
    continued: bool | str,
    variables: Mapping[str, Any],
) -> str:
    """The text of one conversation.

    continued: the last message is left open, at the end of its content, or of the field of that name.
    variables: what the template may use besides messages.

    Raises:
        TypeError: messages or variables hold what is no plain data.
        ValueError: the template refuses the messages, or is malformed; the last message cannot be continued.
    """
    refused = sorted(_NOT_SUPPORTED & variables.keys())
    if refused:
        raise TypeError(f"{refused[0]} is given, which is not supported: apply_chat_template returns a text or its ids")
    chat = [_message(i, message) for i, message in enumerate(messages)]
    if not chat:
        raise ValueError("messages is empty; needed: at least one message")
    final = _mark_end(chat[-1], template, continued) if continued else ""
    text = _run(place, template, {**_plain("an argument", dict(variables)), "messages": chat})
    return _cut_off(text, final) if continued else text


def variables_of(template: str) -> set[str]:
    """The names that a template reads and does not set itself; {} for a malformed one, which `rendered` refuses."""
    library = optional_import("jinja2", purpose="for chat templates")
    try:
        parsed = _environment().parse(template)
    except library.exceptions.TemplateSyntaxError:
        return set()
    return optional_import("jinja2.meta").find_undeclared_variables(parsed)


def _message(i: int, message: Any) -> dict[str, Any]:
    """A copy of plain data, without fields that are None, and with a message's reasoning under its usual names."""
    if not isinstance(message, Mapping):
        raise TypeError(f"messages[{i}] is {message!r:.60}; needed: a mapping with role and content")
    found = {name: value for name, value in _plain(f"messages[{i}]", message).items() if value is not None}
    reasoning = next((found[name] for name in _REASONING if found.get(name) is not None), None)
    return found if reasoning is None else {"thinking": reasoning, **found, "reasoning_content": reasoning}


def _plain(where: str, value: Any) -> Any:
    """A copy of what JSON can hold: objects of other kinds have methods that a sandbox does not know."""
    if value is None or type(value) in (bool, int, float, str):
        return value
    for kind in (str, int, float):
        if isinstance(value, kind):
            return kind.__str__(value) if kind is str else kind(value)
    if isinstance(value, np.generic):
        return _plain(where, value.item())
    if isinstance(value, Mapping):
        return {_plain(where, key): _plain(where, one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(where, one) for one in value]
    raise TypeError(f"{where} holds a {type(value).__name__}; needed: texts, numbers, lists and mappings")


# ----------------------------------------------------------------------------------------------------------------------
# A message that is to be continued


def _mark_end(message: dict[str, Any], template: str, continued: bool | str) -> str:
    """Mark the end of the text that is to be continued, and return that text."""
    name = continued if isinstance(continued, str) else "content"
    text = message.get(name)
    if text is None:
        raise ValueError(f"continue_final_message asks for {name!r}, which the last message does not have; needed: it")
    names = [other for other in _REASONING if message.get(other) == text] if name in _REASONING else [name]
    if not any(other in template for other in names):
        raise ValueError(f"continue_final_message asks for {name!r}, which the chat template does not use")
    if isinstance(text, str):
        message |= dict.fromkeys(names, text + _CONTINUED)
        return text
    part = next((p for p in reversed(text) if isinstance(p, dict) and isinstance(p.get("text"), str)), None)
    if part is None:
        raise ValueError(f"continue_final_message asks for {name!r}, and that of the last message has no text")
    text, part["text"] = part["text"], part["text"] + _CONTINUED
    return text


def _cut_off(text: str, final: str) -> str:
    """The rendered text up to the end of the message that is to be continued."""
    mark = _CONTINUED.strip()
    if final.strip() not in text or mark not in text:
        raise ValueError(
            f"continue_final_message: the last message {final.strip()[:60]!r} is not in the text that the chat "
            "template makes; needed: a template that keeps it"
        )
    end = text.rindex(mark)
    # Without the space after the mark the template has taken spaces away, which were perhaps before it, too.
    return text[:end] if text[end:].startswith(_CONTINUED) else text[:end].rstrip()


# ----------------------------------------------------------------------------------------------------------------------
# Jinja


def _run(place: Path, template: str, variables: dict[str, Any]) -> str:
    exceptions = optional_import("jinja2", purpose="for chat templates").exceptions
    try:
        return _compiled(template).render(variables)
    except exceptions.TemplateSyntaxError as error:
        raise ValueError(f"{place}: the chat template is malformed: {error.message} in line {error.lineno}") from None
    except (exceptions.TemplateError, *_FAILURES) as error:
        raise ValueError(f"{place}: the chat template refuses the messages: {error}") from error


@functools.lru_cache(maxsize=16)
def _compiled(template: str) -> Any:
    return _environment().from_string(template)


@functools.lru_cache(maxsize=1)
def _environment() -> Any:
    """The sandbox with what transformers gives to templates."""
    library = optional_import("jinja2", purpose="for chat templates")
    version = tuple(int(part) for part in re.findall(r"\d+", library.__version__)[:3])
    if version < _LEAST_JINJA:
        needed = ".".join(map(str, _LEAST_JINJA))
        raise ImportError(
            f"jinja2 {library.__version__} is installed; needed: {needed}, whose sandbox has no known gap"
        )

    def raise_exception(message: Any) -> None:
        raise library.exceptions.TemplateError(message)

    sandbox = optional_import("jinja2.sandbox")
    extensions = [_generation_tag(library), "jinja2.ext.loopcontrols"]
    found = sandbox.ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=extensions)
    found.filters["tojson"] = _to_json
    found.globals |= {
        "raise_exception": raise_exception,
        "strftime_now": _now,
        "dict": _MakeDict(),
        "namespace": _namespace(library),
    }
    return found


def _to_json(value: Any, ensure_ascii=False, indent=None, separators=None, sort_keys=False) -> str:
    """Jinja's own filter writes signs of HTML as escapes."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _now(format: str) -> str:
    return datetime.now().strftime(format)


class _MakeDict:
    """What templates call dict: the class itself has attributes that lead out of the sandbox."""

    def __call__(self, *args: Any, **entries: Any) -> dict:
        return dict(*args, **entries)

    def fromkeys(self, *args: Any) -> dict:
        return dict.fromkeys(*args)


def _namespace(library: Any) -> type:
    """Jinja's namespace without names that begin with an underscore, which are Python's own."""

    class Namespace(library.utils.Namespace):
        def __init__(*args: Any, **entries: Any) -> None:  # `self` may be the name of an entry
            self, *rest = args
            found = dict(*rest, **entries)
            for name in found:
                _check(name)
            library.utils.Namespace.__init__(self, found)

        def __setitem__(self, name: str, value: Any) -> None:
            _check(name)
            super().__setitem__(name, value)

    def _check(name: Any) -> None:
        if isinstance(name, str) and name.startswith("_"):
            raise library.exceptions.SecurityError(f"a namespace has no attribute {name!r}: it begins with _")

    return Namespace


def _generation_tag(library: Any) -> type:
    """{% generation %} ... {% endgeneration %}: marks what the assistant has said, for training; the text stays."""

    class GenerationTag(optional_import("jinja2.ext").Extension):
        tags = {"generation"}  # noqa: RUF012  Jinja's own form

        def parse(self, parser: Any) -> Any:
            line = next(parser.stream).lineno
            body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            return library.nodes.Scope(body, lineno=line)

    return GenerationTag
