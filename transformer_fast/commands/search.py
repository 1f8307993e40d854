"""`transformer-fast search`: the passages of a text that mean what a question means."""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformer_fast.commands import common, stored_embeddings

if TYPE_CHECKING:
    import numpy as np

    from transformer_fast.files.source import ModelSource
    from transformer_fast.pipelines import SentenceEncoder

# Candidates of a reranker where --candidates says nothing; sentence-transformers' examples retrieve 32 to 100.
_CANDIDATES = 50


def add(commands: Any) -> None:
    command = commands.add_parser(
        "search",
        help="the passages of a text that mean what a question means",
        description="Embeds the passages of SOURCE and prints those nearest to QUERY. SOURCE is `stdlib` (the"
        " docstrings of Python's own standard library), a file, or a folder: docstrings of .py files, paragraphs of"
        " others. A folder that is really called stdlib is ./stdlib. Embeddings stay in an index on disk, so that the"
        " next call embeds what has changed alone; texts do not.",
    )
    command.add_argument("query", metavar="QUERY", help="what to look for, in plain words")
    command.add_argument(
        "--in", dest="source", metavar="SOURCE", default="stdlib", help="stdlib (default), file, folder"
    )
    command.add_argument("--top", type=common.positive, default=5, metavar="K", help="how many hits (default 5)")
    command.add_argument(
        "--rerank",
        metavar="PATH_OR_ID",
        help="let a cross-encoder put the nearest passages in order: a folder, or name",
    )
    command.add_argument(
        "--candidates",
        type=common.positive,
        metavar="N",
        help=f"with --rerank: how many passages it scores (default {_CANDIDATES}, at least K)",
    )
    index = command.add_mutually_exclusive_group()
    index.add_argument(
        "--index",
        metavar="DIR",
        help="keep embeddings in this folder (default: transformer-fast/search in $XDG_CACHE_HOME, or ~/.cache)",
    )
    index.add_argument("--no-index", action="store_true", help="embed everything, and keep nothing on disk")
    common.add_model(command)
    common.add_threads(command)
    common.add_json(command)
    command.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    if not options.query.strip():
        raise common.UsageError("QUERY is empty")
    if options.candidates and not options.rerank:
        raise common.UsageError("--candidates needs --rerank")
    collection = common.passages(options.source)
    common.set_threads(options)
    if not options.no_index:
        options.model = common.encoder_source(options)
    encoder = common.encoder(options)
    texts = [passage.text for passage in collection.passages]
    work = _Work(encoder, options.source)
    corpus = work.embed(texts) if options.no_index else _indexed(options, texts, work)
    candidates = max(options.top, options.candidates or _CANDIDATES) if options.rerank else options.top
    found = _nearest(encoder, options.query, corpus, candidates)
    if options.rerank:
        found = _reranked(options, texts, found)[: options.top]
    hits = [common.hit(collection, entry.pop("corpus_id"), entry) for entry in found]
    result = {"query": options.query, "hits": hits, "passages": len(texts), **work.speed()}
    if options.json:
        common.print_json(result)
    else:
        print("\n".join([*common.hit_lines(hits), "", _report(result)]))


class _Work:
    """Embeds passages, and knows afterwards how many they were and how long that took."""

    def __init__(self, encoder: SentenceEncoder, source: str) -> None:
        self._encoder, self._source = encoder, source
        self._texts: list[str] = []
        self._seconds = 0.0

    def embed(self, texts: list[str]) -> np.ndarray:
        common.say(f"embedding {len(texts)} passages of {self._source}")
        started = time.perf_counter()
        embeddings = self._encoder.encode_document(texts)
        self._seconds = time.perf_counter() - started
        self._texts = texts
        return embeddings

    def speed(self) -> dict[str, Any]:
        from transformer_fast import show_config

        config, texts, seconds = show_config(), len(self._texts), self._seconds
        tokens = self._encoder.count_tokens(self._texts) if self._texts else 0
        return {
            "texts": texts,
            "tokens": tokens,
            "seconds": seconds,
            "texts_per_second": texts / seconds if texts else None,
            "tokens_per_second": tokens / seconds if texts else None,
            "isa": config["isa"],
            "num_threads": config["num_threads"],
        }


def _indexed(options: argparse.Namespace, texts: list[str], work: _Work) -> np.ndarray:
    from transformer_fast import __version__

    settings = {
        "source": options.source if options.source == "stdlib" else os.path.realpath(options.source),
        "model": _identity(options.model),
        "compute_type": options.compute_type,
        "version": __version__,
    }
    root = Path(options.index) if options.index else stored_embeddings.default_folder()
    return stored_embeddings.embeddings(root, settings, texts, work.embed, required=bool(options.index))


def _identity(source: ModelSource) -> str:
    """Which model it is: the place of its files, their names, sizes and times."""
    path = Path(str(source)).resolve()
    files = [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.is_file())
    facts = [[str(file), file.stat().st_size, file.stat().st_mtime_ns] for file in files]
    return hashlib.sha256(json.dumps([str(path), facts]).encode("utf-8", "surrogatepass")).hexdigest()


def _nearest(encoder: SentenceEncoder, query: str, corpus: np.ndarray, k: int) -> list[dict[str, Any]]:
    from transformer_fast import util

    score = util.score_function(encoder.similarity_fn_name)
    return util.semantic_search(encoder.encode_query(query), corpus, top_k=k, score_function=score)[0]


def _reranked(options: argparse.Namespace, texts: list[str], found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The candidates in the cross-encoder's order; the first search's score stays as "retrieval_score"."""
    reranker = common.cross_encoder(options.rerank, options.compute_type)
    ranked = reranker.rank(options.query, [texts[entry["corpus_id"]] for entry in found])
    return [
        {
            "score": entry["score"],
            "retrieval_score": found[entry["corpus_id"]]["score"],
            "corpus_id": found[entry["corpus_id"]]["corpus_id"],
        }
        for entry in ranked
    ]


def _report(result: dict[str, Any]) -> str:
    machine = f"(ISA {result['isa']}, {result['num_threads']} threads)"
    if not result["texts"]:
        return f"{result['passages']} passages, all of them from the index {machine}"
    return (
        f"{result['texts']} texts, {result['tokens']} tokens in {result['seconds']:.2f} s: "
        f"{result['texts_per_second']:.0f} texts/s, {result['tokens_per_second']:.0f} tokens/s {machine}"
    )
