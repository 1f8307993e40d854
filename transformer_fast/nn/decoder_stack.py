"""`DecoderStackCache`: a decoder's layers as one `functional.Decoder`, kept until something in the module changes.

models.common.decoder has one for each model; `encoder_stack` is the same for encoders. A call compares only
`Module._version`, which every change below the module replaces, and the instruction set.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from transformer_fast import functional as F
from transformer_fast.nn.module import Module


class _Kept(NamedTuple):
    version: object
    isa: str
    decoder: F.Decoder | None


class DecoderStackCache:
    """Made when first needed, and again when a part, an option or the instruction set has changed.

    Many threads may call `get` at once, also while a part is replaced: what is kept is one tuple, replaced as a whole.
    Copies and pickles start empty, since packed weights belong to this process and its instruction set.
    """

    __slots__ = ("_kept",)

    def __init__(self) -> None:
        self._kept: _Kept | None = None

    def get(self, root: Module, read: Callable[[], F.Decoder | None]) -> F.Decoder | None:
        """The decoder that `read` makes, or None where that is None: layers that F.Decoder does not know.

        read may depend on attributes, parameters and parts of root and of the modules below it, and on the instruction
        set, on nothing else.
        """
        kept = self._kept
        if kept is None or kept.version is not root._version or kept.isa != F.get_isa():
            # The version is read first: after a change during `read` the next call reads again.
            version, isa = root._version, F.get_isa()
            decoder = read()
            # As encoder_stack: weights of two levels at once are not kept.
            isa = isa if decoder is None or decoder.fits else ""
            kept = self._kept = _Kept(version, isa, decoder)
        return kept.decoder

    def __reduce__(self) -> tuple[type, tuple[()]]:
        return DecoderStackCache, ()
