"""A `tokenizers.Tokenizer` of a folder's files: the class' recipe on its vocabulary, and all tokens that files add.

`tokenizer` calls `named_tokens` and `built`. What only one class does is in `classes`; what all do in the same order,
as TokenizersBackend of transformers 5.24 does it, is here.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformer_fast.files.errors import CheckpointError, optional_import
from transformer_fast.files.source import ModelSource
from transformer_fast.files.tokenizer import vocabulary
from transformer_fast.files.tokenizer.classes import GENERIC, TokenizerClass, set_ends
from transformer_fast.files.tokenizer.recipe import Tokens
from transformer_fast.files.tokenizer.settings import NAMED, TokenizerSettings, added_token, text_of

# Beyond this many tokens transformers looks for an old regular expression in Mistral's vocabularies.
_LARGE_VOCABULARY = 100_000


def named_tokens(place: Path, kind: TokenizerClass, settings: TokenizerSettings) -> dict[str, Any]:
    """The named tokens in their order: the files' own, else the class'; then those that only this model has."""
    defaults = {n: added_token(place, n, t) if isinstance(t, dict) else t for n, t in kind.named.items()}
    found = {n: _with_flags(place, kind, n, token) for n, token in (defaults | settings.named).items()}
    return {n: found.get(n) for n in NAMED if n in found} | settings.further


def _with_flags(place: Path, kind: TokenizerClass, name: str, token: Any) -> Any:
    """A token that a file names by its text alone gets the flags that its class gives it."""
    flags = kind.named.get(name)
    return (
        added_token(place, name, flags, content=token) if isinstance(token, str) and isinstance(flags, dict) else token
    )


def built(
    source: ModelSource,
    name: str,
    kind: TokenizerClass,
    tokens: Tokens,
    settings: TokenizerSettings,
    data: bytes | None,
    definition: Any,
) -> Any:
    """The `tokenizers.Tokenizer` of a class, with all tokens added."""
    found = None
    if name == GENERIC and data is not None:
        tokenizer = _opened(source.place("tokenizer.json"), data)
    else:
        found = _vocabulary(source, name, kind, tokens, settings, definition)
        tokenizer = kind.build(found, tokens, settings)
        if found.post_processor is not None:
            tokenizer.post_processor = found.post_processor
    if found is not None and found.additional is not None:
        settings.additional = found.additional
        if name == GENERIC:
            _take_names(found, tokens, settings)
    listed = kind.extra(settings)
    settings.additional = settings.additional if listed is None else listed
    tokenizer.no_padding()
    tokenizer.no_truncation()
    tokenizer.encode_special_tokens = settings.flag("split_special_tokens")
    _add_tokens(tokenizer, tokens, settings)
    _refuse_patches(tokenizer, settings)
    if tokenizer.post_processor is None or {"add_bos_token", "add_eos_token"} & set(settings.options):
        set_ends(tokenizer, tokens, settings)
    if kind.finish is not None:
        kind.finish(tokenizer, tokens, settings)
    return tokenizer


def _opened(place: Path, data: bytes) -> Any:
    try:
        return optional_import("tokenizers").Tokenizer.from_buffer(data)
    except Exception as error:  # the package raises nothing more specific
        raise CheckpointError(f"{place}: not a tokenizer: {error}") from None


def _vocabulary(
    source: ModelSource, name: str, kind: TokenizerClass, tokens: Tokens, settings: TokenizerSettings, definition: Any
) -> vocabulary.Vocabulary:
    """The vocabulary that a class builds on, from tokenizer.json or from the files that came before it."""
    if definition is not None:
        place = source.place("tokenizer.json")
        return vocabulary.from_definition(place, definition, name, kind.model or "")
    file = kind.files[0]
    if kind.model != "WordPiece" and source.read("tokenizer.model") is not None:
        file = "tokenizer.model"
    if source.read(file) is None:
        needed = " with ".join(kind.files)
        raise CheckpointError(
            f"{source.place('tokenizer.json')}: there is no such file; needed: the vocabulary, there or in {needed}"
        )
    if file.endswith(".model"):
        found = vocabulary.from_sentencepiece(source, file, kind.model == "BPE")
        if isinstance(found.vocab, list):
            found.vocab = kind.spm(found.vocab, tokens, settings)
        return found
    if file == "vocab.txt":
        return vocabulary.from_vocab_txt(source, file)
    return vocabulary.from_vocab_json(source, *kind.files)


def _take_names(found: vocabulary.Vocabulary, tokens: Tokens, settings: TokenizerSettings) -> None:
    """What a SentencePiece model says of itself, for the class without a recipe: special pieces and their names."""
    # Pieces that the user defined are the pre-tokenizer's business.
    own = {piece.piece for piece in found.proto.pieces if piece.type == vocabulary.USER_DEFINED}
    settings.additional = [token for token in found.additional or [] if text_of(token) not in own]
    if found.proto.normalizer_spec.add_dummy_prefix:  # each part between added tokens begins with a space of its own
        make = optional_import("tokenizers").AddedToken
        settings.added = {
            number: make(**{**token.__getstate__(), "normalized": False}) for number, token in settings.added.items()
        }
    spec = found.proto.trainer_spec
    for name, number, piece in (
        ("bos_token", spec.bos_id, spec.bos_piece or "<s>"),
        ("eos_token", spec.eos_id, spec.eos_piece or "</s>"),
        ("unk_token", spec.unk_id, spec.unk_piece or "<unk>"),
    ):
        if number >= 0 and name not in tokens.named:
            tokens.named[name] = tokens.texts[name] = piece
    tokens.named = {n: tokens.named[n] for n in sorted(tokens.named, key=_order)}


def _order(name: str) -> int:
    return NAMED.index(name) if name in NAMED else len(NAMED)


def _add_tokens(tokenizer: Any, tokens: Tokens, settings: TokenizerSettings) -> None:
    """Add what the settings name and the tokenizer lacks: numbered tokens, named ones, further ones."""
    make = optional_import("tokenizers").AddedToken
    there = tokenizer.get_added_tokens_decoder()
    same = {repr(token) for token in there.values()}
    missing = [token for _, token in sorted(settings.added.items()) if repr(token) not in same]
    known = {token.content for token in there.values()} | {token.content for token in missing}
    # Of tokens with one text and several flags the last one counts: a text alone is another token than one with flags.
    for token in (*tokens.named.values(), *settings.listed):
        if token is not None and text_of(token) not in known and token not in missing:
            missing.append(token)
    missing = [make(token, special=True) if isinstance(token, str) else token for token in missing]
    names = {text_of(token) for token in tokens.named.values() if token is not None}
    for token in missing:
        if token.content in names:
            token.special = True
    if missing:
        tokenizer.add_tokens(missing)


def _refuse_patches(tokenizer: Any, settings: TokenizerSettings) -> None:
    if settings.flag("fix_mistral_regex") and tokenizer.get_vocab_size() > _LARGE_VOCABULARY:
        raise CheckpointError(f"{settings.place}: fix_mistral_regex is true, which is not supported; needed: false")
