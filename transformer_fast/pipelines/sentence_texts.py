"""What the calls of encoders of sentence-transformers' folders share: texts and pairs, prompts, older names.

`SentenceEncoder` and its relatives call it; `text_runs` has what every pipeline of texts does. An argument that
several encoders take in the same way is checked here.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import wraps
from pathlib import Path
from typing import Any, TypeVar

from transformer_fast.pipelines.sentence_settings import SentenceSettings, checked_prompt
from transformer_fast.pipelines.text_runs import column, one_of

_Method = TypeVar("_Method", bound=Callable[..., Any])
Text = str | tuple[str, str]

_HUB_NAME = re.compile(r"[^./~\\][^/\\]*")
# Prompts of documents, in the order in which `encode_document` looks for them.
DOCUMENT_PROMPTS = ("document", "passage", "corpus")


def renamed(**names: str) -> Callable[[_Method], _Method]:
    """Takes arguments under their older names as well; names: older name -> newer name."""

    def decorate(method: _Method) -> _Method:
        @wraps(method)
        def call(self: Any, *arguments: Any, **options: Any) -> Any:
            for older, newer in names.items():
                if older in options:
                    if arguments or newer in options:
                        raise TypeError(f"{older} and {newer} are both given; needed: {newer}")
                    options[newer] = options.pop(older)
            return method(self, *arguments, **options)

        return call  # type: ignore[return-value]

    return decorate


def take_prompts(
    settings: SentenceSettings, prompts: Mapping[str, str | None] | None, default_prompt_name: str | None
) -> None:
    """A caller's prompts instead of the folder's; of one that is None, the folder's counts.

    Raises:
        TypeError, ValueError: a prompt is no string, or the default is none of them.
    """
    for name, prompt in (prompts or {}).items():
        if prompt is None:
            settings.prompts.setdefault(name, "")
        else:
            settings.prompts[name] = checked_prompt(f"prompts[{name!r}]", prompt)
    if default_prompt_name is not None:
        one_of("default_prompt_name", default_prompt_name, settings.prompts)
        settings.default_prompt_name = default_prompt_name


def hub_name(name: Any, organisation: str) -> Any:
    """The name of a folder or a model; one without "/" that is no folder is a model of that organisation."""
    if isinstance(name, str) and _HUB_NAME.fullmatch(name) and not Path(name).exists():
        return f"{organisation}/{name}"
    return name


def several(inputs: Any) -> Iterable[Any]:
    """The texts, one by one; one string is one text."""
    return [inputs] if isinstance(inputs, str) else column("inputs", inputs)


def checked_texts(inputs: Iterable[Any]) -> Iterator[Text]:
    """
    Raises:
        TypeError: an input is no string and no pair of strings (its index is named).
    """
    for i, text in enumerate(inputs):
        if not isinstance(text, str) and not _is_pair(text):
            raise TypeError(f"inputs[{i}] is a {type(text).__name__}; needed: a string")
        yield text


def with_prompt(prompt: str, texts: Sequence[Text]) -> Sequence[Text]:
    """The texts with a prompt before each, of a pair before the first."""
    if not prompt:
        return texts
    return [prompt + text if isinstance(text, str) else (prompt + text[0], text[1]) for text in texts]


def _is_pair(text: Any) -> bool:
    return isinstance(text, tuple) and len(text) == 2 and all(isinstance(part, str) for part in text)
