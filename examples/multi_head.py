"""Several heads: the same words, looked at in several ways at once, for the price of one.

One sees what each of four heads attends (the weights are random: no head knows a language yet), that the heads are
slices of one product, and that split_heads, attention, concat_heads and two linear layers are what
nn.MultiheadAttention computes.
"""

import numpy as np

import transformer_fast as tf
from transformer_fast import nn

WORDS = "a small red robot obeys the old king".split()
E, H = 32, 4


def main() -> None:
    nn.manual_seed(5)
    block = nn.MultiheadAttention(E, H, batch_first=True)
    x = 2 * np.random.default_rng(0).standard_normal((1, len(WORDS), E), dtype=np.float32)

    projected = tf.linear(x, block.in_proj_weight, block.in_proj_bias)  # (1, L, 3E): one product for all heads
    query, key, value = (tf.split_heads(part, H) for part in np.split(projected, 3, axis=-1))  # (1, H, L, E / H)
    print(f"{E} features, {H} heads: each head works on {query.shape[-1]} of them, (B, H, L, D) = {query.shape}")

    heads, weights = tf.scaled_dot_product_attention(query, key, value, return_weights="heads")
    print("\nthe word that each word attends most")
    print(f"{'':8}" + "".join(f"   head {h}" for h in range(H)))
    for i, word in enumerate(WORDS):
        chosen = [WORDS[j] for j in weights[0, :, i].argmax(axis=-1)]
        print(f"{word:8}" + "".join(f"{other:>9}" for other in chosen))

    by_hand = tf.linear(tf.concat_heads(heads), block.out_proj.weight, block.out_proj.bias)
    output, mean = block(x, x, x)
    print(f"\nlargest difference from nn.MultiheadAttention: {abs(output - by_hand).max():.1e}")
    print(f"its weights are the mean over heads, difference: {abs(mean - weights.mean(axis=1)).max():.1e}")


if __name__ == "__main__":
    main()
