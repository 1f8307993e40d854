"""`transformer-fast attend`: which words a model's heads attend, as a page, a picture or a list of links."""

from __future__ import annotations

import argparse
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformer_fast.commands import common

if TYPE_CHECKING:
    import numpy as np

    from transformer_fast.pipelines import SentenceEncoder


def add(commands: Any) -> None:
    command = commands.add_parser(
        "attend",
        help="which words a model's heads attend, as a page, a picture or a list",
        description="Runs TEXT through the model and shows the attention weights of one head (--layer and --head), of"
        " a layer, or of all. Layers and heads count from 0, as in Python and in the names of a checkpoint's tensors."
        " -o FILE.html is a page to look around in, one file for any browser; --layer and --head say what it shows"
        " first. Without -o the strongest links go to stdout.",
    )
    command.add_argument("text", metavar="TEXT", help="what the model reads")
    command.add_argument("--layer", type=_index, metavar="N", help="from 0 (default: the last; grid: all)")
    command.add_argument(
        "--head", type=_index, metavar="N", help="from 0 (default: the mean of all; lines and grid: each of them)"
    )
    command.add_argument("-o", "--output", metavar="OUT", help="write OUT.html, OUT.png or OUT.svg")
    command.add_argument(
        "--kind",
        choices=("heatmap", "lines", "grid"),
        help="of -o: cells (default; html: lines), lines between the words, or all heads of all layers",
    )
    command.add_argument(
        "--top", type=common.positive, default=20, metavar="K", help="links that are printed (default 20)"
    )
    common.add_model(command)
    common.add_threads(command)
    common.add_json(command)
    command.set_defaults(run=run)


def _index(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number >= 0")
    return int(text)


def run(options: argparse.Namespace) -> None:
    output = common.checked_output(options.output, (".html", ".png", ".svg"))
    _check(options, output)
    common.set_threads(options)
    encoder = common.encoder(options)
    tokens, attentions = _attentions(encoder, options.text)
    _check_range("--layer", options.layer, len(attentions))
    _check_range("--head", options.head, len(attentions[0]))
    layer = len(attentions) - 1 if options.layer is None else options.layer
    links = _links(attentions, layer, options.head, tokens, options.top)
    if output is not None:
        draw = _write_page if output.suffix == ".html" else _draw
        draw(output, options, layer, tokens, attentions)
        common.say(f"wrote {output} ({output.stat().st_size / 1000:,.0f} kB)")
    if options.json:
        facts = {"tokens": tokens, "layer": layer, "head": options.head, "links": links}
        common.print_json({**facts, "output": str(output)} if output is not None else facts)
    elif output is None:
        print(_report(links, layer, options.head))


def _check(options: argparse.Namespace, output: Path | None) -> None:
    if not options.text.strip():
        raise common.UsageError("TEXT is empty")
    if any("\ud800" <= letter <= "\udfff" for letter in options.text):
        raise common.UsageError("TEXT is no text in UTF-8")
    if options.kind is not None and options.output is None:
        raise common.UsageError(f"--kind {options.kind} is a picture: give -o FILE.html, FILE.png or FILE.svg")
    if options.kind == "grid" and options.head is not None:
        raise common.UsageError("--kind grid shows all heads: leave --head out")
    if options.kind == "grid" and output is not None and output.suffix == ".html":
        raise common.UsageError("--kind grid is in every page: leave it out, or give -o FILE.png or FILE.svg")


def _check_range(name: str, index: int | None, count: int) -> None:
    if index is not None and index >= count:
        raise common.UsageError(f"{name} {index}: the model has 0 to {count - 1}")


def _attentions(encoder: SentenceEncoder, text: str) -> tuple[list[str], list[np.ndarray]]:
    """The text's tokens, L of them, and for each layer the weights (H, L, L)."""
    from transformer_fast.pipelines import text_attention

    encoding = encoder.tokenizer.encode(text)
    if encoding.overflowing:
        common.say(f"TEXT is cut off after {len(encoding.ids)} tokens, the most that the model takes")
    attentions, tokens = text_attention(encoder.model, encoder.tokenizer, text, truncate=True)["self-attention"]
    return tokens, list(attentions)


def _links(
    attentions: list[np.ndarray], layer: int, head: int | None, tokens: list[str], top: int
) -> list[dict[str, Any]]:
    """The strongest links of one head, or of the mean over heads, the strongest first."""
    weights = attentions[layer].mean(axis=0) if head is None else attentions[layer][head]
    strongest = (-weights).argsort(axis=None, kind="stable")[:top]
    return [
        {
            "query": tokens[query],
            "key": tokens[key],
            "weight": float(weights[query, key]),
            "positions": [query, key],
        }
        for query, key in (divmod(int(place), len(tokens)) for place in strongest)
    ]


def _write_page(
    output: Path, options: argparse.Namespace, layer: int, tokens: list[str], attentions: list[np.ndarray]
) -> None:
    from transformer_fast import visualize

    title = textwrap.shorten(options.text, 80, placeholder=" \N{HORIZONTAL ELLIPSIS}")
    view = options.kind or "lines"
    explorer = visualize.explore(attentions, tokens, view=view, layer=layer, head=options.head, title=title)
    with common.replacing(output, "w") as file:
        file.write(explorer.html())


def _draw(
    output: Path, options: argparse.Namespace, layer: int, tokens: list[str], attentions: list[np.ndarray]
) -> None:
    from transformer_fast import visualize

    weights, title = attentions[layer], f"layer {layer}"
    if options.head is not None:
        weights, title = weights[options.head], f"{title}, head {options.head}"
    if options.kind == "grid":
        chosen = range(len(attentions)) if options.layer is None else [layer]
        figure = visualize.attention_grid([attentions[i] for i in chosen], layers=chosen, title=options.text[:80])
    elif options.kind == "lines":
        figure = visualize.attention_lines(weights, tokens, title=title)
    elif options.head is None:
        figure = visualize.attention_heatmap(weights.mean(axis=0), tokens, title=f"{title}, mean of heads")
    else:
        figure = visualize.attention_heatmap(weights, tokens, title=title)
    with common.replacing(output, "wb") as file:
        visualize.save(figure, file, format=output.suffix[1:])


def _report(links: list[dict[str, Any]], layer: int, head: int | None) -> str:
    width = max(len(link["query"]) for link in links)
    lines = [f"layer {layer}, {'mean of heads' if head is None else f'head {head}'}: the strongest links"]
    for link in links:
        query, key = link["positions"]
        lines.append(f"{link['weight']:.3f}  {query:3} {link['query'].ljust(width)} -> {key:3} {link['key']}")
    return "\n".join(lines)
