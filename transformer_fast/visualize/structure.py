"""Masks as pictures: what a query sees, as cells of a figure or as characters.

A mask is whatever has `ranges(Lq, Lk, offset)`, as those of transformer_fast.masks have; nothing L x L is made of it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from transformer_fast.visualize.output import LITERAL, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Cells of a figure's side: about the pixels that its axes have on a screen.
_MOST_CELLS = 1024
# Inches of a cell, while the figure has room.
_CELL = 0.12
# Longer titles than this would leave the figure.
_TITLE = 80


def mask(
    mask: Any,
    Lq: int,
    Lk: int | None = None,
    *,
    offset: int = 0,
    batch: int = 0,
    head: int = 0,
    title: str | None = None,
) -> Figure:
    """A mask: rows are queries, columns are keys, and dark cells are seen.

    Beyond 1,024 rows or columns a cell stands for several, and is the darker the more of its pairs are visible.

    Args:
        mask: of transformer_fast.masks.
        Lq, Lk: queries and keys; Lk is Lq by default.
        offset: the position of the first query.
        batch, head: which of them to draw, where the mask differs.
        title: the mask's repr and its visible share by default.

    Raises:
        TypeError: mask is none. ValueError: it has no queries or keys, or not as many batch entries or heads.

    Example:
        >>> from transformer_fast import masks, visualize
        >>> figure = visualize.mask(masks.window(2, 0) | masks.global_tokens(1), 16)
        >>> figure.axes[0].get_title()
        'window(2, 0) | global_tokens(1)\\n28.5 % visible'
    """
    shares, (rows, columns), (Lq, Lk) = _shares(mask, Lq, Lk, offset, batch, head, (_MOST_CELLS, _MOST_CELLS))
    figure = new_figure(_CELL * Lk + 1.2, _CELL * Lq + 1.2)
    axes = figure.add_subplot()
    extent = (-0.5, shares.shape[1] * columns - 0.5, shares.shape[0] * rows - 0.5, -0.5)
    axes.imshow(shares, cmap="Greys", extent=extent, aspect="auto", interpolation="nearest", vmin=0.0, vmax=1.0)
    axes.set(xlim=(-0.5, Lk - 0.5), ylim=(Lq - 0.5, -0.5), xlabel="key", ylabel="query")
    axes.locator_params(integer=True)
    if title is None:
        text = repr(mask)
        sizes = [np.minimum(n, L - np.arange(0, L, n)) for n, L in ((rows, Lq), (columns, Lk))]
        visible = float(sizes[0] @ shares @ sizes[1]) / (Lq * Lk)
        title = f"{text if len(text) <= _TITLE else type(mask).__name__}\n{100 * visible:.1f} % visible"
    axes.set_title(title, **LITERAL)
    return figure


def mask_text(
    mask: Any,
    Lq: int,
    Lk: int | None = None,
    *,
    offset: int = 0,
    batch: int = 0,
    head: int = 0,
    height: int = 32,
    width: int = 64,
) -> str:
    """A mask as characters, a line a query and a column a key: `#` is seen, `·` is not. Needs no matplotlib.

    Beyond `height` queries or `width` keys a character stands for several pairs: `+` where some of them are visible.
    Arguments and errors as of `mask`.

    Example:
        >>> from transformer_fast import masks, visualize
        >>> print(visualize.mask_text(masks.causal() & masks.window(100, 0), 512, height=8, width=16))
        ++··············
        +#++············
        +++#++··········
        ··+++#++········
        ····+++#++······
        ······+++#++····
        ········+++#++··
        ··········+++#++
    """
    if height < 1 or width < 1:
        raise ValueError(f"height is {height} and width is {width}; needed: at least 1 of each")
    shares, _, _ = _shares(mask, Lq, Lk, offset, batch, head, (height, width))
    characters = np.where(shares == 0, "·", np.where(shares == 1, "#", "+"))
    return "\n".join("".join(row) for row in characters)


def _shares(
    mask: Any, Lq: int, Lk: int | None, offset: int, batch: int, head: int, most: tuple[int, int]
) -> tuple[np.ndarray, tuple[int, int], tuple[int, int]]:
    """The visible share of each cell, float64; the rows and columns that a cell stands for; Lq and Lk."""
    if not hasattr(mask, "ranges"):
        raise TypeError(f"mask is a {type(mask).__name__}; needed: a mask of transformer_fast.masks")
    Lk = Lq if Lk is None else Lk
    ranges = mask.ranges(Lq, Lk, offset)
    if Lq < 1 or Lk < 1:
        raise ValueError(f"Lq is {Lq} and Lk is {Lk}; needed: at least 1 of each")
    for name, value, n in (("batch", batch, ranges.shape[0]), ("head", head, ranges.shape[1])):
        if not (0 <= value < n or (n == 1 and value >= 0)):
            raise ValueError(f"{name} is {value}; needed: 0 to {n - 1}")
    lists = ranges.list_of_row[min(batch, ranges.shape[0] - 1), min(head, ranges.shape[1] - 1)]
    rows, columns = (-(-length // limit) for length, limit in zip((Lq, Lk), most, strict=True))
    n_rows, n_columns = -(-Lq // rows), -(-Lk // columns)
    # Each range as steps along its row of cells: whole cells from its first to its last, less what both ends lack.
    count = np.diff(ranges.begin)[lists]
    first = np.cumsum(count) - count
    low, high = ranges.bounds[np.repeat(ranges.begin[lists] - first, count) + np.arange(count.sum())].astype(int).T
    row = np.repeat(np.arange(Lq) // rows, count) * (n_columns + 1)
    a, b = low // columns, high // columns
    size = n_rows * (n_columns + 1)
    whole = np.bincount(row + a, minlength=size) - np.bincount(row + b, minlength=size)
    pairs = np.cumsum(whole.reshape(n_rows, -1), axis=1) * columns
    ends = np.bincount(row + b, high - b * columns, size) - np.bincount(row + a, low - a * columns, size)
    pairs = (pairs + ends.reshape(n_rows, -1))[:, :n_columns]
    sizes = [np.minimum(n, L - np.arange(0, L, n)) for n, L in ((rows, Lq), (columns, Lk))]
    return pairs / np.multiply.outer(*sizes), (rows, columns), (Lq, Lk)
