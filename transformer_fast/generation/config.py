"""The options of a generation, their defaults, and generation_config.json.

`generate` calls `resolve`, which makes a `GenerationConfig` of what the model's folder says and what the call says, in
that order. A folder may say anything: what it says is checked when a generation would follow it. A new option is a
field here (with transformers' name and default) and code in the file that honours it; options of transformers that are
not honoured are in `_UNSUPPORTED`, with the values that change nothing, and in `_EFFECTS`, if they matter to some
searches only.
"""

from __future__ import annotations

import dataclasses
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from transformer_fast.files.folder import open_source
from transformer_fast.files.json_files import checked_object
from transformer_fast.files.source import ModelSource

DEFAULT_NEW_TOKENS = 20


@dataclass(frozen=True)
class GenerationConfig:
    """The options of `generate`; names, meaning and defaults are transformers'.

    max_length counts the prompt (of an encoder-decoder model: the decoder's), max_new_tokens does not, and goes before
    it. Without both there are 20 new tokens. decoder_start_token_id may be a list, one id a row. sequence_bias:
    [[ids, bias], ...], or {tuple of ids: bias}. seed makes sampling repeatable; None draws a fresh one.

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
    max_time: float | None = None
    stop_strings: str | Sequence[str] | None = None
    do_sample: bool = False
    num_beams: int = 1
    num_return_sequences: int = 1
    temperature: float = 1.0
    top_k: int | None = 50
    top_p: float | None = 1.0
    min_p: float | None = None
    top_h: float | None = None
    typical_p: float | None = 1.0
    epsilon_cutoff: float | None = 0.0
    eta_cutoff: float | None = 0.0
    repetition_penalty: float = 1.0
    encoder_repetition_penalty: float = 1.0
    length_penalty: float = 1.0
    no_repeat_ngram_size: int = 0
    encoder_no_repeat_ngram_size: int = 0
    sequence_bias: Any = None
    bad_words_ids: Sequence[Sequence[int]] | None = None
    suppress_tokens: Sequence[int] | None = None
    begin_suppress_tokens: Sequence[int] | None = None
    forced_bos_token_id: int | None = None
    forced_eos_token_id: int | Sequence[int] | None = None
    exponential_decay_length_penalty: Sequence[float] | None = None
    remove_invalid_values: bool = False
    renormalize_logits: bool = False
    pad_token_id: int | None = None
    bos_token_id: int | None = None
    eos_token_id: int | Sequence[int] | None = None
    decoder_start_token_id: int | Sequence[int] | None = None
    seed: int | np.random.Generator | None = None

    def __post_init__(self) -> None:
        for name, (holds, needed) in RANGES.items():
            if not holds(getattr(self, name)):
                raise ValueError(f"{name} is {getattr(self, name)!r}; needed: {needed}")
        if self.num_return_sequences > 1 and not self.do_sample and self.num_return_sequences > self.num_beams:
            raise ValueError(
                f"num_return_sequences is {self.num_return_sequences}; needed without do_sample: "
                f"at most num_beams={self.num_beams}"
            )
        if self.do_sample and 1 < self.num_beams < self.num_return_sequences:
            raise ValueError(
                f"num_return_sequences is {self.num_return_sequences}; needed: at most num_beams={self.num_beams}"
            )
        if self.exponential_decay_length_penalty is not None and not self.eos:
            raise ValueError("exponential_decay_length_penalty is given and eos_token_id is None; needed: both")

    @property
    def eos(self) -> tuple[int, ...]:
        """The ids that end a row."""
        return _ids(self.eos_token_id)

    @property
    def biases(self) -> dict[tuple[int, ...], float]:
        """What sequence_bias adds to the score of an id that completes a sequence of ids."""
        given = self.sequence_bias or {}
        pairs = given.items() if isinstance(given, Mapping) else given
        return {tuple(ids): bias for ids, bias in pairs}

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
    return (_integer(value) or isinstance(value, (float, np.floating))) and abs(value) <= sys.float_info.max


def _token(value: Any) -> bool:
    return _integer(value) and value >= 0


def _tokens(value: Any) -> bool:
    return isinstance(value, (list, tuple, np.ndarray)) and all(_token(i) for i in value)


def _integers(value: Any) -> bool:
    return isinstance(value, (list, tuple, np.ndarray)) and all(_integer(i) for i in value)


def _biases(value: Any) -> bool:
    if not isinstance(value, (list, tuple, Mapping)) or not value:
        return False
    pairs = value.items() if isinstance(value, Mapping) else value
    return all(
        isinstance(pair, (list, tuple))
        and len(pair) == 2
        and _tokens(pair[0])
        and len(pair[0])
        and (_number(pair[1]) or pair[1] == -math.inf)
        for pair in pairs
    )


def _decay(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and len(value) == 2 and _integer(value[0]) and _number(value[1])


def _or_none(check: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: value is None or check(value)


_AT_LEAST_0 = (lambda value: _integer(value) and value >= 0, "an integer >= 0")
_AT_LEAST_1 = (lambda value: _integer(value) and value >= 1, "an integer >= 1")
_FLAG = (lambda value: isinstance(value, (bool, np.bool_)), "True or False")
_POSITIVE = (lambda value: _number(value) and value > 0, "a number > 0")
_TOKEN = (_or_none(_token), "a token id >= 0, or None")
_SUPPRESSED = (_or_none(_integers), "a list of token ids, or None")  # -1 is how some files say none
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
    "max_time": (_or_none(_number), "a number of seconds, or None"),
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
    "top_h": (_or_none(lambda value: _number(value) and 0 < value <= 1), "a number above 0 up to 1, or None"),
    "epsilon_cutoff": (_or_none(_number), "a number, or None"),
    "eta_cutoff": (_or_none(_number), "a number, or None"),
    "repetition_penalty": _POSITIVE,
    "encoder_repetition_penalty": _POSITIVE,
    "length_penalty": (_number, "a number"),
    "no_repeat_ngram_size": _AT_LEAST_0,
    "encoder_no_repeat_ngram_size": _AT_LEAST_0,
    "sequence_bias": (_or_none(_biases), "a list of [token ids, number], or None"),
    "bad_words_ids": (
        _or_none(lambda value: isinstance(value, (list, tuple)) and all(_tokens(word) and len(word) for word in value)),
        "a list of lists of token ids, or None",
    ),
    "suppress_tokens": _SUPPRESSED,
    "begin_suppress_tokens": _SUPPRESSED,
    "forced_bos_token_id": _TOKEN,
    "forced_eos_token_id": _ONE_OR_MORE,
    "exponential_decay_length_penalty": (_or_none(_decay), "(an integer, a number), or None"),
    "remove_invalid_values": _FLAG,
    "renormalize_logits": _FLAG,
    "pad_token_id": _TOKEN,
    "bos_token_id": _TOKEN,
    "eos_token_id": _ONE_OR_MORE,
    "decoder_start_token_id": _ONE_OR_MORE,
    "seed": (
        _or_none(lambda value: _integer(value) and value >= 0 or isinstance(value, np.random.Generator)),
        "an integer >= 0, a numpy.random.Generator, or None",
    ),
}

# Options that matter only where tokens are drawn by chance.
_SAMPLING = {"temperature", "top_k", "top_p", "min_p", "top_h", "typical_p", "epsilon_cutoff", "eta_cutoff"}

# Options of transformers that are not honoured -> the values with which they change nothing.
_UNSUPPORTED: dict[str, tuple] = {
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
    "use_mtp": (None, False),
    "speculation_type": (None,),
    "is_assistant": (None, False),
    "low_memory": (None, False),
    "generation_config": (None,),
    "stopping_criteria": (None,),
    "prefix_allowed_tokens_fn": (None,),
    "negative_prompt_ids": (None,),
    "negative_prompt_attention_mask": (None,),
    "custom_generate": (None,),
    "synced_gpus": (None, False),
    "inputs_embeds": (None,),
}


def _never(config: GenerationConfig, top_k: Any) -> bool:
    return False


# Those of them that a folder may ask for without effect -> whether they have one, given the config of a generation and
# the top_k that was asked for, with sampling or without. The others always have one.
_EFFECTS: dict[str, Callable[[GenerationConfig, Any], bool]] = {
    # Contrastive search; DoLa; beams in groups.
    "penalty_alpha": lambda config, top_k: config.num_beams == 1 and not config.do_sample and top_k not in (None, 0, 1),
    "dola_layers": lambda config, top_k: config.num_beams == 1,
    "num_beam_groups": lambda config, top_k: config.num_beams > 1,
    "low_memory": lambda config, top_k: config.num_beams > 1,
    "diversity_penalty": _never,  # without groups
    # These need return_dict_in_generate, which is refused by itself.
    "output_attentions": _never,
    "output_hidden_states": _never,
    "output_scores": _never,
    "output_logits": _never,
    # Ways to draft tokens, which the model then confirms: the same tokens sooner.
    "use_mtp": _never,
    "speculation_type": _never,
}

# How transformers is to compute, which has no effect on what it computes; and ways to draft tokens, which the model
# then checks: the same tokens sooner. A call's are read by speculation.py; a folder's would ask for one row.
_WITHOUT_EFFECT = {
    "prompt_lookup_num_tokens",
    "assistant_model",
    "_from_model_config",
    "_commit_hash",
    "transformers_version",
    "use_cache",
    "cache_implementation",
    "cache_config",
    "max_cache_len",
    "prefill_chunk_size",
    "compile_config",
    "disable_compile",
    "continuous_batching_config",
    "num_assistant_tokens",
    "num_assistant_tokens_schedule",
    "assistant_confidence_threshold",
    "assistant_early_exit",
    "assistant_lookbehind",
    "assistant_ensemble_weight",
    "max_matching_ngram_size",
    "target_lookbehind",
}

_DEFAULTS = {field.name: field.default for field in dataclasses.fields(GenerationConfig)}
FIELDS = set(_DEFAULTS)
# All names that this file knows.
KNOWN = FIELDS | _UNSUPPORTED.keys() | _WITHOUT_EFFECT
# Names of generation that config.json may hold: what is reported there is a matter of the model's calls, and seed one
# of training.
_REPORTS = {"output_attentions", "output_hidden_states", "output_scores", "output_logits", "return_dict_in_generate"}
_OF_MODELS = KNOWN - _REPORTS - {"seed"}


def resolve(defaults: Mapping[str, Any], options: Mapping[str, Any]) -> tuple[GenerationConfig, dict[str, Any]]:
    """(the config of a generation, what is left of options: inputs of the model).

    defaults: what the model's folder says, checked as far as this generation follows it. options: what the call says,
    which counts more; None, or a value that changes nothing, switches off what the folder asks for.

    Raises:
        NotImplementedError: an option of transformers that is not honoured; the text names it.
        ValueError, TypeError: an option is of a wrong type or out of range, or options contradict each other.
    """
    for name, value in options.items():
        if not _is_neutral(name, value):
            raise NotImplementedError(_unsupported(name, value))
    inputs = {name: value for name, value in options.items() if name not in KNOWN}
    chosen = _fields(options)
    merged = _fields(defaults) | chosen
    if not merged.get("do_sample"):
        asked_for = set() if "do_sample" in chosen else chosen.keys()
        merged = {name: value for name, value in merged.items() if name not in _SAMPLING - asked_for}
    for name in sorted(merged.keys() - chosen.keys()):
        holds, needed = RANGES[name]
        if not holds(merged[name]):
            raise ValueError(f"generation_config.json: {name} is {merged[name]!r}; needed: {needed}")
    config = GenerationConfig(**merged)
    top_k = options.get("top_k", defaults.get("top_k", config.top_k))
    for name, value in defaults.items():
        if name not in options and not _is_neutral(name, value) and _EFFECTS.get(name, _always)(config, top_k):
            raise NotImplementedError(f"generation_config.json: {_unsupported(name, value)} as an argument")
    return config, inputs


def _fields(options: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of `GenerationConfig` among options; None is the default where a field cannot be None."""
    return {
        name: _DEFAULTS[name] if value is None and not RANGES[name][0](None) else value
        for name, value in options.items()
        if name in FIELDS
    }


def _always(config: GenerationConfig, top_k: Any) -> bool:
    return True


def _unsupported(name: str, value: Any) -> str:
    return f"{name} is {value!r}, which is not supported; needed: {name}={_UNSUPPORTED[name][0]!r}"


def _is_neutral(name: str, value: Any) -> bool:
    return any(value is v or _equal(value, v) for v in _UNSUPPORTED.get(name, (value,)))


def _equal(value: Any, other: Any) -> bool:
    return isinstance(value, (bool, int, float)) and value == other


def read_generation_config(source: str | Path | ModelSource, config: Mapping[str, Any]) -> dict[str, Any]:
    """The defaults of a model: generation_config.json, else what config.json says of generation.

    source: a folder or an open source; config: the content of config.json. Values are not checked here: a model whose
    file asks for what is not supported may still be wanted for its scores. Entries that no option knows (settings of
    one model, such as Whisper's) are returned as well: the model's own `generate` reads them.

    Raises:
        CheckpointError: the file is no JSON object.
    """
    source = open_source(source)
    content = source.json("generation_config.json")
    if content is not None:
        content = checked_object(source.place("generation_config.json"), content)
    else:
        content = {name: value for name, value in config.items() if name in _OF_MODELS}
    if _integer(content.get("pad_token_id")) and content["pad_token_id"] < 0:
        content = content | {"pad_token_id": None}  # how old files say that there is none
    return {
        name: value
        for name, value in content.items()
        if value is not None
        and name not in _WITHOUT_EFFECT
        and (name not in _UNSUPPORTED or not _is_neutral(name, value))
    }
