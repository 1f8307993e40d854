"""Attention of one query over the patches of an image, drawn upon it."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from transformer_fast.visualize.inputs import checked_weights
from transformer_fast.visualize.output import LITERAL, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# How much of the image the strongest patch hides. Less leaves its colour to guess, more leaves nothing of the image.
_OPACITY = 0.75


def attention_on_image(
    weights: Any, image: Any, *, grid: tuple[int, int] | None = None, title: str | None = None
) -> Figure:
    """The image, and over each patch a colour that is the stronger the more the patch is attended.

    Args:
        weights: (rows, cols) of patches, or (rows * cols,) row by row; none negative. A vision transformer's first
            token is no patch: leave it out, `attentions[layer][0, head, 0, 1:]`.
        image: (height, width, 3 or 4), or (height, width) in grey; uint8, or floats from 0 to 1.
        grid: (rows, cols) of flat weights; by default a square.

    Raises:
        ValueError, TypeError: shapes do not fit, weights are negative, or the image's values are out of range.

    Example:
        >>> import numpy as np
        >>> from transformer_fast import visualize
        >>> figure = visualize.attention_on_image([0.1, 0.2, 0.3, 0.4], np.zeros((32, 32, 3), np.uint8))
        >>> figure.axes[0].images[1].get_array().shape
        (2, 2)
    """
    patches = _patches(checked_weights("weights", weights, (1, 2), "(rows * cols,) or (rows, cols)"), grid)
    pixels = _pixels(image)
    height, width = pixels.shape[:2]
    scale = 8.0 / max(height, width)
    figure = new_figure(width * scale + 1.0, height * scale)
    axes = figure.add_subplot()
    extent = (-0.5, width - 0.5, height - 0.5, -0.5)
    axes.imshow(pixels, cmap="gray", vmin=0, vmax=1 if pixels.dtype.kind == "f" else 255, extent=extent)
    largest = max(float(patches.max()), np.finfo(np.float32).tiny)
    overlay = axes.imshow(
        patches,
        cmap="inferno",
        vmin=0.0,
        vmax=largest,
        alpha=_OPACITY * patches / largest,
        extent=extent,
        interpolation="nearest",
    )
    axes.set_axis_off()
    figure.colorbar(overlay, ax=axes, label="weight")
    if title is not None:
        axes.set_title(title, **LITERAL)
    return figure


def _patches(weights: np.ndarray, grid: tuple[int, int] | None) -> np.ndarray:
    """(rows, cols)."""
    if (weights < 0).any():
        raise ValueError(f"weights go down to {weights.min()}; needed: none negative")
    if weights.ndim == 2:
        if grid is not None and tuple(grid) != weights.shape:
            raise ValueError(f"grid is {tuple(grid)}; needed: {weights.shape}, the shape of the weights, or nothing")
        return weights
    count = len(weights)
    if grid is None:
        side = math.isqrt(count)
        if side * side != count:
            first = ", or weights[1:] without the first token" if math.isqrt(count - 1) ** 2 == count - 1 else ""
            raise ValueError(f"weights has {count} entries, which make no square; needed: grid=(rows, cols){first}")
        grid = side, side
    rows, cols = grid
    if rows < 1 or cols < 1 or rows * cols != count:
        raise ValueError(f"grid is {tuple(grid)}; needed: rows * cols = {count}, the number of weights")
    return weights.reshape(rows, cols)


def _pixels(image: Any) -> np.ndarray:
    pixels = np.asarray(image)
    fits = pixels.ndim == 2 or (pixels.ndim == 3 and pixels.shape[2] in (3, 4))
    if not fits or 0 in pixels.shape:
        raise ValueError(f"image has shape {pixels.shape}; needed: (height, width), or (height, width, 3 or 4)")
    if pixels.dtype == np.uint8:
        return pixels
    if pixels.dtype.kind != "f":
        raise TypeError(f"image has type {pixels.dtype}; needed: uint8, or floats from 0 to 1")
    if not (pixels.min() >= 0 and pixels.max() <= 1):
        raise ValueError(f"image goes from {pixels.min()} to {pixels.max()}; needed: floats from 0 to 1")
    return pixels.astype(np.float32)
