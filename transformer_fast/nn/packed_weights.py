"""`PackedWeight`s of a module's parameters: made when first needed, kept, and remade when they no longer fit.

Every module that multiplies by a weight has one `PackedParameters` for each product: Linear, FusedLinear,
MultiheadAttention, the recurrent layers, convolutions, ModernBERT's feed-forward. This is the only place in nn that
calls `functional.pack_weight`; an option of packing that depends on the module is read here.

A call compares `Module._version` and the instruction set: that is cheap, and every change of a module's parameters or
options replaces its version. Only then the parameters themselves are compared.

A module whose weights are packed in a file (`models.common.packed_cache`) has a `PackedSource`, which is asked before
anything is packed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np

from transformer_fast import functional as F
from transformer_fast.functional.integer_weight import as_floats
from transformer_fast.functional.linear import INTEGER_FORMATS
from transformer_fast.nn.smoothing import smoothing_factors

if TYPE_CHECKING:
    from transformer_fast.nn.module import Module


class _Kept(NamedTuple):
    """A packed weight and all that it was made from; version: the newest one of the module for which that was so."""

    version: object
    sources: tuple[np.ndarray, ...]
    isa: str
    options: dict[str, Any]
    packed: F.PackedWeight


class PackedSource(Protocol):
    """Where a module finds packed weights: its `_packed_source`, which copies and pickles of the module do not have."""

    def find(self, key: str, shape: tuple[int, int], made_from: tuple) -> F.PackedWeight | None:
        """The weight of that key and shape for the level in force; None if it is to be packed.

        made_from: the parameters that decide its values, which may be others than those of the file.
        """


class PackedParameters:
    """The packed form of one parameter, of a range of its rows, or of several whose rows follow each other.

    names: the parameters of the module that `get` is called with. rows: (first, last) of each of them, by default all.
    for_decode, format: of `functional.pack_weight`, by default the module's `packs_for_decode` and `weight_format`.
    to_matrix turns the rows of a parameter with more than two axes into a matrix. takes_input: the product's input is
    the module's own, so that it may be smoothed by the norm that the module follows.

    Many threads may call `get` at once, also while a parameter is replaced: all that is kept is one tuple, replaced as
    a whole, so that no thread sees a part of it. Two threads may pack the same weight at the same time; that costs time
    once, where a lock would cost time in every call, and could stay locked in a forked process.
    Copies and pickles start empty: packed weights belong to this process and its instruction set.

    Example:
        >>> linear = nn.Linear(3, 4)
        >>> last_rows = PackedParameters("weight", rows=(2, 4))
        >>> last_rows.get(linear).shape
        (2, 3)
    """

    __slots__ = ("_for_decode", "_format", "_kept", "_names", "_rows", "_takes_input", "_to_matrix")

    def __init__(
        self,
        *names: str,
        rows: tuple[int, int] | None = None,
        for_decode: bool | None = None,
        format: str | None = None,
        to_matrix: Callable[[np.ndarray], np.ndarray] | None = None,
        takes_input: bool = False,
    ) -> None:
        self._names, self._rows, self._for_decode = names, rows, for_decode
        self._format, self._to_matrix, self._takes_input = format, to_matrix, takes_input
        self._kept: _Kept | None = None

    def get(self, module: Module) -> F.PackedWeight:
        """The packed weight for the module's parameters, formats and the instruction set in force."""
        kept = self._kept
        if kept is None or kept.version is not module._version or kept.isa != F.get_isa():
            kept = self._kept = self._checked(module, kept)
        return kept.packed

    def _checked(self, module: Module, kept: _Kept | None) -> _Kept:
        """`kept` with the module's version if all that it was made from is the same, else what is packed anew."""
        version = module._version  # read first: a change from here on is seen by the next call
        sources = tuple(module._parameters[name] for name in self._names)
        options = {
            "format": self._format or module.weight_format,
            "for_decode": module.packs_for_decode if self._for_decode is None else self._for_decode,
        }
        norm, parts = module._norm_before if self._takes_input and options["format"] == "int8" else (None, 1)
        made_from = sources if norm is None else (*sources, *norm._parameters.values())
        if kept is not None and kept.isa == F.get_isa() and kept.options == options and _same(kept.sources, made_from):
            return kept._replace(version=version)
        stored = module.__dict__.get("_packed_source")
        if stored is not None:
            packed = stored.find(self._key(options), self._shape(sources), made_from)
            if packed is not None:
                return _Kept(version, made_from, packed.isa, options, packed)
        blocks, given = [self._block(source) for source in sources], {}
        if options["format"] in INTEGER_FORMATS and all(isinstance(block, F.IntegerWeight) for block in blocks):
            given["scale"] = np.concatenate([block.scale for block in blocks])
            blocks, norm = [block.integers for block in blocks], None  # integers are taken as they are
        if norm is not None:
            rows = [block[i * (n := len(block) // parts) : (i + 1) * n] for block in blocks for i in range(parts)]
            given["smoothing"] = smoothing_factors(norm, rows)
        packed = F.pack_weight(blocks if len(blocks) > 1 else blocks[0], **options, **given)
        if packed.isa == F.get_isa() and not packed.fits:
            # set_isa() there and back while it was packed: kept, it would be wrong until the next set_isa().
            raise RuntimeError("set_isa() was called in another thread while a weight was packed; needed: call again")
        return _Kept(version, made_from, packed.isa, options, packed)

    def kept(self) -> tuple[str, F.PackedWeight] | None:
        """The weight that is kept, and the key under which a `PackedSource` would have it; None: there is none."""
        kept = self._kept
        return None if kept is None else (self._key(kept.options), kept.packed)

    def forget(self) -> None:
        """Packs, or asks the module's `PackedSource`, when the weight is next needed."""
        self._kept = None

    def _key(self, options: dict[str, Any]) -> str:
        """What tells the weight from others of the same module."""
        rows = "" if self._rows is None else "[{}:{}]".format(*self._rows)
        return f"{'+'.join(self._names)}{rows} {options['format']}" + " for_decode" * options["for_decode"]

    def _shape(self, sources: tuple) -> tuple[int, int]:
        rows = [len(range(*slice(*(self._rows or (None,))).indices(len(source)))) for source in sources]
        return sum(rows), math.prod(sources[0].shape[1:])

    def _block(self, source: np.ndarray) -> np.ndarray:
        block = source if self._rows is None else source[slice(*self._rows)]
        return block if self._to_matrix is None else self._to_matrix(as_floats(block))

    def __reduce__(self) -> tuple:
        options = (self._rows, self._for_decode, self._format, self._to_matrix, self._takes_input)
        return _empty, (self._names, *options)


def packed_parameters(module: Module) -> Iterator[PackedParameters]:
    """Those of a module itself, without those of its parts."""
    for value in vars(module).values():
        several = value.values() if isinstance(value, dict) else value if isinstance(value, (list, tuple)) else [value]
        yield from (one for one in several if isinstance(one, PackedParameters))


def _empty(names, rows, for_decode, format, to_matrix, takes_input) -> PackedParameters:
    options = {"rows": rows, "for_decode": for_decode, "format": format}
    return PackedParameters(*names, to_matrix=to_matrix, takes_input=takes_input, **options)


class _KeptBias(NamedTuple):
    version: object
    sources: tuple[np.ndarray | None, ...]
    joined: np.ndarray | None


class JoinedBias:
    """Biases of a module, one after the other, zeros for those that it goes without; remade when one is replaced.

    names: the parameters, sizes: their lengths. Threads, copies and pickles as for `PackedParameters`.
    """

    __slots__ = ("_kept", "_names", "_sizes")

    def __init__(self, names: tuple[str, ...], sizes: tuple[int, ...]) -> None:
        self._names, self._sizes = names, sizes
        self._kept: _KeptBias | None = None

    def get(self, module: Module) -> np.ndarray | None:
        """(sum of sizes,), or None where the module has none of them."""
        kept = self._kept
        if kept is None or kept.version is not module._version:
            kept = self._kept = self._checked(module, kept)
        return kept.joined

    def _checked(self, module: Module, kept: _KeptBias | None) -> _KeptBias:
        version = module._version
        sources = tuple(module._parameters[name] for name in self._names)
        if kept is not None and _same(kept.sources, sources):
            return kept._replace(version=version)
        joined = None
        if any(source is not None for source in sources):
            pairs = zip(sources, self._sizes, strict=True)
            joined = np.concatenate([np.zeros(n, np.float32) if source is None else source for source, n in pairs])
        return _KeptBias(version, sources, joined)

    def __reduce__(self) -> tuple:
        return JoinedBias, (self._names, self._sizes)


def _same(kept: tuple, sources: tuple) -> bool:
    return len(kept) == len(sources) and all(a is b for a, b in zip(kept, sources, strict=True))
