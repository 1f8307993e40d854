"""Result files as pictures: `python -m benchmarks.plots benchmarks/results/*/*.json` writes PNG files beside them.

attention: GFLOP/s over the length for full, causal, windowed attention and decoding. models: time of each peer in
units of ours. Without matplotlib nothing is drawn, and that is said. The site's page of benchmarks draws the same
figures (`figure`) when it is built.
"""

from __future__ import annotations

import argparse
import json
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.report import PEER_NAMES

# Of the caption, in its size.
_LETTERS_AN_INCH = 19
# Lines and letters need few colours: a quarter of the bytes.
_DPI, _PALETTE = 90, 48
_COLORS = {
    "ours": "#c0392b",
    "numpy": "#7f8c8d",
    "torch": "#e67e22",
    "onnxruntime": "#2980b9",
    "openvino": "#8e44ad",
    "ctranslate2": "#27ae60",
    "sentence_transformers": "#b8860b",
}
_TITLES = {
    "full": "full, 8 heads of 64 features",
    "causal": "causal (half of the flops counted)",
    "window": "causal, window of 128 keys",
    "decode": "decode: 1 query, L keys",
}


def draw(paths: Sequence[Path]) -> list[Path]:
    """The pictures of these result files; [] where there is no matplotlib, or nothing to draw."""
    try:
        import matplotlib
    except ImportError:
        print("matplotlib is not installed (extra `bench`): no plots", file=sys.stderr)
        return []
    matplotlib.use("Agg")
    from matplotlib import pyplot
    from PIL import Image  # which matplotlib brings

    written = []
    for path in map(Path, paths):
        drawn = figure(path)
        if drawn is not None:
            target = path.with_suffix(".png")
            drawn.savefig(target, dpi=_DPI, metadata={"Software": None})
            pyplot.close(drawn)
            with Image.open(target) as picture:
                picture.convert("RGB").quantize(_PALETTE).save(target, optimize=True)
            written.append(target)
    return written


def figure(path: Path) -> Any:
    """The matplotlib figure of a result file, in the text colour of rcParams; None for a question that has none."""
    result = json.loads(path.read_text(encoding="utf-8"))
    drawer = {"attention": _draw_curves, "models": _draw_models}.get(result["benchmark"])
    if drawer is None:
        return None
    drawn = drawer(result)
    drawn.set_label(f"{result['benchmark']}: {_caption(result)}")  # for those who cannot see it
    lines = textwrap.wrap(_caption(result), int(_LETTERS_AN_INCH * drawn.get_figwidth()))
    drawn.text(0.01, 0.005, "\n".join(lines), fontsize=7, alpha=0.7)
    return drawn


def _caption(result: dict[str, Any]) -> str:
    versions: dict[str, str] = {}
    for backend in result["backends"].values():
        versions |= backend.get("versions", {})
    listed = ", ".join(f"{name} {version}" for name, version in versions.items())
    threads = f"{result['threads']} thread{'s' * (result['threads'] > 1)}"
    machine = result["machine"].get("name") or result["machine"]["cpu"]
    return f"{machine}, {result['isa']}, {threads}, float32; {result['date']}; {listed}"


def _draw_curves(result: dict[str, Any]) -> Any:
    from matplotlib import pyplot, rcParams

    figure, axes = pyplot.subplots(2, 2, figsize=(11, 8), layout="constrained")
    figure.get_layout_engine().set(rect=(0, 0.04, 1, 0.96))
    for axis, (kind, title) in zip(axes.flat, _TITLES.items(), strict=True):
        rows = [row for row in result["rows"] if row["case"]["name"].startswith(f"curve {kind} ")]
        lengths = [row["case"]["Lk"] for row in rows]
        for label, color in _COLORS.items():
            points = [
                (L, row["lanes"][label])
                for L, row in zip(lengths, rows, strict=True)
                if "seconds" in row["lanes"].get(label, {})
            ]
            if points:
                axis.plot(
                    [L for L, _ in points],
                    [entry["gflops"] for _, entry in points],
                    marker="o",
                    markersize=4,
                    color=color,
                    linewidth=2.2 if label == "ours" else 1.3,
                    label=PEER_NAMES[label],
                )
        peaks = [row["peaks"]["ours"]["gflops"] for row in rows if "ours" in row["peaks"]]
        if peaks and kind != "decode":
            axis.plot(lengths, peaks, color=rcParams["text.color"], linestyle=":", linewidth=1, label="FMA peak")
        ceilings = [
            (row["case"]["Lk"], row["reads"]["ours"]["gbs"] * row["flops"] / row["stream_bytes"])
            for row in rows
            if row["reads"].get("ours")
        ]
        if ceilings:
            axis.plot(
                *zip(*ceilings, strict=True),
                color=rcParams["text.color"],
                linestyle=":",
                linewidth=1,
                label="streaming read",
            )
        axis.set_xscale("log", base=2)
        axis.set_ylim(bottom=0)
        axis.set_xlabel("L")
        axis.set_ylabel("useful GFLOP/s")
        axis.set_title(title)
        axis.grid(alpha=0.3)
    handles = {label: line for axis in axes.flat for line, label in zip(*axis.get_legend_handles_labels(), strict=True)}
    figure.legend(handles.values(), handles, loc="outside upper center", ncols=len(handles), fontsize=8, frameon=False)
    return figure


def _draw_models(result: dict[str, Any]) -> Any:
    from matplotlib import pyplot, rcParams

    rows = [row for row in result["rows"] if "seconds" in row["lanes"]["ours"]]
    labels = [label for label in _COLORS if any("seconds" in row["lanes"].get(label, {}) for row in rows)]
    figure, axis = pyplot.subplots(figsize=(max(7, 1.1 * len(rows)), 4.5), layout="constrained")
    figure.get_layout_engine().set(rect=(0, 0.05, 1, 0.95))
    width = 0.8 / max(len(labels), 1)
    for i, label in enumerate(labels):
        for x, row in enumerate(rows):
            entry = row["lanes"].get(label, {})
            if "seconds" in entry:
                ratio = entry["seconds"] / row["lanes"]["ours"]["seconds"]
                place = x + (i - (len(labels) - 1) / 2) * width
                axis.bar(place, ratio, width, color=_COLORS[label])
                axis.text(place, ratio, f"{ratio:.2f}", ha="center", va="bottom", fontsize=6, rotation=90)
    axis.axhline(1, color=rcParams["text.color"], linewidth=0.8)
    axis.margins(y=0.12)
    axis.set_xticks(range(len(rows)), [row["case"]["name"].replace(" ", "\n", 1) for row in rows], fontsize=8)
    axis.set_ylabel("time in units of this library's (lower is faster)")
    handles = [pyplot.Rectangle((0, 0), 1, 1, color=_COLORS[label]) for label in labels]
    names = [PEER_NAMES[label] for label in labels]
    figure.legend(handles, names, loc="outside upper center", ncols=len(names), fontsize=8, frameon=False)
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.plots", description=__doc__)
    parser.add_argument("results", nargs="+", type=Path)
    for path in draw(parser.parse_args().results):
        print(path)


if __name__ == "__main__":
    main()
