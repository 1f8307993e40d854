"""Packed weights as bytes, and weights that lie over such bytes: what a file of packed weights holds.

`models.common.packed_cache` writes and reads such files. Bytes are the business of one layout: `sample_digest` tells
whether the engine that reads packs as the one that wrote. A new weight format needs a sample here only if it is packed
from something else than numbers, int8 and the blocks of `BLOCK_FORMATS`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from transformer_fast import _core
from transformer_fast.functional.block_weight import BLOCK_FORMATS
from transformer_fast.functional.linear import A8, FORMATS, PackedWeight

# TFAST_FORMAT_INT8_UNBOUNDED: what becomes of "int8" where integers of a file leave the bound of the faster kernels.
_UNBOUNDED = 4
NUMBERS = {*FORMATS.values(), _UNBOUNDED, *(f.number + a8 for f in BLOCK_FORMATS.values() for a8 in (0, A8))}
# Some panels and a part of one in every layout; blocks of files have up to 256 values.
_SAMPLE_ROWS, _SAMPLE_WIDTH = 70, 512


def describe(packed: PackedWeight) -> tuple[dict[str, Any], list[np.ndarray]]:
    """A weight as what JSON can write, and its bytes: read-only views, one for each part that has a format of its own.

    Example:
        >>> description, (data,) = describe(F.pack_weight(np.ones((3, 4), np.float32)))
        >>> restore(description, [data]).shape
        (3, 4)
    """
    parts, arrays = [], []
    for part in packed.parts or (packed,):
        shape, smoothed, x_limit, data = part.stored()
        layout = {"layout": list(part.layout()), "smoothed": smoothed, "x_limit": x_limit}
        parts.append({"format": part.format, "shape": list(shape), **layout})
        arrays.append(data)
    return {"format": packed.format, "shape": list(packed.shape), "parts": parts}, arrays


def restore(description: Mapping[str, Any], arrays: Sequence[np.ndarray]) -> PackedWeight:
    """The weight of a description over its bytes, which are not copied and begin at multiples of 64.

    Raises:
        ValueError: the level in force has no such layout, or the description does not fit the bytes.
        KeyError, TypeError: it is no description.
    """
    parts = []
    for part, data in zip(description["parts"], arrays, strict=True):
        number, for_decode = part["layout"][:2]
        if number not in NUMBERS:
            raise ValueError(f"there is no format of number {number}")
        stored = (tuple(part["shape"]), part["smoothed"], part["x_limit"], data)
        parts.append(PackedWeight((stored,), number, part["format"], for_decode, None, None, 0))
        if list(parts[-1].layout()) != part["layout"]:
            raise ValueError(f"the layout is {part['layout']}; the level in force has {list(parts[-1].layout())}")
    packed = parts[0]
    if len(parts) > 1:
        packed = PackedWeight(tuple(parts), 0, description["format"], False, None, None, 0)
    if list(packed.shape) != description["shape"]:
        raise ValueError(f"the shape is {description['shape']}; its parts have {list(packed.shape)}")
    return packed


def sample_digest(number: int, for_decode: bool) -> str:
    """SHA-256 of the bytes that a sample has in this format under the level in force.

    Two engines with the same digest lay weights out alike, whatever their versions and processors.
    """
    codes = (np.arange(_SAMPLE_ROWS * _SAMPLE_WIDTH, dtype=np.int64) * 37 % 241 - 120).reshape(_SAMPLE_ROWS, -1)
    scale, given = None, (codes / np.float32(64)).astype(np.float32)
    blocks = {block.number: block for block in BLOCK_FORMATS.values()}
    if number == _UNBOUNDED:
        number, given, scale = FORMATS["int8"], codes.astype(np.int8), np.ones(_SAMPLE_ROWS, np.float32)
    elif (block := blocks.get(number % A8)) is not None:
        width = _SAMPLE_WIDTH // block.values * block.nbytes
        given = (np.arange(_SAMPLE_ROWS * width) * 37 % 59).astype(np.uint8).reshape(-1, width)  # scales stay finite
    packed = _core.PackedWeight((given,), number, "", for_decode, scale, None, 0)
    _, _, x_limit, data = packed.stored()
    return hashlib.sha256(data.tobytes() + repr((packed.layout(), x_limit)).encode()).hexdigest()
