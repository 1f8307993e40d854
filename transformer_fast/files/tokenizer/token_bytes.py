"""The bytes that each token of a vocabulary stands for in a text: needed where tokens are judged before one is chosen.

`Tokenizer.token_bytes` calls `bytes_of`; generation's constraints use it. A decoder of the package tokenizers is read
by what it does to one token; a further kind of step is an entry in `_STEPS`.

Source: decoders of tokenizers 0.23 (ByteLevel, ByteFallback, Metaspace, Replace, Strip, Fuse).
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from transformer_fast.files.errors import CheckpointError

_BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")


class TokenBytes(NamedTuple):
    """tokens: number -> its bytes; b"" for numbers without a token and for special ones, which are `special`."""

    tokens: list[bytes]
    special: frozenset[int]


# A step of decoding: a token's text or bytes -> what the step makes of it.
_Step = Callable[["str | bytes"], "str | bytes"]


def bytes_of(tokenizer: Any, place: Path) -> TokenBytes:
    """tokenizer: a `tokenizers.Tokenizer`; place: its file, for error texts.

    What a decoder does to the first token of a text alone (SentencePiece's drops one space) is left out.

    Raises:
        CheckpointError: what a token stands for depends on its neighbours (WordPiece), or the decoder is unknown.
    """
    decoder = getattr(tokenizer, "decoder", None)
    if decoder is None:
        raise CheckpointError(f"{place}: there is no decoder, so that tokens have no bytes of their own; needed: one")
    steps = _steps(place, json.loads(decoder.__getstate__()))
    added = tokenizer.get_added_tokens_decoder()
    vocab = tokenizer.get_vocab(with_added_tokens=True)
    found = [b""] * (max(vocab.values(), default=-1) + 1)
    for token, number in vocab.items():
        # Added tokens go through the decoder as well.
        found[number] = _decoded(token, steps)
    special = frozenset(number for number, token in added.items() if token.special)
    for number in special:
        found[number] = b""
    return TokenBytes(found, special)


def _decoded(token: str, steps: list[_Step]) -> bytes:
    value: str | bytes = token
    for step in steps:
        value = step(value)
    return value if isinstance(value, bytes) else value.encode("utf-8", "replace")


def _steps(place: Path, decoder: Mapping[str, Any]) -> list[_Step]:
    kind = decoder.get("type")
    if kind == "Sequence":
        return [step for one in decoder["decoders"] for step in _steps(place, one)]
    made = _STEPS.get(kind)
    step = None if made is None else made(decoder)
    if step is None:
        raise CheckpointError(
            f"{place}: the decoder {kind} makes of a token what depends on its neighbours, or is unknown; needed: "
            f"{', '.join(_STEPS)}, or a Sequence of them"
        )
    return [step]


def _byte_level(decoder: Mapping[str, Any]) -> _Step:
    alphabet = _alphabet()

    def step(value: str | bytes) -> str | bytes:
        if isinstance(value, bytes):
            return value
        found = [alphabet.get(character) for character in value]
        # A token with a character that is no letter of the alphabet is a text as it stands.
        return value if None in found else bytes(found)

    return step


def _alphabet() -> dict[str, int]:
    """GPT-2's letters for the 256 bytes: printable ones of Latin-1 are themselves, the others follow from U+0100."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in set(printable)]
    return {chr(byte): byte for byte in printable} | {chr(0x100 + i): byte for i, byte in enumerate(others)}


def _byte_fallback(decoder: Mapping[str, Any]) -> _Step:
    def step(value: str | bytes) -> str | bytes:
        found = _BYTE.fullmatch(value) if isinstance(value, str) else None
        return bytes([int(found[1], 16)]) if found else value

    return step


def _metaspace(decoder: Mapping[str, Any]) -> _Step:
    mark = decoder.get("replacement", "▁")
    return lambda value: value.replace(mark, " ") if isinstance(value, str) else value


def _replace(decoder: Mapping[str, Any]) -> _Step | None:
    pattern, content = decoder.get("pattern", {}), decoder.get("content", "")
    if "String" not in pattern:
        return None
    return lambda value: value.replace(pattern["String"], content) if isinstance(value, str) else value


def _same(decoder: Mapping[str, Any]) -> _Step:
    return lambda value: value


def _strip(decoder: Mapping[str, Any]) -> _Step | None:
    """At the start of a text only where the tokens have become one; anything at the end depends on what follows."""
    return None if decoder.get("stop") else _same(decoder)


_STEPS: dict[str, Callable[[Mapping[str, Any]], _Step | None]] = {
    "ByteLevel": _byte_level,
    "ByteFallback": _byte_fallback,
    "Metaspace": _metaspace,
    "Replace": _replace,
    "Strip": _strip,
    "Fuse": _same,
}
