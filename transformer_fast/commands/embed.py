"""`transformer-fast embed`: texts in, one embedding a text out."""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from transformer_fast.commands import common

# util.PRECISIONS, which --help should not have to import.
PRECISIONS = ("float32", "int8", "uint8", "binary", "ubinary")

if TYPE_CHECKING:
    import numpy as np


def add(commands: Any) -> None:
    command = commands.add_parser(
        "embed",
        help="texts in, one embedding a text out",
        description="Embeds the texts given as arguments, or the lines of --file (- or nothing: stdin; an empty line is"
        " an empty text). Without -o one JSON object a line goes to stdout.",
    )
    common.add_texts(command, "embed")
    command.add_argument("-o", "--output", metavar="OUT", help="write OUT.npy (texts x features) or OUT.jsonl instead")
    command.add_argument(
        "--batch-size", type=common.positive, default=32, metavar="N", help="texts a batch (default 32)"
    )
    command.add_argument("--normalize", action="store_true", help="scale every embedding to length 1")
    command.add_argument(
        "--precision",
        choices=PRECISIONS,
        default="float32",
        help="int8 and uint8: a byte a number, in the ranges of these texts; binary and ubinary: a bit a number",
    )
    command.add_argument(
        "--truncate-dim", type=common.positive, metavar="N", help="keep the first N numbers of every embedding"
    )
    common.add_sides(command)
    common.add_model(command)
    common.add_threads(command)
    common.add_json(command, help="with -o: print what was written as JSON on stdout")
    command.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    output = common.checked_output(options.output, (".npy", ".jsonl"))
    texts = common.texts(options)
    common.set_threads(options)
    encoder = common.encoder(options)
    started = time.perf_counter()
    encode = encoder.encode_query if options.query else encoder.encode_document if options.document else encoder.encode
    embeddings = encode(texts, batch_size=options.batch_size, **_given(options))
    seconds = time.perf_counter() - started
    if output is None:
        _write_jsonl(sys.stdout, texts, embeddings)
    else:
        _write_embeddings(output, texts, embeddings)
        common.say(f"wrote {len(texts)} embeddings of {embeddings.shape[1]} features to {output} in {seconds:.2f} s")
        if options.json:
            common.print_json(
                {
                    "output": str(output),
                    "texts": len(texts),
                    "features": embeddings.shape[1],
                    "seconds": seconds,
                    "texts_per_second": len(texts) / seconds,
                }
            )


def _given(options: argparse.Namespace) -> dict[str, Any]:
    """The arguments of `encode` that the caller has set: what a model's folder says counts for the others."""
    given = {
        "normalize_embeddings": options.normalize or None,
        "precision": None if options.precision == "float32" else options.precision,
        "truncate_dim": options.truncate_dim,
        "prompt_name": options.prompt_name,
        "prompt": options.prompt,
        "task": options.task,
    }
    return {name: value for name, value in given.items() if value is not None}


def _write_embeddings(path: Path, texts: list[str], embeddings: np.ndarray) -> None:
    import numpy as np

    if path.suffix == ".npy":
        with common.replacing(path, "wb") as file:
            np.save(file, embeddings)
    else:
        with common.replacing(path, "w") as file:
            _write_jsonl(file, texts, embeddings)


def _write_jsonl(file: IO[str], texts: list[str], embeddings: np.ndarray) -> None:
    for text, embedding in zip(texts, embeddings, strict=True):
        # str() of a float32 is its shortest exact form; tolist() would print the digits of the widened float64.
        numbers = ", ".join(str(value) for value in embedding)
        file.write(f'{{"text": {json.dumps(text)}, "embedding": [{numbers}]}}\n')
