"""`transformer-fast tag`: the names, places or parts of speech in a text."""

from __future__ import annotations

import argparse
from typing import Any

from transformer_fast.commands import common

# pipelines.token_tagger.STRATEGIES, which --help should not have to import.
_STRATEGIES = ("none", "simple", "first", "average", "max")


def add(commands: Any) -> None:
    command = commands.add_parser(
        "tag",
        help="the names, places or parts of speech in texts",
        description="Prints what a model for token classification finds in each text, and where it stands (first"
        " character, and the one behind the last). Texts are arguments, or the lines of --file (- or nothing: stdin).",
    )
    common.add_texts(command, "tag")
    common.add_folder(command, "a model for token classification")
    command.add_argument(
        "--strategy",
        choices=_STRATEGIES,
        default="simple",
        help="how tokens become words and names (default simple; none: every token)",
    )
    common.add_threads(command)
    common.add_json(command)
    command.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    from transformer_fast.pipelines import TokenTagger

    texts = common.texts(options)
    common.set_threads(options)
    tagger = TokenTagger.from_pretrained(options.model, compute_type=options.compute_type)
    entities = tagger(texts, aggregation_strategy=options.strategy)
    if options.json:
        common.print_json([{"text": text, "entities": found} for text, found in zip(texts, entities, strict=True)])
        return
    for text, found in zip(texts, entities, strict=True):
        print(common.shortened(text))
        for entity in found:
            label = entity["entity" if options.strategy == "none" else "entity_group"]
            place = f"{entity['start']}-{entity['end']}"
            print(f"  {entity['score']:.3f}  {label:<8}  {place:<9}  {text[entity['start'] : entity['end']]}")
