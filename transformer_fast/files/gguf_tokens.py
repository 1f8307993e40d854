"""tokenizer.json and tokenizer_config.json of a GGUF file's metadata: BPE of bytes, SentencePiece, WordPiece.

`gguf_source` calls `tokenizer_of`. The metadata has tokens, merges or scores, and the name of the rule that cuts texts
into words (`gguf_cuts`); what comes out is what folders of the same models have, so that `files.tokenizer` reads it as
it reads those. Another kind of vocabulary is a function and a line in `_KINDS`.

Names and defaults: llama.cpp's src/llama-vocab.cpp and gguf-py/gguf/constants.py.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from transformer_fast.files.errors import CheckpointError
from transformer_fast.files.gguf import GgufFile, Strings
from transformer_fast.files.gguf_cuts import CUTS, QWEN2, Cut

_PREFIX, _TEMPLATE = "tokenizer.ggml.", "tokenizer.chat_template"
_UNKNOWN, _CONTROL, _USER_DEFINED, _BYTE = 2, 3, 4, 6  # of token_type
_NAMED = {"bos_token": "bos", "eos_token": "eos", "unk_token": "unknown", "pad_token": "padding"}
_NAMED |= {"sep_token": "separator", "cls_token": "cls", "mask_token": "mask"}
# Keys that are read, and those that say nothing of how a text becomes tokens.
_READ = {"model", "pre", "tokens", "scores", "token_type", "merges", "add_bos_token", "add_eos_token", "add_sep_token"}
_READ |= {"add_space_prefix", *(f"{key}_token_id" for key in _NAMED.values()), "seperator_token_id"}
_READ |= {"remove_extra_whitespaces", "precompiled_charsmap", "normalizer.lowercase", "normalizer.strip_accents"}
_WITHOUT_EFFECT = {"eot_token_id", "eom_token_id", "token_type_count", "prefix_token_id", "suffix_token_id"}
_WITHOUT_EFFECT |= {f"fim_{key}_token_id" for key in ("pre", "suf", "mid", "pad", "rep", "sep")} | {"middle_token_id"}

# What ends an answer in the formats of chats that models are trained on.
_ENDS = {"<|eot_id|>", "<|eom_id|>", "<|im_end|>", "<|end|>", "<|endoftext|>", "<|end_of_text|>", "<end_of_turn>"}
_ENDS |= {"<EOT>", "<end_of_utterance>"}
_KEEPS_SPACES = {"<unk>", "<s>", "<|endoftext|>"}  # of Phi-3
_BYTES = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False}
_SPACE = "▁"


@dataclass(frozen=True)
class _Kind:
    """A kind of vocabulary, and what llama.cpp takes where a file of it does not say.

    build: the parts of tokenizer.json but for what is around a text. numbers: of named tokens. first, last: does a text
    begin, and end, with a token of its own?
    """

    build: Callable[[GgufFile, list[str]], dict[str, Any]]
    numbers: Mapping[str, int] = field(default_factory=dict)
    first: bool = False
    last: bool = False


def tokenizer_of(file: GgufFile) -> tuple[dict[str, Any], dict[str, Any]] | None:
    """tokenizer.json and tokenizer_config.json; None for a file without tokens.

    Raises:
        CheckpointError: the vocabulary is of a kind that is not supported, or its parts do not fit together.
    """
    name = file.metadata.get(f"{_PREFIX}model")
    if name is None:
        return None
    if not isinstance(name, str) or name not in _KINDS:
        raise CheckpointError(f"{file.path}: {_PREFIX}model is {name!r}; supported: {', '.join(_KINDS)}")
    for key in file.metadata:
        if key.startswith(_PREFIX) and key.removeprefix(_PREFIX) not in _READ | _WITHOUT_EFFECT:
            raise CheckpointError(f"{file.path}: has the metadata {key!r}, which is not known")
    kind, tokens = _KINDS[name], list(_strings(file, "tokens"))
    if name == "bert":
        tokens = _with_marks(file, tokens)
    if len(set(tokens)) != len(tokens):
        raise CheckpointError(f"{file.path}: {_PREFIX}tokens has a token twice")
    definition = kind.build(file, tokens)
    definition |= {"version": "1.0", "truncation": None, "padding": None}
    definition["added_tokens"] = _added(file, tokens, by_pieces=name == "llama")
    options: dict[str, Any] = {"tokenizer_class": "PreTrainedTokenizerFast"}
    options |= {n: token for n, key in _NAMED.items() if (token := _named(file, key, tokens)) is not None}
    if name == "bert":
        options["model_input_names"] = ["input_ids", "token_type_ids", "attention_mask"]
        options.setdefault("cls_token", options.get("bos_token"))
        for token, key in (("cls_token", "bos"), ("sep_token", "seperator")):
            if options.get(token) is None:
                raise CheckpointError(f"{file.path}: there is no metadata {_PREFIX}{key}_token_id; needed: a number")
    definition["post_processor"] = _around(file, tokens, *_ends(file, name, options))
    templates = _chat_templates(file)
    if templates:
        options["chat_template"] = templates
    return definition, options


def _chat_templates(file: GgufFile) -> list[dict[str, str]]:
    """The templates of chats: the model's own, and those with names."""
    found = []
    for key, template in file.metadata.items():
        if key == _TEMPLATE or key.startswith(f"{_TEMPLATE}."):
            if not isinstance(template, str):
                raise CheckpointError(f"{file.path}: {key} is a {type(template).__name__}; needed: a string")
            name = key.removeprefix(_TEMPLATE).removeprefix(".") or "default"
            found.append({"name": name, "template": template})
    return found


def _ends(file: GgufFile, name: str, options: Mapping[str, Any]) -> tuple[str | None, str | None, str | None, int]:
    """The tokens before, after and, in a pair, between the texts, and the type of a second text's tokens."""
    kind = _KINDS[name]
    if name == "bert":  # llama.cpp looks at no flag here
        return options["cls_token"], options["sep_token"], None, 1
    first = kind.first or (name == "gpt2" and _cut(file).first)
    found = []
    for key, token, default in (("bos", "bos_token", first), ("eos", "eos_token", kind.last)):
        asked = _flag(file, f"add_{key}_token", default)
        if asked and options.get(token) is None and f"{_PREFIX}add_{key}_token" in file.metadata:
            raise CheckpointError(f"{file.path}: {_PREFIX}add_{key}_token is true; needed: {key}_token_id, too")
        found.append(options.get(token) if asked else None)
    between = options.get("sep_token") if _flag(file, "add_sep_token", False) else None
    encoder = file.metadata["general.architecture"] == "bert"
    return found[0], found[1], between, 0 if encoder else 1


def ends_of_turns(file: GgufFile) -> list[int]:
    """The numbers of control tokens that end an answer, whether or not metadata names them: llama.cpp ends at all."""
    tokens = file.metadata.get(f"{_PREFIX}tokens")
    if not isinstance(tokens, Strings):
        return []
    kinds = _numbers(file, "token_type", len(tokens), "iu")
    controls = [] if kinds is None else np.flatnonzero(kinds == _CONTROL).tolist()
    return [number for number in controls if tokens[number] in _ENDS]


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
    """The token with a name, or None."""
    number = _number_of(file, key)
    if number is None or (not _is_given(file, key) and number >= len(tokens)):
        return None
    if isinstance(number, bool) or not isinstance(number, int) or not 0 <= number < len(tokens):
        raise CheckpointError(f"{file.path}: {_PREFIX}{key}_token_id is {number!r}; needed: 0 to {len(tokens) - 1}")
    return tokens[number]


def _number_of(file: GgufFile, key: str) -> Any:
    """The number of a named token: the file's, else the one that its kind of vocabulary usually has."""
    number = file.metadata.get(f"{_PREFIX}{key}_token_id")
    if number is None and key == "separator":
        number = file.metadata.get(f"{_PREFIX}seperator_token_id")  # the spelling that files have
    return _KINDS[file.metadata[f"{_PREFIX}model"]].numbers.get(key) if number is None else number


def _is_given(file: GgufFile, key: str) -> bool:
    names = (key, "seperator") if key == "separator" else (key,)
    return any(f"{_PREFIX}{name}_token_id" in file.metadata for name in names)


def _added(file: GgufFile, tokens: list[str], by_pieces: bool) -> list[dict[str, Any]]:
    """The tokens that are found in a text before all else: special ones, and those that a user has defined.

    by_pieces: such a token may hold SentencePiece's mark of a space; it is found in the text that has those marks.
    """
    kinds = _kinds(file, tokens)
    if kinds is None:
        return []
    flags = {"single_word": False, "lstrip": False}
    # The special tokens of Phi-3's conversations take the spaces and line ends after them along, as in its folders.
    phi3 = by_pieces and file.metadata["general.architecture"] == "phi3"
    by_pieces = by_pieces and not _flag(file, "add_space_prefix", True)
    return [
        {
            "id": number,
            "content": tokens[number],
            **flags,
            "rstrip": phi3 and tokens[number] not in _KEEPS_SPACES,
            "normalized": bool(by_pieces and kinds[number] == _USER_DEFINED and _SPACE in tokens[number]),
            "special": bool(kinds[number] == _CONTROL),
        }
        for number in np.flatnonzero((kinds == _CONTROL) | (kinds == _USER_DEFINED)).tolist()
        if tokens[number]
    ]


def _kinds(file: GgufFile, tokens: list[str]) -> np.ndarray | None:
    return _numbers(file, "token_type", len(tokens), "iu")


def _around(
    file: GgufFile, tokens: list[str], first: str | None, last: str | None, between: str | None, second: int
) -> dict[str, Any] | None:
    """The tokens before and after each text, None for none. Of a pair: first A last between B last, or, of decoders,
    first A last first B last.
    """
    if first is None and last is None:
        return None
    encoder = file.metadata["general.architecture"] == "bert"

    def special(token: str | None, number: int) -> list[dict[str, Any]]:
        return [] if token is None else [{"SpecialToken": {"id": token, "type_id": number}}]

    def text(letter: str, number: int) -> list[dict[str, Any]]:
        return [{"Sequence": {"id": letter, "type_id": number}}, *special(last, number)]

    single = [*special(first, 0), *text("A", 0)]
    pair = [*single, *special(between if encoder else first, 0 if encoder else second), *text("B", second)]
    used = [token for token in (first, last, between) if token is not None]
    known = {token: {"id": token, "ids": [tokens.index(token)], "tokens": [token]} for token in used}
    return {"type": "TemplateProcessing", "single": single, "pair": pair, "special_tokens": known}


def _cut(file: GgufFile) -> Cut:
    pre = file.metadata.get(f"{_PREFIX}pre", "default")
    if pre not in CUTS:
        raise CheckpointError(f"{file.path}: {_PREFIX}pre is {pre!r}; supported: {', '.join(CUTS)}")
    return CUTS[pre]


def _byte_level(file: GgufFile, tokens: list[str]) -> dict[str, Any]:
    """GPT-2's: bytes as letters, merges in their order."""
    cut = _cut(file)
    if file.metadata["general.architecture"] == "qwen2" and cut != QWEN2:
        known = ", ".join(name for name, each in CUTS.items() if each == QWEN2)
        pre = file.metadata.get(f"{_PREFIX}pre", "default")
        raise CheckpointError(f"{file.path}: {_PREFIX}pre is {pre!r}; supported for qwen2: {known}")
    merges = [merge.split(" ") for merge in _strings(file, "merges")]
    bad = next((merge for merge in merges if len(merge) != 2), None)
    if bad is not None:
        raise CheckpointError(f"{file.path}: {_PREFIX}merges has {' '.join(bad)!r}; needed: two tokens and a space")
    words: list[dict[str, Any]] = [
        {"type": "Split", "pattern": {"Regex": split}, "behavior": "Isolated", "invert": False} for split in cut.splits
    ]
    return {
        "normalizer": {"type": "NFC"} if cut.composed else None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [*words, _BYTES | {"use_regex": cut.gpt2}]},
        "decoder": _BYTES,
        "model": _bpe(tokens, merges, ignore_merges=cut.whole_words),
    }


def _sentencepiece(file: GgufFile, tokens: list[str]) -> dict[str, Any]:
    """Llama's: merges in the order of the scores, a space before each part, bytes where there is no token."""
    scores = _scores(file, tokens)
    prefix = [{"type": "Prepend", "prepend": _SPACE}] if _flag(file, "add_space_prefix", True) else []
    space = {"type": "Replace", "pattern": {"String": " "}, "content": _SPACE}
    restored = {"type": "Replace", "pattern": {"String": _SPACE}, "content": " "}
    strip = [{"type": "Strip", "content": " ", "start": 1, "stop": 0}] if prefix else []
    unknown = _named(file, "unknown", tokens)
    return {
        "normalizer": {"type": "Sequence", "normalizers": [*prefix, space]},
        "pre_tokenizer": None,
        "decoder": {"type": "Sequence", "decoders": [restored, {"type": "ByteFallback"}, {"type": "Fuse"}, *strip]},
        "model": _bpe(
            tokens,
            _merges(tokens, scores, _kinds(file, tokens)),
            byte_fallback=True,
            fuse_unk=True,
            unk_token=unknown,
        ),
    }


def _scores(file: GgufFile, tokens: list[str]) -> np.ndarray:
    scores = _numbers(file, "scores", len(tokens), "f")
    if scores is None:
        raise CheckpointError(f"{file.path}: {_PREFIX}scores is missing; needed by a vocabulary of SentencePiece")
    return scores


def _merges(tokens: list[str], scores: np.ndarray, kinds: np.ndarray | None) -> list[list[str]]:
    """All ways to make one token of two, the highest scores first; special tokens and bytes are made of none."""
    apart = set() if kinds is None else set(np.flatnonzero(np.isin(kinds, (_UNKNOWN, _CONTROL, _BYTE))).tolist())
    numbers = {token: number for number, token in enumerate(tokens) if number not in apart}
    found = []
    for token, number in numbers.items():
        splits = ((token[:i], token[i:]) for i in range(1, len(token)))
        known = [(a, b) for a, b in splits if a in numbers and b in numbers]
        found += [(-float(scores[number]), numbers[a], numbers[b], a, b) for a, b in known]
    found.sort(key=lambda merge: merge[:3])
    return [[a, b] for *_, a, b in found]


def _unigram(file: GgufFile, tokens: list[str]) -> dict[str, Any]:
    """SentencePiece's other kind, which T5 and XLM-RoBERTa have: the pieces whose scores have the largest sum."""
    scores, unknown = _scores(file, tokens), _named(file, "unknown", tokens)
    if unknown is None:
        raise CheckpointError(f"{file.path}: there is no metadata {_PREFIX}unknown_token_id; needed: a number")
    parts = []
    if f"{_PREFIX}precompiled_charsmap" in file.metadata:
        parts.append({"type": "Precompiled", "precompiled_charsmap": _charsmap(file)})
    single = _flag(file, "remove_extra_whitespaces", False)
    scheme = "always" if _flag(file, "add_space_prefix", False) else "never"
    spaces = {"type": "Metaspace", "replacement": _SPACE, "prepend_scheme": scheme, "split": single}
    words = [{"type": "WhitespaceSplit"}] if single else []
    vocab = [[token, float(score)] for token, score in zip(tokens, scores, strict=True)]
    return {
        "normalizer": {"type": "Sequence", "normalizers": parts} if parts else None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [*words, spaces]},
        "decoder": spaces,
        "model": {"type": "Unigram", "unk_id": tokens.index(unknown), "vocab": vocab, "byte_fallback": False},
    }


def _charsmap(file: GgufFile) -> str:
    found = file.metadata[f"{_PREFIX}precompiled_charsmap"]
    if not isinstance(found, np.ndarray) or found.dtype.itemsize != 1 or found.dtype.kind not in "iu":
        raise CheckpointError(f"{file.path}: {_PREFIX}precompiled_charsmap is no array of bytes; needed: one")
    return base64.b64encode(found.tobytes()).decode("ascii")


def _with_marks(file: GgufFile, tokens: list[str]) -> list[str]:
    """BERT's tokens as vocab.txt has them, which marks pieces that continue a word; files mark those that begin one."""
    kinds = _kinds(file, tokens)
    special = {number for key in _NAMED.values() if isinstance(number := _number_of(file, key), int)}
    special |= set() if kinds is None else set(np.flatnonzero(kinds == _CONTROL).tolist())

    def restored(token: str) -> str:
        return token[1:] if token.startswith(_SPACE) and token != _SPACE else f"##{token}"

    return [token if number in special else restored(token) for number, token in enumerate(tokens)]


def _word_pieces(file: GgufFile, tokens: list[str]) -> dict[str, Any]:
    """BERT's: the longest pieces that a word begins with."""
    unknown = _named(file, "unknown", tokens)
    if unknown is None:
        raise CheckpointError(f"{file.path}: there is no metadata {_PREFIX}unknown_token_id; needed: a number")
    lower = f"{_PREFIX}normalizer.lowercase"
    kinds = _kinds(file, tokens)
    words = (token for number, token in enumerate(tokens) if kinds is None or kinds[number] != _CONTROL)
    capital = next((word for word in words if word[:1] != "[" and word != word.lower()), None)
    if lower not in file.metadata and capital is not None:
        raise CheckpointError(
            f"{file.path}: there is no metadata {lower!r}, and the vocabulary has the word {capital!r}, which texts in "
            "small letters do not have; needed: true or false"
        )
    small = _flag(file, "normalizer.lowercase", True)
    return {
        "normalizer": {
            "type": "BertNormalizer",
            "clean_text": True,
            "handle_chinese_chars": True,
            "strip_accents": _flag(file, "normalizer.strip_accents", small),
            "lowercase": small,
        },
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": True},
        "model": {
            "type": "WordPiece",
            "unk_token": unknown,
            "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 100,
            "vocab": {token: number for number, token in enumerate(tokens)},
        },
    }


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


_KINDS = {
    "gpt2": _Kind(_byte_level),
    "llama": _Kind(_sentencepiece, {"bos": 1, "eos": 2, "unknown": 0}, first=True),
    "bert": _Kind(_word_pieces, {"bos": 101, "unknown": 100, "separator": 102, "padding": 0, "mask": 103}),
    "t5": _Kind(_unigram, {"eos": 1, "unknown": 2, "padding": 0}, last=True),
}
