"""`transformer-fast rerank`: passages in the order in which a cross-encoder finds that they answer a query."""

from __future__ import annotations

import argparse
from typing import Any

from transformer_fast.commands import common


def add(commands: Any) -> None:
    command = commands.add_parser(
        "rerank",
        help="passages in the order of a cross-encoder's scores",
        description="Scores each passage of the files with QUERY and prints the highest. A file is one of paragraphs,"
        " or of Python (its docstrings); a folder is all such files in it. A cross-encoder reads each pair: for more"
        " than some hundred passages, `search --rerank` looks for candidates first.",
    )
    command.add_argument("query", metavar="QUERY", help="what the passages should answer")
    command.add_argument(
        "--in", dest="sources", metavar="FILE", nargs="+", required=True, help="files or folders; stdlib is `search`'s"
    )
    command.add_argument("--top", type=common.positive, default=5, metavar="K", help="how many passages (default 5)")
    command.add_argument(
        "--batch-size", type=common.positive, default=32, metavar="N", help="pairs a batch (default 32)"
    )
    common.add_folder(command, "a cross-encoder")
    common.add_threads(command)
    common.add_json(command)
    command.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    if not options.query.strip():
        raise common.UsageError("QUERY is empty")
    collections = [common.passages(source) for source in options.sources]
    places = [(collection, i) for collection in collections for i in range(len(collection.passages))]
    common.set_threads(options)
    ranked = common.cross_encoder(options.model, options.compute_type).rank(
        options.query,
        [collection.passages[i].text for collection, i in places],
        top_k=options.top,
        batch_size=options.batch_size,
    )
    hits = [common.hit(*places[entry["corpus_id"]], {"score": entry["score"]}) for entry in ranked]
    if options.json:
        common.print_json({"query": options.query, "hits": hits, "passages": len(places)})
    else:
        print("\n".join(common.hit_lines(hits)))
