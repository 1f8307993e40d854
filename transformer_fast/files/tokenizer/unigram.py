"""The classes whose vocabulary is a SentencePiece model of kind Unigram: T5, XLM-RoBERTa, CamemBERT, BigBird, ALBERT
and DeBERTa v2.

Called through `classes.CLASSES`, which names for each class the functions here that build and finish it. A further
class is its functions here and an entry there.

Source: the classes of transformers 5.24.
"""

from __future__ import annotations

from typing import Any

from transformer_fast.files.errors import CheckpointError, optional_import
from transformer_fast.files.tokenizer.recipe import SPACE, Tokens, set_template
from transformer_fast.files.tokenizer.settings import TokenizerSettings, text_of
from transformer_fast.files.tokenizer.vocabulary import Pieces, Vocabulary


def _unigram_model(vocabulary: Vocabulary, unknown: int) -> Any:
    library = optional_import("tokenizers")
    try:
        model = library.models.Unigram(vocabulary.pieces, unk_id=unknown, byte_fallback=False)
    except CheckpointError:
        raise
    except Exception as error:  # the package raises nothing more specific
        raise CheckpointError(f"{vocabulary.place}: not a vocabulary of Unigram: {error}") from None
    return library.Tokenizer(model)


def _unigram(vocabulary: Vocabulary, unknown: int, scheme: str) -> Any:
    library = optional_import("tokenizers")
    pre = library.pre_tokenizers
    tokenizer = _unigram_model(vocabulary, unknown)
    if vocabulary.charsmap is not None:
        tokenizer.normalizer = library.normalizers.Precompiled(vocabulary.charsmap)
    spaces = pre.Metaspace(replacement=SPACE, prepend_scheme=scheme, split=True)
    tokenizer.pre_tokenizer = pre.Sequence([pre.WhitespaceSplit(), spaces])
    tokenizer.decoder = library.decoders.Metaspace(replacement=SPACE, prepend_scheme=scheme)
    return tokenizer


def t5(vocabulary: Vocabulary, tokens: Tokens, settings: TokenizerSettings) -> Any:
    return _unigram(vocabulary, 2, "always")


def finish_t5(tokenizer: Any, tokens: Tokens, settings: TokenizerSettings) -> None:
    last = optional_import("tokenizers").processors.TemplateProcessing(
        single=["$A", "</s>"],
        pair=["$A", "</s>", "$B", "</s>"],
        special_tokens=[("</s>", tokens.number(tokenizer, tokens["eos_token"]))],
    )
    tokenizer.post_processor = last


_MOST_SENTINELS = 10_000  # T5 has 100; each is a token that is added


def sentinels(settings: TokenizerSettings) -> list[str]:
    """T5's <extra_id_0>, ... beside the further tokens that are listed."""
    count = settings.options.get("extra_ids", 100)
    if type(count) is not int or not 0 <= count <= _MOST_SENTINELS:
        raise CheckpointError(
            f"{settings.place}: extra_ids is {count!r}; needed: an integer from 0 to {_MOST_SENTINELS}"
        )
    listed = list(settings.additional or [])
    own = [token for token in listed if "<extra_id_" in text_of(token)]
    if own and count not in (0, len(own)):
        raise CheckpointError(
            f"{settings.place}: extra_ids is {count}, and the listed tokens have {len(own)}; needed: as many"
        )
    return listed + ([] if own else [f"<extra_id_{i}>" for i in range(count)])


def t5_pieces(pieces: Pieces, tokens: Tokens, settings: TokenizerSettings) -> Pieces:
    sentinels(settings)  # checks the number
    count = settings.options.get("extra_ids", 100)
    return pieces + [(f"<extra_id_{i}>", 0.0) for i in range(count - 1, -1, -1)]


def xlm_roberta(vocabulary: Vocabulary, tokens: Tokens, settings: TokenizerSettings) -> Any:
    return _unigram(vocabulary, 3, "always" if settings.flag("add_prefix_space", True) else "never")


def xlm_roberta_pieces(pieces: Pieces, tokens: Tokens, settings: TokenizerSettings) -> Pieces:
    first = [(tokens[name], 0.0) for name in ("bos_token", "pad_token", "eos_token", "unk_token")]
    return [*first, *pieces[3:], (tokens["mask_token"], 0.0)]


def camembert(vocabulary: Vocabulary, tokens: Tokens, settings: TokenizerSettings) -> Any:
    names = [piece for piece, _ in vocabulary.pieces]
    unknown = names.index(tokens["unk_token"]) if tokens["unk_token"] in names else 0
    return _unigram(vocabulary, unknown, "always" if settings.flag("add_prefix_space", True) else "never")


def camembert_pieces(pieces: Pieces, tokens: Tokens, settings: TokenizerSettings) -> Pieces:
    first = [("<s>NOTUSED", 0.0), (tokens["pad_token"], 0.0), ("</s>NOTUSED", 0.0), (tokens["unk_token"], 0.0)]
    return [*first, ("<unk>NOTUSED", -100.0), *pieces[1:], (tokens["mask_token"], 0.0)]


BIG_BIRD_TOKENS = {
    "bos_token": "<s>",
    "eos_token": "</s>",
    "unk_token": "<unk>",
    "pad_token": "<pad>",
    "sep_token": "[SEP]",
    "cls_token": "[CLS]",
}
_BIG_BIRD_UNKNOWN = 100  # the class' own number where the vocabulary has no such piece


def big_bird(vocabulary: Vocabulary, tokens: Tokens, settings: TokenizerSettings) -> Any:
    """Without the normalizer of the SentencePiece model, which the class leaves out."""
    library = optional_import("tokenizers")
    pieces, unknown = [tuple(piece) for piece in vocabulary.pieces], (tokens["unk_token"], 0.0)
    tokenizer = _unigram_model(vocabulary, pieces.index(unknown) if unknown in pieces else _BIG_BIRD_UNKNOWN)
    runs_of_spaces = library.normalizers.Replace(library.Regex(" {2,}"), SPACE)
    tokenizer.normalizer = library.normalizers.Sequence([runs_of_spaces])
    scheme = "always" if settings.flag("add_prefix_space", True) else "never"
    spaces = {"replacement": SPACE, "prepend_scheme": scheme, "split": True}
    tokenizer.pre_tokenizer = library.pre_tokenizers.Metaspace(**spaces)
    tokenizer.decoder = library.decoders.Metaspace(**spaces)
    return tokenizer


def finish_big_bird(tokenizer: Any, tokens: Tokens, settings: TokenizerSettings) -> None:
    first, last = tokens["cls_token"], tokens["sep_token"]
    pair = f"{first}:0 $A:0 {last}:0 $B:1 {last}:1"
    set_template(tokenizer, tokens, f"{first}:0 $A:0 {last}:0", pair, (first, last))


def finish_xlm_roberta(tokenizer: Any, tokens: Tokens, settings: TokenizerSettings) -> None:
    first, last = tokens["bos_token"], tokens["eos_token"]
    set_template(tokenizer, tokens, f"{first} $A {last}", f"{first} $A {last} {last} $B {last}", (first, last))


def albert(vocabulary: Vocabulary, tokens: Tokens, settings: TokenizerSettings) -> Any:
    norm = optional_import("tokenizers").normalizers
    tokenizer = _unigram(vocabulary, 1, "always" if settings.flag("add_prefix_space", True) else "never")
    steps = [norm.Replace("``", '"'), norm.Replace("''", '"')]
    steps += [] if settings.flag("keep_accents") else [norm.NFKD(), norm.StripAccents()]
    steps += [norm.Lowercase()] if settings.flag("do_lower_case", True) else []
    steps += [] if vocabulary.charsmap is None else [norm.Precompiled(vocabulary.charsmap)]
    tokenizer.normalizer = norm.Sequence(steps)
    # The template has these names, whatever the tokens are called; a processor in tokenizer.json takes its place.
    numbers = {f"[{name}]": tokenizer.token_to_id(tokens[f"{name.lower()}_token"]) for name in ("CLS", "SEP")}
    missing = [name for name, number in numbers.items() if number is None]
    if missing:
        raise CheckpointError(f"{settings.place}: the vocabulary has no {missing[0]}; needed: the token for it")
    pair = "[CLS]:0 $A:0 [SEP]:0 $B:1 [SEP]:1"
    set_template(tokenizer, tokens, "[CLS]:0 $A:0 [SEP]:0", pair, ("[CLS]", "[SEP]"), numbers)
    return tokenizer


ALBERT_TOKENS = {
    "bos_token": "[CLS]",
    "eos_token": "[SEP]",
    "unk_token": "<unk>",
    "sep_token": "[SEP]",
    "pad_token": "<pad>",
    "cls_token": "[CLS]",
    "mask_token": "[MASK]",
}


def deberta_v2(vocabulary: Vocabulary, tokens: Tokens, settings: TokenizerSettings) -> Any:
    library = optional_import("tokenizers")
    norm, pre = library.normalizers, library.pre_tokenizers
    own, number = (tokens["unk_token"], 0.0), settings.options.get("unk_id", 1)
    if vocabulary.proto is not None:
        number = vocabulary.proto.trainer_spec.unk_id
    if type(number) is not int:
        raise CheckpointError(f"{settings.place}: unk_id is {number!r}; needed: an integer")
    pieces = [tuple(piece) for piece in vocabulary.pieces]
    tokenizer = _unigram_model(vocabulary, pieces.index(own) if own in pieces else number)
    steps = [norm.Lowercase()] if settings.flag("do_lower_case") else []
    spaces = norm.Replace(library.Regex(r"\s{2,}|[\n\r\t]"), " ")
    tokenizer.normalizer = norm.Sequence([*steps, spaces, norm.NFC(), norm.Strip(left=False, right=True)])
    scheme = "always" if settings.flag("add_prefix_space", True) else "first"
    words = [pre.Punctuation(behavior="isolated")] if settings.flag("split_by_punct") else []
    tokenizer.pre_tokenizer = pre.Sequence([*words, pre.Metaspace(replacement=SPACE, prepend_scheme=scheme)])
    tokenizer.decoder = library.decoders.Metaspace(replacement=SPACE, prepend_scheme=scheme)
    return tokenizer


def finish_deberta_v2(tokenizer: Any, tokens: Tokens, settings: TokenizerSettings) -> None:
    first, last = tokens["cls_token"], tokens["sep_token"]
    numbers = {tokens[name]: 0 for name in ("cls_token", "sep_token") if tokens.texts.get(name) is None}
    pair = f"{first}:0 $A:0 {last}:0 $B:1 {last}:1"
    set_template(tokenizer, tokens, f"{first}:0 $A:0 {last}:0", pair, (first, last), numbers)
