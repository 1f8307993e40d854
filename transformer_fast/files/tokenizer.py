"""`Tokenizer`: a model's vocabulary and the settings of tokenizer_config.json and special_tokens_map.json.

`pipelines` and `generation` make one of a `ModelSource`. Settings that only one caller needs are read by that caller.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from transformer_fast.files.errors import CheckpointError, optional_import
from transformer_fast.files.folder import open_source
from transformer_fast.files.source import ModelSource

# The names that transformers' classes give these tokens where the files do not say.
_USUAL = {
    "mask_token": ("[MASK]", "<mask>"),
    "cls_token": ("[CLS]", "<s>"),
    "unk_token": ("[UNK]", "<unk>"),
}

# Files hold 1e30 for "no limit"; no model has 2**31 positions.
_NO_LIMIT = 2**31


class Tokenizer:
    """A model's tokenizer, and the settings that its files give it.

    Attributes:
        tokenizer: the `tokenizers.Tokenizer`; it pads nothing and cuts nothing off.
        config: the content of tokenizer_config.json and special_tokens_map.json.
        place: tokenizer_config.json, for error texts.
        max_length: the most tokens of a text, special ones included, or None.
        truncation_side, padding_side: "left" or "right".

    Raises:
        CheckpointError: a file is missing or malformed.
        ImportError: the package tokenizers is not installed.

    Example:
        >>> tokenizer = Tokenizer(open_source("bert-base-uncased"))                                   # doctest: +SKIP
        >>> tokenizer.special("mask_token")                                                           # doctest: +SKIP
        ('[MASK]', 103)
    """

    def __init__(self, source: ModelSource) -> None:
        self.tokenizer = open_vocabulary(source)
        self.place = source.place("tokenizer_config.json")
        config = source.object("tokenizer_config.json", required=False)
        _apply_bert_options(self.tokenizer, self.place, config)
        self.config: Mapping[str, Any] = source.object("special_tokens_map.json", required=False) | config
        limit = self.config.get("model_max_length")
        self.max_length = int(limit) if isinstance(limit, (int, float)) and limit < _NO_LIMIT else None
        self.truncation_side = self._side("truncation_side")
        self.padding_side = self._side("padding_side")

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
            raise CheckpointError(f"{self.place}: {name} is {token!r}, which the vocabulary does not have")
        return token, number

    def encode_batch(self, texts: Sequence[str | tuple[str, str]], offsets: bool = False) -> list[Any]:
        """The `tokenizers.Encoding` of each text or pair of texts; with offsets in characters only if asked for.

        Raises:
            ValueError: a text holds a character that UTF-8 cannot write.
        """
        try:
            return self.tokenizer.encode_batch(texts) if offsets else self.tokenizer.encode_batch_fast(texts)
        except TypeError:
            # All are strings: the tokenizer fails on half a surrogate pair.
            strings = chain.from_iterable([text] if isinstance(text, str) else text for text in texts)
            bad = next((text for text in strings if any("\ud800" <= c <= "\udfff" for c in text)), None)
            if bad is None:
                raise
            raise ValueError(f"the text {bad[:40]!r} holds a lone surrogate, which UTF-8 cannot write") from None

    def lower_case(self) -> None:
        """Lower-case texts before the tokenizer normalises them."""
        normalizers = optional_import("tokenizers").normalizers
        parts = [normalizers.Lowercase()]
        if self.tokenizer.normalizer is not None:
            parts.append(self.tokenizer.normalizer)
        self.tokenizer.normalizer = normalizers.Sequence(parts)

    def _side(self, name: str) -> str:
        side = typed(self.place, self.config, name, str, "right")
        if side not in ("left", "right"):
            raise CheckpointError(f"{self.place}: {name} is {side!r}; needed: left or right")
        return side


def read_tokenizer(path_or_hub_id: str | Path | ModelSource, **hub: Any) -> Tokenizer:
    """The tokenizer of a folder, of a model on the Hugging Face hub, or of a source that is open.

    hub: revision, cache_dir, token, local_files_only: as in `load_model`.

    Raises:
        CheckpointError, ImportError: as `Tokenizer`.

    Example:
        >>> read_tokenizer("bert-base-uncased").tokenizer.encode("red").ids                           # doctest: +SKIP
        [101, 2417, 102]
    """
    return Tokenizer(open_source(path_or_hub_id, **hub))


def open_vocabulary(source: ModelSource) -> Any:
    """A source's `tokenizers.Tokenizer`, which pads nothing and cuts nothing off.

    Raises:
        CheckpointError: there is no vocabulary, or it is malformed.
        ImportError: the package tokenizers is not installed.
    """
    tokenizer = source.vocabulary()
    # The file may say how some training run padded and cut off.
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer


def packed(tokens: Sequence[Sequence[int]]) -> tuple[np.ndarray, np.ndarray]:
    """The texts' tokens one after the other, (T,), and where each text starts, (B + 1,)."""
    cu_seqlens = np.zeros(len(tokens) + 1, np.int64)
    np.cumsum([len(ids) for ids in tokens], out=cu_seqlens[1:])
    return np.fromiter(chain.from_iterable(tokens), np.int64, cu_seqlens[-1]), cu_seqlens


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


def _apply_bert_options(tokenizer: Any, source: Path, config: Mapping[str, Any]) -> None:
    """Let tokenizer_config.json's options of BERT's normaliser win over tokenizer.json, as in transformers."""
    normalizers = optional_import("tokenizers").normalizers
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
