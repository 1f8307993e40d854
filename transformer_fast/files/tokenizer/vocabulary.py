"""The vocabulary that a tokenizer class builds on: out of tokenizer.json, or out of the files that came before it.

`classes` reads one and builds a `tokenizers.Tokenizer`. Files: tokenizer.json, vocab.txt, vocab.json with merges.txt,
and SentencePiece models, whose protocol buffer the package sentencepiece reads. Another kind of file is another
function here.

Source: convert_to_native_format and SentencePieceExtractor of transformers 5.24, WordPiece and BPE of tokenizers.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformer_fast.files.errors import CheckpointError, optional_import
from transformer_fast.files.json_files import checked_json, checked_object
from transformer_fast.files.source import ModelSource

Pieces = list[tuple[str, float]]

# Types of a SentencePiece.
_CONTROL, USER_DEFINED = 3, 4


@dataclass
class Vocabulary:
    """A vocabulary, and what its file says besides.

    vocab: token -> number (BPE, WordPiece), or the pieces with their scores (Unigram).
    merges: of BPE. charsmap: SentencePiece's normalisation. post_processor: of tokenizer.json.
    additional: special tokens that a SentencePiece model holds; None from other files.
    proto: the SentencePiece model.
    """

    place: Path
    vocab: dict[str, int] | Pieces
    merges: list[tuple[str, str]] | None = None
    charsmap: bytes | None = None
    post_processor: Any | None = None
    additional: list[Any] | None = None
    proto: Any | None = None

    @property
    def numbers(self) -> dict[str, int]:
        """token -> number; a list of pieces is numbered in its order.

        Raises:
            CheckpointError: it is neither.
        """
        if isinstance(self.vocab, dict):
            return self.vocab
        return {piece if isinstance(piece, str) else piece[0]: number for number, piece in enumerate(self.vocab)}

    @property
    def pieces(self) -> Pieces:
        """The pieces of a Unigram model.

        Raises:
            CheckpointError: this is the vocabulary of another kind of model.
        """
        if isinstance(self.vocab, list) and all(isinstance(piece, (tuple, list)) for piece in self.vocab):
            return [(piece, score) for piece, score in self.vocab]
        raise CheckpointError(
            f"{self.place}: holds no pieces with scores; needed by its tokenizer_class: a Unigram model"
        )


def from_definition(place: Path, definition: Mapping[str, Any], name: str, kind: str) -> Vocabulary:
    """The vocabulary inside tokenizer.json for the class `name`, which builds a model of that kind.

    transformers builds one of any vocabulary, and gives other tokens than tokenizer.json says; here that is an error.
    """
    model = definition.get("model")
    if not isinstance(model, dict) or not isinstance(model.get("vocab"), (dict, list)):
        raise CheckpointError(f"{place}: not a tokenizer: there is no model with a vocabulary")
    if model.get("type", kind) != kind:
        raise CheckpointError(
            f"{place}: holds a {model['type']} model, and the folder's tokenizer_class is {name}, which makes a {kind} "
            f"model; needed: the class that it was saved by (PreTrainedTokenizerFast takes any tokenizer.json as it is)"
        )
    vocab = model["vocab"]
    merges = None
    if kind == "BPE" and "merges" in model:
        merges = [tuple(merge.split(" ")) if isinstance(merge, str) else tuple(merge) for merge in model["merges"]]
    return Vocabulary(place, vocab, merges, _charsmap(definition.get("normalizer")), _post_processor(place, definition))


def from_vocab_txt(source: ModelSource, name: str) -> Vocabulary:
    """One token a line; its number is that of the line."""
    text = _text(source, name)
    lines = text.removesuffix("\n").split("\n")
    return Vocabulary(source.place(name), {line.rstrip(): number for number, line in enumerate(lines)})


def from_vocab_json(source: ModelSource, name: str, merges_name: str) -> Vocabulary:
    """vocab.json, token -> number, with merges.txt."""
    place = source.place(name)
    vocab = source.object(name)
    if not all(type(number) is int and number >= 0 for number in vocab.values()):
        raise CheckpointError(f"{place}: holds something else than numbers; needed: an object of tokens and numbers")
    merges = []
    for line in _text(source, merges_name).split("\n"):  # not splitlines: tokens may hold other ends of lines
        line = line.removesuffix("\r")
        if line and not line.startswith("#version"):
            parts = line.split(" ")
            if len(parts) != 2:
                raise CheckpointError(f"{source.place(merges_name)}: the line {line!r} is no merge of two tokens")
            merges.append((parts[0], parts[1]))
    return Vocabulary(place, vocab, merges)


def from_sentencepiece(source: ModelSource, name: str, bpe: bool) -> Vocabulary:
    """The pieces of a SentencePiece model; as numbers and merges if bpe.

    Raises:
        ImportError: sentencepiece or protobuf is not installed.
    """
    place = source.place(name)
    proto = optional_import("sentencepiece.sentencepiece_model_pb2", "sentencepiece").ModelProto()
    try:
        proto.ParseFromString(source.read(name))
    except Exception as error:  # protobuf's own class
        raise CheckpointError(f"{place}: not a SentencePiece model: {error}") from None
    added_token = optional_import("tokenizers").AddedToken
    additional = [
        added_token(piece.piece, normalized=False, special=piece.type == _CONTROL)
        for piece in proto.pieces
        if piece.type in (_CONTROL, USER_DEFINED)
    ]
    found = Vocabulary(
        place, [(piece.piece, piece.score) for piece in proto.pieces], additional=additional, proto=proto
    )
    found.charsmap = proto.normalizer_spec.precompiled_charsmap or None
    if bpe:
        found.vocab = found.numbers
        found.merges = _generated_merges(found.vocab)
    return found


def _generated_merges(vocab: Mapping[str, int]) -> list[tuple[str, str]]:
    """The merges of a vocabulary that has none: all ways to make one token of two, the lowest numbers first."""
    found = []
    for token, number in vocab.items():
        splits = [(token[:i], token[i:]) for i in range(1, len(token))]
        known = [(a, b) for a, b in splits if a in vocab and b in vocab]
        found += [(number, a, b) for a, b in sorted(known, key=lambda pair: (vocab[pair[0]], vocab[pair[1]]))]
    found.sort(key=lambda merge: (merge[0], len(merge[1]), len(merge[2])))
    return [(a, b) for _, a, b in found]


def definition_of(source: ModelSource) -> tuple[bytes | None, dict[str, Any] | None]:
    """tokenizer.json as it is, and its content; None twice if there is none."""
    data = source.read("tokenizer.json")
    if data is None:
        return None, None
    place = source.place("tokenizer.json")
    return data, checked_object(place, checked_json(place, data))


def _charsmap(normalizer: Any) -> bytes | None:
    """SentencePiece's normalisation inside tokenizer.json's."""
    parts = normalizer.get("normalizers", [normalizer]) if isinstance(normalizer, dict) else []
    found = (part.get("precompiled_charsmap") for part in parts if part.get("type") == "Precompiled")
    return next((base64.b64decode(text) for text in found if text), None)


def _post_processor(place: Path, definition: Mapping[str, Any]) -> Any | None:
    """tokenizer.json's post-processor, as an object: that of a tokenizer that has nothing else."""
    if definition.get("post_processor") is None:
        return None
    empty = {
        "version": "1.0",
        "added_tokens": [],
        "post_processor": definition["post_processor"],
        "model": {"type": "BPE", "vocab": {}, "merges": []},
    }
    try:
        return optional_import("tokenizers").Tokenizer.from_str(json.dumps(empty)).post_processor
    except Exception as error:  # the package raises nothing more specific
        raise CheckpointError(f"{place}: not a tokenizer: {error}") from None


def _text(source: ModelSource, name: str) -> str:
    data = source.read(name)
    if data is None:
        raise CheckpointError(f"{source.place(name)}: there is no such file")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise CheckpointError(f"{source.place(name)}: not UTF-8: {error}") from None
