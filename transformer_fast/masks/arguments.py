"""Arguments of structures: numbers and arrays that may differ by batch entry and head, held so that nothing can change.

Called by the files of this package that define structures. A structure's fields are `PerHead` or plain values, so that
equality, hash and repr are the same for all of them.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from transformer_fast.functional import arrays
from transformer_fast.functional.key_ranges import MOST, REPR_ELEMENTS


class PerHead:
    """An int64 array (B or 1, H or 1, ...): a value, or an array of them, for each batch entry and head. Immutable."""

    __slots__ = ("array",)

    array: np.ndarray

    def __init__(self, array: np.ndarray) -> None:
        array = np.array(array, np.int64, order="C")
        array.flags.writeable = False
        object.__setattr__(self, "array", array)

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError(f"{name} cannot be set: masks are immutable")

    @property
    def heads(self) -> tuple[int, int]:
        return self.array.shape[:2]  # type: ignore[return-value]

    def of(self, b: int, h: int) -> Any:
        """What entry b and head h has: an int, or an array."""
        B, H = self.heads
        value = self.array[b if B > 1 else 0, h if H > 1 else 0]
        return int(value) if self.array.ndim == 2 else value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, PerHead) and np.array_equal(self.array, other.array)

    def __hash__(self) -> int:
        return hash((self.array.shape, self.array.tobytes()))

    def __reduce__(self) -> tuple:
        return PerHead, (self.array,)

    def __repr__(self) -> str:
        """As the argument may be given: without the axes that are shared."""
        array = self.array
        if array.shape[1] == 1:
            array = array[:, 0]
            if array.shape[0] == 1:
                array = array[0]
        if array.size > REPR_ELEMENTS:
            return f"<integers {array.shape}>"
        return str(array.tolist())


def number(x: Any, name: str, least: int = -MOST) -> PerHead:
    """An integer, (B,) integers or (B, H) integers, from `least` on."""
    if type(x) is int:
        array = np.array([[x]], np.int64 if abs(x) <= MOST else object)
    else:
        array = _integers(x, name)
        if array.ndim > 2:
            raise ValueError(f"{name} has shape {array.shape}; needed: an integer, (B,) or (B, H)")
        array = array.reshape(*array.shape, *(1,) * (2 - array.ndim))
    _check_heads(array, name)
    wrong = (array < least) | (array > MOST)
    if wrong.any():
        raise ValueError(f"{name} is {array[wrong][0]}; needed: {least} to {MOST}")
    return PerHead(array)


def sequence(x: Any, name: str, length: str = "L") -> PerHead:
    """(L,), (B, L) or (B, H, L) integers."""
    array = _integers(x, name)
    if not 1 <= array.ndim <= 3:
        raise ValueError(f"{name} has shape {array.shape}; needed: ({length},), (B, {length}) or (B, H, {length})")
    if array.ndim == 2:
        array = array[:, None]
    array = array.reshape(*(1,) * (3 - array.ndim), *array.shape)
    _check_heads(array, name)
    return PerHead(array)


def whole(x: Any, name: str, least: int) -> int:
    """An int from `least` on, the same for all heads."""
    if isinstance(x, (bool, np.bool_)):
        raise TypeError(f"{name} is {x!r}; needed: an integer")
    x = arrays.integer(x, name)
    if not least <= x <= MOST:
        raise ValueError(f"{name} is {x}; needed: {least} to {MOST}")
    return x


def pair(x: Any, name: str, least: int) -> tuple[int, int]:
    """Two ints: one for both, or a pair."""
    if np.ndim(x) == 0:
        x = whole(x, name, least)
        return x, x
    if len(x) != 2:
        raise ValueError(f"{name} is {x!r}; needed: an integer, or two")
    return whole(x[0], f"{name}[0]", least), whole(x[1], f"{name}[1]", least)


def part(x: np.ndarray, first: int, length: int, name: str, axis: str) -> np.ndarray:
    """x[first : first + length] of an array over positions; refused where it does not reach that far."""
    if first < 0 or first + length > len(x):
        raise ValueError(f"{name} has {len(x)} positions; needed: one for each {axis} from {first} to {first + length}")
    return x[first : first + length]


def _integers(x: Any, name: str) -> np.ndarray:
    array = arrays.as_array(x, name)
    if array.dtype.kind not in "iu" and array.size:  # an empty list is an array of float64
        raise TypeError(f"{name} has dtype {array.dtype}; needed: integers")
    if array.dtype.kind == "u" and array.size and array.max() > MOST:
        raise ValueError(f"{name} reaches {array.max()}; needed: integers below 2**31")
    return array


def _check_heads(array: np.ndarray, name: str) -> None:
    if 0 in array.shape[:2]:
        raise ValueError(f"{name} has shape {array.shape}; needed: at least one batch entry and head")
