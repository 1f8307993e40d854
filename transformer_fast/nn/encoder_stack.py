"""`EncoderStackCache`: a module's layers as one `functional.Encoder`, kept until something in the module changes.

PackedEncoder, TransformerEncoder and the encoders of encoder-decoders have one each, and describe their layers by a
`StackSpec`. Reading every part of every layer in each call took 0.16 of the 3.9 ms of 16 tokens of MiniLM (Zen 4),
whose weights throw Python's objects out of the processor's caches. So a call compares only `Module._version`, which
every change below the module replaces.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from transformer_fast import functional as F
from transformer_fast.nn.module import Module


class StackSpec(NamedTuple):
    """layers: the fields of an EncoderLayer each. options: num_heads, activation, eps and norm_first of F.Encoder."""

    layers: list[tuple]
    options: tuple

    def same(self, other: StackSpec | None) -> bool:
        """Whether both have the same options and the same arrays: the arrays themselves, not equal ones."""
        if other is None or self.options != other.options or len(self.layers) != len(other.layers):
            return False
        pairs = zip(self.layers, other.layers, strict=True)
        return all(a is b for mine, its in pairs for a, b in zip(mine, its, strict=True))


class _Kept(NamedTuple):
    """A specification, the version and instruction set it was read under, and an encoder for each value of causal."""

    version: object
    isa: str
    spec: StackSpec | None
    encoders: dict[bool, F.Encoder]


class EncoderStackCache:
    """Made when first needed, and again when a part, an option or the instruction set has changed.

    Many threads may call `get` at once, also while a part is replaced: what is kept is one tuple, replaced as a whole.
    Its `encoders` only gets more entries, each of which any of the threads may have made. What was read while another
    thread called set_isa() is used once, and not kept.
    Copies and pickles start empty, since packed weights belong to this process and its instruction set.
    """

    __slots__ = ("_kept",)

    def __init__(self) -> None:
        self._kept: _Kept | None = None

    def get(self, root: Module, read_spec: Callable[[], StackSpec | None], causal: bool = False) -> F.Encoder | None:
        """The encoder for the result of `read_spec`, or None where that is None: layers that F.Encoder does not know.

        read_spec may depend on attributes, parameters and parts of root and of the modules below it, and on the
        instruction set, on nothing else.
        """
        kept = self._kept
        if kept is None or kept.version is not root._version or kept.isa != F.get_isa():
            kept = self._kept = self._read(root, read_spec)
        if kept.spec is None:
            return None
        encoder = kept.encoders.get(causal)
        if encoder is None:
            layers, options = kept.spec
            encoder = F.Encoder([F.EncoderLayer(*layer) for layer in layers], *options, causal=causal)
            kept.encoders[causal] = encoder
        return encoder

    def _read(self, root: Module, read_spec: Callable[[], StackSpec | None]) -> _Kept:
        # The version is read first: after a change during read_spec the next call reads again.
        before, version, isa = self._kept, root._version, F.get_isa()
        spec = read_spec()
        unchanged = before is not None and spec is not None and spec.same(before.spec)
        # Weights of two levels at once fit neither: no level has that name, so that the next call reads again.
        if spec is not None and not all(part.fits for layer in spec.layers for part in layer[:4]):
            isa = ""
        return _Kept(version, isa, spec, before.encoders if unchanged else {})

    def __reduce__(self) -> tuple[type, tuple[()]]:
        return EncoderStackCache, ()
