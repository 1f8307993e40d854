"""`Tokenizer`: the tokens of a model folder, the same that transformers' AutoTokenizer makes of it.

`pipelines` and `generation` make one of a `ModelSource`. Nothing in it changes after it is made: what a call asks for
(a length, windows, a side) is a tokenizer of its own that shares the vocabulary, so that any number of threads may
encode at once. Settings that only one caller needs are read by that caller.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from transformer_fast.files.errors import CheckpointError, optional_import
from transformer_fast.files.folder import open_source
from transformer_fast.files.source import ModelSource
from transformer_fast.files.tokenizer import chat, vocabulary
from transformer_fast.files.tokenizer.build import built, named_tokens
from transformer_fast.files.tokenizer.choice import class_of
from transformer_fast.files.tokenizer.classes import CLASSES, GENERIC, MARIAN
from transformer_fast.files.tokenizer.marian import MarianPieces
from transformer_fast.files.tokenizer.recipe import Tokens
from transformer_fast.files.tokenizer.settings import NAMED, NO_LIMIT, TokenizerSettings, read_settings, typed
from transformer_fast.files.tokenizer.token_bytes import TokenBytes, bytes_of

# The names that tokens have where neither a file nor the class says.
_USUAL = {
    "mask_token": ("[MASK]", "<mask>"),
    "cls_token": ("[CLS]", "<s>"),
    "unk_token": ("[UNK]", "<unk>"),
}
# Tokenizers that cut off are kept for so many different limits: a pipeline's calls rarely have more.
_KEPT = 8
# What clean_up_tokenization_spaces takes a space out of.
_CLEANED = (" .", " ?", " !", " ,"), (" ' ",), (" n't", " 'm", " 's", " 've", " 're")
_STRATEGIES, _SIDES = ("longest_first", "only_first", "only_second"), ("left", "right")


class Tokenizer:
    """A model's tokenizer, and the settings that its files give it.

    Attributes:
        tokenizer: the `tokenizers.Tokenizer` (for Marian's two SentencePiece models a `MarianPieces`, which has its
            methods); it pads nothing and cuts nothing off, and is not changed.
        name: the class of transformers that the folder asks for.
        place: tokenizer_config.json, for error texts.
        max_length: the most tokens of a text, special ones included, or None.
        truncation_side, padding_side: "left" or "right".
        input_names: the arguments that the model is to be given, "token_type_ids" perhaps among them.
        chat_templates: name -> template of the model's chats; that of a model with a single one is "default".

    Raises:
        CheckpointError: a file is missing or malformed, or asks for what is not supported.
        ImportError: the package tokenizers is not installed.

    Example:
        >>> tokenizer = Tokenizer(open_source("bert-base-uncased"))                                   # doctest: +SKIP
        >>> tokenizer.special("mask_token")                                                           # doctest: +SKIP
        ('[MASK]', 103)
    """

    def __init__(self, source: ModelSource, lower_case: bool = False, markers: Sequence[str] = ()) -> None:
        """lower_case: lower-case texts before all else, as sentence-transformers' do_lower_case does. markers: of
        `with_markers`."""
        library = optional_import("tokenizers")
        self._made_from = source, lower_case, tuple(markers)
        with refusals(source.place("tokenizer.json")):
            self._read(source, lower_case)
        if markers:
            tokens = [library.AddedToken(marker, normalized=False, special=True) for marker in markers]
            self.tokenizer.add_special_tokens(tokens)
        self._limited: OrderedDict[tuple, Any] = OrderedDict()
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple:
        return Tokenizer, self._made_from

    def __copy__(self) -> Tokenizer:
        return self  # nothing in it changes

    def __deepcopy__(self, memo: dict[int, Any]) -> Tokenizer:
        return self

    def with_markers(self, markers: Sequence[str]) -> Tokenizer:
        """The same, with words of the vocabulary that are one token wherever a text has them."""
        source, lower_case, known = self._made_from
        return Tokenizer(source, lower_case, (*known, *markers)) if markers else self

    def _read(self, source: ModelSource, lower_case: bool) -> None:
        data, definition = vocabulary.definition_of(source)
        settings = read_settings(source, definition)
        self.place = settings.place
        self.name = class_of(source.object("config.json", required=False), settings, data)
        if self.name == MARIAN and data is not None and source.read("source.spm") is None:
            self.name = GENERIC  # a converted folder, which transformers cannot open
        kind = CLASSES[self.name]
        self._tokens = Tokens(named_tokens(self.place, kind, settings))
        if self.name == MARIAN:
            if lower_case:
                raise CheckpointError(f"{self.place}: do_lower_case is asked for, which {MARIAN} does not support")
            self.tokenizer = MarianPieces(source, self._tokens, settings)
        else:
            self.tokenizer = built(source, self.name, kind, self._tokens, settings, data, definition)
        if lower_case:
            self.tokenizer.normalizer = _lower_case_first(self.tokenizer.normalizer)
        self.max_length = settings.max_length or kind.max_length
        self.truncation_side = self._side(settings, "truncation_side", _direction(definition, "truncation") or "right")
        self.padding_side = self._side(settings, "padding_side", _direction(definition, "padding") or kind.padding_side)
        self.input_names = settings.input_names or kind.inputs
        self.chat_templates = chat.read_templates(source, self.place, settings.options.get("chat_template"))
        self._decoded = kind.decoded
        self._cleans = settings.flag("clean_up_tokenization_spaces") and (
            settings.flag("clean_up_tokenization_spaces_for_bpe_even_though_it_will_corrupt_output")
            or type(self.tokenizer.model).__name__ != "BPE"
        )

    def special(self, name: str) -> tuple[str, int] | None:
        """The text and the number of the token that the files name as "mask_token", "cls_token", ...; None without one.

        Where they do not say, the class does, or the usual names count ("[MASK]", "<mask>"), if the vocabulary has
        them.

        Raises:
            CheckpointError: the vocabulary does not have the token that is named.
        """
        token = self._tokens.texts.get(name)
        if token is None:
            known = ((usual, self.tokenizer.token_to_id(usual)) for usual in _USUAL.get(name, ()))
            return next((found for found in known if found[1] is not None), None)
        number = self.tokenizer.token_to_id(token)
        if number is None:
            raise CheckpointError(f"{self.place}: {name} is {token!r}, which the vocabulary does not have")
        return token, number

    def encode(self, text: str, pair: str | None = None, add_special_tokens: bool = True) -> Any:
        """The `tokenizers.Encoding` of a text, or of a pair: .ids, .tokens, .offsets, .type_ids.

        Raises:
            ValueError: as `encode_batch`.

        Example:
            >>> load_tokenizer("bert-base-uncased").encode("red").ids                                 # doctest: +SKIP
            [101, 2417, 102]
        """
        with errors_of_texts(self.place, [text if pair is None else (text, pair)]):
            return self.tokenizer.encode(text, pair, add_special_tokens=add_special_tokens)

    def apply_chat_template(
        self,
        messages: Sequence[Any],
        chat_template: str | None = None,
        tools: Sequence[Mapping[str, Any]] | None = None,
        add_generation_prompt: bool = False,
        continue_final_message: bool | str = False,
        tokenize: bool = True,
        *,
        documents: Sequence[Mapping[str, Any]] | None = None,
        **variables: Any,
    ) -> Any:
        """The tokens of a conversation as the model was trained on, by the template in its files; as transformers.

        messages: mappings with role and content, or several such conversations, for a list of results.
        chat_template: a template in Jinja, or the name of one of `chat_templates`.
        tools: what the model may call, as JSON schemas. documents: what it may quote. variables: further names that the
        template knows (enable_thinking=False).
        add_generation_prompt: end with the beginning of an answer.
        continue_final_message: end inside the last message, whose content the model goes on with; or a field's name.
        tokenize: False gives the text instead of the tokens' numbers.

        Raises:
            TypeError: messages hold something else than texts, numbers, lists and mappings; tools holds functions.
            ValueError: there is no template, it is malformed, or it refuses the messages.
            ImportError: jinja2 is not installed, or is older than 3.1.6.

        Example:
            >>> tokenizer = load_tokenizer("Qwen/Qwen2.5-0.5B-Instruct")                              # doctest: +SKIP
            >>> chat = [{"role": "user", "content": "Hi"}]
            >>> tokenizer.apply_chat_template(chat, add_generation_prompt=True, tokenize=False)       # doctest: +SKIP
            '<|im_start|>system...<|im_end|>\\n<|im_start|>user\\nHi<|im_end|>\\n<|im_start|>assistant\\n'
        """
        if continue_final_message and add_generation_prompt:
            raise ValueError("continue_final_message and add_generation_prompt are both given; needed: one of them")
        for i, tool in enumerate(tools or ()):
            if not isinstance(tool, Mapping):
                raise TypeError(f"tools[{i}] is {tool!r:.60}; needed: its JSON schema, a mapping")
        template = chat.chosen(self.place, self.chat_templates, chat_template, tools)
        named = {name: text for name in NAMED if (text := self._tokens.texts.get(name)) is not None}
        asked = {"tools": tools, "documents": documents, "add_generation_prompt": add_generation_prompt}
        several = bool(messages) and isinstance(messages[0], (list, tuple))
        texts = [
            chat.rendered(self.place, template, one, continue_final_message, {**named, **variables, **asked})
            for one in (messages if several else [messages])
        ]
        found = [self.encode(text, add_special_tokens=False).ids for text in texts] if tokenize else texts
        return found if several else found[0]

    def encode_batch(
        self,
        texts: Sequence[str | tuple[str, str]],
        offsets: bool = False,
        *,
        max_length: int | None = None,
        stride: int = 0,
        strategy: str = "longest_first",
        side: str | None = None,
        add_special_tokens: bool = True,
    ) -> list[Any]:
        """The `tokenizers.Encoding` of each text or pair of texts; with offsets in characters only if asked for.

        max_length: cut off what is longer; the rest is in .overflowing, in windows that share `stride` tokens.
        strategy: what of a pair is cut, "longest_first", "only_first" or "only_second". side: where it is cut, "left"
        or "right"; by default truncation_side. add_special_tokens: False leaves out what the files put around a text.

        Raises:
            ValueError: a text holds a character that UTF-8 cannot write, the vocabulary has no token for it, not even
                an unknown one, or the limit leaves no place for what it asks for.
        """
        tokenizer = self.tokenizer
        if max_length is not None:
            tokenizer = self.limited(max_length, stride, strategy, side)
            special = tokenizer.num_special_tokens_to_add(any(isinstance(text, tuple) for text in texts))
            if add_special_tokens and max_length < special:  # the package would cut nothing off
                raise ValueError(f"max_length is {max_length}; needed: at least {special}, the special tokens")
        with errors_of_texts(self.place, texts, max_length, strategy):
            encode = tokenizer.encode_batch if offsets else tokenizer.encode_batch_fast
            return encode(texts) if add_special_tokens else encode(texts, add_special_tokens=False)

    def limited(
        self, max_length: int, stride: int = 0, strategy: str = "longest_first", side: str | None = None
    ) -> Any:
        """The tokenizer with a limit, as `encode_batch` takes it; made once for each."""
        side = self.truncation_side if side is None else side
        if type(max_length) is not int or not 1 <= max_length < NO_LIMIT:
            raise ValueError(f"max_length is {max_length!r}; needed: an integer from 1 to {NO_LIMIT - 1}")
        if type(stride) is not int or not 0 <= stride < max_length:
            raise ValueError(f"stride is {stride!r}; needed: an integer from 0 to {max_length - 1}")
        for name, value, known in (("strategy", strategy, _STRATEGIES), ("side", side, _SIDES)):
            if value not in known:
                raise ValueError(f"{name} is {value!r}; needed: one of {', '.join(known)}")
        limit = (max_length, stride, strategy, side)
        with self._lock:
            found = self._limited.get(limit)
            if found is None:
                found = _copied(self.tokenizer)
                found.enable_truncation(max_length, stride=stride, strategy=strategy, direction=side)
                self._limited[limit] = found
            self._limited.move_to_end(limit)
            while len(self._limited) > _KEPT:
                self._limited.popitem(last=False)
        return found

    def decode(self, ids: Sequence[int], skip_special_tokens: bool = False) -> str:
        """The text of tokens, with the spaces that transformers leaves."""
        text = self._decoded(self.tokenizer.decode(list(ids), skip_special_tokens=skip_special_tokens))
        if self._cleans:
            for spaced in chain.from_iterable(_CLEANED):
                text = text.replace(spaced, spaced.strip() if spaced.endswith(" ") else spaced[1:])
        return text

    def token_bytes(self) -> TokenBytes:
        """The bytes that each token stands for inside a text, and which tokens are special.

        Joined, those of ids are the text that `decode` makes of them, but for the space that SentencePiece's decoder
        drops at its start.

        Raises:
            CheckpointError: what a token stands for depends on its neighbours (WordPiece, Marian, texts that are
                cleaned up).

        Example:
            >>> load_tokenizer("gpt2").token_bytes().tokens[995]                                      # doctest: +SKIP
            b' world'
        """
        if isinstance(self.tokenizer, MarianPieces) or self._cleans or self._decoded is not str:
            raise CheckpointError(
                f"{self.place}: decoded texts are changed (clean_up_tokenization_spaces, or {self.name}), so that "
                "tokens have no bytes of their own; needed: a tokenizer whose texts are its tokens"
            )
        return bytes_of(self.tokenizer, self.place)

    def _side(self, settings: TokenizerSettings, name: str, default: str) -> str:
        side = typed(self.place, settings.options, name, str, default)
        if side not in _SIDES:
            raise CheckpointError(f"{self.place}: {name} is {side!r}; needed: left or right")
        return side


def _is_of_tokenizers(error: BaseException) -> bool:
    """Is it one of the package tokenizers, which names no kind of error, or panics?"""
    return type(error) is Exception or type(error).__name__ == "PanicException"


@contextmanager
def errors_of_texts(
    place: Path, texts: Sequence[str | tuple[str, str]], max_length: int | None = None, strategy: str = ""
) -> Iterator[None]:
    """Errors of the package tokenizers, in words that name the text; place: the tokenizer's file."""
    try:
        yield
    except (TypeError, UnicodeEncodeError, RuntimeError):
        for i, text in enumerate(texts):
            parts = text if isinstance(text, tuple) else (text,)
            if len(parts) > 2 or not all(isinstance(part, str) for part in parts):
                raise TypeError(f"texts[{i}] is {text!r:.40}; needed: a string or a pair of strings") from None
        # All are strings: the tokenizer fails on half a surrogate pair.
        strings = chain.from_iterable([text] if isinstance(text, str) else text for text in texts)
        bad = next((text for text in strings if any("\ud800" <= c <= "\udfff" for c in text)), None)
        if bad is None:
            raise
        raise ValueError(f"the text {bad[:40]!r} holds a lone surrogate, which UTF-8 cannot write") from None
    except BaseException as error:
        if not _is_of_tokenizers(error):
            raise
        if "Truncation error" in str(error):
            raise ValueError(f"max_length is {max_length} and strategy {strategy!r}: {error}") from None
        raise ValueError(f"{place}: the tokenizer fails: {error}") from None


@contextmanager
def refusals(place: Path) -> Iterator[None]:
    """Files are not trusted: what they hold in place of what is needed is a CheckpointError, whatever it leads to."""
    try:
        yield
    except (CheckpointError, ImportError):
        raise
    except BaseException as error:
        expected = (TypeError, ValueError, AttributeError, LookupError, ArithmeticError)
        if not (isinstance(error, expected) or _is_of_tokenizers(error)):
            raise
        raise CheckpointError(
            f"{place}: it and the settings beside it make no tokenizer: {type(error).__name__}: {error}"
        ) from error


def load_tokenizer(path_or_hub_id: str | Path | ModelSource, **hub: Any) -> Tokenizer:
    """The tokenizer of a folder, a GGUF file, a model on the Hugging Face hub, or of a source that is open.

    It makes the tokens that AutoTokenizer of transformers makes. hub: revision, cache_dir, token, local_files_only: as
    in `load_model`.

    Raises:
        CheckpointError, ImportError: as `Tokenizer`.

    Example:
        >>> tokenizer = load_tokenizer("gpt2")                                                        # doctest: +SKIP
        >>> tokenizer.decode(tokenizer.encode("Hello world").ids)                                     # doctest: +SKIP
        'Hello world'
    """
    return Tokenizer(open_source(path_or_hub_id, **hub))


read_tokenizer = load_tokenizer  # the older name


def packed(tokens: Sequence[Sequence[int]]) -> tuple[np.ndarray, np.ndarray]:
    """The texts' tokens one after the other, (T,), and where each text starts, (B + 1,)."""
    cu_seqlens = np.zeros(len(tokens) + 1, np.int64)
    np.cumsum([len(ids) for ids in tokens], out=cu_seqlens[1:])
    return np.fromiter(chain.from_iterable(tokens), np.int64, cu_seqlens[-1]), cu_seqlens


def _copied(tokenizer: Any) -> Any:
    """A tokenizer with limits of its own, which shares the vocabulary."""
    if isinstance(tokenizer, MarianPieces):
        return tokenizer.copied()
    copy = optional_import("tokenizers").Tokenizer(tokenizer.model)
    for part in ("normalizer", "pre_tokenizer", "post_processor", "decoder"):
        if getattr(tokenizer, part) is not None:
            setattr(copy, part, getattr(tokenizer, part))
    added = tokenizer.get_added_tokens_decoder()
    copy.add_tokens([token for _, token in sorted(added.items())])
    copy.encode_special_tokens = tokenizer.encode_special_tokens
    if copy.get_added_tokens_decoder() != added:
        # Numbers that do not follow the vocabulary: only the file's own reader can give them.
        copy = optional_import("tokenizers").Tokenizer.from_str(tokenizer.to_str())
        copy.encode_special_tokens = tokenizer.encode_special_tokens
    return copy


def _lower_case_first(normalizer: Any) -> Any:
    normalizers = optional_import("tokenizers").normalizers
    return normalizers.Sequence([normalizers.Lowercase(), *([] if normalizer is None else [normalizer])])


def _direction(definition: Any, name: str) -> str | None:
    """Where tokenizer.json cuts off or pads, for folders whose settings do not say."""
    found = (definition or {}).get(name)
    direction = found.get("direction") if isinstance(found, dict) else None
    return direction.lower() if isinstance(direction, str) else None
