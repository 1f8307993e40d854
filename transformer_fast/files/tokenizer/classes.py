"""The tokenizer classes of transformers: how each builds its tokenizer.

In transformers 5 most classes take of tokenizer.json the vocabulary, the merges and the post-processor, and set up the
rest by tokenizer_config.json's options; a folder without tokenizer.json is built in the same way from its older files.
`CLASSES` has one entry a class. A further class is one more entry, and its name leaves `choice._OTHERS`.

Recipes of Unigram vocabularies are in `unigram`, what all recipes share in `recipe`. `choice` finds the entry for a
folder, `tokenizer` calls its `build` and `finish`.

Source: the classes of transformers 5.24.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from transformer_fast.files.errors import CheckpointError, optional_import
from transformer_fast.files.languages import WHISPER_LANGUAGES
from transformer_fast.files.tokenizer import unigram
from transformer_fast.files.tokenizer.recipe import SPACE, Tokens, set_roberta, set_template
from transformer_fast.files.tokenizer.settings import TokenizerSettings, text_of
from transformer_fast.files.tokenizer.vocabulary import USER_DEFINED, Pieces, Vocabulary

_QWEN2_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_CLIP_END = "</w>"
_CLIP_WORDS = r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"


Build = Callable[[Vocabulary, Tokens, TokenizerSettings], Any]
Finish = Callable[[Any, Tokens, TokenizerSettings], None]


@dataclass(frozen=True)
class TokenizerClass:
    """One class of transformers.

    files: what holds its vocabulary where there is no tokenizer.json.
    model: the kind of its vocabulary: "BPE", "WordPiece", "Unigram"; None: as tokenizer.json has it.
    named: its tokens where no file names them; a dict gives an AddedToken its flags.
    build: the tokenizer without added tokens (None: `marian` does it); finish: what is set once they are there.
    decoded: what becomes of a decoded text. extra: further special tokens where no file lists them. spm: the pieces of
    a SentencePiece model in the order in which the class numbers them.
    """

    files: tuple[str, ...]
    model: str | None
    named: Mapping[str, Any]
    build: Build | None
    finish: Finish | None = None
    inputs: tuple[str, ...] = ("input_ids", "attention_mask")
    padding_side: str = "right"
    max_length: int | None = None
    decoded: Callable[[str], str] = str
    extra: Callable[[TokenizerSettings], list[str] | None] = field(default=lambda settings: None)
    spm: Callable[[Pieces, Tokens, TokenizerSettings], Pieces] = field(default=lambda pieces, tokens, settings: pieces)


# ----------------------------------------------------------------------------------------------------------------------
# WordPiece: BERT and its relatives


def _bert(vocabulary: Vocabulary, tokens: Tokens, settings: TokenizerSettings) -> Any:
    library = optional_import("tokenizers")
    tokenizer = library.Tokenizer(library.models.WordPiece(vocabulary.numbers, unk_token=tokens["unk_token"]))
    tokenizer.normalizer = library.normalizers.BertNormalizer(
        clean_text=True,
        handle_chinese_chars=settings.flag("tokenize_chinese_chars", True),
        strip_accents=settings.flag("strip_accents", None),
        lowercase=settings.flag("do_lower_case", True),
    )
    tokenizer.pre_tokenizer = library.pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = library.decoders.WordPiece(prefix="##")
    return tokenizer


def _finish_bert(tokenizer: Any, tokens: Tokens, settings: TokenizerSettings) -> None:
    first, last = tokens["cls_token"], tokens["sep_token"]
    # The class' own numbers where a file says that there is no such token.
    usual = {name: number for name, number in _BERT_NUMBERS.items() if tokens.texts.get(name) is None}
    numbers = {tokens[name]: number for name, number in usual.items()}
    pair = f"{first}:0 $A:0 {last}:0 $B:1 {last}:1"
    set_template(tokenizer, tokens, f"{first}:0 $A:0 {last}:0", pair, (first, last), numbers)


def _finish_mpnet(tokenizer: Any, tokens: Tokens, settings: TokenizerSettings) -> None:
    set_roberta(tokenizer, tokens, "sep_token", "cls_token", True, False)


_BERT_NUMBERS = {"cls_token": 2, "sep_token": 3}
_BERT_TOKENS = {
    "unk_token": "[UNK]",
    "sep_token": "[SEP]",
    "pad_token": "[PAD]",
    "cls_token": "[CLS]",
    "mask_token": "[MASK]",
}


# ----------------------------------------------------------------------------------------------------------------------
# BPE on bytes: RoBERTa, GPT-2, Qwen 2, CLIP, Whisper


def _bytes_bpe(vocabulary: Vocabulary, **options: Any) -> Any:
    library = optional_import("tokenizers")
    options = {"continuing_subword_prefix": "", "end_of_word_suffix": "", "fuse_unk": False} | options
    try:
        model = library.models.BPE(vocab=vocabulary.numbers, merges=vocabulary.merges or [], **options)
    except Exception as error:  # the package raises nothing more specific
        raise CheckpointError(f"{vocabulary.place}: not a vocabulary of BPE: {error}") from None
    tokenizer = library.Tokenizer(model)
    tokenizer.decoder = library.decoders.ByteLevel()
    return tokenizer


def _gpt2(vocabulary: Vocabulary, tokens: Tokens, settings: TokenizerSettings) -> Any:
    tokenizer = _bytes_bpe(vocabulary)
    prefix = settings.flag("add_prefix_space")
    tokenizer.pre_tokenizer = optional_import("tokenizers").pre_tokenizers.ByteLevel(add_prefix_space=prefix)
    return tokenizer


def _finish_roberta(tokenizer: Any, tokens: Tokens, settings: TokenizerSettings) -> None:
    trim, prefix = settings.flag("trim_offsets", True), settings.flag("add_prefix_space")
    set_roberta(tokenizer, tokens, "sep_token", "cls_token", trim, prefix)


def _qwen2(vocabulary: Vocabulary, tokens: Tokens, settings: TokenizerSettings) -> Any:
    library = optional_import("tokenizers")
    pre = library.pre_tokenizers
    tokenizer = _bytes_bpe(vocabulary, byte_fallback=False)
    tokenizer.normalizer = library.normalizers.NFC()
    words = pre.Split(library.Regex(_QWEN2_WORDS), behavior="isolated", invert=False)
    prefix = settings.flag("add_prefix_space")
    tokenizer.pre_tokenizer = pre.Sequence([words, pre.ByteLevel(add_prefix_space=prefix, use_regex=False)])
    return tokenizer


def _finish_qwen2(tokenizer: Any, tokens: Tokens, settings: TokenizerSettings) -> None:
    """All special tokens, once more, as such: the class resets their flags."""
    added_token = optional_import("tokenizers").AddedToken
    texts = [token for token in (*tokens.named.values(), *settings.listed) if token is not None]
    tokenizer.add_tokens([added_token(text, special=True) for text in dict.fromkeys(map(text_of, texts))])


def set_ends(tokenizer: Any, tokens: Tokens, settings: TokenizerSettings) -> None:
    """The first and the last token around each text, where add_bos_token and add_eos_token ask for them."""
    first, last = tokens.texts.get("bos_token"), tokens.texts.get("eos_token")
    first = first if settings.flag("add_bos_token") else None
    last = last if settings.flag("add_eos_token") else None
    before, after = ([] if token is None else [token] for token in (first, last))
    single = " ".join([*(f"{t}:0" for t in before), "$A:0", *(f"{t}:0" for t in after)])
    pair = " ".join([single, *(f"{t}:1" for t in before), "$B:1", *(f"{t}:1" for t in after)])
    tokenizer.post_processor = optional_import("tokenizers").processors.TemplateProcessing(
        single=single,
        pair=pair,
        special_tokens=[(t, tokens.number(tokenizer, t)) for t in dict.fromkeys(before + after)],
    )


def _codegen(vocabulary: Vocabulary, tokens: Tokens, settings: TokenizerSettings) -> Any:
    if settings.flag("return_token_type_ids"):
        raise CheckpointError(f"{settings.place}: return_token_type_ids is true, which is not supported; needed: false")
    tokenizer = _gpt2(vocabulary, tokens, settings)
    tokenizer.post_processor = optional_import("tokenizers").processors.ByteLevel(trim_offsets=False)
    return tokenizer


def _neox(vocabulary: Vocabulary, tokens: Tokens, settings: TokenizerSettings) -> Any:
    tokenizer = _gpt2(vocabulary, tokens, settings)
    tokenizer.normalizer = optional_import("tokenizers").normalizers.NFC()
    return tokenizer


def _clip(vocabulary: Vocabulary, tokens: Tokens, settings: TokenizerSettings) -> Any:
    library = optional_import("tokenizers")
    norm, pre = library.normalizers, library.pre_tokenizers
    tokenizer = _bytes_bpe(vocabulary, end_of_word_suffix=_CLIP_END, unk_token=tokens["unk_token"])
    tokenizer.normalizer = norm.Sequence([norm.NFC(), norm.Replace(library.Regex(r"\s+"), " "), norm.Lowercase()])
    words = pre.Split(library.Regex(_CLIP_WORDS), behavior="removed", invert=True)
    tokenizer.pre_tokenizer = pre.Sequence([words, pre.ByteLevel(add_prefix_space=False)])
    return tokenizer


def _finish_clip(tokenizer: Any, tokens: Tokens, settings: TokenizerSettings) -> None:
    set_roberta(tokenizer, tokens, "eos_token", "bos_token", False, False)


def _finish_whisper(tokenizer: Any, tokens: Tokens, settings: TokenizerSettings) -> None:
    """The tokens before a text: start, language, task, no timestamps."""
    # A token that the vocabulary lacks is the unknown one; languages are numbered after the first token.
    numbers = [tokens.number(tokenizer, "<|startoftranscript|>")]
    language, task = settings.options.get("language"), settings.options.get("task")
    if language is not None:
        code = WHISPER_LANGUAGES.get(str(language).lower(), str(language).lower())
        codes = list(dict.fromkeys(WHISPER_LANGUAGES.values()))
        if code not in codes:
            raise CheckpointError(f"{settings.place}: language is {language!r}, which Whisper does not know")
        numbers.append(numbers[0] + 1 + codes.index(code))
    if task is not None:
        if task not in ("transcribe", "translate"):
            raise CheckpointError(f"{settings.place}: task is {task!r}; needed: transcribe or translate")
        numbers.append(tokens.number(tokenizer, f"<|{task}|>"))
    if not settings.flag("predict_timestamps"):
        numbers.append(tokens.number(tokenizer, "<|notimestamps|>"))
    parts, last = [tokenizer.id_to_token(number) for number in numbers], tokens["eos_token"]
    before = " ".join(f"{part}:0" for part in parts)
    set_template(tokenizer, tokens, f"{before} $A:0 {last}:0", f"{before} $A:0 $B:1 {last}:1", (last, *parts))


# ----------------------------------------------------------------------------------------------------------------------
# SentencePiece as BPE: Llama, Gemma


def _pieces_bpe(vocabulary: Vocabulary, **options: Any) -> Any:
    library = optional_import("tokenizers")
    options = {"fuse_unk": True, "byte_fallback": True} | options
    try:
        model = library.models.BPE(vocab=vocabulary.numbers, merges=vocabulary.merges or [], **options)
    except Exception as error:  # the package raises nothing more specific
        raise CheckpointError(f"{vocabulary.place}: not a vocabulary of BPE: {error}") from None
    return library.Tokenizer(model)


def _llama(vocabulary: Vocabulary, tokens: Tokens, settings: TokenizerSettings) -> Any:
    library = optional_import("tokenizers")
    decoders = library.decoders
    tokenizer = _pieces_bpe(vocabulary)
    prefix = settings.flag("add_prefix_space", True)
    scheme = ("always" if settings.flag("legacy") else "first") if prefix else "never"
    tokenizer.pre_tokenizer = library.pre_tokenizers.Metaspace(replacement=SPACE, prepend_scheme=scheme, split=False)
    parts = [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    tokenizer.decoder = decoders.Sequence(parts + ([decoders.Strip(content=" ", left=1)] if prefix else []))
    return tokenizer


def _gemma(vocabulary: Vocabulary, tokens: Tokens, settings: TokenizerSettings) -> Any:
    library = optional_import("tokenizers")
    decoders = library.decoders
    tokenizer = _pieces_bpe(vocabulary, unk_token=tokens["unk_token"])
    tokenizer.normalizer = library.normalizers.Replace(" ", SPACE)
    tokenizer.pre_tokenizer = library.pre_tokenizers.Split(pattern=" ", behavior="merged_with_previous", invert=False)
    tokenizer.decoder = decoders.Sequence([decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()])
    return tokenizer


# ----------------------------------------------------------------------------------------------------------------------
# The class without a recipe of its own: what a SentencePiece model says of itself


def _generic(vocabulary: Vocabulary, tokens: Tokens, settings: TokenizerSettings) -> Any:
    """A tokenizer that follows the settings in a SentencePiece model (tokenizer.json is opened as it is)."""
    library = optional_import("tokenizers")
    proto, norm, pre = vocabulary.proto, library.normalizers, library.pre_tokenizers
    spec, trained = proto.normalizer_spec, proto.trainer_spec
    own = {number: text_of(token) for number, token in settings.added.items()}
    names = _renamed([piece.piece for piece in proto.pieces], own)
    whole = [names[number] for number, piece in enumerate(proto.pieces) if piece.type == USER_DEFINED]
    if trained.model_type == 1:
        model = library.models.Unigram(
            [(name, piece.score) for name, piece in zip(names, proto.pieces, strict=True)],
            unk_id=trained.unk_id,
            byte_fallback=trained.byte_fallback,
        )
    else:
        model = library.models.BPE(
            vocab={name: number for number, name in enumerate(names)},
            merges=_ranked_merges(names, proto),
            unk_token=trained.unk_piece,
            fuse_unk=True,
            byte_fallback=trained.byte_fallback,
            ignore_merges=bool(whole),
        )
    tokenizer = library.Tokenizer(model)
    always = settings.flag("legacy", True)
    parts = [norm.Precompiled(spec.precompiled_charsmap)] if spec.precompiled_charsmap else []
    if spec.remove_extra_whitespaces:
        parts += [norm.Replace(library.Regex(r"\A +| +\z"), ""), norm.Replace(library.Regex(" {2,}"), " ")]
    if spec.escape_whitespaces:
        parts.append(norm.Replace(" ", SPACE))
    if spec.add_dummy_prefix and always:
        parts.append(norm.Replace(library.Regex(rf"\A{SPACE}"), 2 * SPACE))
    tokenizer.normalizer = norm.Sequence(parts)
    steps = []
    if spec.add_dummy_prefix:
        scheme = "always" if always else "first"
        steps.append(pre.Metaspace(replacement=SPACE, prepend_scheme=scheme, split=False))
    if whole:
        pattern = "|".join(re.escape(piece) for piece in sorted(whole, key=len, reverse=True))
        steps.append(pre.Split(library.Regex(pattern), behavior="isolated"))
    if steps:
        tokenizer.pre_tokenizer = pre.Sequence(steps)
    tokenizer.decoder = _generic_decoder(trained.byte_fallback, spec.add_dummy_prefix)
    return tokenizer


def _generic_decoder(fallback: bool, prefixed: bool) -> Any:
    decoders = optional_import("tokenizers").decoders
    parts = [decoders.Replace(SPACE, " ")] + ([decoders.ByteFallback()] if fallback else [])
    if prefixed:
        parts += [decoders.Fuse(), decoders.Strip(content=" ", left=1)]
    elif fallback:
        parts.append(decoders.Fuse())
    return decoders.Sequence(parts)


def _renamed(names: list[str], own: Mapping[int, str]) -> list[str]:
    """The pieces, with the names that the settings give some of them, but for names that other pieces keep."""
    kept = {name for number, name in enumerate(names) if number not in own}
    return [own[n] if n in own and own[n] not in kept else name for n, name in enumerate(names)]


def _ranked_merges(names: list[str], proto: Any) -> list[tuple[str, str]]:
    """All ways to make one normal piece of two, the best score first."""
    normal = {names[n]: (-piece.score, n) for n, piece in enumerate(proto.pieces) if piece.type == 1}
    ranked = []
    for token, rank in normal.items():
        splits = ((token[:i], token[i:]) for i in range(1, len(token)))
        ranked += [(*rank, a, b) for a, b in splits if a in normal and b in normal]
    return [(a, b) for _, _, a, b in sorted(ranked)]


# ----------------------------------------------------------------------------------------------------------------------
# The table

_BYTES_FILES = ("vocab.json", "merges.txt")
_S = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
_ROBERTA_TOKENS = {
    "bos_token": "<s>",
    "eos_token": "</s>",
    "sep_token": "</s>",
    "cls_token": "<s>",
    "unk_token": "<unk>",
    "pad_token": "<pad>",
    "mask_token": "<mask>",
}
_GPT2_TOKENS = {"unk_token": "<|endoftext|>", "bos_token": "<|endoftext|>", "eos_token": "<|endoftext|>"}
_PLAIN = {"lstrip": False, "rstrip": False}

GENERIC, MARIAN = "TokenizersBackend", "MarianTokenizer"
CLASSES: dict[str, TokenizerClass] = {
    GENERIC: TokenizerClass(("tokenizer.model",), None, {}, _generic),
    "BertTokenizer": TokenizerClass(
        ("vocab.txt",),
        "WordPiece",
        _BERT_TOKENS,
        _bert,
        _finish_bert,
        inputs=("input_ids", "token_type_ids", "attention_mask"),
    ),
    "DistilBertTokenizer": TokenizerClass(("vocab.txt",), "WordPiece", _BERT_TOKENS, _bert, _finish_bert),
    "MPNetTokenizer": TokenizerClass(
        ("vocab.txt",),
        "WordPiece",
        {name: {"content": text, **_PLAIN} for name, text in _ROBERTA_TOKENS.items()}
        | {"unk_token": {"content": "[UNK]", **_PLAIN}, "mask_token": {"content": "<mask>", "lstrip": True}},
        _bert,
        _finish_mpnet,
    ),
    "RobertaTokenizer": TokenizerClass(_BYTES_FILES, "BPE", _ROBERTA_TOKENS, _gpt2, _finish_roberta),
    "GPT2Tokenizer": TokenizerClass(_BYTES_FILES, "BPE", _GPT2_TOKENS, _gpt2),
    "CodeGenTokenizer": TokenizerClass(_BYTES_FILES, "BPE", _GPT2_TOKENS, _codegen),
    # What is put around a text is set anew, whatever tokenizer.json has.
    "GPTNeoXTokenizer": TokenizerClass(
        _BYTES_FILES, "BPE", {**_GPT2_TOKENS, "pad_token": "<|padding|>"}, _neox, set_ends
    ),
    "Qwen2Tokenizer": TokenizerClass(
        _BYTES_FILES,
        "BPE",
        {"unk_token": "<|endoftext|>", "eos_token": "<|endoftext|>", "pad_token": "<|endoftext|>"},
        _qwen2,
        _finish_qwen2,
    ),
    "CLIPTokenizer": TokenizerClass(
        _BYTES_FILES,
        "BPE",
        {
            "unk_token": "<|endoftext|>",
            "bos_token": "<|startoftext|>",
            "eos_token": "<|endoftext|>",
            "pad_token": "<|endoftext|>",
        },
        _clip,
        _finish_clip,
        decoded=lambda text: text.replace(_CLIP_END, " ").strip(),
    ),
    "WhisperTokenizer": TokenizerClass(
        _BYTES_FILES,
        "BPE",
        {n: {"content": text, "normalized": False, "special": True, **_PLAIN} for n, text in _GPT2_TOKENS.items()},
        _gpt2,
        _finish_whisper,
    ),
    "LlamaTokenizer": TokenizerClass(("tokenizer.model",), "BPE", _S, _llama, padding_side="left"),
    "GemmaTokenizer": TokenizerClass(
        ("tokenizer.model",),
        "BPE",
        {
            "unk_token": "<unk>",
            "bos_token": "<bos>",
            "eos_token": "<eos>",
            "pad_token": "<pad>",
            "mask_token": "<mask>",
        },
        _gemma,
        padding_side="left",
    ),
    "T5Tokenizer": TokenizerClass(
        ("spiece.model",),
        "Unigram",
        {"eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"},
        unigram.t5,
        unigram.finish_t5,
        extra=unigram.sentinels,
        spm=unigram.t5_pieces,
    ),
    "XLMRobertaTokenizer": TokenizerClass(
        ("sentencepiece.bpe.model",),
        "Unigram",
        _ROBERTA_TOKENS,
        unigram.xlm_roberta,
        unigram.finish_xlm_roberta,
        spm=unigram.xlm_roberta_pieces,
    ),
    "CamembertTokenizer": TokenizerClass(
        ("sentencepiece.bpe.model",),
        "Unigram",
        _ROBERTA_TOKENS | {"mask_token": {"content": "<mask>", "lstrip": True, "special": True}},
        unigram.camembert,
        unigram.finish_xlm_roberta,
        extra=lambda settings: (
            ["<s>NOTUSED", "</s>NOTUSED", "<unk>NOTUSED"] if settings.additional is None else settings.additional
        ),
        spm=unigram.camembert_pieces,
    ),
    "BigBirdTokenizer": TokenizerClass(
        ("spiece.model",),
        "Unigram",
        {name: {"content": text, **_PLAIN} for name, text in unigram.BIG_BIRD_TOKENS.items()}
        | {"mask_token": {"content": "[MASK]", "lstrip": True}},
        unigram.big_bird,
        unigram.finish_big_bird,
    ),
    "AlbertTokenizer": TokenizerClass(("spiece.model",), "Unigram", unigram.ALBERT_TOKENS, unigram.albert),
    "DebertaV2Tokenizer": TokenizerClass(
        ("spm.model",),
        "Unigram",
        unigram.ALBERT_TOKENS | {"unk_token": "[UNK]", "pad_token": "[PAD]"},
        unigram.deberta_v2,
        unigram.finish_deberta_v2,
        inputs=("input_ids", "attention_mask", "token_type_ids"),
    ),
    MARIAN: TokenizerClass(
        ("source.spm", "target.spm", "vocab.json"),
        None,
        {"eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"},
        None,
        max_length=512,
    ),
}
