"""A long signal: 60,000 frames, each of which attends a few hundred around it.

One sees that the time grows with the length and not with its square, because keys outside of the window are never read;
and how long the same frames take without a window. A full matrix of weights would need 14 GB for one head.
"""

import time

import numpy as np

import transformer_fast as tf

D, WINDOW = 64, 128
LENGTHS = [15_000, 30_000, 60_000]


def seconds(x: np.ndarray, **options) -> float:
    """The shorter time of two calls."""
    taken = []
    for _ in range(2):
        started = time.perf_counter()
        tf.scaled_dot_product_attention(x, x, x, **options)
        taken.append(time.perf_counter() - started)
    return min(taken)


def main() -> None:
    tf.set_num_threads(1)
    rng = np.random.default_rng(0)
    signal = rng.standard_normal((1, 1, LENGTHS[-1], D), dtype=np.float32)
    print(f"one head of {D} features, one thread, {WINDOW} frames to each side\n")
    print(f"{'frames':>8}{'window':>12}{'a frame':>12}{'all':>12}")
    times = []
    for L in LENGTHS:
        x = signal[:, :, :L]
        times.append(seconds(x, window=(WINDOW, WINDOW)))
        full = f"{seconds(x):10.2f} s" if L == LENGTHS[0] else f"{'-':>12}"
        print(f"{L:8}{1e3 * times[-1]:9.1f} ms{1e6 * times[-1] / L:9.2f} us{full}")
    print(f"\n{LENGTHS[-1] // LENGTHS[0]} times the frames take {times[-1] / times[0]:.1f} times as long")

    # The same numbers as with a mask, on a piece small enough for one.
    x = signal[:, :, :1000]
    near = abs(np.arange(1000) - np.arange(1000)[:, None]) <= WINDOW
    masked = tf.scaled_dot_product_attention(x, x, x, attn_mask=near)
    windowed = tf.scaled_dot_product_attention(x, x, x, window=(WINDOW, WINDOW))
    print(f"largest difference from a mask: {abs(masked - windowed).max():.1e}")


if __name__ == "__main__":
    main()
