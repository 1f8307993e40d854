"""`transformer-fast generate`: a prompt in, its continuation out, word by word."""

from __future__ import annotations

import argparse
import math
import sys
import time
from typing import Any

from transformer_fast.commands import common

_CACHE_TYPES = ("float32", "bfloat16", "float16", "int8")  # of models.common.decoding, without importing it


def add(commands: Any) -> None:
    command = commands.add_parser(
        "generate",
        help="a prompt in, its continuation out",
        description="Continues PROMPT, or what stands on stdin, with a language model. The new text goes to stdout as"
        " it comes. Without --temperature, --top-p, --top-k and --seed the most likely token is taken each time, unless"
        " the model's own generation_config.json says otherwise.",
    )
    command.add_argument("prompt", nargs="?", metavar="PROMPT", help="the text to continue (default: stdin)")
    common.add_folder(command, "a language model and its tokenizer.json, a GGUF file")
    command.add_argument(
        "--chat",
        action="store_true",
        help="PROMPT is a user's message, by the model's chat template; the text answers it",
    )
    command.add_argument(
        "--max-new-tokens", type=common.positive, default=100, metavar="N", help="at most so many (default 100)"
    )
    command.add_argument("--temperature", type=_temperature, metavar="T", help="sample; 0: do not sample")
    command.add_argument("--top-p", type=_share, metavar="P", help="sample among the likeliest that make up P")
    command.add_argument("--top-k", type=common.positive, metavar="K", help="sample among the K likeliest")
    command.add_argument("--seed", type=_seed, metavar="S", help="sample, the same each time")
    command.add_argument("--beams", type=common.positive, default=1, metavar="N", help="beam search with N beams")
    command.add_argument(
        "--kv-cache-dtype",
        choices=_CACHE_TYPES,
        help="how a decoder keeps keys and values of earlier tokens: bfloat16 and float16 take half the memory of"
        " float32, int8 a little more than a quarter (default: float32)",
    )
    common.add_threads(command)
    common.add_json(command, help="print prompt, text, number of tokens and seconds as JSON, at the end")
    command.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    search = _search(options)
    prompt = _prompt(options)
    common.set_threads(options)
    model, tokenizer = _load(options.model, options.compute_type)
    if options.chat:
        ids = tokenizer.apply_chat_template([{"role": "user", "content": prompt}], add_generation_prompt=True)
    else:
        ids = tokenizer.encode(prompt).ids
    if not ids:
        raise ValueError("the prompt has no tokens")
    pieces: list[str] = []
    started = time.perf_counter()
    new = _generate(model, tokenizer, ids, search, pieces.append if options.json else _write)
    seconds = time.perf_counter() - started
    if options.json:
        text = "".join(pieces)
        common.print_json(
            {"prompt": prompt, "text": text, "prompt_tokens": len(ids), "tokens": new, "seconds": seconds}
        )
    else:
        print()
        common.say(f"{new} tokens after {len(ids)} in {seconds:.2f} s: {new / seconds:.1f} tokens/s")


def _search(options: argparse.Namespace) -> dict[str, Any]:
    """The options of `generate` that were asked for."""
    search: dict[str, Any] = {"max_new_tokens": options.max_new_tokens, "num_beams": options.beams}
    if options.kv_cache_dtype is not None:
        search["kv_cache_dtype"] = options.kv_cache_dtype
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
        return {**search, "do_sample": False}
    return {**search, "do_sample": True, **given} if given else search


def _prompt(options: argparse.Namespace) -> str:
    if options.prompt is not None:
        prompt = options.prompt
    elif sys.stdin.isatty():
        raise common.UsageError("no prompt: give PROMPT, or text on stdin")
    else:
        if hasattr(sys.stdin, "reconfigure"):
            sys.stdin.reconfigure(encoding="utf-8-sig")
        try:
            prompt = sys.stdin.read().removesuffix("\n")
        except UnicodeDecodeError as error:
            raise ValueError(f"stdin: is no text in UTF-8 ({error.reason} at byte {error.start})") from None
    if not prompt:
        raise common.UsageError("PROMPT is empty")
    return prompt


def _load(path_or_hub_id: str, compute_type: str) -> tuple[Any, Any]:
    """The model, which must be able to generate, and its tokenizer."""
    from transformer_fast.files.folder import find_model
    from transformer_fast.generation import GenerationMixin, load_tokenizer
    from transformer_fast.models import load_model

    place = find_model(path_or_hub_id)
    model = load_model(place, compute_type=compute_type)
    if not isinstance(model, GenerationMixin):
        raise ValueError(f"{path_or_hub_id}: {type(model).__name__} does not generate text; needed: a language model")
    return model, load_tokenizer(place)


def _generate(model: Any, tokenizer: Any, ids: list[int], search: dict[str, Any], write: Any) -> int:
    """Generates, hands the text to `write`, and returns the number of new tokens."""
    import numpy as np

    from transformer_fast.generation import TextStreamer

    prompt = np.array([ids])
    if search["num_beams"] == 1:
        streamer = TextStreamer(tokenizer, write=write)
        result = model.generate(prompt, tokenizer=tokenizer, streamer=streamer, **search)
    else:  # beams are not final before the end
        result = model.generate(prompt, tokenizer=tokenizer, **search)
        first = 1 if model.is_encoder_decoder else len(ids)
        write(tokenizer.decode(result[0, first:].tolist(), skip_special_tokens=True))
    return result.shape[1] - (1 if model.is_encoder_decoder else len(ids))


def _write(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


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
