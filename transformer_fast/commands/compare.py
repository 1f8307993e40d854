"""`transformer-fast compare`: how far a compute_type is from float32 on a model and texts, and what it brings.

`accuracy.compare` computes it; what each kind of differences is called in the report stands in `_difference_lines`.
"""

from __future__ import annotations

import argparse
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from transformer_fast.commands import common

if TYPE_CHECKING:
    from transformer_fast.accuracy import Comparison
    from transformer_fast.accuracy.differences import Differences

_SENTENCES = 500


def add(commands: Any) -> None:
    command = commands.add_parser(
        "compare",
        help="how accurate, small and fast a compute type is, next to float32",
        description="Loads MODEL as float32 and with --compute-type, runs both on the same texts, and prints what"
        " differs, with times and memory: for sentence encoders and encoders without a head, classifiers of texts and"
        f" of tokens, language models and masked language models. Texts are the lines of --file, or {_SENTENCES}"
        " sentences of the documentation of Python's own standard library.",
    )
    command.add_argument("model", metavar="MODEL", help="a model folder, or its name on the Hugging Face hub")
    command.add_argument(
        "--compute-type", choices=common.COMPUTE_TYPES[1:], required=True, help="what is compared with float32"
    )
    command.add_argument(
        "--file", metavar="FILE", help="run the lines of this UTF-8 file that are not blank; - is stdin"
    )
    command.add_argument("--limit", type=common.positive, metavar="N", help="at most so many texts")
    command.add_argument(
        "--batch-size", type=common.positive, default=64, metavar="N", help="texts a batch (default 64)"
    )
    common.add_threads(command)
    common.add_json(command)
    command.set_defaults(run=run, texts=[])


def run(options: argparse.Namespace) -> None:
    from transformer_fast.accuracy import compare

    texts = _texts(options)
    common.set_threads(options)
    common.say(f"running {len(texts)} texts as float32 and as {options.compute_type}")
    found = compare(options.model, options.compute_type, texts, batch_size=options.batch_size)
    if options.json:
        common.print_json(asdict(found))
    else:
        print(_report(found))


def _texts(options: argparse.Namespace) -> list[str]:
    if options.file is None:
        from transformer_fast.passages import sentences

        return sentences(_SENTENCES if options.limit is None else options.limit)
    texts = [text for text in common.texts(options) if text.strip()][: options.limit]
    if not texts:
        raise ValueError(f"{options.file}: holds blank lines only; needed: at least one text")
    return texts


def _report(found: Comparison) -> str:
    lines = [
        f"{found.model_class}, {found.kind}: {found.texts} texts, {found.tokens} tokens",
        f"{found.compute_type} next to float32:",
        "",
        *_aligned([(f"  {name}", value) for name, value in _difference_lines(found.differences)]),
        "",
        *_aligned([("", "float32", str(found.compute_type), "ratio"), *_cost_lines(found)]),
        "",
        f"ratio: float32 over {found.compute_type}. Medians of {found.rounds} rounds in turns, tokenising included "
        f"(ISA {found.isa}, {found.num_threads} thread(s))",
    ]
    return "\n".join(lines)


def _difference_lines(differences: Differences) -> list[tuple[str, str]]:
    """What each of the numbers is called, and the number."""
    from transformer_fast.accuracy import differences as kinds

    if isinstance(differences, kinds.EmbeddingDifferences):
        correlation = differences.rank_correlation
        ranks = "undefined: too few different pairs" if correlation is None else f"{correlation:.5f}"
        return [
            ("cosine of the embeddings of a text", _cosines(differences.cosine)),
            ("rank correlation of the similarities of pairs", ranks),
        ]
    if isinstance(differences, kinds.LabelDifferences):
        return [
            ("labels that change", f"{differences.changed:.2%} of {differences.labelled}"),
            (
                "change of a probability",
                f"{differences.mean_change:.5f} mean, {differences.largest_change:.5f} largest",
            ),
        ]
    if isinstance(differences, kinds.NextTokenDifferences):
        change, size = differences.mean_change, differences.mean_absolute_change
        perplexities = f"{differences.reference_perplexity:.4f} -> {differences.compared_perplexity:.4f}"
        return [
            ("same most likely next token", f"{differences.agreement:.2%} of {differences.places}"),
            ("change of a token's log-likelihood", f"{change:+.5f} mean, {size:.5f} mean without signs"),
            ("perplexity", perplexities),
        ]
    return [
        ("cosine of the hidden states of a token", _cosines(differences.cosine)),
        ("same most likely word", f"{differences.agreement:.2%} of {differences.places}"),
    ]


def _cosines(cosine: Any) -> str:
    return f"{cosine.mean:.5f} mean, {cosine.quantile_01:.5f} for the lowest 1 %, {cosine.least:.5f} least"


def _cost_lines(found: Comparison) -> list[tuple[str, str, str, str]]:
    both = (found.reference, found.compared)

    def row(name: str, field: str, scale: float, ratio: float | None = None) -> tuple[str, str, str, str]:
        a, b = (getattr(cost, field) / scale for cost in both)
        share = f"{a / b if ratio is None else ratio:.2f}" if b else ""
        return f"  {name}", _number(a), _number(b), share

    return [
        row("packed weights, MB", "packed_bytes", 1e6),
        row("other parameters, MB", "other_bytes", 1e6),
        row("loading, s", "load_seconds", 1),
        row("running all texts, s", "run_seconds", 1, found.speedup),
    ]


def _number(value: float) -> str:
    return f"{value:.1f}" if value >= 10 else f"{value:.3f}"


def _aligned(rows: list[tuple[str, ...]]) -> list[str]:
    """The first column to the left; a second one follows it, further ones to the right."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    numbers = len(widths) > 2
    return [
        "  ".join(
            cell.rjust(width) if column and numbers else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
