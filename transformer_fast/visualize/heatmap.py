"""Attention weights as coloured cells: one head, or all heads of all layers side by side."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from transformer_fast.visualize.inputs import checked_tokens, checked_weights, max_pooled, thinned
from transformer_fast.visualize.output import LITERAL, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# More cells than a large figure has pixels for are pooled; fewer would blur what could still be seen.
_MOST_CELLS = 1024
# The same for a grid, shared by the heads beside each other, but never so few that a diagonal disappears.
_FEWEST_TILE_CELLS = 32
_COLOURS = "viridis"
# Inches: of a cell that holds a token, and of what a label needs so as not to touch the next.
_CELL, _LABEL = 0.3, 0.16
_TILE, _GAP = 1.0, 0.08


def attention_heatmap(
    weights: Any,
    tokens: Sequence[str] | None = None,
    key_tokens: Sequence[str] | None = None,
    *,
    title: str | None = None,
) -> Figure:
    """One head: rows are queries, columns are keys, and the brighter a cell the more the row attends the column.

    Beyond 1,024 rows or columns a cell stands for several and shows the largest weight among them; the axes still count
    tokens. Labels that would not fit are left out evenly, and long tokens end in an ellipsis.

    Args:
        weights: (Lq, Lk), an array or a matrix of scipy.sparse, as `return_weights="sparse"` gives them.
        tokens: Lq labels of the queries; positions without them.
        key_tokens: Lk labels of the keys. By default `tokens` where Lq = Lk, else positions.

    Raises:
        ValueError, TypeError: weights are not (Lq, Lk) finite numbers, or tokens are not as many as positions.

    Example:
        >>> from transformer_fast import visualize
        >>> figure = visualize.attention_heatmap([[0.9, 0.1], [0.3, 0.7]], tokens=["it", "rains"])
        >>> [tick.get_text() for tick in figure.axes[0].get_xticklabels()]
        ['it', 'rains']
    """
    weights = checked_weights("weights", weights, (2,), "(Lq, Lk), one head")
    Lq, Lk = weights.shape
    rows = checked_tokens("tokens", tokens, Lq)
    columns = checked_tokens("key_tokens", key_tokens, Lk)
    if columns is None and Lq == Lk:
        columns = rows
    figure = new_figure(_CELL * Lk + 1.8, _CELL * Lq + 1.2)
    axes = figure.add_subplot()
    cells, (block_rows, block_columns) = max_pooled(weights, _MOST_CELLS)
    # The last cell may stand for fewer positions than the others: it is drawn whole and cut off by the limits.
    extent = (-0.5, cells.shape[1] * block_columns - 0.5, cells.shape[0] * block_rows - 0.5, -0.5)
    image = axes.imshow(
        cells, cmap=_COLOURS, extent=extent, aspect="auto", interpolation="nearest", vmin=min(0.0, float(cells.min()))
    )
    axes.set(xlim=(-0.5, Lk - 0.5), ylim=(Lq - 0.5, -0.5), xlabel="key", ylabel="query")
    width, height = figure.get_size_inches()
    _label(axes, "x", columns, Lk, int((width - 1.8) / _LABEL))
    _label(axes, "y", rows, Lq, int((height - 1.2) / _LABEL))
    if title is not None:
        axes.set_title(title, **LITERAL)
    figure.colorbar(image, ax=axes, label="weight")
    return figure


def _label(axes: Axes, side: str, labels: list[str] | None, length: int, most: int) -> None:
    """Ticks of one side, as many as there is room for, with the tokens or the positions as their labels."""
    if labels is None:
        axes.locator_params(side, integer=True, nbins=min(most, 10))
        return
    positions = thinned(length, most)
    texts = [labels[i] for i in positions]
    if side == "x":
        axes.set_xticks(positions, texts, rotation=90, **LITERAL)
    else:
        axes.set_yticks(positions, texts, **LITERAL)


def attention_grid(
    attentions: Sequence[Any], *, layers: Sequence[int] | None = None, title: str | None = None
) -> Figure:
    """All heads of all layers: a row a layer, a column a head, each a small heat-map from 0 to its own largest weight.

    What patterns there are (a diagonal, a band, one column) is seen at once; `attention_heatmap` shows one of them
    closely. Long inputs are max-pooled as there.

    Args:
        attentions: a sequence over layers of (H, Lq, Lk), the same shape in each; of a model's `attentions`, which have
            a batch axis, `[layer[0] for layer in attentions]`.
        layers: the numbers to write beside the rows, 0, 1, ... by default.

    Raises:
        ValueError, TypeError: a layer is not (H, Lq, Lk) finite numbers, or not shaped as the first.

    Example:
        >>> import numpy as np
        >>> from transformer_fast import visualize
        >>> figure = visualize.attention_grid([np.eye(4)[None].repeat(3, axis=0)] * 2)  # 2 layers of 3 heads
        >>> len(figure.axes[0].images)
        6
    """
    if not len(attentions):
        raise ValueError("attentions is empty; needed: at least one layer (H, Lq, Lk)")
    needed = "(H, Lq, Lk); of a batch, choose a row first"
    stack = [checked_weights(f"attentions[{i}]", layer, (3,), needed) for i, layer in enumerate(attentions)]
    for i, layer in enumerate(stack):
        if layer.shape != stack[0].shape:
            raise ValueError(f"attentions[{i}] has shape {layer.shape}; needed: {stack[0].shape}, as attentions[0]")
    names = range(len(stack)) if layers is None else list(layers)
    if len(names) != len(stack):
        raise ValueError(f"layers has {len(names)} entries; needed: {len(stack)}, one for each layer")
    heads = stack[0].shape[0]
    figure = new_figure(_TILE * heads + 0.8, _TILE * len(stack) + 0.6)
    axes = figure.add_subplot()
    step = 1 + _GAP
    most = max(_MOST_CELLS // max(heads, len(stack)), _FEWEST_TILE_CELLS)
    for row, layer in enumerate(stack):
        for column, head in enumerate(layer):
            cells, _ = max_pooled(head, most)
            left, top = column * step, row * step
            extent = (left, left + 1, top + 1, top)
            largest = max(float(cells.max()), np.finfo(np.float32).tiny)
            axes.imshow(cells, cmap=_COLOURS, extent=extent, interpolation="nearest", vmin=0.0, vmax=largest)
    axes.set(xlim=(-_GAP, heads * step), ylim=(len(stack) * step, -_GAP), xlabel="head", ylabel="layer", aspect="equal")
    width, height = figure.get_size_inches()
    columns, rows = thinned(heads, int(width / 2 / _LABEL)), thinned(len(stack), int(height / _LABEL))
    axes.set_xticks(columns * step + 0.5, [str(i) for i in columns])
    axes.set_yticks(rows * step + 0.5, [str(names[i]) for i in rows])
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    if title is not None:
        axes.set_title(title, **LITERAL)
    return figure
