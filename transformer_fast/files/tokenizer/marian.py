"""`MarianPieces`: the tokens of Marian's models, which have two SentencePiece models and a vocabulary of their own.

source.spm cuts the text into pieces and vocab.json numbers them, so that no `tokenizers.Tokenizer` says the same; the
package sentencepiece does the cutting (extra `sentencepiece`). `tokenizer.Tokenizer` makes one for MarianTokenizer, and
calls what it would call of a `tokenizers.Tokenizer`.

Source: MarianTokenizer and PythonBackend of transformers 5.24.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from transformer_fast.files.errors import CheckpointError, optional_import
from transformer_fast.files.source import ModelSource
from transformer_fast.files.tokenizer.settings import TokenizerSettings, text_of

# A language at the beginning of a text for models of several: ">>fr<<".
_LANGUAGE = re.compile(r">>.*?<<", re.DOTALL)


@dataclass
class Encoding:
    """The tokens of a text; the fields of a `tokenizers.Encoding` that there are without offsets."""

    ids: list[int]
    tokens: list[str]
    special_tokens_mask: list[int]
    overflowing: list[Encoding] = field(default_factory=list)

    @property
    def type_ids(self) -> list[int]:
        return [0] * len(self.ids)

    @property
    def attention_mask(self) -> list[int]:
        return [1] * len(self.ids)

    def __len__(self) -> int:
        return len(self.ids)


class MarianPieces:
    """A source's source.spm, target.spm and vocab.json (and target_vocab.json, if separate_vocabs).

    Raises:
        CheckpointError: a file is missing or malformed.
        ImportError: sentencepiece is not installed.
    """

    model = normalizer = None  # of a `tokenizers.Tokenizer`

    def __init__(self, source: ModelSource, tokens: Any, settings: TokenizerSettings) -> None:
        if settings.options.get("sp_model_kwargs"):
            raise CheckpointError(f"{settings.place}: sp_model_kwargs is given, which is not supported; needed: none")
        self._separate = settings.flag("separate_vocabs")
        self._numbers = _vocabulary(source, "vocab.json")
        target = _vocabulary(source, "target_vocab.json") if self._separate else self._numbers
        self._texts = {number: token for token, number in target.items()}
        self._source, self._target = (_opened(source, name) for name in ("source.spm", "target.spm"))
        self._unknown, self._last = tokens["unk_token"], tokens["eos_token"]
        if self._unknown not in self._numbers:
            raise CheckpointError(f"{source.place('vocab.json')}: there is no {self._unknown!r}, which is unk_token")
        self._whole = settings.flag("split_special_tokens")
        self._add(tokens, settings)
        self._limit: tuple[int, str] | None = None

    def _add(self, tokens: Any, settings: TokenizerSettings) -> None:
        """The tokens that are found in a text before it is cut into pieces."""
        self._added = {token.content: (number, token) for number, token in settings.added.items() if token.content}
        given = [*tokens.named.values(), *settings.listed]
        self._special = [text_of(token) for token in given if token is not None]
        vocab = self._numbers | {content: number for content, (number, _) in self._added.items()}
        next_number = len(vocab)
        make = optional_import("tokenizers").AddedToken
        for text in dict.fromkeys(self._special):
            if text and text not in self._added:
                if text not in vocab:
                    vocab[text] = next_number
                    next_number += 1
                self._added[text] = (vocab[text], make(text, special=True, normalized=False))
        self._special += [
            text for text, (_, token) in self._added.items() if token.special and text not in self._special
        ]
        self._added_texts = {number: text for text, (number, _) in self._added.items()}
        longest_first = sorted(self._added, key=len, reverse=True)
        self._pattern = re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")

    # ------------------------------------------------------------------------------------------------------------------
    # What is called of a tokenizers.Tokenizer

    def copied(self) -> MarianPieces:
        return copy.copy(self)

    def enable_truncation(self, max_length: int, *, stride: int, strategy: str, direction: str) -> None:
        """Cut off what is longer. Raises ValueError for windows and pairs, which Marian has none of."""
        if stride or strategy != "longest_first":
            raise ValueError(f"stride is {stride} and strategy {strategy!r}; needed by Marian: 0 and 'longest_first'")
        self._limit = (max_length, direction)

    def encode(self, text: str, pair: str | None = None, add_special_tokens: bool = True) -> Encoding:
        """The tokens of a text, or of two one after the other."""
        tokens = [token for part in (text, pair) if part is not None for token in self._cut(part)]
        if self._limit is not None:
            most, side = self._limit
            most = max(most - add_special_tokens, 0)
            tokens = tokens[:most] if side == "right" else tokens[max(len(tokens) - most, 0) :]
        marks = [int(token in self._special and token != self._unknown) for token in tokens]
        if add_special_tokens:
            tokens, marks = [*tokens, self._last], [*marks, 1]
        return Encoding([self._number(token) for token in tokens], tokens, marks)

    def encode_batch(self, texts: Sequence[str | tuple[str, str]], add_special_tokens: bool = True) -> list[Encoding]:
        pairs = [(text, None) if isinstance(text, str) else text for text in texts]
        return [self.encode(text, pair, add_special_tokens) for text, pair in pairs]

    encode_batch_fast = encode_batch

    def decode(self, ids: Sequence[int], skip_special_tokens: bool = True) -> str:
        """The text of tokens, put together by source.spm (by target.spm if the vocabularies are separate)."""
        special, model = set(self._special), self._target if self._separate else self._source
        left_out = {self.token_to_id(text) for text in special} if skip_special_tokens else set()
        text, pieces = "", []
        for token in (self.id_to_token(number) for number in map(int, ids) if number not in left_out):
            if token in special:
                text += model.decode_pieces(pieces) + token + " "
                pieces = []
            else:
                pieces.append(token)
        return (text + model.decode_pieces(pieces)).replace("\u2581", " ").strip()

    def token_to_id(self, token: str) -> int | None:
        return self._added[token][0] if token in self._added else self._numbers.get(token)

    def id_to_token(self, number: int) -> str:
        text = self._added_texts.get(number, self._texts.get(number))
        if text is not None:
            return text
        model = self._target if self._separate else self._source
        return model.id_to_piece(number) if 0 <= number < model.get_piece_size() else self._unknown

    def get_vocab_size(self, with_added_tokens: bool = True) -> int:
        return len({*self._numbers, *(self._added if with_added_tokens else ())})

    def num_special_tokens_to_add(self, is_pair: bool) -> int:
        return 1

    # ------------------------------------------------------------------------------------------------------------------
    # Cutting

    def _number(self, token: str) -> int:
        found = self.token_to_id(token)
        return self._numbers[self._unknown] if found is None else found

    def _cut(self, text: str) -> Iterator[str]:
        """The pieces of a text; added tokens in it stay whole."""
        if self._whole:
            yield from self._pieces(text)
            return
        for part in self._parts(text):
            if part in self._added or part in self._special:
                yield part
            elif part:
                yield from self._pieces(part)

    def _parts(self, text: str) -> list[str]:
        """The text between added tokens, and those tokens, with the spaces and neighbours that their flags ask for."""
        parts, last = [], 0
        for match in self._pattern.finditer(text):
            parts += [*([text[last : match.start()]] if match.start() > last else []), match[0]]
            last = match.end()
        parts += [text[last:]] if last < len(text) else []
        for i, part in enumerate(parts):
            if part not in self._added:
                continue
            token = self._added[part][1]
            left, right = parts[i - 1] if i else None, parts[i + 1] if i + 1 < len(parts) else None
            if token.rstrip and right:
                parts[i + 1] = right.lstrip()
            if token.lstrip and left:
                parts[i - 1] = left.rstrip()
            if token.single_word and left and left[-1] != " ":
                parts[i - 1], parts[i] = parts[i - 1] + part, ""
            elif token.single_word and right and right[0] != " ":
                parts[i + 1], parts[i] = part + parts[i + 1], ""
        return parts

    def _pieces(self, text: str) -> list[str]:
        language = _LANGUAGE.match(text)
        code = [] if language is None else [language[0]]
        return code + self._source.encode(text[len(code[0]) :] if code else text, out_type=str)


def _vocabulary(source: ModelSource, name: str) -> dict[str, int]:
    vocab = source.object(name)
    if not all(type(number) is int for number in vocab.values()):
        raise CheckpointError(f"{source.place(name)}: holds something else than numbers; needed: tokens and numbers")
    return vocab


def _opened(source: ModelSource, name: str) -> Any:
    data = source.read(name)
    if not data:
        what = "there is no such file" if data is None else "holds 0 bytes"
        raise CheckpointError(f"{source.place(name)}: {what}; needed: a SentencePiece model")
    try:
        return optional_import("sentencepiece", "sentencepiece").SentencePieceProcessor(model_proto=data)
    except RuntimeError as error:
        raise CheckpointError(f"{source.place(name)}: not a SentencePiece model: {error}") from None
