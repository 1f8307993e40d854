"""A text of 16,384 tokens: attention with a window and global tokens, as in Longformer.

One sees the mask as a picture, which share of the pairs is seen, and that a row is what NumPy makes of the keys
that it sees.
"""

import time

import numpy as np

import transformer_fast as tf
from transformer_fast import functional, masks, visualize

L, D = 16_384, 64
WINDOW, GLOBAL = 256, 64


def by_hand(query: np.ndarray, key: np.ndarray, value: np.ndarray, seen: np.ndarray) -> np.ndarray:
    """(D,): one query's result from the keys that it sees, in float64."""
    scores = key[seen].astype(np.float64) @ query / np.sqrt(D)
    weights = np.exp(scores - scores.max())
    return weights @ value[seen] / weights.sum()


def main() -> None:
    rng = np.random.default_rng(0)
    query, key, value = (rng.standard_normal((1, 1, L, D), dtype=np.float32) for _ in range(3))
    mask = masks.window(WINDOW, WINDOW) | masks.global_tokens(GLOBAL)
    print(f"{mask}, {L:,} tokens; a row is {L // 32} queries; +: some of the pairs are seen\n")
    print(visualize.mask_text(mask, L))

    ranges = mask.ranges(L, L)  # once for all layers
    plan = functional.explain_attention(query, key, value, mask=ranges)
    print(f"\nseen: {ranges.visible / L**2:.1%} of the pairs; skipped, never computed: {plan['skipped_fraction']:.1%}")
    held, weights = plan["workspace_bytes"] / 1e6, 4 * L**2 / 1e9
    print(f"the engine holds {held:.1f} MB beside the arrays; an array of L x L weights: {weights:.1f} GB")

    started = time.perf_counter()
    result = tf.scaled_dot_product_attention(query, key, value, mask=ranges)
    print(f"one head: {time.perf_counter() - started:.3f} s")

    i, j = 10_000, np.arange(L)
    expected = by_hand(query[0, 0, i], key[0, 0], value[0, 0], (abs(i - j) <= WINDOW) | (j < GLOBAL))
    print(f"largest difference of token {i:,} from NumPy: {abs(result[0, 0, i] - expected).max():.1e}")


if __name__ == "__main__":
    main()
