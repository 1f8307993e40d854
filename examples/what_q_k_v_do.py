"""Self-attention step by step, on six words whose vectors can be read.

One sees how "it" asks for a thing, how "robot" answers, and that the vector which "it" ends up with is robot's. The
library does the same in one call.
"""

import numpy as np

import transformer_fast as tf

WORDS = ["the", "robot", "obeys", "because", "it", "must"]
#         a thing, an action, a pronoun, anything else
FEATURES = {
    "the": [0, 0, 0, 1],
    "robot": [1, 0, 0, 0],
    "obeys": [0, 1, 0, 0],
    "because": [0, 0, 0, 1],
    "it": [0, 0, 1, 0],
    "must": [0, 1, 0, 0],
}
# What a word asks for, what it answers to, and what it hands over. In a trained model these three are learned.
#                 for things, for actions
W_Q = np.array([[0, 2], [2, 0], [4, 0], [0, 0]], np.float32)
W_K = np.array([[3, 0], [0, 3], [1, 0], [0, 0]], np.float32)
#                 "robot-like", "obeying"
W_V = np.array([[1, 0], [0, 1], [0, 0], [0, 0]], np.float32)


def show(title: str, rows: np.ndarray, columns: list[str]) -> None:
    print(f"\n{title}\n{'':9}" + "".join(f"{name:>9}" for name in columns))
    for word, row in zip(WORDS, rows, strict=True):
        print(f"{word:9}" + "".join(f"{value:9.2f}" for value in row))


def main() -> None:
    x = np.array([FEATURES[word] for word in WORDS], np.float32)  # (L, 4)
    query, key, value = x @ W_Q, x @ W_K, x @ W_V  # (L, 2) each
    show("1. queries: what each word looks for", query, ["thing", "action"])
    show("2. keys: what each word is found by", key, ["thing", "action"])

    scores = query @ key.T / np.sqrt(query.shape[1])
    show("3. scores: query . key / sqrt(D), a row for each word that looks", scores, WORDS)

    weights = np.exp(scores - scores.max(axis=1, keepdims=True))
    weights /= weights.sum(axis=1, keepdims=True)
    show("4. weights: softmax of each row; each sums to 1", weights, WORDS)

    output = weights @ value
    show("5. output: values, mixed by the weights", output, ["robot", "obeys"])

    library = tf.scaled_dot_product_attention(query[None], key[None], value[None])[0]  # with an axis of heads
    looked = WORDS[int(weights[WORDS.index("it")].argmax())]
    print(f'\n"it" looks at "{looked}"')
    print(f"largest difference from scaled_dot_product_attention: {abs(library - output).max():.1e}")


if __name__ == "__main__":
    main()
