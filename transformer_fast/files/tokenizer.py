"""Tokenizers of model folders: tokenizer.json, read by the `tokenizers` package, and what the files beside it say.

`text`, `pipelines` and `generation` come here. `read_tokenizer` gives the tokenizer as the checkpoint means it, without
padding or truncation of its own. What one caller alone needs of a folder's files stands with that caller.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from transformer_fast.files.checkpoint import CheckpointError, optional_import, read_json_object

# What transformers' classes call these tokens where the files do not say.
_USUAL = {
    "mask_token": ("[MASK]", "<mask>"),
    "cls_token": ("[CLS]", "<s>"),
    "unk_token": ("[UNK]", "<unk>"),
}

# Where nothing was said, files hold 1e30 for "no limit"; no model has so many positions.
_NO_LIMIT = 2**31


@dataclass(frozen=True)
class TokenizerFiles:
    """A folder's tokenizer and what stands beside it.

    Attributes:
        tokenizer: the `tokenizers.Tokenizer`; it pads nothing and cuts nothing off.
        config: the content of tokenizer_config.json and special_tokens_map.json.
        source: tokenizer_config.json, for errors.
        max_length: the most tokens of a text, special ones included, or None.
        truncation_side, padding_side: "left" or "right".
    """

    tokenizer: Any
    config: Mapping[str, Any]
    source: Path
    max_length: int | None
    truncation_side: str
    padding_side: str

    def special(self, name: str) -> tuple[str, int] | None:
        """The text and the number of the token that config names as "mask_token", "cls_token", ...; None without one.

        Where config does not say, the usual names count ("[MASK]", "<mask>"), if the vocabulary has them.

        Raises:
            CheckpointError: the vocabulary does not have the token that is named.
        """
        token = self.config.get(name)
        if isinstance(token, Mapping):
            token = token.get("content")
        if token is None:
            known = ((usual, self.tokenizer.token_to_id(usual)) for usual in _USUAL.get(name, ()))
            return next((found for found in known if found[1] is not None), None)
        number = self.tokenizer.token_to_id(token) if isinstance(token, str) else None
        if number is None:
            raise CheckpointError(f"{self.source}: {name} is {token!r}, which the vocabulary does not have")
        return token, number


def open_tokenizer(folder: Path) -> Any:
    """The `tokenizers.Tokenizer` of a folder's tokenizer.json, which pads nothing and cuts nothing off.

    Raises:
        CheckpointError: there is no tokenizer.json, or it is none.
        ImportError: the package tokenizers is not installed.
    """
    tokenizers = optional_import("tokenizers")
    source = folder / "tokenizer.json"
    if not source.is_file():
        raise CheckpointError(f"{source}: there is no such file; needed: the vocabulary in the tokenizers format")
    try:
        tokenizer = tokenizers.Tokenizer.from_file(str(source))
    except Exception as error:  # the package raises nothing more specific
        raise CheckpointError(f"{source}: not a tokenizer: {error}") from None
    # The file may say how some training run padded and cut off.
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer


def read_tokenizer(folder: Path) -> TokenizerFiles:
    """The tokenizer of a model folder, with what the files beside it say.

    Raises:
        CheckpointError: a file is missing or malformed.
        ImportError: the package tokenizers is not installed.
    """
    tokenizer = open_tokenizer(folder)
    source = folder / "tokenizer_config.json"
    config = read_json_object(source) if source.exists() else {}
    _apply_bert_options(optional_import("tokenizers").normalizers, tokenizer, source, config)
    names = folder / "special_tokens_map.json"
    if names.exists():
        config = read_json_object(names) | config
    limit = config.get("model_max_length")
    limit = int(limit) if isinstance(limit, (int, float)) and limit < _NO_LIMIT else None
    sides = {}
    for name in ("truncation_side", "padding_side"):
        sides[name] = typed(source, config, name, str, "right")
        if sides[name] not in ("left", "right"):
            raise CheckpointError(f"{source}: {name} is {sides[name]!r}; needed: left or right")
    return TokenizerFiles(tokenizer, config, source, limit, **sides)


def encoded_batch(tokenizer: Any, texts: Sequence[str | tuple[str, str]], offsets: bool = False) -> list[Any]:
    """The `tokenizers.Encoding` of each text or pair of texts; with their offsets in characters only if asked for.

    Raises:
        ValueError: a text holds what UTF-8 cannot write.
    """
    try:
        return tokenizer.encode_batch(texts) if offsets else tokenizer.encode_batch_fast(texts)
    except TypeError:
        # All are strings: what the tokenizer cannot take is one with half a surrogate pair.
        strings = chain.from_iterable([text] if isinstance(text, str) else text for text in texts)
        bad = next((text for text in strings if any("\ud800" <= c <= "\udfff" for c in text)), None)
        if bad is None:
            raise
        raise ValueError(f"the text {bad[:40]!r} holds a lone surrogate, which UTF-8 cannot write") from None


def packed(tokens: Sequence[Sequence[int]]) -> tuple[np.ndarray, np.ndarray]:
    """The texts' tokens one after the other, (T,), and where each text starts, (B + 1,)."""
    cu_seqlens = np.zeros(len(tokens) + 1, np.int64)
    np.cumsum([len(ids) for ids in tokens], out=cu_seqlens[1:])
    return np.fromiter(chain.from_iterable(tokens), np.int64, cu_seqlens[-1]), cu_seqlens


def lower_case(tokenizer: Any) -> None:
    """Puts lower-casing before whatever the tokenizer normalises."""
    normalizers = optional_import("tokenizers").normalizers
    parts = [normalizers.Lowercase()]
    if tokenizer.normalizer is not None:
        parts.append(tokenizer.normalizer)
    tokenizer.normalizer = normalizers.Sequence(parts)


def typed(source: Path, config: Mapping[str, Any], name: str, kind: type, default: Any = None) -> Any:
    """config[name], or the default where it is missing or null; anything but a `kind` is an error."""
    value = config.get(name)
    if value is None:
        return default
    if type(value) is not kind or (kind is int and value < 1):
        raise CheckpointError(
            f"{source}: {name} is {value!r}; needed: {'an integer >= 1' if kind is int else kind.__name__}"
        )
    return value


def _apply_bert_options(normalizers: Any, tokenizer: Any, source: Path, config: Mapping[str, Any]) -> None:
    """What tokenizer_config.json says of BERT's normaliser wins over tokenizer.json, as in transformers."""
    current = tokenizer.normalizer
    if not isinstance(current, normalizers.BertNormalizer):
        return
    strip_accents = (
        current.strip_accents if "strip_accents" not in config else typed(source, config, "strip_accents", bool)
    )
    tokenizer.normalizer = normalizers.BertNormalizer(
        clean_text=current.clean_text,
        handle_chinese_chars=typed(source, config, "tokenize_chinese_chars", bool, current.handle_chinese_chars),
        strip_accents=strip_accents,
        lowercase=typed(source, config, "do_lower_case", bool, current.lowercase),
    )
