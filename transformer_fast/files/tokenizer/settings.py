"""The settings of a tokenizer: tokenizer_config.json, special_tokens_map.json and added_tokens.json, as one.

`tokenizer` reads them, `classes` builds by them. Which file wins follows transformers 5: added_tokens_decoder in
tokenizer_config.json makes the two older files superfluous; without it they count, and so do tokenizer.json's own
added tokens.

Source: PreTrainedTokenizerBase._from_pretrained and __init__ of transformers 5.24.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from transformer_fast.files.errors import CheckpointError, optional_import
from transformer_fast.files.source import ModelSource

CONFIG = "tokenizer_config.json"

# In the order in which tokens that the vocabulary lacks get their numbers.
NAMED = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")

# Files hold 1e30 for "no limit"; no model has 2**31 positions.
NO_LIMIT = 2**31


@dataclass
class TokenizerSettings:
    """What the three files say.

    place: tokenizer_config.json, for error texts.
    options: tokenizer_config.json without what the other fields hold.
    named: bos_token, ... -> its `tokenizers.AddedToken` or text, as given; None is given as null.
    further: names that only this model has, "image_token" -> token.
    extra, additional: further special tokens without a name, under their newer and their older key; None where no file
        gives a list. The older one counts where the newer one is missing.
    added: number -> `tokenizers.AddedToken`.
    """

    place: Path
    options: dict[str, Any]
    named: dict[str, Any] = field(default_factory=dict)
    further: dict[str, Any] = field(default_factory=dict)
    extra: list[Any] | None = None
    additional: list[Any] | None = None
    added: dict[int, Any] = field(default_factory=dict)

    @property
    def listed(self) -> list[Any]:
        """The further special tokens without a name that count."""
        return (self.additional if self.extra is None else self.extra) or []

    @property
    def max_length(self) -> int | None:
        """The most tokens of a text, special ones included, or None."""
        name = "model_max_length" if self.options.get("model_max_length") is not None else "max_len"
        limit = self.options.get(name)
        if limit is None:
            return None
        if type(limit) not in (int, float) or not limit >= 1:
            raise CheckpointError(f"{self.place}: {name} is {limit!r}; needed: a number >= 1")
        return int(limit) if limit < NO_LIMIT else None

    @property
    def input_names(self) -> tuple[str, ...]:
        """model_input_names; () where it is not given."""
        names = self.options.get("model_input_names") or []
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise CheckpointError(f"{self.place}: model_input_names is {names!r}; needed: a list of names")
        return tuple(names)

    def flag(self, name: str, default: Any = False) -> Any:
        """A setting that is true or false; a null where there is one counts as the default."""
        return typed(self.place, self.options, name, bool, default)


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


def read_settings(source: ModelSource, definition: Mapping[str, Any] | None) -> TokenizerSettings:
    """The settings of a source; definition: the content of its tokenizer.json, if it has one.

    Raises:
        CheckpointError: a file is malformed.
    """
    place = source.place(CONFIG)
    options = dict(source.object(CONFIG, required=False))
    if options.pop("init_inputs", None):
        raise CheckpointError(f"{place}: init_inputs is given, which is not supported; needed: settings by name")
    if definition is not None:  # the post-processor of tokenizer.json says what is put around a text
        options.pop("add_bos_token", None)
        options.pop("add_eos_token", None)
    if not options.get("extra_special_tokens") and "additional_special_tokens" in options:
        options["extra_special_tokens"] = options.pop("additional_special_tokens")
    settings = TokenizerSettings(place, options)
    explicit = {name: options.pop(name) for name in list(options) if _is_further(name, options[name], str)}
    if isinstance(options.get("extra_special_tokens"), dict):
        explicit |= options.pop("extra_special_tokens")
    if "added_tokens_decoder" in options:
        settings.added = _decoder(place, options.pop("added_tokens_decoder"))
    else:
        explicit |= _read_special_tokens_map(source, options)
        settings.added = _older_added(source, options, definition)
    known = {token.content: token for token in settings.added.values()}
    options = settings.options = {name: _token(place, name, value) for name, value in options.items()}
    for name in NAMED:
        if name in options:
            token = options.pop(name)
            settings.named[name] = None if token is None else known.get(text_of(token), token)
    automatic = {
        name: options.pop(name) for name in list(options) if _is_further(name, options[name], _added_token_class())
    }
    settings.further = {n: _token(place, n, t) for n, t in (automatic | explicit).items()}
    settings.extra = _tokens(place, options, "extra_special_tokens")
    settings.additional = _tokens(place, options, "additional_special_tokens")
    return settings


def text_of(token: Any) -> str:
    """The text of a token that is one, or an AddedToken."""
    return token if isinstance(token, str) else token.content


def _added_token_class() -> Any:
    return optional_import("tokenizers").AddedToken


def _is_further(name: str, value: Any, kind: type) -> bool:
    """Is it a token with a name that only this model has?"""
    return name.endswith("_token") and name not in NAMED and isinstance(value, kind)


def _token(place: Path, name: str, value: Any) -> Any:
    """A token given as an object becomes an AddedToken; other values stay."""
    if isinstance(value, dict) and ("__type" in value or "content" in value):
        return added_token(place, name, value)
    if name in NAMED and not (value is None or isinstance(value, (str, _added_token_class()))):
        raise CheckpointError(f"{place}: {name} is {value!r}; needed: a token, as a string or an object with content")
    return value


def _tokens(place: Path, options: dict[str, Any], name: str) -> list[Any] | None:
    """Take a list of tokens out of the options."""
    value = options.pop(name, None)
    if value is not None and not isinstance(value, list):
        raise CheckpointError(f"{place}: {name} is {value!r}; needed: a list of tokens")
    tokens = None if value is None else [_token(place, name, token) for token in value]
    if not all(isinstance(token, (str, _added_token_class())) for token in tokens or []):
        raise CheckpointError(f"{place}: {name} is {value!r}; needed: a list of tokens")
    return tokens


def added_token(place: Path, name: str, value: Any, **fixed: Any) -> Any:
    """The `tokenizers.AddedToken` of a JSON object.

    Raises:
        CheckpointError: it is no such object.
    """
    fields = {n: v for n, v in value.items() if n != "__type"} | fixed if isinstance(value, dict) else {}
    flags = {n: v for n, v in fields.items() if n != "content"}
    if not isinstance(fields.get("content"), str) or not all(type(v) is bool for v in flags.values()):
        raise CheckpointError(f"{place}: {name} holds {value!r}; needed: an object with content and flags")
    try:
        return _added_token_class()(fields["content"], **flags)
    except TypeError as error:
        raise CheckpointError(f"{place}: {name} holds {value!r}: {error}") from None


def _decoder(place: Path, content: Any) -> dict[int, Any]:
    if not isinstance(content, dict) or not all(number.isdecimal() for number in content):
        raise CheckpointError(f"{place}: added_tokens_decoder is {content!r}; needed: an object of numbers and tokens")
    return {int(n): added_token(place, "added_tokens_decoder", token) for n, token in content.items()}


def _read_special_tokens_map(source: ModelSource, options: dict[str, Any]) -> dict[str, Any]:
    """Put special_tokens_map.json into the options, before which it comes; the tokens that it names besides."""
    name = "special_tokens_map.json"
    place = source.place(name)
    for key, value in source.object(name, required=False).items():
        if key in ("extra_special_tokens", "additional_special_tokens") and isinstance(value, list):
            value = [added_token(place, key, t, special=True) if isinstance(t, dict) else t for t in value]
            if key == "extra_special_tokens":
                there = options.get(key) or []
                there = there if isinstance(there, list) else [there]
                value = there + [token for token in value if token not in there]
        elif isinstance(value, dict) and key != "extra_special_tokens":
            value = added_token(place, key, value, special=True)
        options[key] = value
    if isinstance(options.get("extra_special_tokens"), dict):
        return options.pop("extra_special_tokens")
    return {}


def _older_added(source: ModelSource, options: dict[str, Any], definition: Mapping[str, Any] | None) -> dict[int, Any]:
    """The tokens of added_tokens.json, and those of tokenizer.json, by number."""
    name, added = "added_tokens.json", {}
    place = source.place(name)
    special = {text_of(_token(place, n, options[n])) for n in NAMED if options.get(n)}
    special |= {text_of(token) for token in _tokens(place, dict(options), "extra_special_tokens") or []}
    for content, number in source.object(name, required=False).items():
        if type(number) is not int or not 0 <= number < NO_LIMIT:
            raise CheckpointError(f"{place}: {content!r} has the number {number!r}; needed: an integer >= 0")
        flags = {"special": content in special, "normalized": content not in special}
        added[number] = _added_token_class()(content, lstrip=False, rstrip=False, **flags)
    place = source.place("tokenizer.json")
    for token in (definition or {}).get("added_tokens") or []:
        fields = {n: v for n, v in token.items() if n != "id"} if isinstance(token, dict) else token
        made = added_token(place, "added_tokens", fields)
        if type(token.get("id")) is not int or token["id"] < 0:
            raise CheckpointError(f"{place}: added_tokens holds {token!r}; needed: an id, an integer >= 0")
        added[token["id"]] = made
    return added
