"""Formulas as MathML, which browsers draw themselves: no script, no font and no other host.

Sphinx calls the visitors for `$...$` and `$$...$$` of the pages (html_math_renderer).
"""

from __future__ import annotations

from docutils import nodes
from latex2mathml import converter


def _inline(self, node: nodes.math) -> None:
    self.body.append(converter.convert(node.astext()))
    raise nodes.SkipNode


def _block(self, node: nodes.math_block) -> None:
    self.body.append(f'<div class="math">{converter.convert(node.astext(), display="block")}</div>')
    raise nodes.SkipNode


def setup(app) -> dict:
    app.add_html_math_renderer("mathml", (_inline, None), (_block, None))
    app.config.html_math_renderer = "mathml"
    return {"parallel_read_safe": True, "parallel_write_safe": True}
