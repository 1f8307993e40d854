"""`transformer-fast similarity`: how alike are texts; which text belongs to which picture?"""

from __future__ import annotations

import argparse
from itertools import combinations
from typing import Any

from transformer_fast.commands import common


def add(commands: Any) -> None:
    command = commands.add_parser(
        "similarity",
        help="how alike texts are, or texts and pictures",
        description="Compares all texts with each other by their embeddings (1: the same direction), the most similar"
        " first. With --image and a CLIP model it compares each picture with each text, and says how probable each of"
        " the texts is. Texts are arguments, or the lines of --file (- or nothing: stdin).",
    )
    common.add_texts(command, "compare")
    command.add_argument(
        "--image", action="append", default=[], metavar="FILE", help="a picture; may be given several times"
    )
    common.add_model(command)
    common.add_threads(command)
    common.add_json(command)
    command.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    texts = common.texts(options)
    if options.image and not options.model:
        raise common.UsageError("--image needs --model: a folder with a CLIP model, or its name on the hub")
    if not options.image and len(texts) < 2:
        raise common.UsageError("one text alone: give two or more, or --image")
    common.set_threads(options)
    found = _pictures(options, texts) if options.image else _pairs(options, texts)
    if options.json:
        common.print_json(found)
        return
    for entry in found:
        if options.image:
            names = f"{entry['probability']:.3f}  {entry['image']}  {common.shortened(entry['text'])}"
        else:
            names = f"{common.shortened(entry['a'], 50)}  |  {common.shortened(entry['b'], 50)}"
        print(f"{entry['similarity']:6.3f}  {names}")


def _pairs(options: argparse.Namespace, texts: list[str]) -> list[dict[str, Any]]:
    from transformer_fast import util

    embeddings = common.encoder(options).encode(texts)
    cosines = util.cos_sim(embeddings, embeddings)
    pairs = [
        {"similarity": float(cosines[i, j]), "a": texts[i], "b": texts[j]}
        for i, j in combinations(range(len(texts)), 2)
    ]
    return sorted(pairs, key=lambda pair: -pair["similarity"])


def _pictures(options: argparse.Namespace, texts: list[str]) -> list[dict[str, Any]]:
    from transformer_fast.pipelines import ImageTextSimilarity

    model = ImageTextSimilarity.from_pretrained(options.model, compute_type=options.compute_type)
    found = model.compare(options.image, texts)
    return [
        {"similarity": float(cosine), "probability": float(share), "image": image, "text": text}
        for image, cosines, shares in zip(options.image, *found, strict=True)
        for cosine, share, text in sorted(zip(cosines, shares, texts, strict=True), key=lambda entry: -entry[0])
    ]
