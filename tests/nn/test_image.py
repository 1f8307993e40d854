"""nn/image.py: there and back, attention over pixels and patches, and a convolution that is made of attention."""

from __future__ import annotations

import numpy as np
import pytest
from support import assert_close, normal

from transformer_fast import functional as F
from transformer_fast import nn


@pytest.mark.parametrize("patch", [1, 2, 4])
def test_there_and_back(patch):
    image = normal(2, 3, 8, 12)
    vectors = nn.image_to_vectors(image, patch)
    assert vectors.shape == (2, 96 // patch**2, 3 * patch**2)
    assert np.array_equal(nn.vectors_to_image(vectors, 8, 12, patch), image)
    below_the_corner = image[1, :, patch : 2 * patch, :patch]
    assert np.array_equal(vectors[1, 12 // patch], below_the_corner.reshape(-1))


def test_patches_and_a_product_are_the_patch_embedding():
    embed, image = nn.PatchEmbedding(3, 5, 4), normal(2, 3, 8, 12)
    product = F.linear(nn.image_to_vectors(image, 4), embed.weight.reshape(5, -1), embed.bias)
    np.testing.assert_allclose(product, embed(image), atol=1e-6)


@pytest.mark.parametrize("patch", [None, 2])
def test_pixels_and_patches_attend_each_other(isa, patch):
    nn.manual_seed(0)
    attend = nn.ImageSelfAttention(4, 2, patch)
    image, size = normal(2, 4, 4, 6), patch or 1
    # By hand: rows of the image beside each other, as the vectors of a text.
    if patch is None:
        x = image.reshape(2, 4, 24).swapaxes(1, 2)
    else:
        x = np.stack([image[:, :, i : i + 2, j : j + 2].reshape(2, 16) for i in (0, 2) for j in (0, 2, 4)], axis=1)
    expected, weights = attend.attention(x, x, x, average_attn_weights=False)
    got, got_weights = attend(image, return_weights=True)
    assert got.shape == image.shape
    np.testing.assert_allclose(attend(image), got, atol=1e-6)
    np.testing.assert_allclose(nn.image_to_vectors(got, size), expected, atol=1e-6)
    np.testing.assert_allclose(got_weights, weights, atol=1e-6)


def test_what_does_not_fit_is_named():
    with pytest.raises(ValueError, match=r"image has shape \(3, 4, 4\)"):
        nn.image_to_vectors(normal(3, 4, 4))
    with pytest.raises(ValueError, match="patch is 3; needed: a positive divisor of height 8"):
        nn.image_to_vectors(normal(1, 3, 8, 9), 3)
    with pytest.raises(ValueError, match=r"vectors has shape \(1, 5, 3\); needed: \(B, 6, "):
        nn.vectors_to_image(normal(1, 5, 3), 2, 3)
    with pytest.raises(ValueError, match=r"needed: \(B, 4, H, W\)"):
        nn.ImageSelfAttention(4, 2)(normal(1, 3, 4, 4))
    with pytest.raises(ValueError, match="patch is 0"):
        nn.ImageSelfAttention(4, 2, 0)


@pytest.mark.parametrize("kernel", [1, 3, 5])
def test_attention_contains_convolution(isa, kernel):
    """A head for each place of the kernel: its bias is 0 at one offset and -1e4 at the others of the window, so that it
    copies the vector that stands there; beyond the border the sink takes all, which is padding with zeros. The output
    projection is the kernel."""
    nn.manual_seed(0)
    L, C, half = 17, 4, kernel // 2
    conv, x = nn.Conv1d(C, 6, kernel, padding="same"), normal(2, C, L)
    table = np.full((kernel, 2 * L - 1), -1e4, np.float32)
    for head in range(kernel):
        table[head, head - half + L - 1] = 0
    vectors = np.broadcast_to(x.swapaxes(1, 2)[:, None], (2, kernel, L, C))
    copies = F.scaled_dot_product_attention(
        np.zeros_like(vectors),
        vectors,
        vectors,
        window=(half, half),
        relative_bias=table,
        sinks=np.full(kernel, -50, np.float32),
    )
    weight = conv.weight.transpose(0, 2, 1).reshape(6, -1)  # (outputs, places and channels, as the heads stand)
    got = F.linear(F.concat_heads(copies), weight, conv.bias)
    expected = conv(x).swapaxes(1, 2)
    assert np.abs(expected).max() > 0.5
    assert_close(got, expected, 1e-4)
