"""Tokens a second of a language engine by the number of its clients: `python -m benchmarks.serving_chat [--quick]`.

A model with random weights in the shape of Qwen2.5-0.5B (--shape gpt2: GPT-2 small's), kept as --compute-type says.
Each round measures `model.generate` for one prompt and the engine with 1, 2, 4, ... clients, all of which ask at once
with a prompt of their own, in turns; a figure is the median of the rounds, a ratio the median of the rounds' ratios.
"pieces": seconds to read a prompt of 1,024 tokens in pieces of so many, and the longest time that a running row waits
for its next token meanwhile. "python": microseconds a row and step that are not spent in calls of the model. Lines are
printed as they come, the JSON at the end. A further shape is an entry in `SHAPES`. Let nothing else run meanwhile.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

# The fields of the families' configs; transformers' defaults are GPT-2 small's.
SHAPES: dict[str, tuple[str, dict[str, Any]]] = {
    "qwen": (
        "Qwen2ForCausalLM",
        {
            "vocab_size": 151936,
            "hidden_size": 896,
            "intermediate_size": 4864,
            "num_hidden_layers": 24,
            "num_attention_heads": 14,
            "num_key_value_heads": 2,
            "max_position_embeddings": 32768,
            "tie_word_embeddings": True,
        },
    ),
    "gpt2": ("GPT2LMHeadModel", {}),
}
CLIENTS = (1, 2, 4, 8, 16)
PIECES = (64, 128, 256, 512)
_PROMPT, _LONG_PROMPT, _ROUNDS = 64, 1024, 5
_GREEDY = {"eos_token_id": None}


class _Letters:
    """Stands for a tokenizer; decoding takes 5 us a token with a real one."""

    def decode(self, ids, skip_special_tokens=False) -> str:
        return "".join(chr(256 + id % 1024) for id in ids)


def _model(shape: str, compute_type: str, folder: Path) -> Any:
    from transformer_fast import load_model, models

    name, fields = SHAPES[shape]
    made = getattr(models, name)
    model = made(made.read_config(fields, folder / "config.json"))
    model.save_pretrained(folder)
    return load_model(folder, compute_type=compute_type)


def _prompt(model: Any, seed: int, n: int = _PROMPT) -> list[int]:
    return np.random.default_rng(seed).integers(0, model.config.vocab_size, n).tolist()


def _generate(model: Any, tokens: int) -> float:
    begin = time.perf_counter()
    model.generate([_prompt(model, 0)], max_new_tokens=tokens, **_GREEDY)
    return tokens / (time.perf_counter() - begin)


def _clients(engine: Any, clients: int, tokens: int) -> tuple[float, float]:
    """Tokens a second of all clients, prompts included, and microseconds a row and step outside of the model."""
    prompts = [_prompt(engine.model, seed) for seed in range(clients)]
    before, begin = engine.stats(), time.perf_counter()
    answers = [engine.submit(prompt, max_new_tokens=tokens, **_GREEDY) for prompt in prompts]
    for answer in answers:
        answer.result()
    seconds, after = time.perf_counter() - begin, engine.stats()
    inside = sum(after[name] - before[name] for name in ("seconds_prompts", "seconds_steps"))
    return clients * tokens / seconds, 1e6 * (seconds - inside) / (clients * tokens)


def _pieces(model: Any, piece: int) -> dict[str, float]:
    """What a long prompt takes, and what it does to a row that runs."""
    from transformer_fast.serving import LanguageEngine

    with LanguageEngine(model, _Letters(), prompt_piece=piece, share_prompts=False) as engine:
        alone = time.perf_counter()
        engine.submit(_prompt(model, 1, _LONG_PROMPT - 1), max_new_tokens=1, **_GREEDY).result()
        alone = time.perf_counter() - alone
        times: list[float] = []
        runs = engine.submit(_prompt(model, 2), max_new_tokens=512, **_GREEDY)
        runs.listen(lambda piece: times.append(time.perf_counter()))
        engine.submit(_prompt(model, 3, _LONG_PROMPT - 1), max_new_tokens=1, **_GREEDY).result()
        runs.cancel()
        runs.result()
    return {"prompt_seconds": alone, "longest_wait_seconds": float(np.diff(times).max())}


def measure(model: Any, rounds: int, tokens: int, clients: tuple[int, ...]) -> dict[str, Any]:
    """The figures of one model, as the module describes them."""
    from transformer_fast.serving import LanguageEngine

    found: dict[Any, list[float]] = {name: [] for name in ("generate", *clients)}
    python: dict[int, list[float]] = {n: [] for n in clients}
    with LanguageEngine(model, _Letters(), share_prompts=False) as engine:
        _clients(engine, max(clients), 2)
        for turn in range(rounds):
            found["generate"].append(_generate(model, tokens))
            for n in clients:
                speed, outside = _clients(engine, n, tokens)
                found[n].append(speed)
                python[n].append(outside)
            print(turn, {name: round(values[-1], 1) for name, values in found.items()}, flush=True)
    one = found[clients[0]]
    return {
        "tokens_per_second": {str(name): statistics.median(values) for name, values in found.items()},
        "of_one_client": {
            str(name): statistics.median(a / b for a, b in zip(values, one, strict=True))
            for name, values in found.items()
        },
        "python_us_per_row_and_step": {str(n): statistics.median(values) for n, values in python.items()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", choices=SHAPES, default="qwen")
    parser.add_argument("--compute-type", default="float32")
    parser.add_argument("--tokens", type=int, default=64, help="of each answer")
    parser.add_argument("--quick", action="store_true", help="one round of short answers, without pieces")
    parser.add_argument("--out", type=Path, help="a file for the JSON")
    args = parser.parse_args()
    from transformer_fast import show_config

    with TemporaryDirectory() as folder:
        model = _model(args.shape, args.compute_type, Path(folder))
    rounds, tokens = (1, 8) if args.quick else (_ROUNDS, args.tokens)
    figures = {"shape": args.shape, "compute_type": args.compute_type, "prompt": _PROMPT, "answer": tokens}
    figures |= {"config": show_config(), **measure(model, rounds, tokens, CLIENTS)}
    if not args.quick:
        figures["pieces"] = {str(piece): _pieces(model, piece) for piece in PIECES}
    text = json.dumps(figures, indent=1, default=str)
    print(text)
    if args.out is not None:
        args.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
