"""One vector of the rows of a text's tokens: the modules WordWeights and Pooling of a sentence encoder.

`sentence_routes` makes a `Pooling`. A further way of pooling is a name in `POOLING`, and its computation in `_pool`.

Source: sentence-transformers 6, sentence_transformer/modules/pooling.py and word_weights.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from transformer_fast.files.errors import CheckpointError
from transformer_fast.files.source import ModelSource
from transformer_fast.files.tokenizer import packed, typed
from transformer_fast.pipelines.sentence_inputs import TextTokens
from transformer_fast.pipelines.sentence_settings import check_fields

# 1_Pooling/config.json's flags of older releases -> pooling_mode of newer ones, in the order of concatenation.
_POOLING_FLAGS = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
_WIDTHS = ("embedding_dimension", "word_embedding_dimension")
POOLING = ("mean", "cls", "max", "mean_sqrt_len_tokens", "weightedmean", "lasttoken")


class Pooling:
    """Rows of tokens -> one vector a text, of `len(modes) * hidden_size` numbers.

    Attributes:
        modes: names of POOLING. include_prompt: does the prompt count?
        word_weights: (V,), what each token's row is multiplied by; None for 1.
    """

    def __init__(
        self,
        modes: Sequence[str] = ("mean",),
        include_prompt: bool = True,
        word_weights: np.ndarray | None = None,
    ) -> None:
        self.modes, self.include_prompt, self.word_weights = tuple(modes), include_prompt, word_weights

    @classmethod
    def read(cls, source: ModelSource, hidden_size: int, word_weights: np.ndarray | None = None) -> Pooling:
        """
        Raises:
            CheckpointError: its config is malformed, does not fit, or asks for what is not supported.
        """
        config, place = source.object("config.json"), source.place("config.json")
        check_fields(place, config, {*_WIDTHS, *_POOLING_FLAGS, "pooling_mode", "include_prompt"})
        modes = config.get("pooling_mode")
        if modes is None:
            modes = [mode for flag, mode in _POOLING_FLAGS.items() if config.get(flag)] or ["mean"]
        modes = [modes] if isinstance(modes, str) else modes
        if not isinstance(modes, list) or not modes or any(mode not in POOLING for mode in modes):
            raise CheckpointError(f"{place}: the pooling is {modes!r}; supported: {', '.join(POOLING)}")
        for name in _WIDTHS:
            if typed(place, config, name, int, hidden_size) != hidden_size:
                raise CheckpointError(f"{place}: {name} is {config[name]}; needed: {hidden_size}, the model's")
        return cls(modes, typed(place, config, "include_prompt", bool, True), word_weights)

    def dimension(self, input: Any) -> int:
        """The length of the vectors that it makes of an input's rows."""
        return input.hidden_size * len(self.modes)

    def __call__(self, input: Any, tokens: Sequence[TextTokens], skipped: int) -> np.ndarray:
        """The vectors (B, dim) of texts; the first `skipped` tokens of each do not count."""
        if self.word_weights is None and self.modes in (("cls",), ("lasttoken",)):
            return self._one_row(input, tokens, skipped)
        lengths = np.cumsum([0, *map(len, tokens)])
        hidden, weights = self.rows(input, tokens)
        parts = [_pool(mode, hidden, lengths, skipped, weights) for mode in self.modes]
        return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1)

    def rows(self, input: Any, tokens: Sequence[TextTokens]) -> tuple[np.ndarray, np.ndarray | None]:
        """The rows (T, h) of packed tokens, and the weights (T,) that they have been multiplied by, or None."""
        hidden = input.rows(tokens)
        if self.word_weights is None:
            return hidden, None
        weights = self.word_weights[packed([one.ids for one in tokens])[0]]
        return hidden * weights[:, None], weights

    def _one_row(self, input: Any, tokens: Sequence[TextTokens], skipped: int) -> np.ndarray:
        """The poolings "cls" and "lasttoken", for which one row of each text goes through the last layer."""
        long_enough = [i for i, one in enumerate(tokens) if len(one) > skipped]
        pooled = np.zeros((len(tokens), input.hidden_size), np.float32)
        if long_enough:
            kept = [tokens[i] for i in long_enough]
            rows = skipped if self.modes == ("cls",) else np.array([len(one) - 1 for one in kept])
            pooled[long_enough] = input.rows(kept, rows)
        return pooled


def read_word_weights(source: ModelSource, token_count: int) -> np.ndarray:
    """The weight (V,) of each token by the module WordWeights: that of its word, or of its word in lower case.

    The list vocab gives words to the tokens' numbers, as there; the tensor beside it is not read, there neither.

    Raises:
        CheckpointError: its config is malformed, or has fewer words than the tokenizer has tokens.
    """
    config, place = source.object("config.json"), source.place("config.json")
    check_fields(place, config, {"vocab", "word_weights", "unknown_word_weight"})
    words, weights = typed(place, config, "vocab", list), typed(place, config, "word_weights", dict)
    unknown = config.get("unknown_word_weight", 1)
    numbers = [unknown, *(weights or {}).values()]
    if words is None or weights is None or not all(type(number) in (int, float) for number in numbers):
        raise CheckpointError(f"{place}: needed: vocab, a list of words, and word_weights, an object of numbers")
    if len(words) < token_count or not all(isinstance(word, str) for word in words):
        raise CheckpointError(f"{place}: vocab has {len(words)} words; needed: {token_count}, the tokenizer's tokens")
    return np.array([weights.get(word, weights.get(word.lower(), unknown)) for word in words], np.float32)


def _pool(
    mode: str, hidden: np.ndarray, cu_seqlens: np.ndarray, skipped: int, token_weights: np.ndarray | None
) -> np.ndarray:
    """One row a sequence of its hidden states (T, h), without the first `skipped`; no tokens give zeros.

    token_weights (T,): the sum of them takes the place of the number of tokens, those of a prompt included.
    A sequence at a time: its result must not depend on its neighbours.
    """
    pooled = np.zeros((len(cu_seqlens) - 1, hidden.shape[1]), np.float32)
    for b, (first, last) in enumerate(zip(cu_seqlens[:-1], cu_seqlens[1:], strict=True)):
        rows = hidden[first + skipped : last]
        if not len(rows):
            continue
        if mode == "max":
            np.maximum.reduce(rows, axis=0, out=pooled[b])
        elif mode in ("cls", "lasttoken"):
            pooled[b] = rows[0 if mode == "cls" else -1]
        else:
            total = len(rows)
            if mode == "weightedmean":  # weights 1, 2, 3, ... of the places in the whole text
                places = np.arange(skipped + 1, skipped + 1 + len(rows), dtype=np.float32)
                rows, total = rows * places[:, None], np.add.reduce(places)
            if token_weights is not None:
                total = max(np.add.reduce(token_weights[first:last]), np.float32(1e-9))
            np.add.reduce(rows, axis=0, out=pooled[b])
            pooled[b] /= np.float32(np.sqrt(total) if mode == "mean_sqrt_len_tokens" else total)
    return pooled
