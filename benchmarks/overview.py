"""README's picture: how long peers take for what this library does; `python -m benchmarks.overview` writes it as SVG.

Drawn from stored results without matplotlib, so that the same results give the same bytes, which
tests/project/test_benchmarks.py checks. `python -m benchmarks.report` writes it, too. Another case is a line in
`_CASES`, another machine goes into `MACHINE`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

from benchmarks.report import PEER_NAMES, ROOT

# Of benchmarks/results, on one thread.
MACHINE = "zen5"
# (question, case in its results, text)
_CASES = (
    ("attention", "D64 L512", "attention, 12 heads, 512 tokens"),
    ("models", "minilm 1x16", "all-MiniLM-L6-v2, 16 tokens"),
    ("models", "minilm 8x128", "all-MiniLM-L6-v2, 8 x 128 tokens"),
    ("models", "minilm 2000 texts", "2,000 sentences, texts to vectors"),
)
# theme -> text, lines, bars of this library, bars of others; GitHub's grounds are white and #0d1117.
_THEMES = {
    "light": ("#1f2328", "#d1d9e0", "#c0392b", "#8c959f"),
    "dark": ("#e6edf3", "#3d444d", "#e8604c", "#7d8590"),
}
# Pixels: two columns of panels; in a panel names end before `_NAMES`, and the longest bar ends at `_PANEL` - 50.
_PANEL, _NAMES, _STEP, _BAR = 400, 140, 16, 11
_TITLE, _BETWEEN = 26, 20
# Ratios beyond this fill the scale; the number beside the bar is the measured one.
_MOST = 4.5


def place(theme: str) -> Path:
    return ROOT / "docs" / "_static" / f"peers-{theme}.svg"


def _rows() -> list[tuple[str, list[tuple[str, float, float]], dict[str, Any]]]:
    """(text, [(who, times this library's time, seconds)], result) for each case; the fastest first."""
    found = []
    for question, case, text in _CASES:
        (path,) = (ROOT / "benchmarks" / "results" / MACHINE).glob(f"{question}-*-1thread.json")
        result = json.loads(path.read_text(encoding="utf-8"))
        (lanes,) = (row["lanes"] for row in result["rows"] if row["case"]["name"] == case)
        ours = lanes["ours"]["seconds"]
        measured = [
            (PEER_NAMES[label], lane["seconds"] / ours, lane["seconds"])
            for label, lane in lanes.items()
            if label in PEER_NAMES and "seconds" in lane
        ]
        found.append((text, sorted(measured, key=lambda row: row[1]), result))
    return found


def _time(seconds: float) -> str:
    return f"{seconds:.3g} s" if seconds >= 1 else f"{1000 * seconds:.3g} ms"


def _panel(text: str, lanes: list[tuple[str, float, float]], colours: tuple[str, ...]) -> list[str]:
    """The elements of one case, from (0, 0) on."""
    _, line, own, other = colours
    scale, bottom = (_PANEL - 50 - _NAMES) / _MOST, _TITLE + _STEP * len(lanes)
    same = f"{_NAMES + scale:.1f}"  # where this library's bar ends
    parts = [
        f'<text y="13" font-weight="600">{escape(text)}</text>',
        f'<line x1="{same}" y1="{_TITLE - 4}" x2="{same}" y2="{bottom}" stroke="{line}"/>',
    ]
    for i, (name, ratio, seconds) in enumerate(lanes):
        ours, y = name == PEER_NAMES["ours"], _TITLE + _STEP * i
        width, weight = min(ratio, _MOST) * scale, ' font-weight="600"' if ours else ""
        fill, said = (own, _time(seconds)) if ours else (other, f"{ratio:.2f}x")
        parts += [
            f'<text x="{_NAMES - 6}" y="{y + _BAR - 1}" text-anchor="end"{weight}>{escape(name)}</text>',
            f'<rect x="{_NAMES}" y="{y}" width="{width:.1f}" height="{_BAR}" rx="2" fill="{fill}"/>',
            f'<text x="{_NAMES + width + 5:.1f}" y="{y + _BAR - 1}"{weight}>{said}</text>',
        ]
    return parts


def svg(theme: str) -> str:
    """The picture in the colours of a theme, "light" or "dark"."""
    colours, rows = _THEMES[theme], _rows()
    drawn, y = [], 0
    for pair in (rows[i : i + 2] for i in range(0, len(rows), 2)):
        for x, (text, lanes, _) in zip((0, _PANEL), pair, strict=False):
            drawn += [f'<g transform="translate({x} {y})">', *_panel(text, lanes, colours), "</g>"]
        y += _TITLE + _STEP * max(len(lanes) for _, lanes, _ in pair) + _BETWEEN
    result = rows[0][2]
    about = f"{result['machine']['name']} ({result['machine']['cpu']}), one thread, float32, {result['date'][:10]}"
    drawn.append(
        f'<text y="{y}" fill-opacity="0.75">Time in units of this library\'s: lower is faster. {about}.</text>'
    )
    return "\n".join(
        (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {2 * _PANEL} {y + 8}" '
            f'font-family="system-ui, sans-serif" font-size="12" fill="{colours[0]}">',
            "<title>Time of each library in units of this library's: lower is faster</title>",
            *drawn,
            "</svg>\n",
        )
    )


def write() -> list[Path]:
    """Both files; returns their paths."""
    for theme in _THEMES:
        place(theme).write_text(svg(theme), encoding="utf-8")
    return [place(theme) for theme in _THEMES]


if __name__ == "__main__":
    for written in write():
        print(written)
