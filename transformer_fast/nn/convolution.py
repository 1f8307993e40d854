"""`Conv1d` and `Conv2d` with torch's interface, and `PatchEmbedding`, the convolution that vision models start with.

Called by speech and vision models and users. A convolution is a product: the windows of the input are looked at through
strides and laid out as rows, one for each place of the output, and multiplied by the packed weight. Channels come last
on the way, so that a window is a few long runs of memory; the result is a view (B, C, ...) of an array with channels
last. Another number of axes is another subclass of `_Convolution`.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from typing import ClassVar

import numpy as np

from transformer_fast import functional as F
from transformer_fast.nn import init
from transformer_fast.nn.activation import FUNCTIONS
from transformer_fast.nn.module import Module
from transformer_fast.nn.packed_weights import PackedParameters

Sizes = int | Sequence[int]


class _Convolution(Module):
    """Base of Conv1d and Conv2d: everything but the number of axes."""

    _axes: ClassVar[int]

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Sizes,
        stride: Sizes = 1,
        padding: Sizes | str = 0,
        dilation: Sizes = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: str = "zeros",
    ) -> None:
        super().__init__()
        if min(in_channels, out_channels, groups) < 1 or in_channels % groups or out_channels % groups:
            raise ValueError(
                f"in_channels={in_channels}, out_channels={out_channels}, groups={groups}; "
                "needed: positive numbers, groups a divisor of both"
            )
        if padding_mode != "zeros":
            raise NotImplementedError(f'padding_mode={padding_mode!r} is not supported; needed: "zeros"')
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.kernel_size = _sizes("kernel_size", kernel_size, self._axes, 1)
        self.stride = _sizes("stride", stride, self._axes, 1)
        self.dilation = _sizes("dilation", dilation, self._axes, 1)
        self.padding = padding if isinstance(padding, str) else _sizes("padding", padding, self._axes, 0)
        self.groups = groups
        self.padding_mode = padding_mode
        self._pads = self._padding_of_each_side()
        fan_in = in_channels // groups * math.prod(self.kernel_size)
        self.register_parameter(
            "weight", (out_channels, in_channels // groups, *self.kernel_size), init.uniform(fan_in)
        )
        self.register_parameter("bias", (out_channels,) if bias else None, init.uniform(fan_in))
        each = out_channels // groups
        self._packs = [
            PackedParameters("weight", rows=(i * each, (i + 1) * each), format="float32", to_matrix=_channels_last)
            for i in range(groups)
        ]

    def forward(self, input: np.ndarray, *, activation: str | None = None) -> np.ndarray:
        """(B, in_channels, ...) or (in_channels, ...) -> (B, out_channels, ...) or (out_channels, ...); float32.

        An axis of length L becomes floor((L + padding - dilation * (kernel - 1) - 1) / stride) + 1 long, with the
        padding of both sides. activation: as in `functional.linear`, applied to the result.

        Raises:
            ValueError, TypeError: the shape or the type does not fit; an axis is shorter than the kernel.
        """
        input = np.asarray(input)
        if input.ndim == self._axes + 1:
            return self.forward(input[None], activation=activation)[0]
        if input.ndim != self._axes + 2 or input.shape[1] != self.in_channels:
            raise ValueError(
                f"input has shape {input.shape}; needed: ([batch,] {self.in_channels} channels, {self._axes} axes)"
            )
        if input.dtype != np.float32:
            raise TypeError(f"input has dtype {input.dtype}; needed: float32")
        if activation is not None and activation not in FUNCTIONS:
            raise ValueError(f"activation is {activation!r}; needed: None or one of {list(FUNCTIONS)}")
        windows = self._windows(self._padded(input))
        if self.groups == self.in_channels > 1:
            result = self._each_channel(windows, activation)
        else:
            result = self._products(windows, activation)
        return np.moveaxis(result, -1, 1)

    def _padding_of_each_side(self) -> list[tuple[int, int]]:
        """(before, after) of every axis."""
        if self.padding == "valid":
            return [(0, 0)] * self._axes
        if self.padding == "same":
            if self.stride != (1,) * self._axes:
                raise ValueError(f'padding="same" and stride={self.stride}; needed: stride 1')
            totals = [d * (k - 1) for d, k in zip(self.dilation, self.kernel_size, strict=True)]
            return [(total // 2, total - total // 2) for total in totals]
        if isinstance(self.padding, str):
            raise ValueError(f'padding is {self.padding!r}; needed: numbers, "same" or "valid"')
        return [(n, n) for n in self.padding]

    def _padded(self, input: np.ndarray) -> np.ndarray:
        """(B, C, ...) -> (B, ..., C), dense, with the padding around it."""
        lengths = [n + before + after for n, (before, after) in zip(input.shape[2:], self._pads, strict=True)]
        needed = [d * (k - 1) + 1 for d, k in zip(self.dilation, self.kernel_size, strict=True)]
        if any(n < least for n, least in zip(lengths, needed, strict=True)):
            raise ValueError(f"input has shape {input.shape}; needed: axes of at least {needed}, padding included")
        padded = np.zeros((len(input), *lengths, self.in_channels), np.float32)
        inside = tuple(slice(before, before + n) for n, (before, _) in zip(input.shape[2:], self._pads, strict=True))
        padded[(slice(None), *inside)] = np.moveaxis(input, 1, -1)
        return padded

    def _windows(self, padded: np.ndarray) -> np.ndarray:
        """(B, places of the output, places of the kernel, C), places having an axis each: a view."""
        lengths, strides = padded.shape[1:-1], padded.strides[1:-1]
        steps = list(zip(lengths, self.kernel_size, self.stride, self.dilation, strict=True))
        places = [(n - d * (k - 1) - 1) // s + 1 for n, k, s, d in steps]
        return np.lib.stride_tricks.as_strided(
            padded,
            (len(padded), *places, *self.kernel_size, self.in_channels),
            (
                padded.strides[0],
                *(s * n for s, n in zip(self.stride, strides, strict=True)),
                *(d * n for d, n in zip(self.dilation, strides, strict=True)),
                padded.strides[-1],
            ),
            writeable=False,
        )

    def _products(self, windows: np.ndarray, activation: str | None) -> np.ndarray:
        """(B, places, out_channels) by products, one for each group and block of places."""
        places = windows.shape[: self._axes + 1]
        result = np.empty((*places, self.out_channels), np.float32)
        inputs, outputs = self.in_channels // self.groups, self.out_channels // self.groups
        for group, packed in enumerate(self._packed()):
            own = slice(group * outputs, (group + 1) * outputs)
            bias = None if self.bias is None else self.bias[own]
            taken = windows[..., group * inputs : (group + 1) * inputs]
            for block in _blocks(places, packed.shape[1]):
                out = result[block].reshape(-1, self.out_channels)[:, own]
                F.linear(taken[block].reshape(len(out), -1), packed, bias, activation=activation, out=out)
        return result

    def _each_channel(self, windows: np.ndarray, activation: str | None) -> np.ndarray:
        """(B, places, out_channels) where every channel has kernels of its own: a sum over the places of the kernel."""
        places = windows.shape[: self._axes + 1]
        kernels = self.weight.reshape(self.in_channels, -1, *self.kernel_size)
        result = np.zeros((*places, *kernels.shape[:2]), np.float32)
        product = np.empty_like(result)
        for place in itertools.product(*map(range, self.kernel_size)):
            result += np.multiply(windows[(..., *place, slice(None))][..., None], kernels[(..., *place)], out=product)
        result = result.reshape(*places, self.out_channels)
        if self.bias is not None:
            result += self.bias
        return result if activation is None else FUNCTIONS[activation](result)

    def _packed(self) -> list[F.PackedWeight]:
        """The weight of each group as a matrix (outputs, places of the kernel * inputs), packed."""
        return [pack.get(self) for pack in self._packs]

    def extra_repr(self) -> str:
        return (
            f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, stride={self.stride}, "
            f"padding={self.padding!r}, dilation={self.dilation}, groups={self.groups}, bias={self.bias is not None}"
        )


class Conv1d(_Convolution):
    """Sliding products over one axis, as torch.nn.Conv1d: (B, in_channels, L) -> (B, out_channels, L').

    weight (out_channels, in_channels / groups, kernel), bias (out_channels,) or None. padding: a number for both sides,
    "valid" (none) or "same" (L' = L, needs stride 1). padding_mode other than "zeros" raises NotImplementedError.
    Fresh parameters are U(-b, b) with b = 1 / sqrt(in_channels / groups * kernel).

    Example:
        >>> conv = nn.Conv1d(1, 1, kernel_size=3, padding="same", bias=False)
        >>> conv.weight = np.ones((1, 1, 3))
        >>> conv(np.array([[[1, 2, 3, 4]]], np.float32))
        array([[[3., 6., 9., 7.]]], dtype=float32)
    """

    _axes = 1


class Conv2d(_Convolution):
    """Sliding products over two axes, as torch.nn.Conv2d: (B, in_channels, H, W) -> (B, out_channels, H', W').

    weight (out_channels, in_channels / groups, kernel height, kernel width). kernel_size, stride, padding and dilation
    are a number for both axes, or (height, width); the rest as in `Conv1d`.

    Example:
        >>> conv = nn.Conv2d(3, 8, kernel_size=3, stride=2, padding=1)
        >>> conv(np.ones((1, 3, 32, 32), np.float32)).shape
        (1, 8, 16, 16)
    """

    _axes = 2


class PatchEmbedding(Module):
    """An image as a row of patches, each projected: what a Conv2d with stride = kernel = patch does, flattened.

    (B, in_channels, H, W) -> (B, patches, embed_dim), patches from left to right, then from top to bottom. weight
    (embed_dim, in_channels, height, width) and bias are such a Conv2d's. Rows and columns at the end that make no whole
    patch are left out, as there. Source: Dosovitskiy et al. 2020, arXiv:2010.11929.

    Example:
        >>> embed = nn.PatchEmbedding(in_channels=3, embed_dim=64, patch_size=16)
        >>> embed(np.ones((1, 3, 224, 224), np.float32)).shape
        (1, 196, 64)
    """

    def __init__(self, in_channels: int, embed_dim: int, patch_size: Sizes, bias: bool = True) -> None:
        super().__init__()
        self.in_channels = in_channels
        self.embed_dim = embed_dim
        self.patch_size = _sizes("patch_size", patch_size, 2, 1)
        fan_in = in_channels * math.prod(self.patch_size)
        self.register_parameter("weight", (embed_dim, in_channels, *self.patch_size), init.uniform(fan_in))
        self.register_parameter("bias", (embed_dim,) if bias else None, init.uniform(fan_in))
        self._packed_weight = PackedParameters("weight", format="float32", to_matrix=_flat)

    def forward(self, input: np.ndarray, *, out: np.ndarray | None = None) -> np.ndarray:
        """(B, in_channels, H, W) float32 -> (B, (H // height) * (W // width), embed_dim).

        Raises ValueError and TypeError where shape or type do not fit.
        """
        input = np.asarray(input)
        height, width = self.patch_size
        if input.ndim != 4 or input.shape[1] != self.in_channels or input.shape[2] < height or input.shape[3] < width:
            raise ValueError(
                f"input has shape {input.shape}; needed: (B, {self.in_channels}, at least {height}, at least {width})"
            )
        B, C, H, W = input.shape
        down, across = H // height, W // width
        whole = input[:, :, : down * height, : across * width]
        patches = whole.reshape(B, C, down, height, across, width).transpose(0, 2, 4, 1, 3, 5)
        rows = patches.reshape(B, down * across, C * height * width)
        return F.linear(rows, self._packed_weight.get(self), self.bias, out=out)

    def extra_repr(self) -> str:
        return f"{self.in_channels}, {self.embed_dim}, patch_size={self.patch_size}, bias={self.bias is not None}"


# Floats of the rows that one product reads. All windows of a large image at once are nine times the image for a 3 x 3
# kernel, and slow: 64 channels of 256 x 256 took 70 ms on one thread, against 37 to 47 ms for 2^18 to 2^23 floats.
_BLOCK = 1 << 20


def _blocks(places: tuple[int, ...], columns: int) -> Iterator[tuple[slice, slice]]:
    """Images and places of the first axis, as many at a time as fit in a block: whole images, or parts of one."""
    row = max(math.prod(places[2:]) * columns, 1)
    length = min(max(_BLOCK // row, 1), max(places[1], 1))
    images = max(_BLOCK // (row * places[1]), 1) if places[1] else 1
    for image in range(0, places[0], images):
        for first in range(0, places[1], length):
            yield slice(image, image + images), slice(first, first + length)


def _channels_last(weight: np.ndarray) -> np.ndarray:
    """(outputs, inputs, kernel...) -> (outputs, kernel... * inputs)."""
    return np.moveaxis(weight, 1, -1).reshape(len(weight), -1)


def _flat(weight: np.ndarray) -> np.ndarray:
    """(outputs, inputs, kernel...) -> (outputs, inputs * kernel...)."""
    return weight.reshape(len(weight), -1)


def _sizes(name: str, value: Sizes, axes: int, least: int) -> tuple[int, ...]:
    """One number for each axis."""
    sizes = (value,) * axes if isinstance(value, int) else tuple(value)
    if len(sizes) != axes or not all(isinstance(n, int) and n >= least for n in sizes):
        raise ValueError(f"{name} is {value!r}; needed: a number, or {axes}, of at least {least}")
    return sizes
