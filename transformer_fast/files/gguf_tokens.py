"""tokenizer.json and tokenizer_config.json of a GGUF file's metadata: BPE of bytes, and SentencePiece's BPE.

`gguf_source` calls `tokenizer_of`. The metadata has tokens, merges or scores, and the name of the rule that cuts texts
into words (`_SPLITS`); what comes out is what folders of the same models have, so that `files.tokenizer` reads it as it
reads those. Another kind of vocabulary is a function and a line in `_MODELS`.

Names: llama.cpp's src/llama-vocab.cpp (pre-tokenizers) and gguf-py/gguf/constants.py.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from transformer_fast.files.errors import CheckpointError
from transformer_fast.files.gguf import GgufFile, Strings

_PREFIX = "tokenizer.ggml."
_CONTROL, _USER_DEFINED = 3, 4  # of token_type
_NAMED = {"bos_token": "bos", "eos_token": "eos", "unk_token": "unknown", "pad_token": "padding"}
_NAMED |= {"sep_token": "separator", "cls_token": "cls", "mask_token": "mask"}
# Keys that are read, and those that say nothing of how a text becomes tokens.
_READ = {"model", "pre", "tokens", "scores", "token_type", "merges", "add_bos_token", "add_eos_token"}
_READ |= {"add_space_prefix", *(f"{key}_token_id" for key in _NAMED.values()), "seperator_token_id"}
_WITHOUT_EFFECT = {"eot_token_id", "eom_token_id", "token_type_count", "prefix_token_id", "suffix_token_id"}
_WITHOUT_EFFECT |= {f"fim_{key}_token_id" for key in ("pre", "suf", "mid", "pad", "rep", "sep")} | {"middle_token_id"}

_LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_QWEN2 = _LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
# Name of the pre-tokenizer -> its regular expression (None: GPT-2's own).
_SPLITS: dict[str, str | None] = {
    "default": None,
    "gpt-2": None,
    "llama-bpe": _LLAMA3,
    "llama3": _LLAMA3,
    "llama-v3": _LLAMA3,
    "smaug-bpe": _LLAMA3,
    "qwen2": _QWEN2,
    "deepseek-r1-qwen": _QWEN2,
}
# Those whose models find a whole word in the vocabulary before any merge.
_WHOLE_WORDS = frozenset({"llama-bpe", "llama3", "llama-v3"})
_BYTES = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False}
_SPACE = "▁"


def tokenizer_of(file: GgufFile) -> tuple[dict[str, Any], dict[str, Any]] | None:
    """tokenizer.json and tokenizer_config.json; None for a file without tokens.

    Raises:
        CheckpointError: the vocabulary is of a kind that is not supported, or its parts do not fit together.
    """
    kind = file.metadata.get(f"{_PREFIX}model")
    if kind is None:
        return None
    if kind not in _MODELS:
        raise CheckpointError(f"{file.path}: {_PREFIX}model is {kind!r}; supported: {', '.join(_MODELS)}")
    for key in file.metadata:
        if key.startswith(_PREFIX) and key.removeprefix(_PREFIX) not in _READ | _WITHOUT_EFFECT:
            raise CheckpointError(f"{file.path}: has the metadata {key!r}, which is not known")
    tokens = list(_strings(file, "tokens"))
    if len(set(tokens)) != len(tokens):
        raise CheckpointError(f"{file.path}: {_PREFIX}tokens has a token twice")
    definition = _MODELS[kind](file, tokens)
    definition |= {"version": "1.0", "truncation": None, "padding": None, "added_tokens": _added(file, tokens)}
    options: dict[str, Any] = {"tokenizer_class": "PreTrainedTokenizerFast"}
    options |= {name: token for name, key in _NAMED.items() if (token := _named(file, key, tokens)) is not None}
    # llama.cpp's own default for files that do not say.
    first = options.get("bos_token") if _flag(file, "add_bos_token", kind == "llama") else None
    last = options.get("eos_token") if _flag(file, "add_eos_token", False) else None
    definition["post_processor"] = _around(tokens, first, last)
    return definition, options


def _strings(file: GgufFile, key: str) -> Strings:
    found = file.metadata.get(_PREFIX + key)
    if not isinstance(found, Strings):
        told = "missing" if found is None else f"{type(found).__name__}"
        raise CheckpointError(f"{file.path}: {_PREFIX}{key} is {told}; needed: an array of strings")
    return found


def _numbers(file: GgufFile, key: str, count: int, kinds: str) -> np.ndarray | None:
    """As many numbers as there are tokens; None if there are none."""
    found = file.metadata.get(_PREFIX + key)
    if found is not None and not (isinstance(found, np.ndarray) and found.dtype.kind in kinds and len(found) == count):
        raise CheckpointError(f"{file.path}: {_PREFIX}{key} is no array of {count} numbers, one for each token")
    return found


def _flag(file: GgufFile, key: str, default: bool) -> bool:
    found = file.metadata.get(_PREFIX + key, default)
    if not isinstance(found, bool):
        raise CheckpointError(f"{file.path}: {_PREFIX}{key} is {found!r}; needed: a boolean")
    return found


def _named(file: GgufFile, key: str, tokens: list[str]) -> str | None:
    number = file.metadata.get(f"{_PREFIX}{key}_token_id")
    if number is None and key == "separator":
        number = file.metadata.get(f"{_PREFIX}seperator_token_id")  # the spelling of older files
    if number is None:
        return None
    if isinstance(number, bool) or not isinstance(number, int) or not 0 <= number < len(tokens):
        raise CheckpointError(f"{file.path}: {_PREFIX}{key}_token_id is {number!r}; needed: 0 to {len(tokens) - 1}")
    return tokens[number]


def _added(file: GgufFile, tokens: list[str]) -> list[dict[str, Any]]:
    """The tokens that are found in a text before all else: special ones, and those that a user has defined."""
    kinds = _numbers(file, "token_type", len(tokens), "iu")
    if kinds is None:
        return []
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    return [
        {"id": number, "content": tokens[number], **flags, "special": bool(kinds[number] == _CONTROL)}
        for number in np.flatnonzero((kinds == _CONTROL) | (kinds == _USER_DEFINED)).tolist()
        if tokens[number]
    ]


def _around(tokens: list[str], first: str | None, last: str | None) -> dict[str, Any] | None:
    """The tokens before and after each text, None for none."""
    if first is None and last is None:
        return None

    def part(letter: str, number: int) -> list[dict[str, Any]]:
        before, after = (
            [] if token is None else [{"SpecialToken": {"id": token, "type_id": number}}] for token in (first, last)
        )
        return [*before, {"Sequence": {"id": letter, "type_id": number}}, *after]

    special = {
        token: {"id": token, "ids": [tokens.index(token)], "tokens": [token]} for token in (first, last) if token
    }
    single = part("A", 0)
    return {"type": "TemplateProcessing", "single": single, "pair": single + part("B", 1), "special_tokens": special}


def _byte_level(file: GgufFile, tokens: list[str]) -> dict[str, Any]:
    """GPT-2's: bytes as letters, merges in their order."""
    pre = file.metadata.get(f"{_PREFIX}pre", "default")
    if pre not in _SPLITS:
        raise CheckpointError(f"{file.path}: {_PREFIX}pre is {pre!r}; supported: {', '.join(_SPLITS)}")
    if file.metadata["general.architecture"] == "qwen2" and _SPLITS[pre] != _QWEN2:
        raise CheckpointError(f"{file.path}: {_PREFIX}pre is {pre!r}; supported for qwen2: qwen2, deepseek-r1-qwen")
    merges = [merge.split(" ") for merge in _strings(file, "merges")]
    bad = next((merge for merge in merges if len(merge) != 2), None)
    if bad is not None:
        raise CheckpointError(f"{file.path}: {_PREFIX}merges has {' '.join(bad)!r}; needed: two tokens and a space")
    split = _SPLITS[pre]
    words: dict[str, Any] = _BYTES | {"use_regex": True}
    if split is not None:
        cut = {"type": "Split", "pattern": {"Regex": split}, "behavior": "Isolated", "invert": False}
        words = {"type": "Sequence", "pretokenizers": [cut, _BYTES]}
    return {
        "normalizer": {"type": "NFC"} if split == _QWEN2 else None,
        "pre_tokenizer": words,
        "decoder": _BYTES,
        "model": _bpe(tokens, merges, ignore_merges=pre in _WHOLE_WORDS),
    }


def _sentencepiece(file: GgufFile, tokens: list[str]) -> dict[str, Any]:
    """Llama's: merges in the order of the scores, a space before each part, bytes where there is no token."""
    scores = _numbers(file, "scores", len(tokens), "f")
    if scores is None:
        raise CheckpointError(f"{file.path}: {_PREFIX}scores is missing; needed by a vocabulary of SentencePiece")
    prefix = [{"type": "Prepend", "prepend": _SPACE}] if _flag(file, "add_space_prefix", True) else []
    space = {"type": "Replace", "pattern": {"String": " "}, "content": _SPACE}
    restored = {"type": "Replace", "pattern": {"String": _SPACE}, "content": " "}
    strip = [{"type": "Strip", "content": " ", "start": 1, "stop": 0}] if prefix else []
    unknown = _named(file, "unknown", tokens)
    return {
        "normalizer": {"type": "Sequence", "normalizers": [*prefix, space]},
        "pre_tokenizer": None,
        "decoder": {"type": "Sequence", "decoders": [restored, {"type": "ByteFallback"}, {"type": "Fuse"}, *strip]},
        "model": _bpe(tokens, _merges(tokens, scores), byte_fallback=True, fuse_unk=True, unk_token=unknown),
    }


def _merges(tokens: list[str], scores: np.ndarray) -> list[list[str]]:
    """All ways to make one token of two, the highest scores first."""
    numbers = {token: number for number, token in enumerate(tokens)}
    found = []
    for number, token in enumerate(tokens):
        splits = ((token[:i], token[i:]) for i in range(1, len(token)))
        known = [(a, b) for a, b in splits if a in numbers and b in numbers]
        found += [(-float(scores[number]), numbers[a], numbers[b], a, b) for a, b in known]
    found.sort(key=lambda merge: merge[:3])
    return [[a, b] for *_, a, b in found]


def _bpe(tokens: list[str], merges: list[list[str]], **options: Any) -> dict[str, Any]:
    usual: dict[str, Any] = {
        "type": "BPE",
        "dropout": None,
        "unk_token": None,
        "continuing_subword_prefix": None,
        "end_of_word_suffix": None,
        "fuse_unk": False,
        "byte_fallback": False,
        "ignore_merges": False,
    }
    vocab = {token: number for number, token in enumerate(tokens)}
    return {**usual, **options, "vocab": vocab, "merges": merges}


_MODELS = {"gpt2": _byte_level, "llama": _sentencepiece}
