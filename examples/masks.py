"""Who may attend whom: causal order, padding, windows and biases as small pictures.

A row is a query, a column is a key; the darker, the larger the weight. All scores are equal before the mask, so that
the picture shows what the mask does and nothing else.
"""

import numpy as np

import transformer_fast as tf

L = 12
SHADES = " .:-=+*#%@"


def weights(Lq: int = L, **options) -> np.ndarray:
    """(Lq, L): the weights of attention whose queries and keys are all zero."""
    query, key = np.zeros((1, 1, Lq, 8), np.float32), np.zeros((1, 1, L, 8), np.float32)
    return tf.scaled_dot_product_attention(query, key, key, return_weights="heads", **options)[1][0, 0]


def picture(rows: np.ndarray) -> list[str]:
    """One string a row; the darkest letter is the largest weight of all, the lightest one that is not there."""
    steps = np.ceil(rows / rows.max() * (len(SHADES) - 1)).astype(int)
    return ["|" + "".join(SHADES[step] * 2 for step in row) + "|" for row in steps]


def show(*drawings: tuple[str, np.ndarray]) -> None:
    """Drawings beside each other."""
    print()
    print("   ".join(f"{title:{2 * L + 2}}" for title, _ in drawings))
    for lines in zip(*(picture(rows) for _, rows in drawings), strict=True):
        print("   ".join(lines))


def main() -> None:
    distance = np.arange(L) - np.arange(L)[:, None]
    show(
        ("nothing masked", weights()),
        ("is_causal=True", weights(is_causal=True)),
        ("kv_lengths=[8]: padding", weights(kv_lengths=np.array([8]))),
    )
    show(
        ("window=(2, 2)", weights(window=(2, 2))),
        ("causal, window=(3, -1)", weights(is_causal=True, window=(3, -1))),
        ("boolean: every 3rd key", weights(attn_mask=(distance % 3 == 0))),
    )
    nearer = -0.4 * abs(distance).astype(np.float32)
    show(
        ("added: -0.4 |i - j|", weights(attn_mask=nearer)),
        ("ALiBi and causal", weights(is_causal=True, alibi_slopes=np.array([0.4], np.float32))),
        ("padding and causal", weights(is_causal=True, kv_lengths=np.array([8]))),
    )
    cached = weights(Lq=3, is_causal=True, causal_offset=L - 3)
    print(f"\ncausal_offset={L - 3}: three new queries behind a cache of {L - 3} keys")
    print("\n".join(picture(cached)))

    nobody = weights(attn_mask=np.zeros((L, L), bool))
    print(f"\na query that may attend nobody gets zeros, not NaN: {nobody.sum():.1f}")


if __name__ == "__main__":
    main()
