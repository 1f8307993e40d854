"""A convolution is a special self-attention: one head for each place of the kernel, which attends that place alone.

One sees the weights of the three heads and that the result is the convolution's, padding included. Source of the
construction: Cordonnier et al. 2020, https://arxiv.org/abs/1911.03584.
"""

import numpy as np

import transformer_fast as tf
from transformer_fast import nn

L, CHANNELS_IN, CHANNELS_OUT, KERNEL = 9, 4, 5, 3


def main() -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((1, L, CHANNELS_IN), dtype=np.float32)
    nn.manual_seed(0)
    convolution = nn.Conv1d(CHANNELS_IN, CHANNELS_OUT, KERNEL, padding=KERNEL // 2, bias=False)
    expected = convolution(x.swapaxes(1, 2)).swapaxes(1, 2)  # torch's layout has the channels before the length

    # Content plays no part: queries and keys are zero, and a bias for the distance j - i decides alone. Head h lets
    # only the distance h - 1 through. At the edges it attends nobody, which gives zeros: that is the padding.
    bias = np.full((KERNEL, 2 * L - 1), -np.inf, np.float32)
    for head in range(KERNEL):
        bias[head, (L - 1) + head - KERNEL // 2] = 0
    query = np.zeros((1, KERNEL, L, 1), np.float32)
    value = np.broadcast_to(x[:, None], (1, KERNEL, L, CHANNELS_IN))  # every head sees all channels; no copy is made
    heads, weights = tf.scaled_dot_product_attention(
        query, query, value, relative_bias=bias, window=(KERNEL // 2, KERNEL // 2), return_weights="heads"
    )
    # The kernel (out, in, place) becomes the output projection of the heads side by side, (out, place * in).
    kernel = np.ascontiguousarray(convolution.weight.swapaxes(1, 2)).reshape(CHANNELS_OUT, -1)
    output = tf.linear(tf.concat_heads(heads), kernel)

    print("weights of the heads: the place before, the place itself, the place after\n")
    for rows in zip(*weights[0], strict=True):
        print("     ".join(" ".join("#" if weight else "." for weight in row) for row in rows))
    print(f"\nconvolution, first channel: {np.array2string(expected[0, :, 0], precision=3)}")
    print(f"attention,   first channel: {np.array2string(output[0, :, 0], precision=3)}")
    print(f"largest difference: {abs(output - expected).max():.1e}")


if __name__ == "__main__":
    main()
