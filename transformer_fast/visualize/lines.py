"""Attention as lines from token to token: two columns of words, and between them who attends whom."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from transformer_fast.visualize.inputs import checked_tokens, checked_weights, thinned
from transformer_fast.visualize.output import LITERAL, new_figure

if TYPE_CHECKING:
    from matplotlib.collections import LineCollection
    from matplotlib.figure import Figure

# Points: the line of a weight of 1, and of several heads together, but never less than can be seen.
WIDEST, TOGETHER, THINNEST = 5.0, 10.0, 1.0
# Inches from token to token.
_ROW = 0.3
# What part of the way to the next token the lines of several heads are spread over.
_SPREAD = 0.5


def attention_lines(
    weights: Any,
    tokens: Sequence[str],
    key_tokens: Sequence[str] | None = None,
    *,
    heads: Sequence[int] | None = None,
    minimum: float = 0.02,
    most: int = 1000,
    title: str | None = None,
) -> Figure:
    """Queries on the left, keys on the right; a line's width and opacity are the weight, its colour is the head.

    A weight of 1 is 5 points wide; with three heads or more less, so that their lines lie beside each other.

    Args:
        weights: (Lq, Lk) of one head, or (H, Lq, Lk); none negative.
        tokens: Lq labels on the left.
        key_tokens: Lk labels on the right, by default `tokens`.
        heads: the numbers that the legend gives the heads, 0, 1, ... by default.
        minimum: links weaker than that are not drawn.
        most: of those that are left, so many are drawn, the strongest.

    Raises:
        ValueError, TypeError: shapes do not fit, a weight is negative or not finite.

    Example:
        >>> from transformer_fast import visualize
        >>> figure = visualize.attention_lines([[0.9, 0.1], [0.0, 1.0]], ["it", "rains"])
        >>> [float(width) for width in figure.axes[0].collections[0].get_linewidths()]  # 5 points for a weight of 1
        [4.5, 0.5, 5.0]
    """
    weights = checked_weights("weights", weights, (2, 3), "(Lq, Lk) or (H, Lq, Lk)")
    if (weights < 0).any():
        raise ValueError(f"weights go down to {weights.min()}; needed: none negative")
    if most < 1:
        raise ValueError(f"most is {most}; needed: at least 1")
    weights = weights.reshape(-1, *weights.shape[-2:])
    H, Lq, Lk = weights.shape
    left = checked_tokens("tokens", tokens, Lq)
    right = checked_tokens("key_tokens", tokens if key_tokens is None else key_tokens, Lk)
    names = list(range(H)) if heads is None else list(heads)
    if len(names) != H:
        raise ValueError(f"heads has {len(names)} entries; needed: H={H}")
    figure = new_figure(5.0, _ROW * max(Lq, Lk) + 0.8)
    axes = figure.add_subplot()
    links = strongest(weights, minimum, most)
    for head, (colour, name) in enumerate(zip(_colours(H), names, strict=True)):
        chosen = links[links[:, 0] == head]
        values = weights[tuple(chosen.T)]
        lines = _lines(chosen, values, widest(H), colour, _SPREAD * ((head + 0.5) / H - 0.5))
        axes.add_collection(lines, autolim=False)
        axes.plot([], [], color=colour, label=f"head {name}")  # the legend's: its opacity and width are no weight
    room = int((figure.get_size_inches()[1] - 0.8) / _ROW * 1.5)  # labels may stand closer than tokens usually do
    for x, side, labels in ((-0.02, "right", left), (1.02, "left", right)):
        for i in thinned(len(labels), room):
            axes.text(x, i, labels[i], ha=side, va="center", **LITERAL)
    axes.set(xlim=(-0.6, 1.6), ylim=(max(Lq, Lk) - 0.5, -0.5))
    axes.set_axis_off()
    if H > 1:
        figure.legend(loc="outside lower center", ncols=4, frameon=False)
    if title is not None:
        axes.set_title(title, **LITERAL)
    return figure


def strongest(weights: np.ndarray, minimum: float, most: int) -> np.ndarray:
    """Rows (head, query, key) of the `most` strongest of the weights (H, Lq, Lk) from `minimum` on, in that order.

    A weight of 0 is no link, whatever the minimum.
    """
    flat = weights.reshape(-1)
    found = np.flatnonzero((flat >= minimum) & (flat > 0))
    if len(found) > most:
        found = np.sort(found[np.argsort(-flat[found], kind="stable")[:most]])
    return np.stack(np.unravel_index(found, weights.shape), axis=1)


def widest(H: int) -> float:
    """Points: the line of a weight of 1 where H heads share the room between two tokens."""
    return min(WIDEST, max(THINNEST, TOGETHER / H))


def _lines(links: np.ndarray, values: np.ndarray, width: float, colour: Any, shift: float) -> LineCollection:
    """The lines of one head, moved by `shift` so that those of several heads do not hide each other."""
    from matplotlib.collections import LineCollection

    _, queries, keys = links.T
    ends = np.zeros((len(links), 2, 2))
    ends[:, 0, 1] = queries + shift
    ends[:, 1, 0] = 1
    ends[:, 1, 1] = keys + shift
    colours = np.tile(np.asarray(colour), (len(links), 1))
    colours[:, 3] = 0.25 + 0.75 * np.minimum(values, 1)
    return LineCollection(ends, linewidths=width * values, colors=colours, capstyle="butt")


def _colours(H: int) -> np.ndarray:
    """H colours (H, 4) that differ as much as so many can."""
    import matplotlib

    if H <= 10:
        return np.array([(*colour, 1.0) for colour in matplotlib.colormaps["tab10"].colors[:H]])
    return matplotlib.colormaps["turbo"](np.linspace(0.03, 0.97, H))
