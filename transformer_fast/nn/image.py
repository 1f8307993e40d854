"""Images as sets of vectors: self-attention over their pixels or patches.

`image_to_vectors` and `vectors_to_image` go there and back; `ImageSelfAttention` attends in between. Users call
them; vision models use `PatchEmbedding` (convolution.py) instead of the first.

Attention contains convolution: a head whose scores depend only on the offset j - i, and are large at one offset, copies
the vector there; with a head for each place of a kernel, the output projection is the kernel. As scores of that kind
are a `relative_bias` of `functional.scaled_dot_product_attention`, it can be tried out: tests/nn/test_image.py builds
Conv1d that way (Cordonnier, Loukas, Jaggi 2020, arXiv:1911.03584).
"""

from __future__ import annotations

import numpy as np

from transformer_fast.nn.attention import MultiheadAttention
from transformer_fast.nn.module import Module


def image_to_vectors(image: np.ndarray, patch: int = 1) -> np.ndarray:
    """(B, C, H, W) -> (B, (H / patch) * (W / patch), C * patch * patch): a vector for each pixel, or for each patch.

    From left to right, then from top to bottom; inside of a vector the order is that of the image (channel, row,
    column), as in the weight of a Conv2d. Any type; pixels are a view. Raises ValueError where patch does not divide.

    Example:
        >>> image = np.arange(8).reshape(1, 1, 2, 4)
        >>> nn.image_to_vectors(image, patch=2)
        array([[[0, 1, 4, 5],
                [2, 3, 6, 7]]])
    """
    image = np.asarray(image)
    if image.ndim != 4:
        raise ValueError(f"image has shape {image.shape}; needed: (B, C, H, W)")
    B, C, H, W = image.shape
    down, across = _patches(H, W, patch)
    patches = image.reshape(B, C, down, patch, across, patch).transpose(0, 2, 4, 1, 3, 5)
    return patches.reshape(B, down * across, C * patch * patch)


def vectors_to_image(vectors: np.ndarray, height: int, width: int, patch: int = 1) -> np.ndarray:
    """(B, patches, C * patch * patch) -> (B, C, height, width): what `image_to_vectors` took apart.

    Raises ValueError where number or length of the vectors do not fit.

    Example:
        >>> image = np.arange(24.0).reshape(1, 3, 2, 4)
        >>> np.array_equal(nn.vectors_to_image(nn.image_to_vectors(image, 2), 2, 4, 2), image)
        True
    """
    vectors = np.asarray(vectors)
    down, across = _patches(height, width, patch)
    if vectors.ndim != 3 or vectors.shape[1] != down * across or vectors.shape[2] % patch**2:
        raise ValueError(f"vectors has shape {vectors.shape}; needed: (B, {down * across}, a multiple of {patch**2})")
    B, C = len(vectors), vectors.shape[2] // patch**2
    patches = vectors.reshape(B, down, across, C, patch, patch).transpose(0, 3, 1, 4, 2, 5)
    return patches.reshape(B, C, height, width)


class ImageSelfAttention(Module):
    """Every pixel, or every patch, attends all others: (B, channels, H, W) -> the same shape.

    attention is a `MultiheadAttention` of width channels (pixels, patch=None) or channels * patch * patch. It knows
    nothing of places: add position embeddings before, as for a text. The cost grows with the square of the number of
    vectors, which is what patches are for.

    Example:
        >>> attend = nn.ImageSelfAttention(channels=3, num_heads=2, patch=4)
        >>> attend(np.ones((1, 3, 8, 12), np.float32)).shape
        (1, 3, 8, 12)
    """

    def __init__(self, channels: int, num_heads: int, patch: int | None = None, bias: bool = True) -> None:
        super().__init__()
        self.channels = channels
        self.patch = 1 if patch is None else patch
        _patches(self.patch, self.patch, self.patch)
        self.attention = MultiheadAttention(channels * self.patch**2, num_heads, bias=bias, batch_first=True)

    def forward(self, input: np.ndarray, *, return_weights: bool = False) -> np.ndarray | tuple[np.ndarray, np.ndarray]:
        """The image; with return_weights (image, weights (B, num_heads, vectors, vectors)).

        Raises ValueError where the shape does not fit, and what `MultiheadAttention` raises.
        """
        input = np.asarray(input)
        if input.ndim != 4 or input.shape[1] != self.channels:
            raise ValueError(f"input has shape {input.shape}; needed: (B, {self.channels}, H, W)")
        x = image_to_vectors(input, self.patch)
        output, weights = self.attention(x, x, x, need_weights=return_weights, average_attn_weights=False)
        image = vectors_to_image(output, *input.shape[2:], self.patch)
        return (image, weights) if return_weights else image

    def extra_repr(self) -> str:
        return f"{self.channels}, patch={self.patch}"


def _patches(height: int, width: int, patch: int) -> tuple[int, int]:
    """The number of rows of patches, and of patches in a row."""
    if not isinstance(patch, int) or patch < 1 or height % patch or width % patch:
        raise ValueError(f"patch is {patch!r}; needed: a positive divisor of height {height} and width {width}")
    return height // patch, width // patch
