"""`transformer-fast search`: the passages of a text that mean what a question means."""

from __future__ import annotations

import argparse
import textwrap
import time
from typing import TYPE_CHECKING, Any

from transformer_fast.commands import common

if TYPE_CHECKING:
    import numpy as np

    from transformer_fast.passages import Collection
    from transformer_fast.pipelines import SentenceEncoder


def add(commands: Any) -> None:
    command = commands.add_parser(
        "search",
        help="the passages of a text that mean what a question means",
        description="Embeds the passages of SOURCE and prints those nearest to QUERY. SOURCE is `stdlib` (the"
        " docstrings of Python's own standard library), a file, or a folder: docstrings of .py files, paragraphs of"
        " others. A folder that is really called stdlib is ./stdlib.",
    )
    command.add_argument("query", metavar="QUERY", help="what to look for, in plain words")
    command.add_argument(
        "--in", dest="source", metavar="SOURCE", default="stdlib", help="stdlib (default), file, folder"
    )
    command.add_argument("--top", type=common.positive, default=5, metavar="K", help="how many hits (default 5)")
    common.add_model(command)
    common.add_threads(command)
    common.add_json(command)
    command.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    if not options.query.strip():
        raise common.UsageError("QUERY is empty")
    collection = _collection(options.source)
    common.set_threads(options)
    encoder = common.encoder(options)
    texts = [passage.text for passage in collection.passages]
    common.say(f"embedding {len(texts)} passages of {options.source}")
    started = time.perf_counter()
    embeddings = encoder.encode(texts, normalize_embeddings=True)
    seconds = time.perf_counter() - started
    scores = embeddings @ encoder.encode(options.query, normalize_embeddings=True)
    result = {
        "query": options.query,
        "hits": _hits(collection, scores, options.top),
        **_speed(encoder, texts, seconds),
    }
    if options.json:
        common.print_json(result)
    else:
        print(_report(result))


def _collection(source: str) -> Collection:
    from transformer_fast import passages

    collection = passages.standard_library() if source == "stdlib" else passages.from_path(source)
    for file, reason in collection.skipped:
        common.say(f"left out: {file} {reason}")
    return collection


def _hits(collection: Collection, scores: np.ndarray, top: int) -> list[dict[str, Any]]:
    best = (-scores).argsort(kind="stable")[:top]
    return [
        {
            "score": float(scores[index]),
            "place": passage.place,
            "name": passage.name,
            "file": str(collection.root / passage.file),
            "line": passage.line,
            "text": passage.text,
        }
        for index in best
        for passage in [collection.passages[index]]
    ]


def _speed(encoder: SentenceEncoder, texts: list[str], seconds: float) -> dict[str, Any]:
    from transformer_fast import show_config

    config = show_config()
    tokens = encoder.count_tokens(texts)
    return {
        "texts": len(texts),
        "tokens": tokens,
        "seconds": seconds,
        "texts_per_second": len(texts) / seconds,
        "tokens_per_second": tokens / seconds,
        "isa": config["isa"],
        "num_threads": config["num_threads"],
    }


def _report(result: dict[str, Any]) -> str:
    lines = []
    for rank, hit in enumerate(result["hits"], 1):
        lines.append(f"{rank:3}  {hit['score']:.3f}  {hit['place']}")
        lines.append(f"{'':12}{textwrap.shorten(hit['text'], 100, placeholder=' ...')}")
    lines.append(
        f"\n{result['texts']} texts, {result['tokens']} tokens in {result['seconds']:.2f} s: "
        f"{result['texts_per_second']:.0f} texts/s, {result['tokens_per_second']:.0f} tokens/s "
        f"(ISA {result['isa']}, {result['num_threads']} threads)"
    )
    return "\n".join(lines)
