"""`ImageEmbedding`: pictures to tokens, as the vision transformers do it; shared by the families of models that see.

Patches, projected; one or two learned tokens before them; a learned position added to each. For pictures of another
size than the model was trained on, the positions are interpolated. Source: Dosovitskiy et al. 2020, arXiv:2010.11929;
transformers' modeling_vit, modeling_deit and modeling_clip.
"""

from __future__ import annotations

import numpy as np

from transformer_fast.nn import Collector, Module, PackedEncoder, PatchEmbedding, init

_CUBIC = -0.75  # the cubic kernel's parameter in torch.nn.functional.interpolate(mode="bicubic")


class ImageEmbedding(Module):
    """pixel_values (B, C, H, W) -> tokens (B, n + patches, h), with n = num_tokens (1 or 2) learned ones first.

    Parameters: class_token (h,), second_token (h,) or None, positions (n + patches, h), patches.weight (h, C, height,
    width) and patches.bias.

    Example:
        >>> ImageEmbedding(3, 16, (32, 32), (8, 8))(np.zeros((1, 3, 32, 32), np.float32)).shape
        (1, 17, 16)
    """

    def __init__(
        self,
        num_channels: int,
        h: int,
        image_size: tuple[int, int],
        patch_size: tuple[int, int],
        bias: bool = True,
        num_tokens: int = 1,
    ) -> None:
        super().__init__()
        self.num_channels = num_channels
        self.image_size = image_size
        self.patch_size = patch_size
        self.num_tokens = num_tokens
        self.patches = PatchEmbedding(num_channels, h, patch_size, bias)
        self.register_parameter("class_token", (h,), init.normal)
        self.register_parameter("second_token", (h,) if num_tokens == 2 else None, init.normal)
        down, across = self._grid(*image_size)
        self.register_parameter("positions", (num_tokens + down * across, h), init.normal)

    def forward(self, pixel_values: np.ndarray, interpolate_pos_encoding: bool = False) -> np.ndarray:
        """Raises ValueError and TypeError where shape or type of the pixel values do not fit."""
        pixels = np.asarray(pixel_values)
        if pixels.ndim != 4 or pixels.shape[1] != self.num_channels:
            raise ValueError(f"pixel_values has shape {pixels.shape}; needed: (B, {self.num_channels}, H, W)")
        if pixels.dtype.kind != "f":
            raise TypeError(f"pixel_values has dtype {pixels.dtype}; needed: float32, as ImageProcessor gives it")
        size = pixels.shape[2:]
        if size != self.image_size and not interpolate_pos_encoding:
            raise ValueError(
                f"pixel_values has shape {pixels.shape}; "
                f"needed: pictures of {self.image_size}, or interpolate_pos_encoding=True"
            )
        if any(n < patch for n, patch in zip(size, self.patch_size, strict=True)):
            raise ValueError(f"pixel_values has shape {pixels.shape}; needed: pictures of at least {self.patch_size}")
        positions = self._positions(*size)
        tokens = np.empty((len(pixels), *positions.shape), np.float32)
        tokens[:, 0] = self.class_token + positions[0]
        if self.second_token is not None:
            tokens[:, 1] = self.second_token + positions[1]
        patches = self.patches(pixels.astype(np.float32, copy=False))
        np.add(patches, positions[self.num_tokens :], out=tokens[:, self.num_tokens :])
        return tokens

    def _grid(self, height: int, width: int) -> tuple[int, int]:
        return height // self.patch_size[0], width // self.patch_size[1]

    def _positions(self, height: int, width: int) -> np.ndarray:
        """The positions of a picture of that size, (n + patches, h)."""
        own, wanted = self._grid(*self.image_size), self._grid(height, width)
        if own == wanted:
            return self.positions
        first, rest = np.split(self.positions, [self.num_tokens])
        down, across = (_bicubic(a, b) for a, b in zip(own, wanted, strict=True))
        grid = np.einsum("yY,xX,YXh->yxh", down, across, rest.reshape(*own, -1), optimize=True)
        return np.concatenate([first, grid.reshape(-1, rest.shape[1]).astype(np.float32)])


def _bicubic(own: int, wanted: int) -> np.ndarray:
    """(wanted, own): what each of `own` places weighs in each of `wanted`, as torch interpolates without aligned
    corners."""
    where = (np.arange(wanted) + 0.5) * (own / wanted) - 0.5
    first = np.floor(where).astype(np.int64)
    weights = np.zeros((wanted, own))
    for tap in (-1, 0, 1, 2):
        place = np.clip(first + tap, 0, own - 1)
        np.add.at(weights, (np.arange(wanted), place), _cubic(np.abs(where - first - tap)))
    return weights


def _cubic(x: np.ndarray) -> np.ndarray:
    """Keys' convolution kernel at the distances x, 0 to 2."""
    near = ((_CUBIC + 2) * x - (_CUBIC + 3)) * x * x + 1
    far = ((_CUBIC * x - 5 * _CUBIC) * x + 8 * _CUBIC) * x - 4 * _CUBIC
    return np.where(x <= 1, near, far)


def encoded(
    layers: PackedEncoder, tokens: np.ndarray, attentions: bool = False, states: bool = False, first: bool = False
) -> tuple[np.ndarray, Collector]:
    """tokens (B, L, h) through the layers, each row for itself; and what was asked for on the way.

    first: only the first token of each row is wanted, (B, h); the others save the last layer.
    """
    B, L, h = tokens.shape
    collect = Collector(np.ones((B, L), np.bool_), hidden_states=states, attentions=attentions)
    hidden = layers(
        tokens.reshape(B * L, h),
        np.arange(B + 1) * L,
        pooled_rows=0 if first else None,
        collect=collect if attentions or states else None,
    )
    return hidden if first else hidden.reshape(B, L, h), collect


def pair(size: int | list[int]) -> tuple[int, int]:
    """A config's image_size or patch_size as (height, width).

    Raises:
        ValueError: it is neither a number nor two.
    """
    sizes = [size, size] if isinstance(size, int) else size
    if len(sizes) != 2:
        raise ValueError(f"the size {size!r} is no number, nor a height and a width")
    return sizes[0], sizes[1]
