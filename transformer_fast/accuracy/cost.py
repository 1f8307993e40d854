"""What a loaded model keeps in memory, and weights that are read before loading is timed. `compare` calls both."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from transformer_fast.files.source import ModelSource
from transformer_fast.nn import Module
from transformer_fast.nn.packed_weights import PackedParameters

_PAGE = 4096


def memory(model: Module) -> tuple[int, int]:
    """Bytes of the packed weights, and of the parameters that are kept beside them (each once, if they are shared).

    Matrices of a module that packs are read from their packed form only: they stay in the file, and do not count.

    Example:
        >>> linear = nn.Linear(8, 3)
        >>> memory(linear) == (linear.packed().nbytes, 12)                # the bias: 3 numbers of 4 bytes
        True
    """
    packed, packing, others = 0, set(), {}
    for path, module in model.named_modules():
        for pack in _packs(vars(module).values()):
            packed += pack.get(module).nbytes
            packing.add(path)
    for name, array in model.named_parameters():
        if array.ndim == 1 or name.rpartition(".")[0] not in packing:
            others[array.ctypes.data, array.shape] = array.nbytes
    return packed, sum(others.values())


def _packs(values: Any) -> Iterator[PackedParameters]:
    """What a module packs, which it has as an attribute, or several in a list or dict."""
    for value in values:
        if isinstance(value, PackedParameters):
            yield value
        elif isinstance(value, (list, tuple)):
            yield from _packs(value)
        elif type(value) is dict:
            yield from _packs(value.values())


def read_weights(source: ModelSource) -> None:
    """Reads the pages of all tensors once, so that two models which are loaded afterwards find them equally fast."""
    for tensor in source.tensors().values():
        np.add.reduce(tensor.data.reshape(-1)[::_PAGE], dtype=np.int64)
    source.release()
