"""Texts as conversations: what sentence-transformers makes of a text or a pair where a model has a chat template.

`sentence_inputs` and `cross_encoder` call `read_chats`, and `Chats.encode` in place of the tokenizer. A text is one
message of the role "user", a pair one of "query" and one of "document", and a prompt one of "system" before them; the
template turns them into the text that the model was trained on. `RERANKERS` has templates of published models whose
folders have none for pairs; another one is a line there.

Source: sentence-transformers 6, base/modality.py and base/modules/transformer.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from transformer_fast.files.errors import CheckpointError
from transformer_fast.files.source import ModelSource
from transformer_fast.files.tokenizer import Tokenizer, typed
from transformer_fast.files.tokenizer.chat import DEFAULT, variables_of

Text = str | tuple[str, str]
Conversation = list[dict[str, Any]]

FORMATS = ("flat", "structured")
# A template that reads one of these gets the content of a message as a list of parts, not as a string.
_PARTS = ("content[0]", ".type", "'type'", '"type"', "item.type", "message.content[")
# Pairs that differ in one text each: what they become must differ as well, or the template leaves one out.
_PROBES = (("alpha", "bravo"), ("charlie", "bravo"), ("alpha", "foxtrot"))
_PADDING = {"padding", "padding_side", "pad_to_multiple_of", "return_tensors"}

# What Qwen's documentation of Qwen3-Reranker puts around a pair; a prompt takes the place of the instruction.
_QWEN3_RERANKER = (
    "<|im_start|>system\nJudge whether the Document meets the requirements based on the Query and the Instruct "
    'provided. Note that the answer can only be "yes" or "no".<|im_end|>\n<|im_start|>user\n<Instruct>: '
    "{{ messages | selectattr('role', 'eq', 'system') | map(attribute='content') | first | default("
    "'Given a web search query, retrieve relevant passages that answer the query', true) }}\n"
    "<Query>: {{ messages | selectattr('role', 'eq', 'query') | map(attribute='content') | first }}\n"
    "<Document>: {{ messages | selectattr('role', 'eq', 'document') | map(attribute='content') | first }}"
    "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n{{ '' }}"
)
RERANKERS: Mapping[str, str] = {"qwen3-reranker": _QWEN3_RERANKER}


class Chats:
    """Texts and pairs to tokens by a chat template.

    tokenizer: the model's. structured: contents are lists of parts. variables: further names that the template knows.
    keeps_end: where a text is cut off, the last tokens are what the template puts after it: models that read the last
    token need it. template: in place of the model's own.

    Raises:
        CheckpointError: the template asks for what is not supported.
        ImportError: jinja2 is not installed.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        structured: bool,
        variables: Mapping[str, Any] | None = None,
        keeps_end: bool = True,
        template: str | None = None,
    ) -> None:
        self._tokenizer, self._structured = tokenizer, structured
        self._variables, self._keeps_end, self._template = dict(variables or {}), keeps_end, template
        for text in tokenizer.chat_templates.values() if template is None else [template]:
            if "task" in variables_of(text):
                raise CheckpointError(f"{tokenizer.place}: the chat template reads task; supported: one that does not")
        self.pair_failure = self._pair_failure()

    def encode(
        self, texts: Sequence[Text], prompt: str = "", max_length: int | None = None
    ) -> list[tuple[list[int], bool]]:
        """The tokens of each text or pair, at most max_length, and whether something was cut off.

        Raises:
            ValueError: the template refuses a text, or leaves out a part of a pair; or it cannot be written as UTF-8.
        """
        if self.pair_failure is not None and any(isinstance(text, tuple) for text in texts):
            raise ValueError(self.pair_failure)
        chats = [self._conversation(text, prompt) for text in texts]
        found = []
        for chat, ids in zip(chats, self._ids(chats), strict=True):
            whole = len(ids)
            if max_length is not None and whole >= max_length:
                ids = self._cut(ids, chat, max_length)
            found.append((ids, len(ids) < whole))
        return found

    def _conversation(self, text: Text, prompt: str) -> Conversation:
        parts = [("system", prompt)] if prompt else []
        parts += [("user", text)] if isinstance(text, str) else zip(("query", "document"), text, strict=True)
        return [{"role": role, "content": self._content(content)} for role, content in parts]

    def _content(self, text: str) -> Any:
        return [{"type": "text", "text": text}] if self._structured else text

    def _render(self, chats: Sequence[Conversation]) -> list[str]:
        options = {"tokenize": False, **self._variables}
        return [self._tokenizer.apply_chat_template(chat, self._template, **options) for chat in chats]

    def _ids(self, chats: Sequence[Conversation]) -> list[list[int]]:
        """The tokens; the template has put special ones where they belong."""
        encodings = self._tokenizer.encode_batch(self._render(chats), add_special_tokens=False)
        return [encoding.ids for encoding in encodings]

    def _cut(self, ids: list[int], chat: Conversation, max_length: int) -> list[int]:
        left = self._tokenizer.truncation_side == "left"
        ids = ids[len(ids) - max_length :] if left else ids[:max_length]
        end = self._end(chat)[-max_length:] if self._keeps_end else []
        return ids[: len(ids) - len(end)] + end

    def _end(self, chat: Conversation) -> list[int]:
        """The tokens that the template puts after the texts of a conversation: those that do not depend on them."""
        first, second = self._ids(
            [
                [one if one["role"] == "system" else {**one, "content": self._content(text)} for one in chat]
                for text in ("0", "1 2 3 4")  # of different tokens, also the last ones
            ]
        )
        shorter = min(len(first), len(second))
        same = next((i for i in range(shorter) if first[-1 - i] != second[-1 - i]), shorter)
        return first[len(first) - same :] if same < shorter else []

    def _pair_failure(self) -> str | None:
        """Why the template cannot carry pairs; None: it can."""
        try:
            first, *others = self._render([self._conversation(pair, "") for pair in _PROBES])
        except ValueError as error:
            why = str(error)
        else:
            roles = ("query", "document")
            lost = [role for role, other in zip(roles, others, strict=True) if other == first]
            if not lost:
                return None
            why = f"it leaves out the role {' and '.join(map(repr, lost))}"
        return (
            f"{self._tokenizer.place}: the chat template takes no pair of texts: {why}; needed: one that renders the "
            f"roles 'query' and 'document', as CrossEncoder.from_pretrained(chat_template=...): one of its own, or the "
            f"name of a known one, {', '.join(map(repr, RERANKERS))}"
        )


def read_chats(source: ModelSource, tokenizer: Tokenizer, message: Mapping[str, Any], settings: Any) -> Chats:
    """The chats of a folder; message: modality_config's, {} without one. settings: processing_kwargs.

    Raises:
        CheckpointError: as `Chats`.
    """
    chosen = message.get("format")
    if chosen is None:
        chosen = _format_of(source, tokenizer.chat_templates)
    variables = dict((settings or {}).get("chat_template") or {})
    keeps_end = variables.pop("restore_suffix", True)
    return Chats(tokenizer, chosen == "structured", variables, keeps_end)


def format_of(template: str) -> str:
    """Of FORMATS: what a template takes the content of a message for."""
    return "structured" if any(part in template for part in _PARTS) else "flat"


def _format_of(source: ModelSource, templates: Mapping[str, str]) -> str:
    if source.object("config.json").get("model_type") == "gpt_oss":
        return "flat"
    return format_of(templates[DEFAULT]) if templates.keys() == {DEFAULT} else "structured"


def check_processing(place: Any, settings: Any) -> int | None:
    """Check processing_kwargs, of which chat_template and the length of texts are followed -> that length, or None.

    Raises:
        CheckpointError: it asks for what is not supported.
    """
    known = {"common": _PADDING, "text": {*_PADDING, "logits_to_keep", "max_length", "truncation"}}
    for name, options in (settings or {}).items():
        if not isinstance(options, dict) or (options and name not in (*known, "chat_template")):
            raise CheckpointError(
                f"{place}: processing_kwargs has {name}={options!r}; supported: objects for common, text and "
                "chat_template"
            )
        unknown = sorted(options.keys() - known[name]) if name in known else []
        if unknown:
            raise CheckpointError(
                f"{place}: processing_kwargs.{name} has {unknown[0]}; supported: {', '.join(sorted(known[name]))}"
            )
    text, chat = ((settings or {}).get(name) or {} for name in ("text", "chat_template"))
    if text.get("truncation", True) not in (True, "longest_first"):
        raise CheckpointError(f"{place}: processing_kwargs.text.truncation is {text['truncation']!r}; supported: true")
    for name in ("truncation", "max_length", "chat_template"):
        if name in chat:
            raise CheckpointError(
                f"{place}: processing_kwargs.chat_template has {name}; supported: names of the template"
            )
    typed(place, chat, "restore_suffix", bool, True)
    return typed(place, text, "max_length", int, None)
