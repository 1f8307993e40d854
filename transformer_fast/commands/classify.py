"""`transformer-fast classify`: which label fits a text, or a picture?"""

from __future__ import annotations

import argparse
from typing import Any

from transformer_fast.commands import common


def add(commands: Any) -> None:
    command = commands.add_parser(
        "classify",
        help="the labels that fit texts, or pictures",
        description="Prints the labels that the model finds for each text, the best first: for arguments, or for the"
        " lines of --file (- or nothing: stdin). With a model of pictures (ViT, DeiT) each of them names a file.",
    )
    common.add_texts(command, "classify")
    common.add_folder(command, "a model for classification")
    command.add_argument("--top", type=common.positive, default=1, metavar="K", help="how many labels (default 1)")
    common.add_threads(command)
    common.add_json(command)
    command.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    from transformer_fast.pipelines import load_classifier

    inputs = common.texts(options)
    common.set_threads(options)
    labels = load_classifier(options.model, compute_type=options.compute_type)(inputs, top_k=options.top)
    if options.top == 1:
        labels = [found if isinstance(found, list) else [found] for found in labels]
    if options.json:
        common.print_json([{"input": text, "labels": found} for text, found in zip(inputs, labels, strict=True)])
        return
    width = max(len(label["label"]) for found in labels for label in found)
    for text, found in zip(inputs, labels, strict=True):
        for rank, label in enumerate(found):
            line = f"{label['score']:.3f}  {label['label'].ljust(width)}  "
            print((line if rank else line + common.shortened(text)).rstrip())
