"""`transformer-fast generate`: a prompt in, its continuation out, word by word."""

from __future__ import annotations

import argparse
import sys
import time
from typing import Any

from transformer_fast.commands import common, language_model


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
    language_model.add_sampling(command)
    language_model.add_constraint(command)
    command.add_argument("--beams", type=common.positive, default=1, metavar="N", help="beam search with N beams")
    common.add_threads(command)
    common.add_json(command, help="print prompt, text, number of tokens and seconds as JSON, at the end")
    command.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    search = _search(options)
    prompt = _prompt(options)
    common.set_threads(options)
    constraint = language_model.constraint(options)
    model, tokenizer = language_model.load(options.model, options.compute_type)
    if constraint is not None:
        from transformer_fast.generation import constraint_processor

        search["logits_processor"] = constraint_processor(constraint, tokenizer)
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
    return {**search, **language_model.search_options(options)}


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
