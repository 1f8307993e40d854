"""The options of a generation, their defaults, and generation_config.json.

`generate` makes a `GenerationConfig` from what the model's folder says and what the call says, in that order. A new
option is a field here (with transformers' name and default) and code in the file that honours it; options of
transformers that are not honoured are in `_UNSUPPORTED`, with the values that change nothing.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from transformer_fast.files.errors import CheckpointError
from transformer_fast.files.folder import open_source
from transformer_fast.files.json_files import checked_object
from transformer_fast.files.source import ModelSource

DEFAULT_NEW_TOKENS = 20


@dataclass(frozen=True)
class GenerationConfig:
    """The options of `generate`; names, meaning and defaults are transformers'.

    max_length counts the prompt (of an encoder-decoder model: the decoder's), max_new_tokens does not, and goes before
    it. Without both there are 20 new tokens. seed makes sampling repeatable; None draws a fresh one.

    Raises:
        ValueError, TypeError: an option is of a wrong type or out of range, or options contradict each other.

    Example:
        >>> GenerationConfig(num_beams=4, eos_token_id=2).eos
        (2,)
    """

    max_length: int | None = None
    max_new_tokens: int | None = None
    min_length: int = 0
    min_new_tokens: int | None = None
    early_stopping: bool | str = False
    stop_strings: str | Sequence[str] | None = None
    do_sample: bool = False
    num_beams: int = 1
    num_return_sequences: int = 1
    temperature: float = 1.0
    top_k: int | None = 50
    top_p: float | None = 1.0
    min_p: float | None = None
    typical_p: float | None = 1.0
    repetition_penalty: float = 1.0
    length_penalty: float = 1.0
    no_repeat_ngram_size: int = 0
    bad_words_ids: Sequence[Sequence[int]] | None = None
    suppress_tokens: Sequence[int] | None = None
    begin_suppress_tokens: Sequence[int] | None = None
    forced_bos_token_id: int | None = None
    forced_eos_token_id: int | Sequence[int] | None = None
    renormalize_logits: bool = False
    pad_token_id: int | None = None
    bos_token_id: int | None = None
    eos_token_id: int | Sequence[int] | None = None
    decoder_start_token_id: int | None = None
    seed: int | np.random.Generator | None = None

    def __post_init__(self) -> None:
        for name, (holds, needed) in RANGES.items():
            value = getattr(self, name)
            if not holds(value):
                raise ValueError(f"{name} is {value!r}; needed: {needed}")
        if self.num_return_sequences > 1 and not self.do_sample and self.num_return_sequences > self.num_beams:
            raise ValueError(
                f"num_return_sequences is {self.num_return_sequences}; needed without do_sample: "
                f"at most num_beams={self.num_beams}"
            )
        if self.do_sample and 1 < self.num_beams < self.num_return_sequences:
            raise ValueError(
                f"num_return_sequences is {self.num_return_sequences}; needed: at most num_beams={self.num_beams}"
            )

    @property
    def eos(self) -> tuple[int, ...]:
        """The ids that end a row."""
        return _ids(self.eos_token_id)

    @property
    def pad(self) -> int | None:
        """The id that fills a row after its end: the padding token, else the first that ends a row."""
        return self.eos[0] if self.pad_token_id is None and self.eos else self.pad_token_id

    def longest(self, prompt: int, positions: int | None) -> int:
        """The length at which every row ends; `positions` is what the model can count to, None without a limit.

        Raises:
            ValueError: the prompt leaves no room.
        """
        if self.max_new_tokens is not None:
            length = prompt + self.max_new_tokens
        elif self.max_length is not None:
            length = self.max_length
        else:
            length = prompt + DEFAULT_NEW_TOKENS
            length = length if positions is None else min(length, positions)
        if length <= prompt:
            raise ValueError(f"the prompt has {prompt} tokens and rows end at {length}; needed: room for a new token")
        return length


def _ids(value: int | Sequence[int] | None) -> tuple[int, ...]:
    if value is None:
        return ()
    return (int(value),) if isinstance(value, (int, np.integer)) else tuple(int(i) for i in value)


def _integer(value: Any) -> bool:
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool)


def _number(value: Any) -> bool:
    return (_integer(value) or isinstance(value, (float, np.floating))) and math.isfinite(value)


def _token(value: Any) -> bool:
    return _integer(value) and value >= 0


def _tokens(value: Any) -> bool:
    return isinstance(value, (list, tuple, np.ndarray)) and all(_token(i) for i in value)


def _or_none(check: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: value is None or check(value)


_AT_LEAST_0 = (lambda value: _integer(value) and value >= 0, "an integer >= 0")
_AT_LEAST_1 = (lambda value: _integer(value) and value >= 1, "an integer >= 1")
_FLAG = (lambda value: isinstance(value, (bool, np.bool_)), "True or False")
_POSITIVE = (lambda value: _number(value) and value > 0, "a number > 0")
_TOKEN = (_or_none(_token), "a token id >= 0, or None")
_TOKENS = (_or_none(_tokens), "a list of token ids >= 0, or None")
_ONE_OR_MORE = (
    _or_none(lambda value: _token(value) or (_tokens(value) and len(value))),
    "a token id or a list of them",
)
_UP_TO_1 = "a number from 0 to 1, or None"

# Option -> (check, what is needed).
RANGES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "max_length": (_or_none(_AT_LEAST_1[0]), "an integer >= 1, or None"),
    "max_new_tokens": (_or_none(_AT_LEAST_1[0]), "an integer >= 1, or None"),
    "min_length": _AT_LEAST_0,
    "min_new_tokens": (_or_none(_AT_LEAST_0[0]), "an integer >= 0, or None"),
    "early_stopping": (lambda value: isinstance(value, bool) or value == "never", 'True, False or "never"'),
    "stop_strings": (
        _or_none(
            lambda value: (
                (isinstance(value, str) and value)
                or (isinstance(value, (list, tuple)) and all(isinstance(text, str) and text for text in value))
            )
        ),
        "a string that is not empty, or a list of them",
    ),
    "do_sample": _FLAG,
    "num_beams": _AT_LEAST_1,
    "num_return_sequences": _AT_LEAST_1,
    "temperature": _POSITIVE,
    "top_k": (_or_none(_AT_LEAST_0[0]), "an integer >= 0, or None"),
    "top_p": (_or_none(lambda value: _number(value) and 0 <= value <= 1), _UP_TO_1),
    "min_p": (_or_none(lambda value: _number(value) and 0 <= value <= 1), _UP_TO_1),
    "typical_p": (_or_none(lambda value: _number(value) and 0 < value <= 1), "a number above 0 up to 1, or None"),
    "repetition_penalty": _POSITIVE,
    "length_penalty": (_number, "a number"),
    "no_repeat_ngram_size": _AT_LEAST_0,
    "bad_words_ids": (
        _or_none(lambda value: isinstance(value, (list, tuple)) and all(_tokens(word) and len(word) for word in value)),
        "a list of lists of token ids, or None",
    ),
    "suppress_tokens": _TOKENS,
    "begin_suppress_tokens": _TOKENS,
    "forced_bos_token_id": _TOKEN,
    "forced_eos_token_id": _ONE_OR_MORE,
    "renormalize_logits": _FLAG,
    "pad_token_id": _TOKEN,
    "bos_token_id": _TOKEN,
    "eos_token_id": _ONE_OR_MORE,
    "decoder_start_token_id": _TOKEN,
    "seed": (
        _or_none(lambda value: _integer(value) and value >= 0 or isinstance(value, np.random.Generator)),
        "an integer >= 0, a numpy.random.Generator, or None",
    ),
}

# Options of transformers that are not honoured -> the values with which they change nothing.
_UNSUPPORTED: dict[str, tuple] = {
    "max_time": (None,),
    "top_h": (None,),
    "epsilon_cutoff": (None, 0.0),
    "eta_cutoff": (None, 0.0),
    "encoder_repetition_penalty": (None, 1.0),
    "encoder_no_repeat_ngram_size": (None, 0),
    "remove_invalid_values": (None, False),
    "exponential_decay_length_penalty": (None,),
    "sequence_bias": (None,),
    "token_healing": (None, False),
    "guidance_scale": (None, 1, 1.0),
    "watermarking_config": (None,),
    "output_attentions": (None, False),
    "output_hidden_states": (None, False),
    "output_scores": (None, False),
    "output_logits": (None, False),
    "return_dict_in_generate": (None, False),
    "penalty_alpha": (None, 0, 0.0),
    "dola_layers": (None,),
    "diversity_penalty": (None, 0.0),
    "num_beam_groups": (None, 1),
    "constraints": (None,),
    "force_words_ids": (None,),
    "prompt_lookup_num_tokens": (None,),
    "use_mtp": (None, False),
    "speculation_type": (None,),
    "low_memory": (None, False),
    "prefill_chunk_size": (None,),
    "generation_config": (None,),
    "stopping_criteria": (None,),
    "prefix_allowed_tokens_fn": (None,),
    "assistant_model": (None,),
    "negative_prompt_ids": (None,),
    "negative_prompt_attention_mask": (None,),
    "custom_generate": (None,),
    "synced_gpus": (None, False),
    "inputs_embeds": (None,),
    "past_key_values": (None,),
}

# How transformers is to compute, which has no effect on what it computes; and settings of assisted generation, which
# asks for an assistant_model.
_WITHOUT_EFFECT = {
    "_from_model_config",
    "transformers_version",
    "use_cache",
    "cache_implementation",
    "cache_config",
    "max_cache_len",
    "compile_config",
    "disable_compile",
    "continuous_batching_config",
    "is_assistant",
    "num_assistant_tokens",
    "num_assistant_tokens_schedule",
    "assistant_confidence_threshold",
    "assistant_early_exit",
    "assistant_lookbehind",
    "assistant_ensemble_weight",
    "max_matching_ngram_size",
    "target_lookbehind",
}

FIELDS = {field.name for field in dataclasses.fields(GenerationConfig)}
# All names that this file knows.
KNOWN = FIELDS | _UNSUPPORTED.keys() | _WITHOUT_EFFECT
# Names of generation that config.json may hold: what is reported there is a matter of the model's calls, and seed one
# of training.
_REPORTS = {"output_attentions", "output_hidden_states", "output_scores", "output_logits", "return_dict_in_generate"}
_OF_MODELS = KNOWN - _REPORTS - {"seed"}


def split(options: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """(options of `GenerationConfig`, what is left: inputs of the model).

    None switches an option off where that has a meaning (top_k, eos_token_id); elsewhere it is as if it was not given.

    Raises:
        NotImplementedError: an option of transformers that is not honoured; the text names it.
    """
    for name, neutral in _UNSUPPORTED.items():
        if name in options and not any(options[name] is v or _equal(options[name], v) for v in neutral):
            raise NotImplementedError(f"{name} is {options[name]!r}, which is not supported; needed: {neutral[0]!r}")
    chosen = {n: value for n, value in options.items() if n in FIELDS and (value is not None or RANGES[n][0](None))}
    return chosen, {name: value for name, value in options.items() if name not in KNOWN}


def _equal(value: Any, other: Any) -> bool:
    return isinstance(value, (bool, int, float)) and value == other


def read_generation_config(source: str | Path | ModelSource, config: Mapping[str, Any]) -> dict[str, Any]:
    """The defaults of a model: generation_config.json, else what config.json says of generation.

    source: a folder or an open source; config: the content of config.json. Entries that no option knows (settings of
    one model, such as Whisper's) are returned as well: the model's own `generate` reads them.

    Raises:
        CheckpointError: the file is malformed, or asks for what is not supported.
    """
    source = open_source(source)
    path = source.place("generation_config.json")
    content = source.json("generation_config.json")
    if content is not None:
        content = checked_object(path, content)
    else:
        path = source.place("config.json")
        content = {name: value for name, value in config.items() if name in _OF_MODELS}
        if _integer(content.get("pad_token_id")) and content["pad_token_id"] < 0:
            del content["pad_token_id"]  # how old config.json files say that there is none
    content = {name: value for name, value in content.items() if value is not None}
    try:
        chosen, others = split(content)
        GenerationConfig(**chosen)
    except (NotImplementedError, ValueError) as error:
        raise CheckpointError(f"{path}: {error}") from None
    return chosen | others
