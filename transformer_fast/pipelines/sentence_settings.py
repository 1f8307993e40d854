"""The settings of a sentence encoder: modules.json and the other files of sentence-transformers.

`SentenceEncoder.from_pretrained` calls `read_settings`. A way of pooling is a name in `POOLING`, and its computation in
`sentence_encoder._pool`; what follows the pooling is in `sentence_modules`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import Any

from transformer_fast.files.errors import CheckpointError
from transformer_fast.files.source import ModelSource
from transformer_fast.files.tokenizer import Tokenizer, typed
from transformer_fast.pipelines.sentence_modules import KINDS, Part

# 1_Pooling/config.json's flags of older releases -> pooling_mode of newer ones, in the order of concatenation.
_POOLING_FLAGS = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
POOLING = ("mean", "cls", "max", "mean_sqrt_len_tokens", "weightedmean", "lasttoken")

# The settings of a sentence-transformers model's tokens, by the family that it was made for; the first that is there.
_CONFIGS = tuple(
    f"sentence_{family}_config.json"
    for family in ("bert", "roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet")
)


@dataclass
class SentenceSettings:
    """How texts become tokens, and tokens one vector."""

    pooling: tuple[str, ...] = ("mean",)
    include_prompt: bool = True
    following: tuple[tuple[str, Part], ...] = ()  # kind and files of each module after the pooling
    prompts: dict[str, str] = field(default_factory=lambda: {"query": "", "document": ""})
    default_prompt_name: str | None = None
    similarity: str = "cosine"
    truncate_dim: int | None = None
    max_seq_length: int | None = None


def read_settings(source: ModelSource) -> tuple[ModelSource, SentenceSettings]:
    """The source of the model itself, and the settings beside it; without modules.json the tokens' mean is taken.

    Raises:
        CheckpointError: a file is malformed or asks for what is not supported.
    """
    settings = SentenceSettings()
    model_source = _read_modules(source, settings)
    _read_prompts(source, settings)
    return model_source, settings


def _read_modules(source: ModelSource, settings: SentenceSettings) -> ModelSource:
    """Read modules.json and the pooling's config; the source of the model itself."""
    modules, place = source.json("modules.json"), source.place("modules.json")
    if modules is None:
        return source
    if not isinstance(modules, list) or not all(
        isinstance(m, dict) and isinstance(m.get("type"), str) for m in modules
    ):
        raise CheckpointError(f"{place}: needed: a list of objects with type and path")
    kinds = [module["type"].rpartition(".")[2] for module in modules]
    if kinds[:2] != ["Transformer", "Pooling"] or not set(kinds[2:]) <= set(KINDS):
        raise CheckpointError(
            f"{place}: the modules are {', '.join(kinds) or 'none'}; "
            f"supported: Transformer, Pooling and, after them, {', '.join(KINDS)}"
        )
    model, pooling = (source.part(module.get("path"), "modules.json") for module in modules[:2])
    _read_pooling(pooling, settings)
    settings.following = tuple(
        (kind, partial(source.part, module.get("path"), "modules.json"))
        for kind, module in zip(kinds[2:], modules[2:], strict=True)
    )
    return model


def _read_pooling(source: ModelSource, settings: SentenceSettings) -> None:
    config, place = source.object("config.json"), source.place("config.json")
    modes = config.get("pooling_mode")
    if modes is None:
        modes = [mode for flag, mode in _POOLING_FLAGS.items() if config.get(flag)] or ["mean"]
    modes = [modes] if isinstance(modes, str) else modes
    if not isinstance(modes, list) or not modes or any(mode not in POOLING for mode in modes):
        raise CheckpointError(f"{place}: the pooling is {modes!r}; supported: {', '.join(POOLING)}")
    settings.pooling = tuple(modes)
    settings.include_prompt = typed(place, config, "include_prompt", bool, True)


def _read_prompts(source: ModelSource, settings: SentenceSettings) -> None:
    name = "config_sentence_transformers.json"
    config, place = source.object(name, required=False), source.place(name)
    prompts = typed(place, config, "prompts", dict, {})
    settings.prompts |= {name: "" if prompt is None else prompt for name, prompt in prompts.items()}
    if not all(isinstance(prompt, str) and _is_utf8(prompt) for prompt in settings.prompts.values()):
        raise CheckpointError(f"{place}: prompts holds something else than strings and null")
    settings.default_prompt_name = typed(place, config, "default_prompt_name", str, None)
    settings.similarity = typed(place, config, "similarity_fn_name", str, "cosine")
    settings.truncate_dim = typed(place, config, "truncate_dim", int, None)
    if settings.default_prompt_name is not None and settings.default_prompt_name not in settings.prompts:
        raise CheckpointError(
            f"{place}: default_prompt_name {settings.default_prompt_name!r} is not one of the prompts"
        )


def _is_utf8(text: str) -> bool:
    return not any("\ud800" <= character <= "\udfff" for character in text)


def sentence_config(source: ModelSource) -> tuple[str, dict[str, Any]]:
    """The name and the content of the file with the model's max_seq_length and do_lower_case; {} if there is none."""
    for name in _CONFIGS:
        if source.json(name) is not None:
            return name, source.object(name)
    return _CONFIGS[0], {}


def sentence_tokenizer(source: ModelSource, settings: SentenceSettings) -> Tokenizer:
    """The tokenizer of a model, with the lower-casing and the length limit that sentence_bert_config.json asks for.

    Raises:
        CheckpointError: a file is missing, malformed or asks for what is not supported.
    """
    name, config = sentence_config(source)
    place = source.place(name)
    tokenizer = Tokenizer(source, lower_case=typed(place, config, "do_lower_case", bool, False))
    if any(tokenizer.tokenizer.encode("a").type_ids):
        raise CheckpointError(
            f"{source.place('tokenizer.json')}: gives a single text token types other than 0, which is not supported"
        )
    task = config.get("transformer_task", "feature-extraction")
    if task != "feature-extraction":
        raise CheckpointError(f"{place}: transformer_task is {task!r}; supported: 'feature-extraction'")
    limit = typed(place, config, "max_seq_length", int, None) or tokenizer.max_length
    if limit is not None and limit < tokenizer.tokenizer.num_special_tokens_to_add(False):
        raise CheckpointError(f"{source}: the maximal length of a text is {limit} tokens, less than its special tokens")
    settings.max_seq_length = limit
    return tokenizer
