"""Figures of executed pages as SVG inside the page, with text and axes in the page's own colour, light or dark.

IPython runs this in each kernel that builds a page (docs/conf.py sets IPYTHONDIR). A cell whose last expression is a
matplotlib Figure shows it; `transformer_fast.visualize` returns such figures. Where another colour is to follow the
theme, use "C0", "C1", ...: the cycle below is legible on both grounds. What `Figure.set_label` was given is the text
for those who cannot see the figure. Pages may import `benchmarks` and `examples` of the checkout.
"""

import html
import io
import os
import re
import sys

import matplotlib
from IPython import get_ipython

# Written instead of the page's colours, which only the browser knows; no figure draws with exactly these.
INK, GROUND = "#010203", "#fdfefe"
# Okabe and Ito's colours, told apart by colour-blind readers; without yellow and black, which vanish on one ground.
CYCLE = ["#d55e00", "#0072b2", "#009e73", "#cc79a7", "#e69f00", "#56b4e9"]

_SETTINGS = {
    **dict.fromkeys(
        ("text.color", "axes.edgecolor", "axes.labelcolor", "axes.titlecolor", "xtick.color", "ytick.color"), INK
    ),
    **dict.fromkeys(("figure.facecolor", "axes.facecolor", "legend.facecolor", "savefig.facecolor"), GROUND),
    "legend.edgecolor": INK,
    "axes.prop_cycle": matplotlib.cycler(color=CYCLE),
    "svg.hashsalt": "transformer_fast",  # the same page from the same sources
    "figure.constrained_layout.use": True,
}


def as_html(figure) -> str:
    """The figure as an <svg> element that takes at most the width of the text."""
    file = io.StringIO()
    figure.savefig(file, format="svg", metadata={"Date": None})
    svg = file.getvalue()
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg[svg.index("<svg") :], flags=re.DOTALL)
    svg = svg.replace(INK, "currentColor").replace(GROUND, "var(--color-background-primary)")
    described = f'<svg role="img" aria-label="{html.escape(figure.get_label())}"'
    return f'<div class="figure">{svg.replace("<svg", described, 1)}</div>'


sys.path.append(os.environ["TRANSFORMER_FAST_CHECKOUT"])  # at the end: the installed package comes first
matplotlib.use("Agg")
matplotlib.rcParams.update(_SETTINGS)
get_ipython().display_formatter.formatters["text/html"].for_type_by_name("matplotlib.figure", "Figure", as_html)
