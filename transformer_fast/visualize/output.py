"""Making a figure and writing it, without pyplot."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Inches. What is larger is thinned and pooled instead: a figure of 14 inches fills a screen.
SMALLEST, LARGEST = 3.0, 14.0
SUFFIXES = (".png", ".svg")

# For every text that is not ours: a $ is a dollar and a backslash a backslash, whatever matplotlib is set to.
LITERAL: dict[str, Any] = {"parse_math": False, "usetex": False}


def new_figure(width: float, height: float) -> Figure:
    """An empty figure, its sides kept within what can be looked at."""
    from matplotlib.figure import Figure

    sides = (min(max(side, SMALLEST), LARGEST) for side in (width, height))
    return Figure(figsize=tuple(sides), layout="constrained")


def save(
    figure: Figure, path: str | os.PathLike[str] | IO[bytes], dpi: float = 150, *, format: str | None = None
) -> None:
    """Writes the figure as PNG or SVG, as the suffix says. The same figure gives the same bytes.

    A character that the font does not have is drawn as a box. An SVG holds its text as text, so that it can be searched
    and the viewer's fonts draw what matplotlib's cannot.

    Args:
        path: a file's name, or a file that is open for writing bytes.
        dpi: dots per inch of a PNG.
        format: "png" or "svg"; by default what the suffix of the name says.

    Raises:
        ValueError: the format, or the suffix, is neither PNG nor SVG.
        OSError: the file cannot be written.

    Example:
        >>> import tempfile
        >>> from transformer_fast import visualize
        >>> figure = visualize.attention_heatmap([[0.9, 0.1], [0.3, 0.7]], tokens=["it", "rains"])
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     visualize.save(figure, f"{folder}/attention.png")
    """
    import matplotlib

    if format is None and not isinstance(path, (str, os.PathLike)):
        raise ValueError(f"format is None and path is a {type(path).__name__}; needed: format='png' or 'svg'")
    suffix = f".{format}" if format is not None else Path(path).suffix.lower()
    if suffix not in SUFFIXES:
        raise ValueError(f"path is {str(path)!r} and format {format!r}; needed: {' or '.join(SUFFIXES)}")
    metadata = {"Software": None} if suffix == ".png" else {"Date": None, "Creator": None}
    settings = {"svg.hashsalt": "transformer_fast", "svg.fonttype": "none"}
    with matplotlib.rc_context(settings), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from", UserWarning)
        figure.savefig(path, dpi=dpi, format=suffix[1:], metadata=metadata)
