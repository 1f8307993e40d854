"""Options and loading that the commands on language models share: `generate` and `chat`.

An option of generation is an argument in `add_sampling` or `add_constraint` and a line in `search_options` or
`logits_processor`.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import Any

from transformer_fast.commands import common

_CACHE_TYPES = ("float32", "bfloat16", "float16", "int8")  # of models.common.decoding, without importing it


def add_sampling(command: argparse.ArgumentParser) -> None:
    command.add_argument("--temperature", type=_temperature, metavar="T", help="sample; 0: do not sample")
    command.add_argument("--top-p", type=_share, metavar="P", help="sample among the likeliest that make up P")
    command.add_argument("--top-k", type=common.positive, metavar="K", help="sample among the K likeliest")
    command.add_argument("--seed", type=_seed, metavar="S", help="sample, the same each time")
    command.add_argument(
        "--kv-cache-dtype",
        choices=_CACHE_TYPES,
        help="how a decoder keeps keys and values of earlier tokens: bfloat16 and float16 take half the memory of"
        " float32, int8 a little more than a quarter (default: float32)",
    )


def add_constraint(command: argparse.ArgumentParser) -> None:
    kind = command.add_mutually_exclusive_group()
    kind.add_argument("--json-schema", metavar="FILE", help="the text is JSON that the schema in FILE describes")
    kind.add_argument("--regex", metavar="R", help="the text matches the regular expression R")


def search_options(options: argparse.Namespace) -> dict[str, Any]:
    """The options of `generate` that say how tokens are chosen."""
    sampling = {
        "temperature": options.temperature,
        "top_p": options.top_p,
        "top_k": options.top_k,
        "seed": options.seed,
    }
    given = {name: value for name, value in sampling.items() if value is not None}
    if given.get("temperature") == 0:
        if len(given) > 1:
            raise common.UsageError("--temperature 0 means no sampling; --top-p, --top-k and --seed do not go with it")
        return {"do_sample": False}
    return {"do_sample": True, **given} if given else {}


def constraint(options: argparse.Namespace) -> Any:
    """The `Constraint` that is asked for, or None."""
    if options.json_schema is None and options.regex is None:
        return None
    from transformer_fast.generation import Constraint

    if options.regex is not None:
        return Constraint.regex(options.regex)
    try:
        return Constraint.json_schema(Path(options.json_schema).read_text(encoding="utf-8-sig"))
    except ValueError as error:
        raise ValueError(f"{options.json_schema}: {error}") from None


def load(path_or_hub_id: str, compute_type: str) -> tuple[Any, Any]:
    """The model, which must be able to generate, and its tokenizer."""
    from transformer_fast.files.folder import find_model
    from transformer_fast.generation import GenerationMixin, load_tokenizer
    from transformer_fast.models import load_model

    place = find_model(path_or_hub_id)
    model = load_model(place, compute_type=compute_type)
    if not isinstance(model, GenerationMixin):
        raise ValueError(f"{path_or_hub_id}: {type(model).__name__} does not generate text; needed: a language model")
    return model, load_tokenizer(place)


def _number(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise argparse.ArgumentTypeError(f"{text!r} is no number")
    return number


def _temperature(text: str) -> float:
    number = _number(text)
    if number < 0:
        raise argparse.ArgumentTypeError(f"{text!r} is no number >= 0")
    return number


def _share(text: str) -> float:
    number = _number(text)
    if not 0 < number <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no number above 0, up to 1")
    return number


def _seed(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number >= 0")
    return int(text)
